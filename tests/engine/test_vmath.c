/* SPDX-License-Identifier: BSD-2-Clause */
/* The elementary functions, against libm in double, over floats of all magnitudes. */
#include <math.h>
#include <stdio.h>

#include "harness.h"
#include "vmath.h"

/* Coprime to every power of two: the sweep meets all exponents and mantissa patterns. */
#define SWEEP_STEP 2047U

typedef float32x4_t (*function4)(float32x4_t x);

static double sigmoid(double x)
{
	return 1.0 / (1.0 + exp(-x));
}

static double softplus(double x)
{
	return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static float from_bits(uint32_t bits)
{
	float value = 0;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/*
 * Applies `function` to a sweep over all floats of [low, high], NaN included, and expects
 * errors of at most `limit` ulp.
 */
static void sweep(const char *name, function4 function, double (*reference)(double), float low,
		  float high, double limit)
{
	double worst = 0;
	float worst_at = 0;
	float x[CL_LANES] = {0};
	float y[CL_LANES] = {0};
	uint64_t bits = 0;
	unsigned int i = 0;

	while (bits <= UINT32_MAX) {
		for (i = 0; i < CL_LANES; i++) {
			do {
				x[i] = from_bits((uint32_t)bits);
				bits += SWEEP_STEP;
			} while (x[i] < low || x[i] > high);
		}
		vst1q_f32(y, function(vld1q_f32(x)));
		digest_add(y, sizeof(y));
		for (i = 0; i < CL_LANES; i++) {
			double error = ulp_error(y[i], reference(x[i]));

			if (error > worst) {
				worst = error;
				worst_at = x[i];
			}
		}
	}
	printf("     %s: at most %.2f ulp, at %a\n", name, worst, (double)worst_at);
	EXPECT(worst <= limit, "%s: %g ulp at %a", name, worst, (double)worst_at);
}

TEST(exp_is_accurate)
{
	sweep("exp", cl_exp4, exp, -INFINITY, INFINITY, 1);
}

TEST(expm1_is_accurate)
{
	sweep("expm1", cl_expm14, expm1, -INFINITY, 80.0f, 1.5);
}

TEST(log_is_accurate)
{
	sweep("log", cl_log4, log, -INFINITY, INFINITY, 0.9);
}

TEST(log1p_is_accurate)
{
	sweep("log1p", cl_log1p4, log1p, 0, 0x1p100f, 1.6);
}

TEST(sigmoid_is_accurate)
{
	sweep("sigmoid", cl_sigmoid4, sigmoid, -INFINITY, INFINITY, 2.5);
}

TEST(tanh_is_accurate)
{
	sweep("tanh", cl_tanh4, tanh, -INFINITY, INFINITY, 2.6);
}

TEST(erf_is_accurate)
{
	sweep("erf", cl_erf4, erf, -INFINITY, INFINITY, 1.4);
}

TEST(softplus_is_accurate)
{
	sweep("softplus", cl_softplus4, softplus, -INFINITY, INFINITY, 2);
}

TEST(sqrt_is_exact)
{
	sweep("sqrt", cl_sqrt4, sqrt, -INFINITY, INFINITY, 0.5);
}

static bool same_float(float a, float b)
{
	return (a != a && b != b) || (a == b && !signbit(a) == !signbit(b));
}

TEST(elementary_functions_have_the_right_limits)
{
	static const struct {
		const char *name;
		function4 function;
		float x;
		float want;
	} cases[] = {
		{"exp", cl_exp4, INFINITY, INFINITY},
		{"exp", cl_exp4, -INFINITY, 0},
		{"exp", cl_exp4, 0, 1},
		{"exp", cl_exp4, -0.0f, 1},
		{"log", cl_log4, INFINITY, INFINITY},
		{"log", cl_log4, 0, -INFINITY},
		{"log", cl_log4, -0.0f, -INFINITY},
		{"log", cl_log4, 1, 0},
		{"log", cl_log4, -1, NAN},
		{"log", cl_log4, -INFINITY, NAN},
		{"tanh", cl_tanh4, INFINITY, 1},
		{"tanh", cl_tanh4, -INFINITY, -1},
		{"tanh", cl_tanh4, -0.0f, -0.0f},
		{"sigmoid", cl_sigmoid4, INFINITY, 1},
		{"sigmoid", cl_sigmoid4, -INFINITY, 0},
		{"sigmoid", cl_sigmoid4, 0, 0.5f},
		{"erf", cl_erf4, INFINITY, 1},
		{"erf", cl_erf4, -INFINITY, -1},
		{"erf", cl_erf4, -0.0f, -0.0f},
		{"softplus", cl_softplus4, INFINITY, INFINITY},
		{"softplus", cl_softplus4, -INFINITY, 0},
		{"sqrt", cl_sqrt4, -0.0f, -0.0f},
		{"sqrt", cl_sqrt4, -1, NAN},
	};
	static const function4 all[] = {cl_exp4,     cl_expm14, cl_log4,      cl_log1p4, cl_tanh4,
					cl_sigmoid4, cl_erf4,   cl_softplus4, cl_sqrt4};
	size_t i = 0;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		float got = vgetq_lane_f32(cases[i].function(vdupq_n_f32(cases[i].x)), 0);

		EXPECT(same_float(got, cases[i].want), "%s(%g) gave %g", cases[i].name,
		       (double)cases[i].x, (double)got);
	}
	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		float got = vgetq_lane_f32(all[i](vdupq_n_f32(NAN)), 0);

		EXPECT(got != got, "function %zu took NaN to %g", i, (double)got);
	}
}

TEST(max_and_min_follow_aarch64)
{
	static const float values[] = {0, -0.0f, 1, -1, INFINITY, -INFINITY, NAN};
	const size_t count = sizeof(values) / sizeof(values[0]);
	size_t i = 0;
	size_t j = 0;

	for (i = 0; i < count; i++) {
		for (j = 0; j < count; j++) {
			float a = values[i];
			float b = values[j];
			float max = vgetq_lane_f32(cl_max4(vdupq_n_f32(a), vdupq_n_f32(b)), 0);
			float min = vgetq_lane_f32(cl_min4(vdupq_n_f32(a), vdupq_n_f32(b)), 0);
			bool first = a > b || (a == b && !signbit(a));

			EXPECT(same_float(max, a != a || b != b ? NAN : (first ? a : b)),
			       "max(%g, %g) gave %g", (double)a, (double)b, (double)max);
			EXPECT(same_float(min, a != a || b != b ? NAN : (first ? b : a)),
			       "min(%g, %g) gave %g", (double)a, (double)b, (double)min);
		}
	}
}

TEST(pow_is_accurate)
{
	double worst = 0;
	unsigned int i = 0;

	for (i = 0; i < 400000; i++) {
		uint32_t bits = random_u32();
		float x = from_bits(bits & (i % 2 ? 0x7fffffff : 0xffffffff));
		float y = i % 3 ? random_float(-8, 8) : from_bits(random_u32());
		float got = 0;
		double error = 0;

		if (i % 5 == 0) /* results in the middle of the range */
			x = random_float(0.5f, 2), y = random_float(-120, 120);
		if (i % 7 == 0)
			y = (float)(int)random_float(-20, 20);
		got = cl_pow(x, y);
		digest_add(&got, sizeof(got));
		error = ulp_error(got, pow(x, y));
		EXPECT(error <= 0.51, "pow(%a, %a) is %g ulp off: %a", (double)x, (double)y, error,
		       (double)got);
		if (error > worst)
			worst = error;
	}
	printf("     pow: at most %.4f ulp\n", worst);
}

TEST(pow_has_the_special_cases_of_c)
{
	static const float values[] = {0,         -0.0f,    1,         -1,      2,       -2,
				       0.5f,      -0.5f,    3,         -3,      1.5f,    -1.5f,
				       0x1p23f,   0x1p24f,  -0x1p23f,  8388607, 0x1p60f, -0x1p60f,
				       0x1p-149f, INFINITY, -INFINITY, NAN};
	const size_t count = sizeof(values) / sizeof(values[0]);
	size_t i = 0;
	size_t j = 0;

	for (i = 0; i < count; i++) {
		for (j = 0; j < count; j++) {
			float got = cl_pow(values[i], values[j]);
			float want = (float)pow(values[i], values[j]);

			EXPECT(same_float(got, want), "pow(%g, %g) gave %g, not %g",
			       (double)values[i], (double)values[j], (double)got, (double)want);
		}
	}
}
