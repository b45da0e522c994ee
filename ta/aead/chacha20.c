/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Four blocks lie beside each other: vector i holds word i of each. After the rounds they
 * are transposed, and only then the state is added, which the four blocks share but for
 * their numbers: so that few registers have to hold it.
 */
#include "chacha20.h"

#include "bytes.h"

#if defined(__aarch64__)
#define ROTATE(x, by) vsliq_n_u32(vshrq_n_u32(x, 32 - (by)), x, by)
#else /* SIMDe 0.7 has no vsliq */
#define ROTATE(x, by) vorrq_u32(vshlq_n_u32(x, by), vshrq_n_u32(x, 32 - (by)))
#endif
#define ROTATE_16(x) vreinterpretq_u32_u16(vrev32q_u16(vreinterpretq_u16_u32(x)))
#define ROTATE_8(x)  vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(x), rotate_8))

#define QUARTER(a, b, c, d)                                                                        \
	do {                                                                                       \
		a = vaddq_u32(a, b);                                                               \
		d = veorq_u32(d, a);                                                               \
		d = ROTATE_16(d);                                                                  \
		c = vaddq_u32(c, d);                                                               \
		b = veorq_u32(b, c);                                                               \
		b = ROTATE(b, 12);                                                                 \
		a = vaddq_u32(a, b);                                                               \
		d = veorq_u32(d, a);                                                               \
		d = ROTATE_8(d);                                                                   \
		c = vaddq_u32(c, d);                                                               \
		b = veorq_u32(b, c);                                                               \
		b = ROTATE(b, 7);                                                                  \
	} while (0)

/* Of two blocks each: words 4 row to 4 row + 3 of block i to vector i. */
#define TRANSPOSE(a, b, c, d)                                                                      \
	do {                                                                                       \
		const uint64x2_t ab02 = vreinterpretq_u64_u32(vtrn1q_u32(a, b));                   \
		const uint64x2_t ab13 = vreinterpretq_u64_u32(vtrn2q_u32(a, b));                   \
		const uint64x2_t cd02 = vreinterpretq_u64_u32(vtrn1q_u32(c, d));                   \
		const uint64x2_t cd13 = vreinterpretq_u64_u32(vtrn2q_u32(c, d));                   \
                                                                                                   \
		a = vreinterpretq_u32_u64(vtrn1q_u64(ab02, cd02));                                 \
		b = vreinterpretq_u32_u64(vtrn1q_u64(ab13, cd13));                                 \
		c = vreinterpretq_u32_u64(vtrn2q_u64(ab02, cd02));                                 \
		d = vreinterpretq_u32_u64(vtrn2q_u64(ab13, cd13));                                 \
	} while (0)

static inline void add_row(uint8_t *data, uint32x4_t stream, uint32x4_t state)
{
	vst1q_u8(data, veorq_u8(vld1q_u8(data), vreinterpretq_u8_u32(vaddq_u32(stream, state))));
}

void cl_chacha20_start(uint32_t state[16], const uint8_t key[32], uint32_t number,
		       const uint8_t nonce[12])
{
	int i = 0;

	/* "expand 32-byte k" */
	state[0] = 0x61707865;
	state[1] = 0x3320646e;
	state[2] = 0x79622d32;
	state[3] = 0x6b206574;
	for (i = 0; i < 8; i++)
		state[4 + i] = cl_load32(key + 4 * i);
	state[12] = number;
	for (i = 0; i < 3; i++)
		state[13 + i] = cl_load32(nonce + 4 * i);
}

void cl_chacha20_group(uint32_t state[16], uint8_t *data)
{
	static const uint8_t rotate_8_bytes[16] = {3,  0, 1, 2,  7,  4,  5,  6,
						   11, 8, 9, 10, 15, 12, 13, 14};
	static const uint32_t numbers[4] = {0, 1, 2, 3};
	const uint8x16_t rotate_8 = vld1q_u8(rotate_8_bytes);
	uint32x4_t x0 = vdupq_n_u32(state[0]);
	uint32x4_t x1 = vdupq_n_u32(state[1]);
	uint32x4_t x2 = vdupq_n_u32(state[2]);
	uint32x4_t x3 = vdupq_n_u32(state[3]);
	uint32x4_t x4 = vdupq_n_u32(state[4]);
	uint32x4_t x5 = vdupq_n_u32(state[5]);
	uint32x4_t x6 = vdupq_n_u32(state[6]);
	uint32x4_t x7 = vdupq_n_u32(state[7]);
	uint32x4_t x8 = vdupq_n_u32(state[8]);
	uint32x4_t x9 = vdupq_n_u32(state[9]);
	uint32x4_t x10 = vdupq_n_u32(state[10]);
	uint32x4_t x11 = vdupq_n_u32(state[11]);
	uint32x4_t x12 = vaddq_u32(vdupq_n_u32(state[12]), vld1q_u32(numbers));
	uint32x4_t x13 = vdupq_n_u32(state[13]);
	uint32x4_t x14 = vdupq_n_u32(state[14]);
	uint32x4_t x15 = vdupq_n_u32(state[15]);
	uint32x4_t row0 = vdupq_n_u32(0);
	uint32x4_t row1 = row0;
	uint32x4_t row2 = row0;
	uint32x4_t row3 = row0;
	uint32x4_t next = row0;
	int round = 0;

	for (round = 0; round < 10; round++) {
		QUARTER(x0, x4, x8, x12);
		QUARTER(x1, x5, x9, x13);
		QUARTER(x2, x6, x10, x14);
		QUARTER(x3, x7, x11, x15);
		QUARTER(x0, x5, x10, x15);
		QUARTER(x1, x6, x11, x12);
		QUARTER(x2, x7, x8, x13);
		QUARTER(x3, x4, x9, x14);
	}
	TRANSPOSE(x0, x1, x2, x3);
	TRANSPOSE(x4, x5, x6, x7);
	TRANSPOSE(x8, x9, x10, x11);
	TRANSPOSE(x12, x13, x14, x15);

	row0 = vld1q_u32(state);
	row1 = vld1q_u32(state + 4);
	row2 = vld1q_u32(state + 8);
	row3 = vld1q_u32(state + 12);
	next = vsetq_lane_u32(1, next, 0);
	add_row(data, x0, row0);
	add_row(data + 16, x4, row1);
	add_row(data + 32, x8, row2);
	add_row(data + 48, x12, row3);
	row3 = vaddq_u32(row3, next);
	add_row(data + 64, x1, row0);
	add_row(data + 80, x5, row1);
	add_row(data + 96, x9, row2);
	add_row(data + 112, x13, row3);
	row3 = vaddq_u32(row3, next);
	add_row(data + 128, x2, row0);
	add_row(data + 144, x6, row1);
	add_row(data + 160, x10, row2);
	add_row(data + 176, x14, row3);
	row3 = vaddq_u32(row3, next);
	add_row(data + 192, x3, row0);
	add_row(data + 208, x7, row1);
	add_row(data + 224, x11, row2);
	add_row(data + 240, x15, row3);
	state[12] += 4;
}
