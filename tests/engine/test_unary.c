/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <string.h>

#include "activation.h"
#include "harness.h"

/* ONNX's definition of each function, in double. */
static double reference(const struct cl_activation *f, double x)
{
	const double a = f->a;
	const double b = f->b;

	switch (f->function) {
	case CL_UNARY_RELU:
		return x < 0 ? 0 : x;
	case CL_UNARY_CLIP:
		return x != x ? x : fmin(fmax(x, a), b);
	case CL_UNARY_LEAKY_RELU:
		return x < 0 ? a * x : x;
	case CL_UNARY_SIGMOID:
		return 1 / (1 + exp(-x));
	case CL_UNARY_TANH:
		return tanh(x);
	case CL_UNARY_HARD_SIGMOID:
		return x != x ? x : fmax(0, fmin(1, a * x + b));
	case CL_UNARY_HARD_SWISH:
		return x * (x != x ? x : fmax(0, fmin(1, x / 6 + 0.5)));
	case CL_UNARY_ELU:
		return x < 0 ? a * expm1(x) : x;
	case CL_UNARY_EXP:
		return exp(x);
	case CL_UNARY_LOG:
		return log(x);
	case CL_UNARY_SQRT:
		return sqrt(x);
	case CL_UNARY_ABS:
		return fabs(x);
	case CL_UNARY_NEG:
		return -x;
	case CL_UNARY_RECIPROCAL:
		return 1 / x;
	case CL_UNARY_ERF:
		return erf(x);
	case CL_UNARY_SOFTPLUS:
		return fmax(x, 0) + log1p(exp(-fabs(x)));
	default:
		return x;
	}
}

/* Cancellation in a * x + b makes an error relative to the result meaningless there. */
static bool is_close(const struct cl_activation *f, float got, double want)
{
	if (f->function == CL_UNARY_HARD_SIGMOID || f->function == CL_UNARY_HARD_SWISH)
		return (isnan(got) && isnan(want)) || got == want ||
		       fabs(got - want) <= 2e-6 * fmax(1, fabs(want));
	return ulp_error(got, want) <= 3.5;
}

static struct cl_unary_op make(struct stage *stage, uint32_t count, bool in_place)
{
	struct cl_unary_op op = {.op = {CL_KERNEL_UNARY, sizeof(op), 0}, .count = count};

	op.out = stage_arena(stage, count * sizeof(float));
	if (in_place)
		op.in = op.out;
	else if (random_range(0, 1))
		op.in = stage_arena(stage, count * sizeof(float));
	else
		op.in = stage_weights(stage, count * sizeof(float));
	stage_build(stage);
	return op;
}

TEST(unary_matches_its_definition)
{
	static const float special[] = {0, -0.0f, INFINITY, -INFINITY, NAN, 0x1p-149f, -0x1p-140f};
	uint32_t function = 0;
	unsigned int round = 0;

	for (function = 0; function < CL_UNARY_COUNT; function++) {
		for (round = 0; round < 60; round++) {
			struct stage stage = {0};
			struct cl_unary_op op = make(&stage, random_range(1, 70), round % 2);
			float *in = stage_at(&stage, &op.in);
			float *out = stage_at(&stage, &op.out);
			float kept[70] = {0};
			uint32_t i = 0;

			op.function.function = function;
			op.function.a = random_float(-2, 2);
			op.function.b = random_float(-2, 2);
			random_floats(in, op.count, -10, 10);
			if (round % 3 == 0)
				in[random_range(0, op.count - 1)] = special[random_range(0, 6)];
			memcpy(kept, in, op.count * sizeof(float));
			stage_run(&stage, &cl_unary_kernel, &op, &op.out);
			for (i = 0; i < op.count; i++)
				EXPECT(is_close(&op.function, out[i],
						reference(&op.function, kept[i])),
				       "function %u of %a with %a, %a gave %a", function,
				       (double)kept[i], (double)op.function.a,
				       (double)op.function.b, (double)out[i]);
			stage_free(&stage);
		}
	}
}

TEST(unary_results_do_not_depend_on_position)
{
	float in[37] = {0};
	float all[37] = {0};
	uint32_t function = 0;
	size_t i = 0;

	for (function = 0; function < CL_UNARY_COUNT; function++) {
		struct cl_activation f = {.function = function, .a = 0.3f, .b = 0.7f};

		random_floats(in, 37, 0.1f, 4);
		cl_activate(&f, in, all, 37);
		for (i = 0; i < 37; i++) {
			float one = 0;

			cl_activate(&f, in + i, &one, 1);
			EXPECT(!memcmp(&one, all + i, sizeof(one)), "function %u, element %zu",
			       function, i);
		}
	}
}

TEST(unary_clip_with_crossed_limits_gives_the_upper_one)
{
	const struct cl_activation f = {.function = CL_UNARY_CLIP, .a = 2, .b = 1};
	const float in[3] = {0, 1.5f, 3};
	float out[3] = {0};
	size_t i = 0;

	cl_activate(&f, in, out, 3);
	for (i = 0; i < 3; i++)
		EXPECT(out[i] == 1, "element %zu is %g", i, (double)out[i]);
}

TEST(unary_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_unary_op good = make(&stage, 20, false);
	struct cl_unary_op bad = good;

#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_unary_kernel, &bad, status, #field " = " #value);         \
	} while (0)
	REFUSED(count, 0, CL_BAD_FORMAT);
	REFUSED(reserved, 1, CL_BAD_FORMAT);
	REFUSED(count, 21, CL_OUT_OF_BOUNDS);
	REFUSED(count, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(function.function, CL_UNARY_COUNT, CL_BAD_KERNEL);
	REFUSED(function.reserved, 1, CL_BAD_KERNEL);
	REFUSED(function.a, NAN, CL_BAD_KERNEL);
	REFUSED(function.b, INFINITY, CL_BAD_KERNEL);
	REFUSED(in.offset, UINT32_MAX - 7, CL_OUT_OF_BOUNDS);
	REFUSED(in.offset, good.in.offset + 4, CL_OUT_OF_BOUNDS);
	REFUSED(in.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSED(in.space, 3, CL_OUT_OF_BOUNDS);
	REFUSED(in.reserved, 1, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, 76, CL_OUT_OF_BOUNDS);
#undef REFUSED
	bad = good;
	bad.in = good.out;
	bad.in.size = 40;
	bad.out.size = 40;
	bad.count = 10;
	expect_check(&stage, &cl_unary_kernel, &bad, CL_OK, "in place");
	bad.in.offset += 8;
	expect_check(&stage, &cl_unary_kernel, &bad, CL_OUT_OF_BOUNDS, "half in place");
	expect_mutants_harmless(&stage, &cl_unary_kernel, &good);
	stage_free(&stage);
}
