/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The sum is h[0] + h[1] 2^64 + h[2] 2^128 modulo 2^130 - 5, reduced only so far that h[2]
 * stays small. Clamping leaves the lowest two bits of r[1] zero, so that r[1] 2^128, which
 * is r[1] / 4 * 2^130, counts r[1] / 4 * 5.
 */
#include "poly1305.h"

#include "bytes.h"

__extension__ typedef unsigned __int128 wide;

void cl_poly1305_start(struct cl_chacha20_poly1305 *context, const uint8_t key[32])
{
	context->r[0] = cl_load64(key) & UINT64_C(0x0ffffffc0fffffff);
	context->r[1] = cl_load64(key + 8) & UINT64_C(0x0ffffffc0ffffffc);
	context->s[0] = cl_load64(key + 16);
	context->s[1] = cl_load64(key + 24);
	context->h[0] = 0;
	context->h[1] = 0;
	context->h[2] = 0;
}

void cl_poly1305_blocks(struct cl_chacha20_poly1305 *context, const uint8_t *data, size_t count)
{
	const uint64_t r0 = context->r[0];
	const uint64_t r1 = context->r[1];
	const uint64_t folded = r1 + (r1 >> 2);
	uint64_t h0 = context->h[0];
	uint64_t h1 = context->h[1];
	uint64_t h2 = context->h[2];

	for (; count; count--, data += 16) {
		wide low = (wide)h0 + cl_load64(data);
		wide high = (wide)h1 + cl_load64(data + 8) + (uint64_t)(low >> 64);
		uint64_t over = 0;

		h0 = (uint64_t)low;
		h1 = (uint64_t)high;
		h2 += 1 + (uint64_t)(high >> 64);

		low = (wide)h0 * r0 + (wide)h1 * folded;
		high = (wide)h0 * r1 + (wide)h1 * r0 + h2 * folded + (uint64_t)(low >> 64);
		h2 = h2 * r0 + (uint64_t)(high >> 64);

		/* What lies above 2^130 counts five times. */
		over = (h2 >> 2) + (h2 & ~UINT64_C(3));
		h2 &= 3;
		low = (wide)(uint64_t)low + over;
		high = (wide)(uint64_t)high + (uint64_t)(low >> 64);
		h0 = (uint64_t)low;
		h1 = (uint64_t)high;
		h2 += (uint64_t)(high >> 64);
	}
	context->h[0] = h0;
	context->h[1] = h1;
	context->h[2] = h2;
}

void cl_poly1305_padded(struct cl_chacha20_poly1305 *context, const uint8_t *data, size_t size)
{
	uint8_t last[16] = {0};

	cl_poly1305_blocks(context, data, size / 16);
	if (size % 16) {
		memcpy(last, data + size / 16 * 16, size % 16);
		cl_poly1305_blocks(context, last, 1);
	}
}

void cl_poly1305_finish(const struct cl_chacha20_poly1305 *context, uint8_t tag[16])
{
	uint64_t h0 = context->h[0];
	uint64_t h1 = context->h[1];
	/* h + 5 reaches 2^130 exactly where h is not below the modulus. */
	wide low = (wide)h0 + 5;
	wide high = (wide)h1 + (uint64_t)(low >> 64);
	const uint64_t reached = (context->h[2] + (uint64_t)(high >> 64)) >> 2;
	const uint64_t take = 0 - reached; /* reached is 0 or 1 */

	h0 = (h0 & ~take) | ((uint64_t)low & take);
	h1 = (h1 & ~take) | ((uint64_t)high & take);
	low = (wide)h0 + context->s[0];
	high = (wide)h1 + context->s[1] + (uint64_t)(low >> 64);
	cl_store64(tag, (uint64_t)low);
	cl_store64(tag + 8, (uint64_t)high);
}
