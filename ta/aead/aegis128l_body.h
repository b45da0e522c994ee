/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AEGIS-128L over a file's own AES round. The includer defines
 *
 *   block                          16 bytes
 *   block_load(at), block_store(at, b), block_xor(a, b), block_and(a, b)
 *   block_round(half, other, sum)  the AES round of sum = half ^ other without a round key:
 *                                  SubBytes, ShiftRows, MixColumns
 *   CL_READ_ONCE(b)                see bytes.h
 *   CL_AEGIS(name)                 the name of a function of this file
 *
 * The state's update is S'[i] = round(S[i - 1]) ^ S[i], M[0] and M[1] being added to S'[0]
 * and S'[4]. Armv8's AESE adds its two operands before it does anything else, so that the
 * sum S'[i] need not be formed to go through the next round: a state block is kept as its
 * two halves, and the sum, which the next update and the key stream need, is formed beside.
 */
#include "aead.h"

#include "bytes.h"

#define STEP 32 /* two blocks */

/*
 * One step. h and o are the halves of the state, n gets the sums: the new halves are the
 * rounds, which stay in h but each count for the next block, and n. The names of the
 * variables go round where values would otherwise be moved: after eight steps all are back.
 */
#define CL_SUMS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                              \
	n##0 = block_xor(h0, o##0);                                                                \
	n##1 = block_xor(h1, o##1);                                                                \
	n##2 = block_xor(h2, o##2);                                                                \
	n##3 = block_xor(h3, o##3);                                                                \
	n##4 = block_xor(h4, o##4);                                                                \
	n##5 = block_xor(h5, o##5);                                                                \
	n##6 = block_xor(h6, o##6);                                                                \
	n##7 = block_xor(h7, o##7);

#define CL_TURNS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                             \
	h0 = block_round(h0, o##0, n##0);                                                          \
	h1 = block_round(h1, o##1, n##1);                                                          \
	h2 = block_round(h2, o##2, n##2);                                                          \
	h3 = block_round(h3, o##3, n##3);                                                          \
	h4 = block_round(h4, o##4, n##4);                                                          \
	h5 = block_round(h5, o##5, n##5);                                                          \
	h6 = block_round(h6, o##6, n##6);                                                          \
	h7 = block_round(h7, o##7, n##7);

/* The key stream of the next two blocks, of the sums. */
#define CL_STREAM_0(n) block_xor(block_xor(n##1, n##6), block_and(n##2, n##3))
#define CL_STREAM_1(n) block_xor(block_xor(n##2, n##5), block_and(n##6, n##7))

#define CL_ADD(n, m0, m1)                                                                          \
	n##0 = block_xor(n##0, m0);                                                                \
	n##4 = block_xor(n##4, m1);

/* A step that takes the two blocks at `data` in; `at` is where it stands. */
#define CL_ABSORB(h0, h1, h2, h3, h4, h5, h6, h7, o, n, at)                                        \
	CL_SUMS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                              \
	CL_TURNS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                             \
	CL_ADD(n, block_load(from + (at)), block_load(from + (at) + 16))

#define CL_OPEN(h0, h1, h2, h3, h4, h5, h6, h7, o, n, at)                                          \
	m0 = block_load(from + (at));                                                              \
	m1 = block_load(from + (at) + 16);                                                         \
	CL_READ_ONCE(m0);                                                                          \
	CL_READ_ONCE(m1);                                                                          \
	CL_SUMS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                              \
	CL_TURNS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                             \
	m0 = block_xor(m0, CL_STREAM_0(n));                                                        \
	m1 = block_xor(m1, CL_STREAM_1(n));                                                        \
	block_store(to + (at), m0);                                                                \
	block_store(to + (at) + 16, m1);                                                           \
	CL_ADD(n, m0, m1)

#define CL_SEAL(h0, h1, h2, h3, h4, h5, h6, h7, o, n, at)                                          \
	m0 = block_load(from + (at));                                                              \
	m1 = block_load(from + (at) + 16);                                                         \
	CL_SUMS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                              \
	CL_TURNS(h0, h1, h2, h3, h4, h5, h6, h7, o, n)                                             \
	block_store(to + (at), block_xor(m0, CL_STREAM_0(n)));                                     \
	block_store(to + (at) + 16, block_xor(m1, CL_STREAM_1(n)));                                \
	CL_ADD(n, m0, m1)

#define CL_EIGHT(DO)                                                                               \
	DO(a0, a1, a2, a3, a4, a5, a6, a7, b, c, 0)                                                \
	DO(a7, a0, a1, a2, a3, a4, a5, a6, c, b, STEP)                                             \
	DO(a6, a7, a0, a1, a2, a3, a4, a5, b, c, 2 * STEP)                                         \
	DO(a5, a6, a7, a0, a1, a2, a3, a4, c, b, 3 * STEP)                                         \
	DO(a4, a5, a6, a7, a0, a1, a2, a3, b, c, 4 * STEP)                                         \
	DO(a3, a4, a5, a6, a7, a0, a1, a2, c, b, 5 * STEP)                                         \
	DO(a2, a3, a4, a5, a6, a7, a0, a1, b, c, 6 * STEP)                                         \
	DO(a1, a2, a3, a4, a5, a6, a7, a0, c, b, 7 * STEP)

#define CL_DECLARE(v) block v##0, v##1, v##2, v##3, v##4, v##5, v##6, v##7

#define CL_LOAD(v, half)                                                                           \
	v##0 = block_load(context->state[half][0]);                                                \
	v##1 = block_load(context->state[half][1]);                                                \
	v##2 = block_load(context->state[half][2]);                                                \
	v##3 = block_load(context->state[half][3]);                                                \
	v##4 = block_load(context->state[half][4]);                                                \
	v##5 = block_load(context->state[half][5]);                                                \
	v##6 = block_load(context->state[half][6]);                                                \
	v##7 = block_load(context->state[half][7])

#define CL_STORE(v0, v1, v2, v3, v4, v5, v6, v7, half)                                             \
	block_store(context->state[half][0], v0);                                                  \
	block_store(context->state[half][1], v1);                                                  \
	block_store(context->state[half][2], v2);                                                  \
	block_store(context->state[half][3], v3);                                                  \
	block_store(context->state[half][4], v4);                                                  \
	block_store(context->state[half][5], v5);                                                  \
	block_store(context->state[half][6], v6);                                                  \
	block_store(context->state[half][7], v7)

#define CL_FOUR(DO)                                                                                \
	DO(a0, a1, a2, a3, a4, a5, a6, a7, b, c, 0)                                                \
	DO(a7, a0, a1, a2, a3, a4, a5, a6, c, b, STEP)                                             \
	DO(a6, a7, a0, a1, a2, a3, a4, a5, b, c, 2 * STEP)                                         \
	DO(a5, a6, a7, a0, a1, a2, a3, a4, c, b, 3 * STEP)

/*
 * Eight steps at a time, then four where `four` says that it pays, then the others one by one:
 * through memory, there are few.
 */
#define CL_STEPS(DO, advance, four)                                                                \
	CL_DECLARE(a);                                                                             \
	CL_DECLARE(b);                                                                             \
	CL_DECLARE(c);                                                                             \
                                                                                                   \
	CL_LOAD(a, 0);                                                                             \
	CL_LOAD(b, 1);                                                                             \
	for (; steps >= 8; steps -= 8) {                                                           \
		CL_EIGHT(DO)                                                                       \
		advance(8 * STEP);                                                                 \
	}                                                                                          \
	if ((four) && steps >= 4) {                                                                \
		CL_FOUR(DO)                                                                        \
		CL_STORE(a4, a5, a6, a7, a0, a1, a2, a3, 0);                                       \
		advance(4 * STEP);                                                                 \
		steps -= 4;                                                                        \
	} else {                                                                                   \
		CL_STORE(a0, a1, a2, a3, a4, a5, a6, a7, 0);                                       \
	}                                                                                          \
	CL_STORE(b0, b1, b2, b3, b4, b5, b6, b7, 1);                                               \
	for (; steps; steps--) {                                                                   \
		CL_LOAD(a, 0);                                                                     \
		CL_LOAD(b, 1);                                                                     \
		DO(a0, a1, a2, a3, a4, a5, a6, a7, b, c, 0)                                        \
		CL_STORE(a7, a0, a1, a2, a3, a4, a5, a6, 0);                                       \
		CL_STORE(c0, c1, c2, c3, c4, c5, c6, c7, 1);                                       \
		advance(STEP);                                                                     \
	}

/* The two blocks stay the same: nothing moves on. */
#define CL_REPEAT(h0, h1, h2, h3, h4, h5, h6, h7, o, n, at)                                        \
	CL_ABSORB(h0, h1, h2, h3, h4, h5, h6, h7, o, n, 0)
#define CL_STAY(by)

#define CL_ADVANCE_ONE(by) from += (by)
#define CL_ADVANCE_BOTH(by)                                                                        \
	do {                                                                                       \
		from += (by);                                                                      \
		to += (by);                                                                        \
	} while (0)

static void absorb(struct cl_aegis128l *context, const uint8_t *from, size_t steps)
{
	CL_STEPS(CL_ABSORB, CL_ADVANCE_ONE, false)
}

static void open_steps(struct cl_aegis128l *context, const uint8_t *from, uint8_t *to, size_t steps)
{
	block m0;
	block m1;

	CL_STEPS(CL_OPEN, CL_ADVANCE_BOTH, false)
}

static void seal_steps(struct cl_aegis128l *context, const uint8_t *from, uint8_t *to, size_t steps)
{
	block m0;
	block m1;

	CL_STEPS(CL_SEAL, CL_ADVANCE_BOTH, false)
}

/* The same two blocks again and again, as the beginning and the end of a message have it. */
static void stir(struct cl_aegis128l *context, const uint8_t from[STEP], size_t steps)
{
	CL_STEPS(CL_REPEAT, CL_STAY, true)
}

/* Overwrites a secret in a way that the compiler keeps. */
static void forget(uint8_t *data, size_t size)
{
	memset(data, 0, size);
	__asm__ volatile("" : : "r"(data) : "memory");
}

static void xor_bytes(uint8_t *to, const uint8_t *a, const uint8_t *b)
{
	const uint64_t low = cl_load64(a) ^ cl_load64(b);
	const uint64_t high = cl_load64(a + 8) ^ cl_load64(b + 8);

	cl_store64(to, low);
	cl_store64(to + 8, high);
}

void CL_AEGIS(start)(struct cl_aegis128l *context, const uint8_t key[16], const uint8_t nonce[16],
		     const uint8_t *aad, size_t aad_size)
{
	/* Fibonacci's numbers modulo 256. */
	static const uint8_t constants[2][16] = {
		{0x00, 0x01, 0x01, 0x02, 0x03, 0x05, 0x08, 0x0d, 0x15, 0x22, 0x37, 0x59, 0x90, 0xe9,
		 0x79, 0x62},
		{0xdb, 0x3d, 0x18, 0x55, 0x6d, 0xc2, 0x2f, 0xf1, 0x20, 0x11, 0x31, 0x42, 0x73, 0xb5,
		 0x28, 0xdd},
	};
	uint8_t last[STEP] = {0};
	uint8_t(*state)[16] = context->state[0];

	memset(context, 0, sizeof(*context));
	xor_bytes(state[0], key, nonce);
	memcpy(state[1], constants[1], 16);
	memcpy(state[2], constants[0], 16);
	memcpy(state[3], constants[1], 16);
	xor_bytes(state[4], key, nonce);
	xor_bytes(state[5], key, constants[0]);
	xor_bytes(state[6], key, constants[1]);
	xor_bytes(state[7], key, constants[0]);
	memcpy(last, nonce, 16);
	memcpy(last + 16, key, 16);
	stir(context, last, 10);
	forget(last, sizeof(last));

	context->aad_size = aad_size;
	absorb(context, aad, aad_size / STEP);
	if (aad_size % STEP) {
		memcpy(last, aad + aad_size / STEP * STEP, aad_size % STEP);
		absorb(context, last, 1);
	}
}

void CL_AEGIS(open)(struct cl_aegis128l *context, const uint8_t *cipher, uint8_t *plain,
		    size_t size)
{
	const size_t rest = size % STEP;
	const size_t whole = size - rest;
	uint8_t stream[STEP] = {0};
	uint8_t last[STEP] = {0};
	struct cl_aegis128l ahead;
	size_t i = 0;

	context->size += size;
	open_steps(context, cipher, plain, whole / STEP);
	if (!rest)
		return;
	/* What the state absorbs is the plain text with zeros behind it: it has to be known first.
	 */
	ahead = *context;
	seal_steps(&ahead, stream, stream, 1);
	cl_copy_bytes_once(last, cipher + whole, rest);
	for (i = 0; i < rest; i++)
		last[i] ^= stream[i];
	memcpy(plain + whole, last, rest);
	absorb(context, last, 1);
	forget(last, sizeof(last));
	forget(stream, sizeof(stream));
	forget((uint8_t *)&ahead, sizeof(ahead));
}

void CL_AEGIS(seal)(struct cl_aegis128l *context, const uint8_t *plain, uint8_t *cipher,
		    size_t size)
{
	const size_t rest = size % STEP;
	const size_t whole = size - rest;
	uint8_t last[STEP] = {0};

	context->size += size;
	seal_steps(context, plain, cipher, whole / STEP);
	if (!rest)
		return;
	memcpy(last, plain + whole, rest);
	seal_steps(context, last, last, 1);
	memcpy(cipher + whole, last, rest);
	forget(last, sizeof(last));
}

void CL_AEGIS(tag)(struct cl_aegis128l *context, uint8_t tag[16])
{
	uint8_t last[STEP] = {0};
	int i = 0;

	cl_store64(last, context->aad_size * 8);
	cl_store64(last + 8, context->size * 8);
	xor_bytes(last, last, context->state[0][2]);
	xor_bytes(last, last, context->state[1][2]);
	memcpy(last + 16, last, 16);
	stir(context, last, 7);
	memset(tag, 0, 16);
	for (i = 0; i < 7; i++) {
		xor_bytes(tag, tag, context->state[0][i]);
		xor_bytes(tag, tag, context->state[1][i]);
	}
	forget(last, sizeof(last));
}
