/* SPDX-License-Identifier: BSD-2-Clause */
/* AEAD_CHACHA20_POLY1305 (RFC 8439, section 2.8). */
#include "aead.h"
#include "bytes.h"
#include "chacha20.h"
#include "poly1305.h"

/* Overwrites a secret in a way that the compiler keeps. */
static void forget(uint8_t *data, size_t size)
{
	memset(data, 0, size);
	__asm__ volatile("" : : "r"(data) : "memory");
}

void cl_chacha20_poly1305_start(struct cl_chacha20_poly1305 *context, const uint8_t key[32],
				const uint8_t nonce[12], const uint8_t *aad, size_t aad_size)
{
	uint8_t blocks[CL_CHACHA20_GROUP] = {0};

	cl_chacha20_start(context->state, key, 0, nonce);
	cl_chacha20_group(context->state, blocks);
	context->state[12] = 1; /* block 0 is the one-time key of Poly1305 */
	cl_poly1305_start(context, blocks);
	forget(blocks, sizeof(blocks));
	cl_poly1305_padded(context, aad, aad_size);
	context->aad_size = aad_size;
	context->size = 0;
}

/* Brings a group into memory of our own, each byte read once. */
static void fetch(uint8_t *to, const uint8_t *from)
{
	size_t i = 0;

	for (i = 0; i < CL_CHACHA20_GROUP; i += 64) {
		uint8x16_t a = vld1q_u8(from + i);
		uint8x16_t b = vld1q_u8(from + i + 16);
		uint8x16_t c = vld1q_u8(from + i + 32);
		uint8x16_t d = vld1q_u8(from + i + 48);

		CL_READ_ONCE(a);
		CL_READ_ONCE(b);
		CL_READ_ONCE(c);
		CL_READ_ONCE(d);
		vst1q_u8(to + i, a);
		vst1q_u8(to + i + 16, b);
		vst1q_u8(to + i + 32, c);
		vst1q_u8(to + i + 48, d);
	}
}

/*
 * A group is brought over, authenticated and decrypted before the next one is looked at:
 * it never leaves the first-level cache in between.
 */
void cl_chacha20_poly1305_open(struct cl_chacha20_poly1305 *context, const uint8_t *cipher,
			       uint8_t *plain, size_t size)
{
	uint8_t last[CL_CHACHA20_GROUP] = {0};

	context->size += size;
	for (; size >= CL_CHACHA20_GROUP; size -= CL_CHACHA20_GROUP) {
		fetch(plain, cipher);
		cl_poly1305_blocks(context, plain, CL_CHACHA20_GROUP / 16);
		cl_chacha20_group(context->state, plain);
		plain += CL_CHACHA20_GROUP;
		cipher += CL_CHACHA20_GROUP;
	}
	if (!size)
		return;
	cl_copy_bytes_once(last, cipher, size);
	cl_poly1305_padded(context, last, size);
	cl_chacha20_group(context->state, last);
	/* Only whole blocks can be followed by another piece. */
	context->state[12] -= 4 - (uint32_t)(size / CL_CHACHA20_BLOCK);
	memcpy(plain, last, size);
	forget(last, sizeof(last));
}

void cl_chacha20_poly1305_seal(struct cl_chacha20_poly1305 *context, const uint8_t *plain,
			       uint8_t *cipher, size_t size)
{
	uint8_t last[CL_CHACHA20_GROUP] = {0};

	context->size += size;
	for (; size >= CL_CHACHA20_GROUP; size -= CL_CHACHA20_GROUP) {
		fetch(cipher, plain);
		cl_chacha20_group(context->state, cipher);
		cl_poly1305_blocks(context, cipher, CL_CHACHA20_GROUP / 16);
		plain += CL_CHACHA20_GROUP;
		cipher += CL_CHACHA20_GROUP;
	}
	if (!size)
		return;
	memcpy(last, plain, size);
	cl_chacha20_group(context->state, last);
	context->state[12] -= 4 - (uint32_t)(size / CL_CHACHA20_BLOCK);
	cl_poly1305_padded(context, last, size);
	memcpy(cipher, last, size);
	forget(last, sizeof(last));
}

void cl_chacha20_poly1305_tag(struct cl_chacha20_poly1305 *context, uint8_t tag[16])
{
	uint8_t sizes[16] = {0};

	cl_store64(sizes, context->aad_size);
	cl_store64(sizes + 8, context->size);
	cl_poly1305_blocks(context, sizes, 1);
	cl_poly1305_finish(context, tag);
}
