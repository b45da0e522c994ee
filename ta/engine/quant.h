/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How the kernels of 8-bit integers end: from a float to the stored int8. The
 * arithmetic stands in cloister_format.h; each step is exact or rounds once, so
 * that all builds agree to the bit.
 */
#ifndef CLOISTER_QUANT_H
#define CLOISTER_QUANT_H

#include "bounds.h"
#include "neon.h"

static inline bool cl_zero_valid(int32_t zero)
{
	return zero >= INT8_MIN && zero <= INT8_MAX;
}

static inline bool cl_finish_s8_valid(const struct cl_finish_s8 *finish)
{
	return cl_zero_valid(finish->zero) && cl_zero_valid(finish->low) &&
	       cl_zero_valid(finish->high) && finish->low <= finish->high && !finish->reserved;
}

/* Positive and finite. */
static inline bool cl_scale_valid(float scale)
{
	return scale > 0 && scale <= __FLT_MAX__;
}

/* To the nearest integer, ties to even; saturates, at 2^20 or beyond, and takes NaN to 0. */
static inline int32x4_t cl_round4(float32x4_t value)
{
#if defined(__aarch64__)
	return vcvtnq_s32_f32(value);
#else
	/* What is beyond int16 is saturated later anyway. The sum has the integer in its low bits.
	 */
	const float32x4_t magic = vdupq_n_f32(0x1.8p+23f);
	const float32x4_t limit = vdupq_n_f32(0x1p+20f);
	float32x4_t x = vbslq_f32(vceqq_f32(value, value), value, vdupq_n_f32(0));

	x = vmaxq_f32(vminq_f32(x, limit), vnegq_f32(limit));
	return vsubq_s32(vreinterpretq_s32_f32(vaddq_f32(x, magic)), vreinterpretq_s32_f32(magic));
#endif
}

/* The finish, ready for vectors. */
struct cl_finish {
	int16x8_t zero;
	int8x16_t low;
	int8x16_t high;
};

static inline struct cl_finish cl_finish_of(const struct cl_finish_s8 *finish)
{
	const struct cl_finish vectors = {
		.zero = vdupq_n_s16((int16_t)finish->zero),
		.low = vdupq_n_s8((int8_t)finish->low),
		.high = vdupq_n_s8((int8_t)finish->high),
	};

	return vectors;
}

/*
 * Saturation on the way is harmless: what does not fit into 16 bits before the
 * zero point is added is beyond low or high after it as well.
 */
static inline int16x8_t cl_narrow8(int32x4_t a, int32x4_t b)
{
#if defined(__aarch64__)
	return vqmovn_high_s32(vqmovn_s32(a), b);
#else
	return vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
#endif
}

/* Rounded values to what is stored. */
static inline int8x16_t cl_finish16(const struct cl_finish *finish, int32x4_t a, int32x4_t b,
				    int32x4_t c, int32x4_t d)
{
	const int16x8_t low = vqaddq_s16(cl_narrow8(a, b), finish->zero);
	const int16x8_t high = vqaddq_s16(cl_narrow8(c, d), finish->zero);
#if defined(__aarch64__)
	const int8x16_t bytes = vqmovn_high_s16(vqmovn_s16(low), high);
#else
	const int8x16_t bytes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
#endif

	return vminq_s8(vmaxq_s8(bytes, finish->low), finish->high);
}

/* One value. */
static inline int8_t cl_finish1(const struct cl_finish *finish, float value)
{
	const int32x4_t rounded = cl_round4(vdupq_n_f32(value));

	return vgetq_lane_s8(cl_finish16(finish, rounded, rounded, rounded, rounded), 0);
}

/* Sixteen int8 to int32, in order. */
static inline int32x4x4_t cl_widen16(int8x16_t bytes)
{
	const int16x8_t low = vmovl_s8(vget_low_s8(bytes));
	const int16x8_t high = vmovl_s8(vget_high_s8(bytes));
	int32x4x4_t wide;

	wide.val[0] = vmovl_s16(vget_low_s16(low));
	wide.val[1] = vmovl_s16(vget_high_s16(low));
	wide.val[2] = vmovl_s16(vget_low_s16(high));
	wide.val[3] = vmovl_s16(vget_high_s16(high));
	return wide;
}

#endif
