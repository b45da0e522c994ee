/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AEGIS-128L on any processor. The AES round is computed, not looked up, so that its time
 * and its addresses tell nothing; eight bytes at once in a word.
 */
#include "aead.h"

#include "bytes.h"

/* bytes.h's is for vectors; nothing here runs on memory of others. */
#undef CL_READ_ONCE
#define CL_READ_ONCE(b) __asm__("" : "+r"((b).low), "+r"((b).high))

typedef struct {
	uint64_t low;
	uint64_t high;
} block;

#define BYTES(value) (UINT64_C(0x0101010101010101) * (value))

static inline block block_load(const uint8_t *at)
{
	return (block){cl_load64(at), cl_load64(at + 8)};
}

static inline void block_store(uint8_t *at, block b)
{
	cl_store64(at, b.low);
	cl_store64(at + 8, b.high);
}

static inline block block_xor(block a, block b)
{
	return (block){a.low ^ b.low, a.high ^ b.high};
}

static inline block block_and(block a, block b)
{
	return (block){a.low & b.low, a.high & b.high};
}

/* Each byte times x in GF(2^8), modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, section 4.2). */
static inline uint64_t times_x(uint64_t a)
{
	return ((a & BYTES(0x7f)) << 1) ^ ((a >> 7 & BYTES(1)) * 0x1b);
}

static uint64_t times(uint64_t a, uint64_t b)
{
	uint64_t product = 0;
	int bit = 0;

	for (bit = 0; bit < 8; bit++) {
		product ^= a & ((b >> bit & BYTES(1)) * 0xff);
		a = times_x(a);
	}
	return product;
}

static inline uint64_t rotate_bytes(uint64_t a, int by)
{
	return (a << by & BYTES(0xff & 0xff << by)) | (a >> (8 - by) & BYTES(0xff >> (8 - by)));
}

/* SubBytes (FIPS 197, section 5.1.1): the inverse is the 254th power, then an affine map. */
static uint64_t substitute(uint64_t a)
{
	const uint64_t a2 = times(a, a);
	const uint64_t a3 = times(a2, a);
	const uint64_t a6 = times(a3, a3);
	const uint64_t a12 = times(a6, a6);
	const uint64_t a15 = times(a12, a3);
	const uint64_t a30 = times(a15, a15);
	const uint64_t a60 = times(a30, a30);
	const uint64_t a120 = times(a60, a60);
	const uint64_t a127 = times(times(a120, a6), a);
	const uint64_t inverse = times(a127, a127);

	return inverse ^ rotate_bytes(inverse, 1) ^ rotate_bytes(inverse, 2) ^
	       rotate_bytes(inverse, 3) ^ rotate_bytes(inverse, 4) ^ BYTES(0x63);
}

/* Each column's bytes (4 of 8) moved down by one place: byte i gets byte i + 1. */
static inline uint64_t next_in_column(uint64_t a)
{
	return (a >> 8 & UINT64_C(0x00ffffff00ffffff)) | (a << 24 & UINT64_C(0xff000000ff000000));
}

static inline uint64_t mix(uint64_t a)
{
	const uint64_t next = next_in_column(a);
	const uint64_t pairs = a ^ next;
	const uint64_t all = pairs ^ next_in_column(next_in_column(pairs));

	/* 2 a0 + 3 a1 + a2 + a3 = (a0 + a1 + a2 + a3) + a0 + 2 (a0 + a1) */
	return all ^ a ^ times_x(pairs);
}

static block round_of(block b)
{
	uint8_t from[16] = {0};
	uint8_t to[16] = {0};
	int i = 0;

	block_store(from, (block){substitute(b.low), substitute(b.high)});
	/* ShiftRows: row i % 4 by as many columns. */
	for (i = 0; i < 16; i++)
		to[i] = from[(i + 4 * (i % 4)) % 16];
	b = block_load(to);
	return (block){mix(b.low), mix(b.high)};
}

#define block_round(half, other, sum) round_of(sum)
#define CL_AEGIS(name)                cl_aegis128l_portable_##name

#include "aegis128l_body.h"
