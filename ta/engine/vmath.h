/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Elementary functions on four floats at a time; there is no libm in a TA.
 *
 * Every function takes NaN to NaN and handles infinities, signed zeros and
 * denormals as C's Annex F does, unless its comment narrows the domain.
 * tests/engine/test_vmath.c asserts the largest errors; pow is correctly rounded
 * but for near ties. Coefficients are our own minimax fits
 * (Remez exchange in 200-bit arithmetic, then rounded to float).
 *
 * The file is not named math.h, which an -I option would put before libc's.
 * Sources that include it are compiled with -ffp-contract=off, so that a
 * multiplication is fused with an addition only where vfmaq says so, and all
 * builds that have a fused multiply-add compute the same bits.
 */
#ifndef CLOISTER_VMATH_H
#define CLOISTER_VMATH_H

#include <string.h>

#include "kernel.h"
#include "neon.h"

#if !defined(__aarch64__) && defined(__SSE2__)
#include <emmintrin.h>
#endif

#define CL_LANES 4

#define CL_LOG2_E      0x1.715476p+0f
#define CL_LN_2_HIGH   0x1.63p-1f /* ten bits: a multiple up to 2^14 is exact */
#define CL_LN_2_LOW    -0x1.bd0106p-13f
#define CL_ROUND_MAGIC 0x1.8p+23f /* x + magic has round(x) in its low bits, |x| < 2^22 */
#define CL_SIGN_BIT    0x80000000U

/* The first `count` of four floats, 1 <= count <= 4; further lanes are `fill`. */
static inline float32x4_t cl_load_some(const float *from, size_t count, float fill)
{
	float32x4_t lanes = vdupq_n_f32(fill);

	if (count == CL_LANES)
		return vld1q_f32(from);
	if (count == 1)
		return vld1q_lane_f32(from, lanes, 0);
	lanes = vcombine_f32(vld1_f32(from), vget_low_f32(lanes));
	return count == 2 ? lanes : vld1q_lane_f32(from + 2, lanes, 2);
}

static inline void cl_store_some(float *to, float32x4_t value, size_t count)
{
	if (count == CL_LANES) {
		vst1q_f32(to, value);
	} else if (count == 1) {
		vst1q_lane_f32(to, value, 0);
	} else {
		vst1_f32(to, vget_low_f32(value));
		if (count == 3)
			vst1q_lane_f32(to + 2, value, 2);
	}
}

/* SIMDe 0.7.4 has neither division nor square root. */
static inline float32x4_t cl_div4(float32x4_t a, float32x4_t b)
{
#if defined(__aarch64__)
	return vdivq_f32(a, b);
#else
	return a / b;
#endif
}

static inline float32x4_t cl_sqrt4(float32x4_t x)
{
#if defined(__aarch64__)
	return vsqrtq_f32(x);
#elif defined(__SSE2__)
	return _mm_sqrt_ps(x);
#else
#error "no vector square root for this processor"
#endif
}

/*
 * The larger and the smaller; NaN if either is NaN, +0 larger than -0: FMAX and
 * FMIN of AArch64. SIMDe's vmaxq and vminq leave the sign of a zero open.
 */
static inline float32x4_t cl_max4(float32x4_t a, float32x4_t b)
{
#if defined(__aarch64__)
	return vmaxq_f32(a, b);
#elif defined(__SSE2__)
	__m128 unordered = _mm_cmpunord_ps(a, b);
	__m128 larger = _mm_and_ps(_mm_max_ps(a, b), _mm_max_ps(b, a));

	return _mm_or_ps(_mm_andnot_ps(unordered, larger), _mm_and_ps(unordered, _mm_add_ps(a, b)));
#endif
}

static inline float32x4_t cl_min4(float32x4_t a, float32x4_t b)
{
#if defined(__aarch64__)
	return vminq_f32(a, b);
#elif defined(__SSE2__)
	__m128 unordered = _mm_cmpunord_ps(a, b);
	__m128 smaller = _mm_or_ps(_mm_min_ps(a, b), _mm_min_ps(b, a));

	return _mm_or_ps(_mm_andnot_ps(unordered, smaller),
			 _mm_and_ps(unordered, _mm_add_ps(a, b)));
#endif
}

/* |magnitude| with the sign of `sign`. */
static inline float32x4_t cl_copysign4(float32x4_t magnitude, float32x4_t sign)
{
	return vbslq_f32(vdupq_n_u32(CL_SIGN_BIT), sign, magnitude);
}

/* The float whose bits are (exponent + 127) << 23: 2^exponent for -126 <= exponent <= 127. */
static inline float32x4_t cl_power_of_two4(int32x4_t exponent)
{
	return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(exponent, vdupq_n_s32(127)), 23));
}

/*
 * The common part of the exponentials: *exponent = n = round(x / ln 2) and the
 * result is exp(x - n ln 2) - 1. |x| < 2^21 or NaN.
 */
static inline float32x4_t cl_exp_reduced4(float32x4_t x, int32x4_t *exponent)
{
	const float32x4_t magic = vdupq_n_f32(CL_ROUND_MAGIC);
	float32x4_t shifted = vfmaq_f32(magic, x, vdupq_n_f32(CL_LOG2_E));
	float32x4_t n = vsubq_f32(shifted, magic);
	float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-CL_LN_2_HIGH));
	float32x4_t p = vdupq_n_f32(0x1.a032c2p-13f);

	*exponent = vsubq_s32(vreinterpretq_s32_f32(shifted), vreinterpretq_s32_f32(magic));
	r = vfmaq_f32(r, n, vdupq_n_f32(-CL_LN_2_LOW));
	/* (exp(r) - 1 - r) / r^2 on |r| <= 0.34665 */
	p = vfmaq_f32(vdupq_n_f32(0x1.6d720cp-10f), p, r);
	p = vfmaq_f32(vdupq_n_f32(0x1.11118ap-7f), p, r);
	p = vfmaq_f32(vdupq_n_f32(0x1.5554b2p-5f), p, r);
	p = vfmaq_f32(vdupq_n_f32(0x1.555554p-3f), p, r);
	p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
	return vfmaq_f32(r, vmulq_f32(r, r), p);
}

static inline float32x4_t cl_exp4(float32x4_t x)
{
	int32x4_t n = vdupq_n_s32(0);
	int32x4_t half = n;
	float32x4_t y = vdupq_n_f32(0);

	/* exp(-104) rounds to zero and exp(89) to infinity. */
	x = cl_min4(cl_max4(x, vdupq_n_f32(-104.0f)), vdupq_n_f32(89.0f));
	y = vaddq_f32(cl_exp_reduced4(x, &n), vdupq_n_f32(1.0f));
	/* 2^n in two steps, so that the second alone rounds, overflows or underflows. */
	half = vshrq_n_s32(n, 1);
	y = vmulq_f32(y, cl_power_of_two4(half));
	return vmulq_f32(y, cl_power_of_two4(vsubq_s32(n, half)));
}

/* exp(x) - 1 for x <= 80 or NaN. */
static inline float32x4_t cl_expm14(float32x4_t x)
{
	int32x4_t n = vdupq_n_s32(0);
	float32x4_t p = vdupq_n_f32(0);
	float32x4_t scale = vdupq_n_f32(0);

	/* exp(-20) - 1 rounds to -1. */
	p = cl_exp_reduced4(cl_max4(x, vdupq_n_f32(-20.0f)), &n);
	scale = cl_power_of_two4(n);
	return vfmaq_f32(vsubq_f32(scale, vdupq_n_f32(1.0f)), scale, p);
}

/* log(1 + f) + k ln 2 for f in [-1/3, 1/3]. */
static inline float32x4_t cl_log_reduced4(float32x4_t f, float32x4_t k)
{
	float32x4_t square = vmulq_f32(f, f);
	float32x4_t p = vdupq_n_f32(0x1.ebd204p-4f);
	float32x4_t y = vdupq_n_f32(0);

	/* (log(1 + f) - f + f^2 / 2) / f^3 */
	p = vfmaq_f32(vdupq_n_f32(-0x1.071230p-3f), p, f);
	p = vfmaq_f32(vdupq_n_f32(0x1.b87de8p-4f), p, f);
	p = vfmaq_f32(vdupq_n_f32(-0x1.f38990p-4f), p, f);
	p = vfmaq_f32(vdupq_n_f32(0x1.24f490p-3f), p, f);
	p = vfmaq_f32(vdupq_n_f32(-0x1.55990ap-3f), p, f);
	p = vfmaq_f32(vdupq_n_f32(0x1.99977ep-3f), p, f);
	p = vfmaq_f32(vdupq_n_f32(-0x1.ffff0ep-3f), p, f);
	p = vfmaq_f32(vdupq_n_f32(0x1.555556p-2f), p, f);
	y = vmulq_f32(vmulq_f32(square, f), p);
	y = vfmaq_f32(y, k, vdupq_n_f32(CL_LN_2_LOW));
	y = vfmaq_f32(y, square, vdupq_n_f32(-0.5f));
	y = vaddq_f32(f, y);
	return vfmaq_f32(y, k, vdupq_n_f32(CL_LN_2_HIGH));
}

/* Splits a positive normal x into *mantissa in [2/3, 4/3) times 2^result. */
static inline int32x4_t cl_split4(float32x4_t x, float32x4_t *mantissa)
{
	int32x4_t bits = vreinterpretq_s32_f32(x);
	int32x4_t k = vshrq_n_s32(vsubq_s32(bits, vdupq_n_s32(0x3f2aaaab)), 23);

	*mantissa = vreinterpretq_f32_s32(vsubq_s32(bits, vshlq_n_s32(k, 23)));
	return k;
}

static inline float32x4_t cl_log4(float32x4_t x)
{
	const float32x4_t infinity = vdupq_n_f32(__builtin_inff());
	const float32x4_t zero = vdupq_n_f32(0);
	uint32x4_t denormal = vcltq_f32(x, vdupq_n_f32(0x1p-126f));
	float32x4_t normal = vbslq_f32(denormal, vmulq_f32(x, vdupq_n_f32(0x1p24f)), x);
	float32x4_t mantissa = zero;
	float32x4_t k = vcvtq_f32_s32(cl_split4(normal, &mantissa));
	float32x4_t y = zero;

	k = vsubq_f32(k, vbslq_f32(denormal, vdupq_n_f32(24.0f), zero));
	y = cl_log_reduced4(vsubq_f32(mantissa, vdupq_n_f32(1.0f)), k);
	/* Infinity and NaN give themselves. */
	y = vbslq_f32(vcltq_f32(x, infinity), y, x);
	y = vbslq_f32(vceqq_f32(x, zero), vnegq_f32(infinity), y);
	return vbslq_f32(vcltq_f32(x, zero), vdupq_n_f32(__builtin_nanf("")), y);
}

/* log(1 + x) for 0 <= x < 2^100, or NaN. */
static inline float32x4_t cl_log1p4(float32x4_t x)
{
	const float32x4_t one = vdupq_n_f32(1.0f);
	float32x4_t sum = vaddq_f32(x, one);
	float32x4_t part = vsubq_f32(sum, one);
	/* sum + rest is 1 + x without an error (D. Knuth's two-sum) */
	float32x4_t rest = vaddq_f32(vsubq_f32(one, vsubq_f32(sum, part)), vsubq_f32(x, part));
	float32x4_t mantissa = vdupq_n_f32(0);
	int32x4_t k = cl_split4(sum, &mantissa);
	float32x4_t scale = cl_power_of_two4(vnegq_s32(k));
	float32x4_t f = vfmaq_f32(vsubq_f32(mantissa, one), rest, scale);

	return cl_log_reduced4(f, vcvtq_f32_s32(k));
}

/* 1 / (1 + exp(-x)) */
static inline float32x4_t cl_sigmoid4(float32x4_t x)
{
	const float32x4_t one = vdupq_n_f32(1.0f);
	float32x4_t e = cl_exp4(vnegq_f32(vabsq_f32(x)));
	float32x4_t above = vbslq_f32(vcltq_f32(x, vdupq_n_f32(0)), e, one);

	return cl_div4(above, vaddq_f32(one, e));
}

static inline float32x4_t cl_tanh4(float32x4_t x)
{
	/* tanh(10) rounds to 1 */
	float32x4_t magnitude = cl_min4(vabsq_f32(x), vdupq_n_f32(10.0f));
	float32x4_t e = cl_expm14(vaddq_f32(magnitude, magnitude));

	return cl_copysign4(cl_div4(e, vaddq_f32(e, vdupq_n_f32(2.0f))), x);
}

static inline float32x4_t cl_erf4(float32x4_t x)
{
	const float32x4_t one = vdupq_n_f32(1.0f);
	/* erf(3.95) rounds to 1 */
	float32x4_t t = cl_min4(vabsq_f32(x), vdupq_n_f32(3.95f));
	float32x4_t square = vmulq_f32(t, t);
	float32x4_t small = vdupq_n_f32(0x1.496a42p-14f);
	float32x4_t large = vdupq_n_f32(0x1.8825dap-13f);

	/* erf(t) / t - 1 on [0, 1] in t^2 */
	small = vfmaq_f32(vdupq_n_f32(-0x1.a3f706p-11f), small, square);
	small = vfmaq_f32(vdupq_n_f32(0x1.5405b2p-8f), small, square);
	small = vfmaq_f32(vdupq_n_f32(-0x1.b7f90ep-6f), small, square);
	small = vfmaq_f32(vdupq_n_f32(0x1.ce2cf8p-4f), small, square);
	small = vfmaq_f32(vdupq_n_f32(-0x1.81273ep-2f), small, square);
	small = vfmaq_f32(vdupq_n_f32(0x1.06eba8p-3f), small, square);
	small = vfmaq_f32(t, t, small);
	/* log(1 - erf(t)) on [0.995, 3.95] */
	large = vfmaq_f32(vdupq_n_f32(-0x1.832bd0p-9f), large, t);
	large = vfmaq_f32(vdupq_n_f32(0x1.6637b8p-6f), large, t);
	large = vfmaq_f32(vdupq_n_f32(-0x1.a68dd4p-4f), large, t);
	large = vfmaq_f32(vdupq_n_f32(-0x1.46b232p-1f), large, t);
	large = vfmaq_f32(vdupq_n_f32(-0x1.208ba2p+0f), large, t);
	large = vfmaq_f32(vdupq_n_f32(-0x1.5b0c98p-12f), large, t);
	large = vsubq_f32(one, cl_exp4(large));
	return cl_copysign4(vbslq_f32(vcltq_f32(t, one), small, large), x);
}

/* log(1 + exp(x)) */
static inline float32x4_t cl_softplus4(float32x4_t x)
{
	float32x4_t e = cl_exp4(vnegq_f32(vabsq_f32(x)));

	return vaddq_f32(cl_max4(x, vdupq_n_f32(0)), cl_log1p4(e));
}

/* x to the power of y, with all special cases of C's pow. */
float cl_pow(float x, float y);

#endif
