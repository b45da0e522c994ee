/* SPDX-License-Identifier: BSD-2-Clause */
/* BINARY_S8, POOL_S8, UNARY_S8, QUANTIZE and DEQUANTIZE against the definition, bit by bit. */
#include <stddef.h>
#include <string.h>

#include "quant_reference.h"

#define REFUSE(field, value, status)                                                               \
	do {                                                                                       \
		__typeof__(op) bad = op;                                                           \
                                                                                                   \
		bad.field = value;                                                                 \
		expect_check(&stage, kernel, &bad, status, #field);                                \
	} while (0)

/* ---- BINARY_S8 ---- */

static size_t dense_count(const uint32_t *dims, uint32_t rank)
{
	size_t count = 1;
	uint32_t i = 0;

	for (i = 0; i < rank; i++)
		count *= dims[i];
	return count;
}

/* Random broadcasting; returns the elements that the operand spans. */
static size_t random_strides(const struct cl_binary_s8 *op, uint32_t *strides)
{
	uint32_t step = random_range(0, 3) ? 1 : random_range(2, 3);
	size_t last = 0;
	uint32_t i = op->rank;

	while (i--) {
		if (random_range(0, 3)) {
			strides[i] = step;
			step *= op->dims[i];
		}
		last += (size_t)strides[i] * (op->dims[i] - 1);
	}
	return last + 1;
}

static void binary_numbers(struct cl_binary_s8 *op)
{
	op->op.kernel = CL_KERNEL_BINARY_S8;
	op->op.size = sizeof(*op);
	op->a_zero = random_s8();
	op->b_zero = random_s8();
	op->a_multiplier = random_float(0, op->function == CL_BINARY_MUL ? 0.01f : 2);
	if (op->function == CL_BINARY_ADD)
		op->b_multiplier = random_range(0, 3) ? random_float(-2, 2) : 0.5f;
	op->finish = random_finish();
}

static int binary_reference(const struct cl_binary_s8 *op, int a, int b)
{
	/* volatile: no contraction, and no more precision than a float has. */
	volatile float x = (float)(a - op->a_zero) * op->a_multiplier;
	volatile float y = (float)(b - op->b_zero) * op->b_multiplier;
	volatile float sum = x + y;

	if (op->function == CL_BINARY_ADD)
		return reference_finish(&op->finish, sum);
	x = (float)((a - op->a_zero) * (b - op->b_zero)) * op->a_multiplier;
	return reference_finish(&op->finish, x);
}

TEST(binary_s8_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 500; round++) {
		struct stage stage = {0};
		struct cl_binary_s8 op = {.function = round % 2 ? CL_BINARY_ADD : CL_BINARY_MUL,
					  .rank = random_range(0, 4)};
		const int8_t *a = NULL;
		const int8_t *b = NULL;
		const int8_t *out = NULL;
		size_t count = 0;
		size_t a_count = 0;
		size_t b_count = 0;
		size_t i = 0;
		uint32_t d = 0;

		for (d = 0; d < op.rank; d++)
			op.dims[d] = d + 1 == op.rank ? random_range(1, 50) : random_range(1, 4);
		binary_numbers(&op);
		a_count = random_strides(&op, op.a_strides);
		b_count = random_strides(&op, op.b_strides);
		count = dense_count(op.dims, op.rank);
		op.a = stage_arena(&stage, a_count);
		op.b = random_range(0, 1) ? stage_arena(&stage, b_count)
					  : stage_weights(&stage, b_count);
		op.out = stage_arena(&stage, count);
		stage_build(&stage);
		stage_run(&stage, &cl_binary_s8_kernel, &op, &op.out);
		a = stage_at(&stage, &op.a);
		b = stage_at(&stage, &op.b);
		out = stage_at(&stage, &op.out);
		for (i = 0; i < count; i++) {
			size_t rest = i;
			size_t a_at = 0;
			size_t b_at = 0;
			int want = 0;

			for (d = op.rank; d-- > 0; rest /= op.dims[d]) {
				a_at += rest % op.dims[d] * op.a_strides[d];
				b_at += rest % op.dims[d] * op.b_strides[d];
			}
			want = binary_reference(&op, a[a_at], b[b_at]);
			EXPECT(out[i] == want, "function %u of %d and %d is %d, not %d",
			       op.function, a[a_at], b[b_at], out[i], want);
		}
		stage_free(&stage);
	}
}

TEST(binary_s8_may_replace_its_operand)
{
	uint32_t count = 0;

	for (count = 1; count < 70; count++) {
		struct stage stage = {0};
		struct cl_binary_s8 op = {.function = CL_BINARY_ADD,
					  .rank = 1,
					  .dims = {count},
					  .a_strides = {1},
					  .b_strides = {1}};
		int8_t before[70] = {0};
		const int8_t *out = NULL;
		const int8_t *b = NULL;
		uint32_t i = 0;

		binary_numbers(&op);
		op.a = op.out = stage_arena(&stage, count);
		op.b = stage_arena(&stage, count);
		stage_build(&stage);
		memcpy(before, stage_at(&stage, &op.a), count);
		stage_run(&stage, &cl_binary_s8_kernel, &op, &op.out);
		out = stage_at(&stage, &op.out);
		b = stage_at(&stage, &op.b);
		for (i = 0; i < count; i++)
			EXPECT(out[i] == binary_reference(&op, before[i], b[i]), "element %u of %u",
			       i, count);
		stage_free(&stage);
	}
}

TEST(binary_s8_check_refuses_each_bad_field)
{
	const struct cl_kernel_ops *kernel = &cl_binary_s8_kernel;
	struct stage stage = {0};
	struct cl_binary_s8 op = {.function = CL_BINARY_ADD,
				  .rank = 2,
				  .dims = {3, 40},
				  .a_strides = {40, 1},
				  .b_strides = {0, 1}};

	binary_numbers(&op);
	op.a = stage_arena(&stage, 120);
	op.b = stage_arena(&stage, 40);
	op.out = stage_arena(&stage, 120);
	stage_build(&stage);
	expect_check(&stage, kernel, &op, CL_OK, "unchanged record");
	REFUSE(function, CL_BINARY_SUB, CL_BAD_KERNEL);
	REFUSE(function, CL_BINARY_COUNT, CL_BAD_KERNEL);
	REFUSE(rank, 1, CL_BAD_FORMAT);
	REFUSE(rank, 3, CL_BAD_FORMAT);
	REFUSE(rank, 9, CL_BAD_FORMAT);
	REFUSE(dims[0], 0, CL_BAD_FORMAT);
	REFUSE(dims[0], 4, CL_OUT_OF_BOUNDS);
	REFUSE(dims[1], UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSE(dims[7], 1, CL_BAD_FORMAT);
	REFUSE(a_strides[0], 41, CL_OUT_OF_BOUNDS);
	REFUSE(a_strides[0], UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSE(a_strides[2], 1, CL_BAD_FORMAT);
	REFUSE(b_strides[1], 2, CL_OUT_OF_BOUNDS);
	REFUSE(b_strides[2], 1, CL_BAD_FORMAT);
	REFUSE(a_zero, 128, CL_BAD_FORMAT);
	REFUSE(b_zero, -129, CL_BAD_FORMAT);
	REFUSE(finish.zero, 128, CL_BAD_FORMAT);
	REFUSE(finish.low, -129, CL_BAD_FORMAT);
	REFUSE(finish.high, 128, CL_BAD_FORMAT);
	REFUSE(finish.reserved, 1, CL_BAD_FORMAT);
	REFUSE(a.size, 119, CL_OUT_OF_BOUNDS);
	REFUSE(b.size, 39, CL_OUT_OF_BOUNDS);
	REFUSE(out.size, 119, CL_OUT_OF_BOUNDS);
	REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE(out.offset, op.b.offset, CL_OUT_OF_BOUNDS);
	expect_mutants_harmless(&stage, kernel, &op);
	stage_free(&stage);
}

/* ---- POOL_S8 ---- */

static size_t cell_count(const struct cl_pool_s8 *pool, const uint32_t *dims)
{
	return (size_t)pool->batch * pool->channels * dims[0] * dims[1] * dims[2];
}

static void build_pool(struct stage *stage, struct cl_pool_s8 *pool)
{
	pool->op.kernel = CL_KERNEL_POOL_S8;
	pool->op.size = sizeof(*pool);
	pool->in_zero = random_s8();
	pool->multiplier = random_range(0, 1) ? 1 : random_float(0, 2);
	pool->finish = random_finish();
	if (random_range(0, 1))
		pool->finish.zero = pool->in_zero;
	pool->in = stage_arena(stage, cell_count(pool, pool->in_dims));
	pool->out = stage_arena(stage, cell_count(pool, pool->out_dims));
	stage_build(stage);
}

static int pool_reference(const struct stage *stage, const struct cl_pool_s8 *pool, uint32_t n,
			  const uint32_t *at, uint32_t c)
{
	const int8_t *in = stage_at(stage, &pool->in);
	const uint32_t *kernel = pool->kernel;
	const uint32_t cells = kernel[0] * kernel[1] * kernel[2];
	volatile float multiplier = pool->multiplier;
	int largest = INT8_MIN;
	int sum = 0;
	uint32_t divisor = 0;
	uint32_t tap = 0;

	for (tap = 0; tap < cells; tap++) {
		const uint32_t taps[3] = {tap / kernel[2] / kernel[1], tap / kernel[2] % kernel[1],
					  tap % kernel[2]};
		bool inside = true;
		bool padded = true;
		size_t place = n;
		int value = 0;
		int i = 0;

		for (i = 0; i < 3; i++) {
			const long p = (long)at[i] * pool->stride[i] - pool->pad_begin[i] +
				       (long)taps[i] * pool->dilation[i];

			inside = inside && p >= 0 && p < pool->in_dims[i];
			padded = padded && p < (long)pool->in_dims[i] + pool->pad_end[i];
			place = place * pool->in_dims[i] + (size_t)p;
		}
		divisor += pool->kind == CL_POOL_AVERAGE ? inside : padded;
		if (!inside)
			continue;
		value = in[place * pool->channels + c];
		largest = value > largest ? value : largest;
		sum += value - pool->in_zero;
	}
	if (pool->kind == CL_POOL_MAX)
		return reference_finish(&pool->finish,
					(float)(largest - pool->in_zero) * multiplier);
	if (divisor)
		multiplier = multiplier / (float)divisor;
	return reference_finish(&pool->finish, (float)sum * multiplier);
}

static void run_and_compare_pool(struct stage *stage, const struct cl_pool_s8 *pool)
{
	const int8_t *out = NULL;
	uint32_t at[3] = {0};
	uint32_t n = 0;
	uint32_t c = 0;

	stage_run(stage, &cl_pool_s8_kernel, pool, &pool->out);
	out = stage_at(stage, &pool->out);
	for (n = 0; n < pool->batch; n++)
		for (at[0] = 0; at[0] < pool->out_dims[0]; at[0]++)
			for (at[1] = 0; at[1] < pool->out_dims[1]; at[1]++)
				for (at[2] = 0; at[2] < pool->out_dims[2]; at[2]++)
					for (c = 0; c < pool->channels; c++, out++) {
						const int want =
							pool_reference(stage, pool, n, at, c);

						EXPECT(*out == want,
						       "kind %u at (%u, %u, %u, %u): %d, not %d",
						       pool->kind, at[0], at[1], at[2], c, *out,
						       want);
					}
}

TEST(pool_s8_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 500; round++) {
		struct stage stage = {0};
		struct cl_pool_s8 pool = {.kind = round % 3,
					  .batch = random_range(1, 2),
					  .channels = random_range(1, 40)};
		int i = 0;

		for (i = 0; i < 3; i++) {
			const bool used = i || random_range(0, 1);

			pool.in_dims[i] = used ? random_range(1, 9) : 1;
			pool.kernel[i] = used ? random_range(1, 4) : 1;
			pool.stride[i] = used ? random_range(1, 3) : 1;
			pool.dilation[i] = used ? random_range(1, 3) : 1;
			pool.pad_begin[i] = used ? random_range(0, 2) : 0;
			pool.pad_end[i] = used ? random_range(0, 2) : 0;
			/* Windows may hang over the end, wholly as well. */
			pool.out_dims[i] = used ? random_range(1, 7) : 1;
		}
		build_pool(&stage, &pool);
		run_and_compare_pool(&stage, &pool);
		stage_free(&stage);
	}
}

TEST(pool_s8_sums_large_windows_exactly)
{
	const int8_t values[] = {INT8_MIN, INT8_MAX};
	unsigned int i = 0;

	for (i = 0; i < 2; i++) {
		struct stage stage = {0};
		struct cl_pool_s8 pool = {.kind = CL_POOL_AVERAGE,
					  .batch = 1,
					  .channels = 19,
					  .in_dims = {1, 30, 31},
					  .out_dims = {1, 1, 1},
					  .kernel = {1, 30, 31},
					  .stride = {1, 1, 1},
					  .dilation = {1, 1, 1}};

		build_pool(&stage, &pool);
		memset(stage_at(&stage, &pool.in), values[i], pool.in.size);
		run_and_compare_pool(&stage, &pool);
		stage_free(&stage);
	}
}

TEST(pool_s8_check_refuses_each_bad_field)
{
	const struct cl_kernel_ops *kernel = &cl_pool_s8_kernel;
	struct stage stage = {0};
	struct cl_pool_s8 op = {.kind = CL_POOL_AVERAGE_INCLUDE_PAD,
				.batch = 2,
				.channels = 21,
				.in_dims = {2, 3, 4},
				.out_dims = {2, 3, 4},
				.kernel = {2, 3, 3},
				.stride = {1, 1, 1},
				.dilation = {1, 1, 1},
				.pad_begin = {0, 1, 1},
				.pad_end = {1, 1, 1}};
	int i = 0;

	build_pool(&stage, &op);
	expect_check(&stage, kernel, &op, CL_OK, "unchanged record");
	REFUSE(kind, 3, CL_BAD_KERNEL);
	REFUSE(batch, 0, CL_BAD_FORMAT);
	REFUSE(batch, 3, CL_OUT_OF_BOUNDS);
	REFUSE(channels, 0, CL_BAD_FORMAT);
	REFUSE(channels, 22, CL_OUT_OF_BOUNDS);
	REFUSE(in_zero, 128, CL_BAD_FORMAT);
	REFUSE(finish.zero, 128, CL_BAD_FORMAT);
	REFUSE(finish.reserved, 1, CL_BAD_FORMAT);
	for (i = 0; i < 3; i++) {
		REFUSE(in_dims[i], 0, CL_BAD_FORMAT);
		REFUSE(in_dims[i], op.in_dims[i] + 1, CL_OUT_OF_BOUNDS);
		REFUSE(out_dims[i], 0, CL_BAD_FORMAT);
		REFUSE(out_dims[i], op.out_dims[i] + 1, CL_OUT_OF_BOUNDS);
		REFUSE(kernel[i], 0, CL_BAD_FORMAT);
		REFUSE(kernel[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(kernel[i], 1 << 23, CL_BAD_FORMAT);
		REFUSE(stride[i], 0, CL_BAD_FORMAT);
		REFUSE(stride[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(dilation[i], 0, CL_BAD_FORMAT);
		REFUSE(dilation[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(pad_begin[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(pad_end[i], UINT32_MAX, CL_BAD_FORMAT);
	}
	REFUSE(in.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSE(in.size, op.in.size - 1, CL_OUT_OF_BOUNDS);
	REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE(out.size, op.out.size - 1, CL_OUT_OF_BOUNDS);
	REFUSE(out.offset, op.in.offset, CL_BAD_FORMAT);
	expect_mutants_harmless(&stage, kernel, &op);
	stage_free(&stage);
}

/* ---- UNARY_S8 ---- */

static void build_unary(struct stage *stage, struct cl_unary_s8 *op, uint32_t count, bool in_place)
{
	op->op.kernel = CL_KERNEL_UNARY_S8;
	op->op.size = sizeof(*op);
	op->count = count;
	op->in = stage_arena(stage, count);
	op->out = in_place ? op->in : stage_arena(stage, count);
	op->table = stage_weights(stage, 256);
	stage_build(stage);
}

TEST(unary_s8_looks_every_value_up)
{
	uint32_t count = 0;

	for (count = 1; count < 600; count += count < 70 ? 1 : 97) {
		struct stage stage = {0};
		struct cl_unary_s8 op = {0};
		uint8_t before[600] = {0};
		uint8_t *in = NULL;
		const uint8_t *table = NULL;
		const uint8_t *out = NULL;
		uint32_t i = 0;

		build_unary(&stage, &op, count, count % 3 == 0);
		in = stage_at(&stage, &op.in);
		for (i = 0; i < count && count > 256; i++)
			in[i] = (uint8_t)i;
		memcpy(before, in, count);
		stage_run(&stage, &cl_unary_s8_kernel, &op, &op.out);
		table = stage_at(&stage, &op.table);
		out = stage_at(&stage, &op.out);
		for (i = 0; i < count; i++)
			EXPECT(out[i] == table[before[i]], "%u of %u", i, count);
		stage_free(&stage);
	}
}

TEST(unary_s8_check_refuses_each_bad_field)
{
	const struct cl_kernel_ops *kernel = &cl_unary_s8_kernel;
	struct stage stage = {0};
	struct cl_unary_s8 op = {0};

	build_unary(&stage, &op, 40, false);
	expect_check(&stage, kernel, &op, CL_OK, "unchanged record");
	REFUSE(count, 0, CL_BAD_FORMAT);
	REFUSE(count, 41, CL_OUT_OF_BOUNDS);
	REFUSE(count, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSE(reserved, 1, CL_BAD_FORMAT);
	REFUSE(in.size, 39, CL_OUT_OF_BOUNDS);
	REFUSE(out.size, 39, CL_OUT_OF_BOUNDS);
	REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE(out.offset, op.in.offset + 8, CL_OUT_OF_BOUNDS);
	REFUSE(table.size, 255, CL_OUT_OF_BOUNDS);
	REFUSE(table.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	expect_mutants_harmless(&stage, kernel, &op);
	stage_free(&stage);
}

/* ---- QUANTIZE, DEQUANTIZE ---- */

static void build_quantize(struct stage *stage, struct cl_quantize *op, uint32_t count)
{
	op->op.kernel = CL_KERNEL_QUANTIZE;
	op->op.size = sizeof(*op);
	op->count = count;
	op->scale = random_range(0, 1) ? 0.25f : random_float(0.01f, 2);
	op->finish = random_finish();
	op->in = stage_arena(stage, count * sizeof(float));
	op->out = stage_arena(stage, count);
	stage_build(stage);
}

TEST(quantize_matches_the_definition)
{
	static const float odd[] = {NAN,    INFINITY,  -INFINITY, 0x1.fffffep127f, -0x1.fffffep127f,
				    -0.0f,  0x1p-149f, 0x1p31f,   -0x1p31f,        0x1p23f,
				    0.125f, 0.375f,    -0.125f,   -0.625f,         3e9f};
	uint32_t count = 0;

	for (count = 1; count < 100; count++) {
		struct stage stage = {0};
		struct cl_quantize op = {0};
		const int8_t *out = NULL;
		float *in = NULL;
		uint32_t i = 0;

		build_quantize(&stage, &op, count);
		in = stage_at(&stage, &op.in);
		for (i = 0; i < count; i++)
			in[i] = random_range(0, 2) ? random_float(-40, 40)
						   : odd[random_range(0, 14)];
		stage_run(&stage, &cl_quantize_kernel, &op, &op.out);
		out = stage_at(&stage, &op.out);
		for (i = 0; i < count; i++) {
			const int want = reference_finish(&op.finish, in[i] / op.scale);

			EXPECT(out[i] == want, "%g is %d, not %d", (double)in[i], out[i], want);
		}
		stage_free(&stage);
	}
}

TEST(quantize_check_refuses_each_bad_field)
{
	const struct cl_kernel_ops *kernel = &cl_quantize_kernel;
	struct stage stage = {0};
	struct cl_quantize op = {0};

	build_quantize(&stage, &op, 21);
	expect_check(&stage, kernel, &op, CL_OK, "unchanged record");
	REFUSE(count, 0, CL_BAD_FORMAT);
	REFUSE(count, 22, CL_OUT_OF_BOUNDS);
	REFUSE(count, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSE(scale, 0, CL_BAD_FORMAT);
	REFUSE(scale, -1, CL_BAD_FORMAT);
	REFUSE(scale, NAN, CL_BAD_FORMAT);
	REFUSE(scale, INFINITY, CL_BAD_FORMAT);
	REFUSE(finish.zero, 128, CL_BAD_FORMAT);
	REFUSE(finish.reserved, 1, CL_BAD_FORMAT);
	REFUSE(in.size, 83, CL_OUT_OF_BOUNDS);
	REFUSE(out.size, 20, CL_OUT_OF_BOUNDS);
	REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE(out.offset, op.in.offset, CL_BAD_FORMAT);
	expect_mutants_harmless(&stage, kernel, &op);
	stage_free(&stage);
}

static void build_dequantize(struct stage *stage, struct cl_dequantize *op, uint32_t count)
{
	op->op.kernel = CL_KERNEL_DEQUANTIZE;
	op->op.size = sizeof(*op);
	op->count = count;
	op->zero = random_s8();
	op->scale = random_float(0.01f, 2);
	op->in = stage_arena(stage, count);
	op->out = stage_arena(stage, count * sizeof(float));
	stage_build(stage);
}

TEST(dequantize_matches_the_definition)
{
	uint32_t count = 0;

	for (count = 1; count < 100; count++) {
		struct stage stage = {0};
		struct cl_dequantize op = {0};
		const int8_t *in = NULL;
		const float *out = NULL;
		uint32_t i = 0;

		build_dequantize(&stage, &op, count);
		stage_run(&stage, &cl_dequantize_kernel, &op, &op.out);
		in = stage_at(&stage, &op.in);
		out = stage_at(&stage, &op.out);
		for (i = 0; i < count; i++)
			EXPECT(out[i] == (float)(in[i] - op.zero) * op.scale, "%d is %g", in[i],
			       (double)out[i]);
		stage_free(&stage);
	}
}

TEST(dequantize_check_refuses_each_bad_field)
{
	const struct cl_kernel_ops *kernel = &cl_dequantize_kernel;
	struct stage stage = {0};
	struct cl_dequantize op = {0};

	build_dequantize(&stage, &op, 21);
	expect_check(&stage, kernel, &op, CL_OK, "unchanged record");
	REFUSE(count, 0, CL_BAD_FORMAT);
	REFUSE(count, 22, CL_OUT_OF_BOUNDS);
	REFUSE(zero, 128, CL_BAD_FORMAT);
	REFUSE(zero, -129, CL_BAD_FORMAT);
	REFUSE(scale, 0, CL_BAD_FORMAT);
	REFUSE(scale, NAN, CL_BAD_FORMAT);
	REFUSE(reserved, 1, CL_BAD_FORMAT);
	REFUSE(in.size, 20, CL_OUT_OF_BOUNDS);
	REFUSE(out.size, 83, CL_OUT_OF_BOUNDS);
	REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE(out.offset, op.in.offset, CL_BAD_FORMAT);
	expect_mutants_harmless(&stage, kernel, &op);
	stage_free(&stage);
}
