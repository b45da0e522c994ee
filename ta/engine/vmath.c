/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmath.h"

/* log2 of x > 0, an infinity included; relative error below 2^-44. */
static double log2_positive(float x)
{
	double value = x; /* a denormal float is a normal double */
	double s = 0;
	double z = 0;
	double p = 0;
	int64_t bits = 0;
	int64_t k = 0;

	memcpy(&bits, &value, sizeof(bits));
	if (bits == INT64_C(0x7ff0000000000000))
		return value;
	/* value = 2^k m with m in [1 / sqrt 2, sqrt 2) */
	k = (bits - INT64_C(0x3fe6a09e667f3bcd)) >> 52;
	bits -= (int64_t)((uint64_t)k << 52);
	memcpy(&value, &bits, sizeof(value));
	/* log(m) = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172 */
	s = (value - 1.0) / (value + 1.0);
	z = s * s;
	p = 1.0 / 15;
	p = p * z + 1.0 / 13;
	p = p * z + 1.0 / 11;
	p = p * z + 1.0 / 9;
	p = p * z + 1.0 / 7;
	p = p * z + 1.0 / 5;
	p = p * z + 1.0 / 3;
	p = p * z + 1.0;
	return (double)k + 2.0 * 0x1.71547652b82fep+0 * s * p;
}

/* 2 to the power of x, |x| <= 200; relative error below 2^-40. */
static double exp2_bounded(double x)
{
	const double magic = 0x1.8p+52;
	double n = (x + magic) - magic;
	double r = (x - n) * 0x1.62e42fefa39efp-1;
	double p = 1.0 / 3628800;
	int64_t bits = ((int64_t)n + 1023) << 52;

	/* Taylor's series, |r| < 0.347 */
	p = p * r + 1.0 / 362880;
	p = p * r + 1.0 / 40320;
	p = p * r + 1.0 / 5040;
	p = p * r + 1.0 / 720;
	p = p * r + 1.0 / 120;
	p = p * r + 1.0 / 24;
	p = p * r + 1.0 / 6;
	p = p * r + 0.5;
	p = p * r + 1.0;
	p = p * r + 1.0;
	memcpy(&n, &bits, sizeof(n));
	return n * p;
}

static bool is_integer(float y)
{
	return __builtin_fabsf(y) >= 0x1p23f || (float)(int32_t)y == y;
}

static bool is_odd_integer(float y)
{
	/* from 2^24 on, all floats (and infinity) are even */
	return __builtin_fabsf(y) < 0x1p24f && is_integer(y) && ((int32_t)y & 1);
}

float cl_pow(float x, float y)
{
	float magnitude = __builtin_fabsf(x);
	bool negative = __builtin_signbit(x) && is_odd_integer(y);
	double exponent = 0;
	float result = 0;

	if (y == 0 || x == 1)
		return 1;
	if (x != x || y != y)
		return x + y;
	if (magnitude == 0) {
		result = y < 0 ? __builtin_inff() : 0;
	} else if (x < 0 && magnitude < __builtin_inff() && !is_integer(y)) {
		return __builtin_nanf("");
	} else if (magnitude == 1) { /* here x is -1; y may be infinite */
		result = 1;
	} else {
		exponent = y * log2_positive(magnitude);
		/* 2^200 becomes infinity and 2^-200 zero in a float */
		if (exponent > 200)
			exponent = 200;
		else if (exponent < -200)
			exponent = -200;
		result = (float)exp2_bounded(exponent);
	}
	return negative ? -result : result;
}
