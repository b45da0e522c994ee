/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <stdlib.h>

#include "harness.h"

/* out[...] over the dimensions that are not reduced, in double. */
static void reference(const struct cl_reduce *op, const float *in, double *out, size_t out_count)
{
	size_t in_count = 1;
	size_t index = 0;
	uint32_t i = 0;

	for (i = 0; i < op->rank; i++)
		in_count *= op->dims[i];
	for (index = 0; index < out_count; index++)
		out[index] = op->kind == CL_REDUCE_MAX   ? -INFINITY
			     : op->kind == CL_REDUCE_MIN ? INFINITY
							 : 0;
	for (index = 0; index < in_count; index++) {
		size_t rest = index;
		size_t to = 0;
		size_t stride = 1;
		double x = in[index];

		i = op->rank;
		while (i--) {
			if (!(op->axes >> i & 1)) {
				to += rest % op->dims[i] * stride;
				stride *= op->dims[i];
			}
			rest /= op->dims[i];
		}
		if (op->kind == CL_REDUCE_MAX)
			out[to] = isnan(x) || isnan(out[to]) ? NAN : fmax(out[to], x);
		else if (op->kind == CL_REDUCE_MIN)
			out[to] = isnan(x) || isnan(out[to]) ? NAN : fmin(out[to], x);
		else
			out[to] += x;
	}
	if (op->kind == CL_REDUCE_MEAN)
		for (index = 0; index < out_count; index++)
			out[index] /= (double)(in_count / out_count);
}

static void run_one(const struct cl_reduce *shape, float special)
{
	struct stage stage = {0};
	struct cl_reduce op = *shape;
	uint32_t in_count = 1;
	uint32_t out_count = 1;
	double *want = NULL;
	const float *out = NULL;
	uint32_t i = 0;

	for (i = 0; i < op.rank; i++) {
		in_count *= op.dims[i];
		if (!(op.axes >> i & 1))
			out_count *= op.dims[i];
	}
	op.in = stage_arena(&stage, in_count * sizeof(float));
	op.out = stage_arena(&stage, out_count * sizeof(float));
	stage_build(&stage);
	random_floats(stage_at(&stage, &op.in), in_count, -3, 5);
	if (special != 0)
		((float *)stage_at(&stage, &op.in))[random_range(0, in_count - 1)] = special;
	want = calloc(out_count, sizeof(*want));
	reference(&op, stage_at(&stage, &op.in), want, out_count);
	stage_run(&stage, &cl_reduce_kernel, &op, &op.out);
	out = stage_at(&stage, &op.out);
	for (i = 0; i < out_count; i++)
		EXPECT(ulp_error(out[i], want[i]) <= 0.5001,
		       "kind %u, rank %u, axes %x: element %u is %a, not %a", op.kind, op.rank,
		       op.axes, i, (double)out[i], want[i]);
	free(want);
	stage_free(&stage);
}

TEST(reduce_matches_its_definition)
{
	static const float special[] = {0, 0, 0, NAN, INFINITY, -INFINITY};
	unsigned int round = 0;

	for (round = 0; round < 3000; round++) {
		struct cl_reduce op = {.op = {CL_KERNEL_REDUCE, sizeof(op), 0}};
		uint32_t i = 0;

		op.kind = round % 4;
		op.rank = random_range(0, 6);
		for (i = 0; i < op.rank; i++)
			op.dims[i] = random_range(1, i + 1 == op.rank ? 21 : 5);
		op.axes = random_u32() & ((1U << op.rank) - 1);
		run_one(&op, special[random_range(0, 5)]);
	}
}

TEST(reduce_takes_global_pools_of_both_layouts)
{
	struct cl_reduce op = {.op = {CL_KERNEL_REDUCE, sizeof(op), 0}, .rank = 4};
	unsigned int round = 0;

	for (round = 0; round < 40; round++) {
		op.kind = round % 4;
		op.dims[0] = random_range(1, 2);
		op.dims[1] = random_range(1, 60);
		op.dims[2] = random_range(1, 15);
		op.dims[3] = random_range(1, 60);
		op.axes = round % 2 ? 0x6 : 0xc;
		run_one(&op, 0);
	}
}

TEST(reduce_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_reduce good = {.op = {CL_KERNEL_REDUCE, sizeof(good), 0}, .rank = 3, .axes = 2};
	struct cl_reduce bad = good;

	good.dims[0] = 2;
	good.dims[1] = 3;
	good.dims[2] = 5;
	good.in = stage_arena(&stage, 120);
	good.out = stage_arena(&stage, 40);
	stage_build(&stage);
	expect_check(&stage, &cl_reduce_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_reduce_kernel, &bad, status, #field " = " #value);        \
	} while (0)
	REFUSED(kind, 4, CL_BAD_KERNEL);
	REFUSED(reserved, 1, CL_BAD_FORMAT);
	REFUSED(rank, 9, CL_BAD_FORMAT);
	REFUSED(rank, 2, CL_BAD_FORMAT);
	REFUSED(rank, UINT32_MAX, CL_BAD_FORMAT);
	REFUSED(axes, 8, CL_BAD_FORMAT);
	REFUSED(axes, 0x80000000, CL_BAD_FORMAT);
	REFUSED(dims[1], 0, CL_BAD_FORMAT);
	REFUSED(dims[3], 1, CL_BAD_FORMAT);
	REFUSED(axes, 0, CL_OUT_OF_BOUNDS);
	REFUSED(axes, 1, CL_OUT_OF_BOUNDS);
	REFUSED(dims[1], 4, CL_OUT_OF_BOUNDS);
	REFUSED(dims[0], UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(in.size, 116, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, 36, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSED(out, good.in, CL_OUT_OF_BOUNDS);
#undef REFUSED
	expect_mutants_harmless(&stage, &cl_reduce_kernel, &good);
	stage_free(&stage);
}
