/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "harness.h"

/* Copies element by element, as the format says. */
static void reference(const struct cl_copy *op, const uint8_t *in, uint8_t *out)
{
	size_t count = 1;
	size_t index = 0;
	uint32_t i = 0;

	for (i = 0; i < op->rank; i++)
		count *= op->dims[i];
	for (index = 0; index < count; index++) {
		int64_t from = op->in_start;
		int64_t to = op->out_start;
		size_t rest = index;

		i = op->rank;
		while (i--) {
			from += (int64_t)(rest % op->dims[i]) * op->in_strides[i];
			to += (int64_t)(rest % op->dims[i]) * op->out_strides[i];
			rest /= op->dims[i];
		}
		memcpy(out + to * op->elem_size, in + from * op->elem_size, op->elem_size);
	}
}

/* A random order of 0 to rank - 1. */
static void shuffle(uint32_t *order, uint32_t rank)
{
	uint32_t i = 0;

	for (i = 0; i < rank; i++) {
		uint32_t j = random_range(0, i);

		order[i] = order[j];
		order[j] = i;
	}
}

/*
 * Lays the dimensions out in a random order, with gaps and reversed ones if wanted;
 * returns the elements that the side spans.
 */
static uint32_t lay_out(const struct cl_copy *op, int32_t *strides, uint32_t *start, bool gaps,
			bool reversed, bool broadcast)
{
	uint32_t order[CL_MAX_RANK] = {0};
	uint32_t stride = 1;
	uint32_t span = 1;
	uint32_t i = 0;

	*start = gaps ? random_range(0, 3) : 0;
	shuffle(order, op->rank);
	for (i = 0; i < op->rank; i++) {
		uint32_t d = order[i];

		if (gaps && !random_range(0, 2))
			stride += random_range(0, 2);
		if (broadcast && !random_range(0, 2)) {
			strides[d] = 0;
			continue;
		}
		strides[d] = (int32_t)stride;
		span += (op->dims[d] - 1) * stride;
		if (reversed && random_range(0, 1)) {
			strides[d] = -(int32_t)stride;
			*start += (op->dims[d] - 1) * stride;
		}
		stride *= op->dims[d];
	}
	return span + (gaps ? 3 : 0);
}

static struct cl_copy make(struct stage *stage, unsigned int round, uint32_t max_dim)
{
	struct cl_copy op = {.op = {CL_KERNEL_COPY, sizeof(op), 0}};
	uint32_t in_span = 0;
	uint32_t out_span = 0;
	uint32_t i = 0;

	op.elem_size = 1U << random_range(0, 3);
	if (round % 2)
		op.elem_size = 4;
	op.rank = random_range(0, 5);
	for (i = 0; i < op.rank; i++)
		op.dims[i] = random_range(1, max_dim);
	in_span = lay_out(&op, op.in_strides, &op.in_start, round & 2, round & 4, round & 8);
	out_span = lay_out(&op, op.out_strides, &op.out_start, round & 16, round & 32, false);
	op.out = stage_arena(stage, (size_t)out_span * op.elem_size);
	op.in = round & 64 ? stage_arena(stage, (size_t)in_span * op.elem_size)
			   : stage_weights(stage, (size_t)in_span * op.elem_size);
	stage_build(stage);
	return op;
}

static void run_and_compare(struct stage *stage, const struct cl_copy *op)
{
	static uint8_t want[1 << 20];
	const uint8_t *out = stage_at(stage, &op->out);

	if (op->out.size > sizeof(want)) {
		EXPECT(false, "test's buffer is too small: %u", op->out.size);
		return;
	}
	memcpy(want, out, op->out.size);
	reference(op, stage_at(stage, &op->in), want);
	stage_run(stage, &cl_copy_kernel, op, &op->out);
	EXPECT(!memcmp(want, out, op->out.size), "rank %u, elements of %u bytes", op->rank,
	       op->elem_size);
}

TEST(copy_moves_every_element_to_its_place)
{
	unsigned int round = 0;

	for (round = 0; round < 3000; round++) {
		struct stage stage = {0};
		struct cl_copy op = make(&stage, round, 7);

		run_and_compare(&stage, &op);
		stage_free(&stage);
	}
}

TEST(copy_transposes_matrices)
{
	unsigned int round = 0;

	for (round = 0; round < 300; round++) {
		struct stage stage = {0};
		struct cl_copy op = {.op = {CL_KERNEL_COPY, sizeof(op), 0}, .rank = 3};
		const uint32_t batch = random_range(1, 3);
		/* Few rows: the channels of images. */
		const uint32_t rows = random_range(1, round % 4 ? 45 : 5);
		const uint32_t columns = random_range(1, 45);
		const uint32_t count = batch * rows * columns;

		op.elem_size = round % 3 ? 4 : 1U << random_range(0, 3);
		op.dims[0] = batch;
		op.dims[1] = columns;
		op.dims[2] = rows;
		op.in_strides[0] = (int32_t)(rows * columns);
		op.in_strides[1] = 1;
		op.in_strides[2] = (int32_t)columns;
		op.out_strides[0] = (int32_t)(rows * columns);
		op.out_strides[1] = (int32_t)rows;
		op.out_strides[2] = 1;
		op.in = stage_arena(&stage, count * op.elem_size);
		op.out = stage_arena(&stage, count * op.elem_size);
		stage_build(&stage);
		run_and_compare(&stage, &op);
		stage_free(&stage);
	}
}

TEST(copy_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_copy good = {.op = {CL_KERNEL_COPY, sizeof(good), 0}, .elem_size = 4, .rank = 2};
	struct cl_copy bad = good;

	/* (3, 5) reversed along the first dimension */
	good.dims[0] = 3;
	good.dims[1] = 5;
	good.in_strides[0] = -5;
	good.in_strides[1] = 1;
	good.in_start = 10;
	good.out_strides[0] = 5;
	good.out_strides[1] = 1;
	good.in = stage_arena(&stage, 60);
	good.out = stage_arena(&stage, 60);
	stage_build(&stage);
	expect_check(&stage, &cl_copy_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_copy_kernel, &bad, status, #field " = " #value);          \
	} while (0)
	REFUSED(elem_size, 0, CL_BAD_KERNEL);
	REFUSED(elem_size, 3, CL_BAD_KERNEL);
	REFUSED(elem_size, 8, CL_OUT_OF_BOUNDS);
	REFUSED(rank, 9, CL_BAD_FORMAT);
	REFUSED(rank, 1, CL_BAD_FORMAT);
	REFUSED(dims[0], 0, CL_BAD_FORMAT);
	REFUSED(dims[5], 1, CL_BAD_FORMAT);
	REFUSED(in_strides[5], 1, CL_BAD_FORMAT);
	REFUSED(out_strides[2], -1, CL_BAD_FORMAT);
	REFUSED(out_strides[0], 0, CL_BAD_FORMAT);
	REFUSED(dims[0], 4, CL_OUT_OF_BOUNDS);
	REFUSED(dims[0], UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(in_start, 9, CL_OUT_OF_BOUNDS);
	REFUSED(in_start, 11, CL_OUT_OF_BOUNDS);
	REFUSED(out_start, 1, CL_OUT_OF_BOUNDS);
	REFUSED(in_strides[0], -6, CL_OUT_OF_BOUNDS);
	REFUSED(in_strides[0], INT32_MIN, CL_OUT_OF_BOUNDS);
	REFUSED(out_strides[1], -1, CL_OUT_OF_BOUNDS);
	REFUSED(out_strides[0], INT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(in.size, 56, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, 56, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSED(out, good.in, CL_OUT_OF_BOUNDS);
#undef REFUSED
	bad = good;
	bad.in_strides[0] = 0;
	expect_check(&stage, &cl_copy_kernel, &bad, CL_OK, "broadcast input");
	/* More writes than out has elements: the loops would be long without a bound. */
	bad = good;
	bad.dims[0] = bad.dims[1] = 8;
	bad.in_strides[0] = bad.in_strides[1] = 0;
	bad.out_strides[0] = bad.out_strides[1] = 1;
	expect_check(&stage, &cl_copy_kernel, &bad, CL_OUT_OF_BOUNDS, "overlapping output");
	expect_mutants_harmless(&stage, &cl_copy_kernel, &good);
	stage_free(&stage);
}
