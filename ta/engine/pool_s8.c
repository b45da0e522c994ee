/* SPDX-License-Identifier: BSD-2-Clause */
/* POOL_S8: pooling of quantised tensors. */
#include <string.h>

#include "pool_walk.h"
#include "quant.h"

/* Cells of a window: their sum, less the zero point, stays below 2^31. */
#define MAX_CELLS (UINT64_C(1) << 23)

static enum cl_status pool_s8_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool_s8 *pool = (const struct cl_pool_s8 *)op;
	const struct cl_pool_shape shape = CL_POOL_SHAPE(pool);
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t cells = 0;

	if (pool->kind > CL_POOL_AVERAGE_INCLUDE_PAD)
		return CL_BAD_KERNEL;
	if (!cl_zero_valid(pool->in_zero) || !cl_finish_s8_valid(&pool->finish) ||
	    !cl_pool_shape_valid(&shape, &in_count, &out_count, &cells) || cells > MAX_CELLS)
		return CL_BAD_FORMAT;
	if (!cl_can_read(&pool->in, memory, in_count, 1) ||
	    !cl_can_write(&pool->out, memory, out_count, 1))
		return CL_OUT_OF_BOUNDS;
	return cl_refs_overlap(&pool->in, &pool->out) ? CL_BAD_FORMAT : CL_OK;
}

/*
 * Channels that fill no vector are read as their first and their last part, which overlap: two of
 * 8 bytes, two of 4, or single bytes. So nothing outside is touched.
 */
static inline __attribute__((always_inline)) int8x16_t load_cell(const int8_t *from,
								 const size_t channels)
{
	uint32_t words[2] = {0};
	int8_t bytes[4] = {0};

	if (channels >= 16)
		return vld1q_s8(from);
	if (channels >= 8)
		return vcombine_s8(vld1_s8(from), vld1_s8(from + channels - 8));
	if (channels >= 4) {
		memcpy(&words[0], from, sizeof(words[0]));
		memcpy(&words[1], from + channels - 4, sizeof(words[1]));
		return vreinterpretq_s8_u32(vsetq_lane_u32(words[1], vdupq_n_u32(words[0]), 1));
	}
	bytes[0] = from[0];
	bytes[1] = from[channels / 2];
	bytes[2] = from[channels - 1];
	memcpy(&words[0], bytes, sizeof(words[0]));
	return vreinterpretq_s8_u32(vdupq_n_u32(words[0]));
}

static inline __attribute__((always_inline)) void store_cell(int8_t *to, int8x16_t value,
							     const size_t channels)
{
	const uint32x4_t lanes = vreinterpretq_u32_s8(value);
	const uint32_t words[2] = {vgetq_lane_u32(lanes, 0), vgetq_lane_u32(lanes, 1)};

	if (channels >= 16) {
		vst1q_s8(to, value);
	} else if (channels >= 8) {
		vst1_s8(to, vget_low_s8(value));
		vst1_s8(to + channels - 8, vget_high_s8(value));
	} else if (channels >= 4) {
		memcpy(to, &words[0], sizeof(words[0]));
		memcpy(to + channels - 4, &words[1], sizeof(words[1]));
	} else {
		to[0] = (int8_t)words[0];
		to[channels / 2] = (int8_t)(words[0] >> 8);
		to[channels - 1] = (int8_t)(words[0] >> 16);
	}
}

/* The largest cells of up to 16 channels. side is a plain square window's extent, or 0. */
static inline __attribute__((always_inline)) int8x16_t
largest_cells(const struct cl_windows *windows, const int8_t *first, const size_t channels,
	      const size_t side)
{
	const size_t depth = side ? 1 : windows->counts[0];
	const size_t rows = side ? side : windows->counts[1];
	const size_t columns = side ? side : windows->counts[2];
	int8x16_t largest = vdupq_n_s8(INT8_MIN);
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	for (z = 0; z < depth; z++) {
		for (y = 0; y < rows; y++) {
			const int8_t *from = first + z * windows->steps[0] + y * windows->steps[1];

			for (x = 0; x < columns; x++, from += windows->steps[2])
				largest = vmaxq_s8(largest, load_cell(from, channels));
		}
	}
	return largest;
}

/* The sums of the cells of up to 16 channels. */
static inline __attribute__((always_inline)) int32x4x4_t
sum_cells(const struct cl_windows *windows, const int8_t *first, const size_t channels)
{
	int32x4x4_t sums;
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	sums.val[0] = sums.val[1] = sums.val[2] = sums.val[3] = vdupq_n_s32(0);
	for (z = 0; z < windows->counts[0]; z++) {
		for (y = 0; y < windows->counts[1]; y++) {
			const int8_t *from = first + z * windows->steps[0] + y * windows->steps[1];

			for (x = windows->counts[2]; x > 0;) {
				/* 256 cells fit into 16 bits. */
				size_t some = x < 256 ? x : 256;
				int16x8_t low = vdupq_n_s16(0);
				int16x8_t high = low;

				x -= some;
				for (; some > 0; some--, from += windows->steps[2]) {
					const int8x16_t value = load_cell(from, channels);

					low = vaddw_s8(low, vget_low_s8(value));
					high = vaddw_high_s8(high, value);
				}
				sums.val[0] = vaddw_s16(sums.val[0], vget_low_s16(low));
				sums.val[1] = vaddw_high_s16(sums.val[1], low);
				sums.val[2] = vaddw_s16(sums.val[2], vget_low_s16(high));
				sums.val[3] = vaddw_high_s16(sums.val[3], high);
			}
		}
	}
	return sums;
}

/* How a window ends: (result - zeros) * multiplier. */
struct ending {
	struct cl_finish finish;
	float multiplier;
	int32_t zeros;
	bool max;
	bool plain; /* the largest cell is stored as it is, but for low and high */
};

static inline int32x4_t scale4(int32x4_t value, const struct ending *ending)
{
	const int32x4_t less = vsubq_s32(value, vdupq_n_s32(ending->zeros));

	return cl_round4(vmulq_n_f32(vcvtq_f32_s32(less), ending->multiplier));
}

static inline int8x16_t end_16(const int32x4x4_t *values, const struct ending *ending)
{
	return cl_finish16(&ending->finish, scale4(values->val[0], ending),
			   scale4(values->val[1], ending), scale4(values->val[2], ending),
			   scale4(values->val[3], ending));
}

/* Up to 16 channels of `left` windows, `stride` bytes apart in the output. */
static inline __attribute__((always_inline)) void
pool_part(const struct cl_windows *windows, const int8_t *in, const struct ending *ending,
	  int8_t *out, size_t stride, size_t left, const size_t channels)
{
	/* Copies: what is stored may lie anywhere, for all that the compiler knows. */
	const struct cl_windows form = *windows;
	const int8x16_t low = ending->finish.low;
	const int8x16_t high = ending->finish.high;
	const size_t *counts = form.counts;
	int32x4x4_t values;

	if (!ending->plain) {
		for (; left > 0; left--, in += form.advance, out += stride) {
			values = ending->max ? cl_widen16(largest_cells(&form, in, channels, 0))
					     : sum_cells(&form, in, channels);
			store_cell(out, end_16(&values, ending), channels);
		}
	} else if (counts[0] == 1 && counts[1] == 2 && counts[2] == 2) {
		for (; left > 0; left--, in += form.advance, out += stride)
			store_cell(out,
				   vminq_s8(vmaxq_s8(largest_cells(&form, in, channels, 2), low),
					    high),
				   channels);
	} else {
		for (; left > 0; left--, in += form.advance, out += stride)
			store_cell(out,
				   vminq_s8(vmaxq_s8(largest_cells(&form, in, channels, 0), low),
					    high),
				   channels);
	}
}

static __attribute__((noinline)) void pool_16(const struct cl_windows *windows, const int8_t *in,
					      const struct ending *ending, int8_t *out,
					      size_t stride, size_t left)
{
	pool_part(windows, in, ending, out, stride, left, 16);
}

/* A pooling and its data. */
struct context {
	const struct cl_pool_s8 *pool;
	struct cl_finish finish;
	const int8_t *in;
	int8_t *out;
	uint64_t in_count;
	uint64_t out_count;
};

/*
 * Windows whose channels, fewer than 16, can be read and written as whole vectors: what is written
 * beyond them is overwritten by later windows. There must be something behind them.
 */
static size_t count_whole(const struct context *context, const struct cl_windows *windows)
{
	const size_t channels = context->pool->channels;
	const size_t few = 15 / channels; /* windows that hold what is beyond the one before */
	const size_t *counts = windows->counts;
	const size_t *steps = windows->steps;
	size_t last = windows->first + (windows->count - 1) * windows->advance;

	if (windows->inside)
		last += (counts[0] - 1) * steps[0] + (counts[1] - 1) * steps[1] +
			(counts[2] - 1) * steps[2];
	if (last + 16 <= context->in_count &&
	    windows->out + (windows->count - 1) * channels + 16 <= context->out_count)
		return windows->count;
	return windows->count > few ? windows->count - few : 0;
}

static void pool_some(const void *cookie, const struct cl_windows *windows)
{
	const struct context *context = cookie;
	const struct cl_pool_s8 *pool = context->pool;
	const int8_t *in = context->in + windows->first;
	int8_t *out = context->out + windows->out;
	const size_t channels = pool->channels;
	struct ending ending = {
		.finish = context->finish,
		.multiplier = pool->multiplier,
		.zeros = pool->in_zero,
		.max = pool->kind == CL_POOL_MAX,
	};
	size_t whole = 0;
	size_t c = 0;

	if (!ending.max) {
		const size_t cells =
			pool->kind == CL_POOL_AVERAGE ? windows->inside : windows->padded;

		ending.multiplier /= (float)(cells ? cells : 1);
		ending.zeros *= (int32_t)windows->inside;
	}
	/* The common case: the output's scale and zero point are the input's. */
	ending.plain = ending.max && pool->multiplier == 1 && pool->in_zero == pool->finish.zero;

	if (channels >= 16) {
		for (; c + 16 <= channels; c += 16)
			pool_16(windows, in + c, &ending, out + c, channels, windows->count);
		if (c < channels)
			pool_16(windows, in + channels - 16, &ending, out + channels - 16, channels,
				windows->count);
		return;
	}
	whole = count_whole(context, windows);
	pool_16(windows, in, &ending, out, channels, whole);
	in += whole * windows->advance;
	out += whole * channels;
	whole = windows->count - whole;
	if (channels >= 8)
		pool_part(windows, in, &ending, out, channels, whole, channels);
	else if (channels >= 4)
		pool_part(windows, in, &ending, out, channels, whole, channels);
	else
		pool_part(windows, in, &ending, out, channels, whole, channels);
}

static void pool_s8_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool_s8 *pool = (const struct cl_pool_s8 *)op;
	const struct cl_pool_shape shape = CL_POOL_SHAPE(pool);
	struct context context = {
		.pool = pool,
		.finish = cl_finish_of(&pool->finish),
		.in = cl_source(&pool->in, memory),
		.out = cl_target(&pool->out, memory),
	};
	uint64_t cells = 0;

	(void)cl_pool_shape_valid(&shape, &context.in_count, &context.out_count, &cells);
	cl_pool_walk(&shape, pool_some, &context);
}

const struct cl_kernel_ops cl_pool_s8_kernel = {
	.record_size = sizeof(struct cl_pool_s8),
	.check = pool_s8_check,
	.run = pool_s8_run,
};
