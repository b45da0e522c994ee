/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <string.h>

#include "harness.h"

static struct cl_resample make(struct stage *stage, uint32_t taps, bool factors, bool rows)
{
	struct cl_resample op = {.op = {CL_KERNEL_RESAMPLE, sizeof(op), 0}, .taps = taps};
	size_t in_count = 0;
	size_t out_count = 0;
	size_t table = 0;
	size_t i = 0;
	int32_t *index = NULL;

	op.outer = random_range(1, 4);
	op.in_n = random_range(1, 12);
	op.out_n = random_range(1, 20);
	op.inner = rows ? random_range(2, 40) : 1;
	op.outside_value = 0.5f;
	in_count = (size_t)op.outer * op.in_n * op.inner;
	out_count = (size_t)op.outer * op.out_n * op.inner;
	table = (size_t)op.out_n * taps;
	op.in = stage_arena(stage, in_count * sizeof(float));
	op.out = stage_arena(stage, out_count * sizeof(float));
	op.index = stage_weights(stage, table * sizeof(int32_t));
	if (factors)
		op.factor = stage_weights(stage, table * sizeof(float));
	stage_build(stage);
	random_floats(stage_at(stage, &op.in), in_count, -2, 2);
	index = stage_at(stage, &op.index);
	for (i = 0; i < table; i++)
		index[i] = (int32_t)random_range(0, op.in_n) - 1;
	if (factors)
		random_floats(stage_at(stage, &op.factor), table, -1, 1);
	return op;
}

TEST(resample_matches_its_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 800; round++) {
		struct stage stage = {0};
		const bool factors = round & 1;
		struct cl_resample op =
			make(&stage, factors ? random_range(1, 6) : 1, factors, round & 2);
		const float *in = stage_at(&stage, &op.in);
		const float *out = stage_at(&stage, &op.out);
		const int32_t *index = stage_at(&stage, &op.index);
		const float *factor = factors ? stage_at(&stage, &op.factor) : NULL;
		size_t i = 0;
		size_t t = 0;

		stage_run(&stage, &cl_resample_kernel, &op, &op.out);
		for (i = 0; i < op.out.size / sizeof(float); i++) {
			size_t j = i % op.inner;
			size_t row = i / op.inner % op.out_n;
			size_t o = i / op.inner / op.out_n;
			double want = 0;
			double size = 0;

			for (t = 0; t < op.taps; t++) {
				int32_t from = index[row * op.taps + t];
				double x = op.outside_value;

				if (from >= 0)
					x = in[(o * op.in_n + (size_t)from) * op.inner + j];
				if (factor)
					x *= factor[row * op.taps + t];
				want += x;
				size += fabs(x);
			}
			EXPECT(fabs(out[i] - want) <= (factor ? 4e-7 * size : 0),
			       "taps %u, element %zu: %a, not %a", op.taps, i, (double)out[i],
			       want);
		}
		stage_free(&stage);
	}
}

TEST(resample_keeps_the_bits_of_copied_elements)
{
	unsigned int round = 0;

	for (round = 0; round < 2; round++) {
		struct stage stage = {0};
		struct cl_resample op = make(&stage, 1, false, round);
		const uint32_t signalling = 0x7fa12345;
		int32_t *index = stage_at(&stage, &op.index);

		index[0] = 0;
		memcpy(stage_at(&stage, &op.in), &signalling, sizeof(signalling));
		stage_run(&stage, &cl_resample_kernel, &op, &op.out);
		EXPECT(!memcmp(stage_at(&stage, &op.out), &signalling, sizeof(signalling)),
		       "round %u", round);
		stage_free(&stage);
	}
}

TEST(resample_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_resample good = make(&stage, 3, true, true);
	struct cl_resample bad = good;
	int32_t *index = stage_at(&stage, &good.index);
	const int32_t kept = index[4 % (good.out_n * 3)];
	int32_t *entry = &index[4 % (good.out_n * 3)];

	expect_check(&stage, &cl_resample_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_resample_kernel, &bad, status, #field " = " #value);      \
	} while (0)
	REFUSED(outer, 0, CL_BAD_FORMAT);
	REFUSED(in_n, 0, CL_BAD_FORMAT);
	REFUSED(out_n, 0, CL_BAD_FORMAT);
	REFUSED(inner, 0, CL_BAD_FORMAT);
	REFUSED(taps, 0, CL_BAD_FORMAT);
	REFUSED(taps, 4, CL_OUT_OF_BOUNDS);
	REFUSED(taps, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(outer, good.outer + 1, CL_OUT_OF_BOUNDS);
	REFUSED(inner, good.inner + 1, CL_OUT_OF_BOUNDS);
	REFUSED(in_n, good.in_n + 1, CL_OUT_OF_BOUNDS);
	REFUSED(out_n, good.out_n + 1, CL_OUT_OF_BOUNDS);
	REFUSED(index.space, CL_SPACE_ARENA, CL_BAD_FORMAT);
	REFUSED(index.space, CL_SPACE_NONE, CL_BAD_FORMAT);
	REFUSED(factor.space, CL_SPACE_ARENA, CL_BAD_FORMAT);
	REFUSED(index.size, good.index.size - 4, CL_OUT_OF_BOUNDS);
	REFUSED(factor.size, good.factor.size - 4, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, good.out.size - 4, CL_OUT_OF_BOUNDS);
	REFUSED(out, good.in, CL_OUT_OF_BOUNDS);
#undef REFUSED
	bad = good;
	memset(&bad.factor, 0, sizeof(bad.factor));
	expect_check(&stage, &cl_resample_kernel, &bad, CL_BAD_FORMAT, "no factors for three taps");
	*entry = (int32_t)good.in_n;
	expect_check(&stage, &cl_resample_kernel, &good, CL_OUT_OF_BOUNDS, "index of in_n");
	*entry = -2;
	expect_check(&stage, &cl_resample_kernel, &good, CL_OUT_OF_BOUNDS, "index of -2");
	*entry = INT32_MIN;
	expect_check(&stage, &cl_resample_kernel, &good, CL_OUT_OF_BOUNDS, "lowest index");
	*entry = kept;
	expect_mutants_harmless(&stage, &cl_resample_kernel, &good);
	stage_free(&stage);
}
