/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static struct cl_softmax make(struct stage *stage, uint32_t outer, uint32_t n, uint32_t inner,
			      bool in_place)
{
	struct cl_softmax op = {
		.op = {CL_KERNEL_SOFTMAX, sizeof(op), 0}, .outer = outer, .n = n, .inner = inner};
	const size_t bytes = (size_t)outer * n * inner * sizeof(float);

	op.out = stage_arena(stage, bytes);
	op.in = in_place ? op.out : stage_arena(stage, bytes);
	stage_build(stage);
	return op;
}

static void run_and_compare(struct stage *stage, const struct cl_softmax *op)
{
	const size_t count = (size_t)op->outer * op->n * op->inner;
	const float *out = stage_at(stage, &op->out);
	float *in = malloc(count * sizeof(*in));
	size_t o = 0;
	size_t i = 0;
	size_t j = 0;

	memcpy(in, stage_at(stage, &op->in), count * sizeof(*in));
	stage_run(stage, &cl_softmax_kernel, op, &op->out);
	for (o = 0; o < op->outer; o++) {
		for (j = 0; j < op->inner; j++) {
			const size_t base = o * op->n * op->inner + j;
			double max = -INFINITY;
			double sum = 0;

			for (i = 0; i < op->n; i++) {
				double x = in[base + i * op->inner];

				max = isnan(x) || isnan(max) ? NAN : fmax(max, x);
			}
			for (i = 0; i < op->n; i++)
				sum += exp((float)(in[base + i * op->inner] - max));
			for (i = 0; i < op->n; i++) {
				/* The difference is rounded before its exponential is taken. */
				double x = (float)(in[base + i * op->inner] - max);
				float got = out[base + i * op->inner];
				double want = op->log ? x - log(sum) : exp(x) / sum;

				/* A sum in double hides what lies 2^-53 below one. */
				EXPECT(ulp_error(got, want) <= 3.5 || fabs(got - want) < 1e-15,
				       "(%u, %u, %u) log %u: %a, not %a", op->outer, op->n,
				       op->inner, op->log, (double)got, want);
			}
		}
	}
	free(in);
}

TEST(softmax_matches_its_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 800; round++) {
		struct stage stage = {0};
		const uint32_t outer = random_range(1, 4);
		const uint32_t n = random_range(1, 50);
		const uint32_t inner = round & 1 ? 1 : random_range(1, 13);
		struct cl_softmax op = make(&stage, outer, n, inner, round & 2);
		const size_t count = (size_t)op.outer * op.n * op.inner;
		float spread = round & 4 ? 3 : 90;

		op.log = round >> 3 & 1;
		random_floats(stage_at(&stage, &op.in), count, -spread, spread);
		run_and_compare(&stage, &op);
		stage_free(&stage);
	}
}

TEST(softmax_stands_large_and_lost_values)
{
	static const float rows[][4] = {
		{0x1.fffffep127f, 0x1.fffffep127f, -0x1.fffffep127f, 0},
		{1000, 999, -1000, -INFINITY},
		{-1e30f, -1e30f, -1e30f, -1e30f},
		{0, -20, -40, -103},
		{1, 2, NAN, 3},
		{-INFINITY, -INFINITY, -INFINITY, -INFINITY},
		{1, INFINITY, 2, 3},
	};
	size_t i = 0;
	size_t j = 0;
	unsigned int kind = 0;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		for (kind = 0; kind < 4; kind++) {
			const uint32_t inner = kind & 2 ? 3 : 1;
			struct stage stage = {0};
			struct cl_softmax op = make(&stage, 1, 4, inner, false);
			float *in = stage_at(&stage, &op.in);

			op.log = kind & 1;
			for (j = 0; j < 4 * inner; j++)
				in[j] = rows[i][j / inner];
			run_and_compare(&stage, &op);
			stage_free(&stage);
		}
	}
}

TEST(softmax_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_softmax good = make(&stage, 2, 5, 3, false);
	struct cl_softmax bad = good;

	expect_check(&stage, &cl_softmax_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_softmax_kernel, &bad, status, #field " = " #value);       \
	} while (0)
	REFUSED(outer, 0, CL_BAD_FORMAT);
	REFUSED(n, 0, CL_BAD_FORMAT);
	REFUSED(inner, 0, CL_BAD_FORMAT);
	REFUSED(log, 2, CL_BAD_FORMAT);
	REFUSED(outer, 3, CL_OUT_OF_BOUNDS);
	REFUSED(n, 6, CL_OUT_OF_BOUNDS);
	REFUSED(inner, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(in.size, 116, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, 116, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
#undef REFUSED
	bad = good;
	bad.n = 1;
	bad.in = good.out;
	expect_check(&stage, &cl_softmax_kernel, &bad, CL_OK, "in place");
	bad.in.offset += 8;
	bad.in.size -= 8;
	expect_check(&stage, &cl_softmax_kernel, &bad, CL_OUT_OF_BOUNDS, "half in place");
	expect_mutants_harmless(&stage, &cl_softmax_kernel, &good);
	stage_free(&stage);
}
