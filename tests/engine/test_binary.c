/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <string.h>

#include "harness.h"

static double reference(uint32_t function, double a, double b)
{
	switch (function) {
	case CL_BINARY_ADD:
		return a + b;
	case CL_BINARY_SUB:
		return a - b;
	case CL_BINARY_MUL:
		return a * b;
	case CL_BINARY_DIV:
		return a / b;
	case CL_BINARY_MAX:
		return a != a || b != b ? NAN : fmax(a, b);
	case CL_BINARY_MIN:
		return a != a || b != b ? NAN : fmin(a, b);
	case CL_BINARY_PRELU:
		return a < 0 ? a * b : a;
	default:
		return pow(a, b);
	}
}

/* One operand: dense, broadcast along some dimensions, or with gaps; returns its elements. */
static uint32_t choose_strides(const struct cl_binary_op *op, uint32_t *strides, unsigned int kind)
{
	uint32_t stride = 1;
	uint32_t last = 0;
	uint32_t i = op->rank;

	while (i--) {
		bool broadcast = kind == 1 && random_range(0, 1);

		strides[i] = broadcast ? 0 : stride;
		if (kind == 2 && op->dims[i] > 1)
			strides[i] += random_range(0, 2);
		if (!broadcast)
			stride = strides[i] * op->dims[i];
		last += (op->dims[i] - 1) * strides[i];
	}
	return last + 1;
}

static struct cl_binary_op make(struct stage *stage, unsigned int a_kind, unsigned int b_kind)
{
	struct cl_binary_op op = {.op = {CL_KERNEL_BINARY, sizeof(op), 0}};
	uint32_t count = 1;
	uint32_t i = 0;
	uint32_t a_count = 0;
	uint32_t b_count = 0;

	op.rank = random_range(0, 5);
	for (i = 0; i < op.rank; i++) {
		op.dims[i] = random_range(0, 3) ? random_range(1, 6) : random_range(1, 19);
		count *= op.dims[i];
	}
	a_count = choose_strides(&op, op.a_strides, a_kind);
	b_count = choose_strides(&op, op.b_strides, b_kind);
	op.out = stage_arena(stage, count * sizeof(float));
	op.a = stage_arena(stage, a_count * sizeof(float));
	op.b = stage_weights(stage, b_count * sizeof(float));
	stage_build(stage);
	random_floats(stage_at(stage, &op.a), a_count, -4, 4);
	random_floats(stage_at(stage, &op.b), b_count, -4, 4);
	return op;
}

/* Position of element `index` of out in an operand. */
static size_t position(const struct cl_binary_op *op, const uint32_t *strides, size_t index)
{
	size_t at = 0;
	uint32_t i = op->rank;

	while (i--) {
		at += index % op->dims[i] * strides[i];
		index /= op->dims[i];
	}
	return at;
}

static void expect_results(const struct stage *stage, const struct cl_binary_op *op, const float *a)
{
	const float *b = stage_at(stage, &op->b);
	const float *out = stage_at(stage, &op->out);
	size_t i = 0;

	for (i = 0; i < op->out.size / sizeof(float); i++) {
		float x = a[position(op, op->a_strides, i)];
		float y = b[position(op, op->b_strides, i)];
		float want = (float)reference(op->function, x, y);

		if (op->activation.function == CL_UNARY_RELU)
			want = want < 0 ? 0 : want;
		EXPECT(ulp_error(out[i], want) <= (op->function == CL_BINARY_POW),
		       "function %u of %a and %a gave %a", op->function, (double)x, (double)y,
		       (double)out[i]);
	}
}

TEST(binary_matches_its_definition_with_broadcasting)
{
	unsigned int round = 0;

	for (round = 0; round < 1500; round++) {
		struct stage stage = {0};
		struct cl_binary_op op = make(&stage, round % 3, round / 3 % 3);

		op.function = round / 9 % CL_BINARY_COUNT;
		op.activation.function = round % 4 ? CL_UNARY_IDENTITY : CL_UNARY_RELU;
		if (round % 10 == 0)
			((float *)stage_at(&stage, &op.a))[0] = round % 20 ? NAN : INFINITY;
		stage_run(&stage, &cl_binary_kernel, &op, &op.out);
		expect_results(&stage, &op, stage_at(&stage, &op.a));
		stage_free(&stage);
	}
}

TEST(binary_works_in_place_of_a_dense_operand)
{
	unsigned int round = 0;

	for (round = 0; round < 300; round++) {
		float kept[4096] = {0};
		struct stage stage = {0};
		struct cl_binary_op op = make(&stage, 0, round % 3);

		if (op.out.size > sizeof(kept)) {
			stage_free(&stage);
			continue;
		}
		op.function = round % CL_BINARY_COUNT;
		op.out = op.a;
		memcpy(kept, stage_at(&stage, &op.a), op.a.size);
		stage_run(&stage, &cl_binary_kernel, &op, &op.out);
		expect_results(&stage, &op, kept);
		stage_free(&stage);
	}
}

TEST(binary_activates_long_rows_and_many_short_ones)
{
	static const uint32_t shapes[][2] = {{1, 5000}, {3, 2048}, {3, 2047}, {1000, 5}, {2048, 1}};
	size_t i = 0;

	for (i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct stage stage = {0};
		struct cl_binary_op op = {.op = {CL_KERNEL_BINARY, sizeof(op), 0}, .rank = 2};
		const uint32_t count = shapes[i][0] * shapes[i][1];

		memcpy(op.dims, shapes[i], sizeof(shapes[i]));
		op.a_strides[0] = shapes[i][1];
		op.a_strides[1] = 1;
		op.b_strides[1] = 1;
		op.activation.function = CL_UNARY_RELU;
		op.a = stage_arena(&stage, count * sizeof(float));
		op.b = stage_arena(&stage, shapes[i][1] * sizeof(float));
		op.out = stage_arena(&stage, count * sizeof(float));
		stage_build(&stage);
		random_floats(stage_at(&stage, &op.a), count, -1, 1);
		random_floats(stage_at(&stage, &op.b), shapes[i][1], -1, 1);
		stage_run(&stage, &cl_binary_kernel, &op, &op.out);
		expect_results(&stage, &op, stage_at(&stage, &op.a));
		stage_free(&stage);
	}
}

TEST(binary_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_binary_op good = {.op = {CL_KERNEL_BINARY, sizeof(good), 0}, .rank = 2};
	struct cl_binary_op bad = good;

	good.dims[0] = 3;
	good.dims[1] = 5;
	good.a_strides[0] = 5;
	good.a_strides[1] = 1;
	good.b_strides[1] = 1;
	good.out = stage_arena(&stage, 60);
	good.a = stage_arena(&stage, 60);
	good.b = stage_arena(&stage, 20);
	stage_build(&stage);
	expect_check(&stage, &cl_binary_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_binary_kernel, &bad, status, #field " = " #value);        \
	} while (0)
	REFUSED(function, CL_BINARY_COUNT, CL_BAD_KERNEL);
	REFUSED(activation.function, CL_UNARY_COUNT, CL_BAD_KERNEL);
	REFUSED(rank, 9, CL_BAD_FORMAT);
	REFUSED(rank, 1, CL_BAD_FORMAT);
	REFUSED(rank, 3, CL_BAD_FORMAT);
	REFUSED(dims[1], 0, CL_BAD_FORMAT);
	REFUSED(dims[7], 1, CL_BAD_FORMAT);
	REFUSED(a_strides[2], 1, CL_BAD_FORMAT);
	REFUSED(b_strides[7], 1, CL_BAD_FORMAT);
	REFUSED(dims[0], 4, CL_OUT_OF_BOUNDS);
	REFUSED(dims[1], 6, CL_OUT_OF_BOUNDS);
	REFUSED(dims[1], UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(a_strides[0], 6, CL_OUT_OF_BOUNDS);
	REFUSED(a_strides[1], UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSED(b_strides[0], 1, CL_OUT_OF_BOUNDS);
	REFUSED(a.size, 56, CL_OUT_OF_BOUNDS);
	REFUSED(b.size, 16, CL_OUT_OF_BOUNDS);
	REFUSED(out.size, 56, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSED(out, good.b, CL_OUT_OF_BOUNDS);
#undef REFUSED
	bad = good;
	bad.out = good.a;
	expect_check(&stage, &cl_binary_kernel, &bad, CL_OK, "in place of a dense operand");
	bad.out.offset -= 8;
	expect_check(&stage, &cl_binary_kernel, &bad, CL_OUT_OF_BOUNDS, "half in place");
	bad.out = good.a;
	bad.a_strides[0] = 1;
	expect_check(&stage, &cl_binary_kernel, &bad, CL_OUT_OF_BOUNDS, "in place, not dense");
	expect_mutants_harmless(&stage, &cl_binary_kernel, &good);
	stage_free(&stage);
}
