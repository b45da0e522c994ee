/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>

#include "harness.h"

static struct cl_argmax make(struct stage *stage, uint32_t outer, uint32_t n, uint32_t inner)
{
	struct cl_argmax op = {
		.op = {CL_KERNEL_ARGMAX, sizeof(op), 0}, .outer = outer, .n = n, .inner = inner};

	op.in = stage_arena(stage, (size_t)outer * n * inner * sizeof(float));
	op.out = stage_arena(stage, (size_t)outer * inner * sizeof(int64_t));
	stage_build(stage);
	return op;
}

/* a comes before b as the answer. */
static bool beats(const struct cl_argmax *op, float a, float b)
{
	if (isnan(b))
		return op->select_last && isnan(a);
	if (isnan(a))
		return true;
	if (a == b)
		return op->select_last;
	return op->minimum ? a < b : a > b;
}

TEST(argmax_matches_its_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 1500; round++) {
		struct stage stage = {0};
		const uint32_t outer = random_range(1, 4);
		const uint32_t n = random_range(1, 40);
		struct cl_argmax op = make(&stage, outer, n, round & 1 ? 1 : random_range(1, 11));
		float *in = stage_at(&stage, &op.in);
		const int64_t *out = stage_at(&stage, &op.out);
		size_t i = 0;
		size_t j = 0;

		op.select_last = round >> 1 & 1;
		op.minimum = round >> 2 & 1;
		/* Few different values: many ties, now and then NaN. */
		for (i = 0; i < op.in.size / sizeof(float); i++) {
			in[i] = (float)(int)random_float(-6, 6);
			if (!random_range(0, 99))
				in[i] = random_range(0, 1) ? NAN : -INFINITY;
		}
		stage_run(&stage, &cl_argmax_kernel, &op, &op.out);
		for (i = 0; i < (size_t)op.outer * op.inner; i++) {
			const float *from = in + i / op.inner * op.n * op.inner + i % op.inner;
			size_t best = 0;

			for (j = 1; j < op.n; j++)
				if (beats(&op, from[j * op.inner], from[best * op.inner]))
					best = j;
			EXPECT(out[i] == (int64_t)best,
			       "(%u, %u, %u) last %u minimum %u: result %zu is %lld, not %zu",
			       op.outer, op.n, op.inner, op.select_last, op.minimum, i,
			       (long long)out[i], best);
		}
		stage_free(&stage);
	}
}

TEST(argmax_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_argmax good = make(&stage, 2, 7, 3);
	struct cl_argmax bad = good;

	expect_check(&stage, &cl_argmax_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_argmax_kernel, &bad, status, #field " = " #value);        \
	} while (0)
	REFUSED(outer, 0, CL_BAD_FORMAT);
	REFUSED(n, 0, CL_BAD_FORMAT);
	REFUSED(inner, 0, CL_BAD_FORMAT);
	REFUSED(reserved, 1, CL_BAD_FORMAT);
	REFUSED(select_last, 2, CL_BAD_FORMAT);
	REFUSED(minimum, 2, CL_BAD_FORMAT);
	REFUSED(n, 8, CL_OUT_OF_BOUNDS);
	REFUSED(n, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(inner, 4, CL_OUT_OF_BOUNDS);
	REFUSED(in.size, 164, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, 40, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSED(out.offset, good.in.offset, CL_OUT_OF_BOUNDS);
#undef REFUSED
	expect_mutants_harmless(&stage, &cl_argmax_kernel, &good);
	stage_free(&stage);
}
