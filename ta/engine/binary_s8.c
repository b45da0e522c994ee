/* SPDX-License-Identifier: BSD-2-Clause */
/* BINARY_S8: sums and products of quantised tensors with broadcasting. */
#include "broadcast.h"
#include "quant.h"

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_binary_s8 *binary = (const struct cl_binary_s8 *)op;
	const struct cl_broadcast operands = CL_BROADCAST(binary);

	if (binary->function != CL_BINARY_ADD && binary->function != CL_BINARY_MUL)
		return CL_BAD_KERNEL;
	if (!cl_zero_valid(binary->a_zero) || !cl_zero_valid(binary->b_zero) ||
	    !cl_finish_s8_valid(&binary->finish))
		return CL_BAD_FORMAT;
	return cl_broadcast_check(&operands, memory, 1);
}

/* What one operator applies to every element. */
struct terms {
	int8x8_t a_zero;
	int8x8_t b_zero;
	float a_multiplier;
	float b_multiplier;
	struct cl_finish finish;
};

static inline int32x4_t add4(const struct terms *terms, int16x4_t a, int16x4_t b)
{
	const float32x4_t x = vcvtq_f32_s32(vmovl_s16(a));
	const float32x4_t y = vcvtq_f32_s32(vmovl_s16(b));

	/* Two roundings, as in a scalar computation without contraction. */
	return cl_round4(vaddq_f32(vmulq_n_f32(x, terms->a_multiplier),
				   vmulq_n_f32(y, terms->b_multiplier)));
}

static inline int32x4_t mul4(const struct terms *terms, int16x4_t a, int16x4_t b)
{
	return cl_round4(vmulq_n_f32(vcvtq_f32_s32(vmull_s16(a, b)), terms->a_multiplier));
}

static inline __attribute__((always_inline)) int8x16_t
compute16(const struct terms *terms, int8x16_t a, int8x16_t b, const bool multiply)
{
	const int16x8_t a_low = vsubl_s8(vget_low_s8(a), terms->a_zero);
	const int16x8_t a_high = vsubl_s8(vget_high_s8(a), terms->a_zero);
	const int16x8_t b_low = vsubl_s8(vget_low_s8(b), terms->b_zero);
	const int16x8_t b_high = vsubl_s8(vget_high_s8(b), terms->b_zero);
	const int16x4_t a4[] = {vget_low_s16(a_low), vget_high_s16(a_low), vget_low_s16(a_high),
				vget_high_s16(a_high)};
	const int16x4_t b4[] = {vget_low_s16(b_low), vget_high_s16(b_low), vget_low_s16(b_high),
				vget_high_s16(b_high)};

	if (multiply)
		return cl_finish16(&terms->finish, mul4(terms, a4[0], b4[0]),
				   mul4(terms, a4[1], b4[1]), mul4(terms, a4[2], b4[2]),
				   mul4(terms, a4[3], b4[3]));
	return cl_finish16(&terms->finish, add4(terms, a4[0], b4[0]), add4(terms, a4[1], b4[1]),
			   add4(terms, a4[2], b4[2]), add4(terms, a4[3], b4[3]));
}

/* Up to 16 elements of an operand. */
static int8x16_t gather(const int8_t *from, int64_t stride, size_t count)
{
	int8_t lanes[16] = {0};
	size_t i = 0;

	for (i = 0; i < count; i++)
		lanes[i] = from[(int64_t)i * stride];
	return vld1q_s8(lanes);
}

static inline __attribute__((always_inline)) void compute_row(const struct terms *terms,
							      const struct cl_run *row,
							      const int8_t *a, const int8_t *b,
							      int8_t *out, const bool multiply)
{
	const int64_t a_stride = row->strides[0];
	const int64_t b_stride = row->strides[1];
	const size_t count = row->count;
	size_t i = 0;

	if (a_stride == 1 && b_stride == 1)
		for (; i + 16 <= count; i += 16)
			vst1q_s8(out + i,
				 compute16(terms, vld1q_s8(a + i), vld1q_s8(b + i), multiply));
	while (i < count) {
		const size_t some = count - i < 16 ? count - i : 16;
		const int8x16_t a16 = !a_stride ? vdupq_n_s8(*a)
				      : a_stride == 1 && some == 16
					      ? vld1q_s8(a + i)
					      : gather(a + (int64_t)i * a_stride, a_stride, some);
		const int8x16_t b16 = !b_stride ? vdupq_n_s8(*b)
				      : b_stride == 1 && some == 16
					      ? vld1q_s8(b + i)
					      : gather(b + (int64_t)i * b_stride, b_stride, some);
		int8_t results[16] = {0};
		size_t lane = 0;

		vst1q_s8(results, compute16(terms, a16, b16, multiply));
		for (lane = 0; lane < some; lane++)
			out[i + lane] = results[lane];
		i += some;
	}
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_binary_s8 *binary = (const struct cl_binary_s8 *)op;
	const struct cl_broadcast operands = CL_BROADCAST(binary);
	const struct terms terms = {
		.a_zero = vdup_n_s8((int8_t)binary->a_zero),
		.b_zero = vdup_n_s8((int8_t)binary->b_zero),
		.a_multiplier = binary->a_multiplier,
		.b_multiplier = binary->b_multiplier,
		.finish = cl_finish_of(&binary->finish),
	};
	const int8_t *a = cl_source(&binary->a, memory);
	const int8_t *b = cl_source(&binary->b, memory);
	int8_t *out = cl_target(&binary->out, memory);
	struct cl_walk walk = {0};
	struct cl_run row = {0};

	row = cl_broadcast_rows(&operands, &walk);
	do {
		if (binary->function == CL_BINARY_MUL)
			compute_row(&terms, &row, a + walk.offset[0], b + walk.offset[1], out,
				    true);
		else
			compute_row(&terms, &row, a + walk.offset[0], b + walk.offset[1], out,
				    false);
		out += row.count;
	} while (cl_walk_next(&walk));
}

const struct cl_kernel_ops cl_binary_s8_kernel = {
	.record_size = sizeof(struct cl_binary_s8),
	.check = check,
	.run = run,
};
