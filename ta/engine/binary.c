/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * BINARY: element by element over two operands with broadcasting.
 * Max and Min give NaN where an operand is NaN, as numpy's maximum does.
 */
#include "activation.h"
#include "bounds.h"
#include "broadcast.h"
#include "vmath.h"

/* Results that wait for their activation while they are still in the first-level cache. */
#define ACTIVATION_BLOCK 2048

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_binary_op *binary = (const struct cl_binary_op *)op;
	const struct cl_broadcast operands = CL_BROADCAST(binary);

	if (binary->function >= CL_BINARY_COUNT || !cl_activation_valid(&binary->activation))
		return CL_BAD_KERNEL;
	return cl_broadcast_check(&operands, memory, sizeof(float));
}

typedef float32x4_t (*function4)(float32x4_t a, float32x4_t b);

static inline float32x4_t add4(float32x4_t a, float32x4_t b)
{
	return vaddq_f32(a, b);
}

static inline float32x4_t sub4(float32x4_t a, float32x4_t b)
{
	return vsubq_f32(a, b);
}

static inline float32x4_t mul4(float32x4_t a, float32x4_t b)
{
	return vmulq_f32(a, b);
}

static inline float32x4_t prelu4(float32x4_t a, float32x4_t b)
{
	return vbslq_f32(vcltq_f32(a, vdupq_n_f32(0)), vmulq_f32(a, b), a);
}

static inline float32x4_t pow4(float32x4_t a, float32x4_t b)
{
	float x[CL_LANES] = {0};
	float y[CL_LANES] = {0};
	unsigned int i = 0;

	vst1q_f32(x, a);
	vst1q_f32(y, b);
	for (i = 0; i < CL_LANES; i++)
		x[i] = cl_pow(x[i], y[i]);
	return vld1q_f32(x);
}

/* `count` <= 4 values of an operand; the other lanes are 1. */
static inline float32x4_t load_operand(const float *from, int64_t stride, size_t count)
{
	float lanes[CL_LANES] = {1, 1, 1, 1};
	size_t i = 0;

	if (stride == 1)
		return cl_load_some(from, count, 1);
	if (!stride)
		return vdupq_n_f32(*from);
	for (i = 0; i < count; i++)
		lanes[i] = from[(int64_t)i * stride];
	return vld1q_f32(lanes);
}

/* One row of out. Inlined with a constant `function`, so that every function gets its loops. */
static inline __attribute__((always_inline)) void
map_row(function4 function, const struct cl_run *row, const float *a, const float *b, float *out)
{
	const int64_t a_stride = row->strides[0];
	const int64_t b_stride = row->strides[1];
	const size_t count = row->count;
	size_t i = 0;

	if (a_stride == 1 && b_stride == 1) {
		for (; i + CL_LANES <= count; i += CL_LANES)
			vst1q_f32(out + i, function(vld1q_f32(a + i), vld1q_f32(b + i)));
	} else if (a_stride == 1 && !b_stride) {
		const float32x4_t b4 = vdupq_n_f32(*b);

		for (; i + CL_LANES <= count; i += CL_LANES)
			vst1q_f32(out + i, function(vld1q_f32(a + i), b4));
	} else if (!a_stride && b_stride == 1) {
		const float32x4_t a4 = vdupq_n_f32(*a);

		for (; i + CL_LANES <= count; i += CL_LANES)
			vst1q_f32(out + i, function(a4, vld1q_f32(b + i)));
	}
	while (i < count) {
		size_t some = count - i < CL_LANES ? count - i : CL_LANES;
		float32x4_t a4 = load_operand(a + (int64_t)i * a_stride, a_stride, some);
		float32x4_t b4 = load_operand(b + (int64_t)i * b_stride, b_stride, some);

		cl_store_some(out + i, function(a4, b4), some);
		i += some;
	}
}

static void compute_row(uint32_t function, const struct cl_run *row, const float *a, const float *b,
			float *out)
{
	switch (function) {
	case CL_BINARY_ADD:
		map_row(add4, row, a, b, out);
		break;
	case CL_BINARY_SUB:
		map_row(sub4, row, a, b, out);
		break;
	case CL_BINARY_MUL:
		map_row(mul4, row, a, b, out);
		break;
	case CL_BINARY_DIV:
		map_row(cl_div4, row, a, b, out);
		break;
	case CL_BINARY_MAX:
		map_row(cl_max4, row, a, b, out);
		break;
	case CL_BINARY_MIN:
		map_row(cl_min4, row, a, b, out);
		break;
	case CL_BINARY_PRELU:
		map_row(prelu4, row, a, b, out);
		break;
	default: /* CL_BINARY_POW */
		map_row(pow4, row, a, b, out);
		break;
	}
}

/* Vectors of sums that are computed together. */
#define SUMS 4

/* The literal `bounds` of sums. */
#define UNBOUNDED 0
#define BELOW     1
#define BOTH      2

static inline __attribute__((always_inline)) float32x4_t
bounded(float32x4_t x, float32x4_t least, float32x4_t most, const unsigned int bounds)
{
	if (bounds >= BELOW)
		x = cl_max4(x, least);
	return bounds == BOTH ? cl_min4(x, most) : x;
}

/* Sums of two dense rows. */
static inline __attribute__((always_inline)) void add_bounded(const float *a, const float *b,
							      size_t count, float low, float high,
							      float *out, const unsigned int bounds)
{
	const float32x4_t least = vdupq_n_f32(low);
	const float32x4_t most = vdupq_n_f32(high);
	float32x4_t sums[SUMS];
	size_t i = 0;
	unsigned int v = 0;

	for (; i + SUMS * CL_LANES <= count; i += SUMS * CL_LANES) {
#pragma GCC unroll 4
		for (v = 0; v < SUMS; v++)
			sums[v] =
				vaddq_f32(vld1q_f32(a + v * CL_LANES), vld1q_f32(b + v * CL_LANES));
#pragma GCC unroll 4
		for (v = 0; v < SUMS; v++)
			sums[v] = bounded(sums[v], least, most, bounds);
#pragma GCC unroll 4
		for (v = 0; v < SUMS; v++)
			vst1q_f32(out + v * CL_LANES, sums[v]);
		a += SUMS * CL_LANES;
		b += SUMS * CL_LANES;
		out += SUMS * CL_LANES;
	}
	for (; i < count; i += CL_LANES) {
		const size_t some = count - i < CL_LANES ? count - i : CL_LANES;

		sums[0] = vaddq_f32(cl_load_some(a, some, 0), cl_load_some(b, some, 0));
		cl_store_some(out, bounded(sums[0], least, most, bounds), some);
		a += some;
		b += some;
		out += some;
	}
}

/*
 * A residual connection: the sums' activation takes place in registers. False, and nothing is
 * done, where the operation is another.
 */
static bool add_activated(const struct cl_binary_op *binary, const struct cl_run *row,
			  const float *a, const float *b, float *out)
{
	const struct cl_activation *activation = &binary->activation;

	if (binary->function != CL_BINARY_ADD || row->strides[0] != 1 || row->strides[1] != 1)
		return false;
	if (activation->function == CL_UNARY_IDENTITY)
		add_bounded(a, b, row->count, 0, 0, out, UNBOUNDED);
	else if (activation->function == CL_UNARY_RELU)
		add_bounded(a, b, row->count, 0, 0, out, BELOW);
	else if (activation->function == CL_UNARY_CLIP)
		add_bounded(a, b, row->count, activation->a, activation->b, out, BOTH);
	else
		return false;
	return true;
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_binary_op *binary = (const struct cl_binary_op *)op;
	const struct cl_broadcast operands = CL_BROADCAST(binary);
	const float *a = cl_source(&binary->a, memory);
	const float *b = cl_source(&binary->b, memory);
	float *out = cl_target(&binary->out, memory);
	float *finished = out; /* the activation has been applied to all before */
	struct cl_walk walk = {0};
	struct cl_run row = {0};
	uint32_t count = 0;
	uint32_t done = 0;

	row = cl_broadcast_rows(&operands, &walk);
	count = row.count;
	do {
		const float *a_row = a + walk.offset[0];
		const float *b_row = b + walk.offset[1];

		for (done = 0; done < count; done += row.count) {
			row.count =
				count - done < ACTIVATION_BLOCK ? count - done : ACTIVATION_BLOCK;
			if (add_activated(binary, &row, a_row + done * row.strides[0],
					  b_row + done * row.strides[1], out)) {
				out += row.count;
				finished = out;
				continue;
			}
			compute_row(binary->function, &row, a_row + done * row.strides[0],
				    b_row + done * row.strides[1], out);
			out += row.count;
			if (out - finished >= ACTIVATION_BLOCK) {
				cl_activate(&binary->activation, finished, finished,
					    (size_t)(out - finished));
				finished = out;
			}
		}
	} while (cl_walk_next(&walk));
	cl_activate(&binary->activation, finished, finished, (size_t)(out - finished));
}

const struct cl_kernel_ops cl_binary_kernel = {
	.record_size = sizeof(struct cl_binary_op),
	.check = check,
	.run = run,
};
