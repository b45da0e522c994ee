/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>

#include "harness.h"

static struct cl_lrn make(struct stage *stage, uint32_t outer, uint32_t channels, uint32_t inner)
{
	struct cl_lrn op = {.op = {CL_KERNEL_LRN, sizeof(op), 0},
			    .outer = outer,
			    .channels = channels,
			    .inner = inner,
			    .window = 5,
			    .alpha = 0.01f,
			    .beta = 0.75f,
			    .bias = 1.0f};
	const size_t count = (size_t)outer * channels * inner;

	op.in = stage_arena(stage, count * sizeof(float));
	op.out = stage_arena(stage, count * sizeof(float));
	stage_build(stage);
	random_floats(stage_at(stage, &op.in), count, -5, 5);
	return op;
}

TEST(lrn_matches_its_definition)
{
	static const float betas[] = {0.75f, 0.5f, 1.0f, 0.6f, 0, -1.5f, 2.25f};
	unsigned int round = 0;

	for (round = 0; round < 700; round++) {
		struct stage stage = {0};
		const uint32_t outer = random_range(1, 3);
		const uint32_t channels = random_range(1, 40);
		struct cl_lrn op =
			make(&stage, outer, channels, round & 1 ? 1 : random_range(1, 11));
		const float *in = stage_at(&stage, &op.in);
		const float *out = stage_at(&stage, &op.out);
		size_t i = 0;

		op.window = round % 50 ? random_range(1, 9) : random_range(1, 100);
		op.alpha = random_float(0, 0.3f);
		op.beta = betas[round % 7];
		op.bias = random_float(0.5f, 3);
		stage_run(&stage, &cl_lrn_kernel, &op, &op.out);
		for (i = 0; i < op.out.size / sizeof(float); i++) {
			int64_t c = (int64_t)(i / op.inner % op.channels);
			int64_t first = c - (op.window - 1) / 2;
			int64_t last = c + op.window / 2;
			double sum = 0;
			double want = 0;
			int64_t row = 0;

			for (row = first; row <= last; row++) {
				double x = 0;

				if (row >= 0 && row < op.channels)
					x = in[(int64_t)i + (row - c) * op.inner];
				sum += x * x;
			}
			want = in[i] / pow(op.bias + op.alpha * sum, op.beta);
			EXPECT(ulp_error(out[i], want) <= 8,
			       "window %u, beta %g, element %zu: %a, not %a", op.window,
			       (double)op.beta, i, (double)out[i], want);
		}
		stage_free(&stage);
	}
}

TEST(lrn_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_lrn good = make(&stage, 2, 7, 3);
	struct cl_lrn bad = good;

	expect_check(&stage, &cl_lrn_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_lrn_kernel, &bad, status, #field " = " #value);           \
	} while (0)
	REFUSED(outer, 0, CL_BAD_FORMAT);
	REFUSED(channels, 0, CL_BAD_FORMAT);
	REFUSED(inner, 0, CL_BAD_FORMAT);
	REFUSED(window, 0, CL_BAD_FORMAT);
	REFUSED(reserved, 1, CL_BAD_FORMAT);
	REFUSED(alpha, NAN, CL_BAD_FORMAT);
	REFUSED(beta, INFINITY, CL_BAD_FORMAT);
	REFUSED(bias, -INFINITY, CL_BAD_FORMAT);
	REFUSED(channels, 8, CL_OUT_OF_BOUNDS);
	REFUSED(inner, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(in.size, 164, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, 164, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSED(out, good.in, CL_OUT_OF_BOUNDS);
#undef REFUSED
	bad = good;
	bad.window = UINT32_MAX;
	expect_check(&stage, &cl_lrn_kernel, &bad, CL_BAD_FORMAT, "endless window");
	expect_mutants_harmless(&stage, &cl_lrn_kernel, &good);
	stage_free(&stage);
}
