/* SPDX-License-Identifier: BSD-2-Clause */
/* POOL_S8: pooling of quantised tensors. */
#include "extent.h"
#include "quant.h"
#include "window.h"

#define DIMS 3

/* Cells of a window: their sum, less the zero point, stays below 2^31. */
#define MAX_CELLS (UINT64_C(1) << 23)

static enum cl_status pool_s8_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool_s8 *pool = (const struct cl_pool_s8 *)op;
	const uint32_t outer_factors[] = {pool->batch, pool->channels};
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t outer = 0;
	uint64_t cells = 0;
	unsigned int i = 0;

	if (pool->kind > CL_POOL_AVERAGE_INCLUDE_PAD)
		return CL_BAD_KERNEL;
	if (!cl_zero_valid(pool->in_zero) || !cl_finish_s8_valid(&pool->finish))
		return CL_BAD_FORMAT;
	for (i = 0; i < DIMS; i++)
		if (!cl_extent_valid(pool->kernel[i]) || !cl_extent_valid(pool->stride[i]) ||
		    !cl_extent_valid(pool->dilation[i]) || pool->pad_begin[i] > CL_MAX_EXTENT ||
		    pool->pad_end[i] > CL_MAX_EXTENT)
			return CL_BAD_FORMAT;
	if (!cl_product(outer_factors, 2, &outer) || !cl_product(pool->in_dims, DIMS, &in_count) ||
	    !cl_mul(in_count, outer, &in_count) || !cl_product(pool->out_dims, DIMS, &out_count) ||
	    !cl_mul(out_count, outer, &out_count) || !cl_product(pool->kernel, DIMS, &cells) ||
	    cells > MAX_CELLS || !cl_work_valid(out_count, cells))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&pool->in, memory, in_count, 1) ||
	    !cl_can_write(&pool->out, memory, out_count, 1))
		return CL_OUT_OF_BOUNDS;
	return cl_refs_overlap(&pool->in, &pool->out) ? CL_BAD_FORMAT : CL_OK;
}

/* The cells of one window inside the input. */
struct cells {
	const int8_t *first;
	size_t counts[DIMS];
	size_t steps[DIMS]; /* bytes from one cell to the next */
	size_t inside;
};

/* The largest cells of 16 channels. */
static inline int8x16_t largest_cells(const struct cells *cells, size_t c)
{
	int8x16_t largest = vdupq_n_s8(INT8_MIN);
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	for (z = 0; z < cells->counts[0]; z++) {
		for (y = 0; y < cells->counts[1]; y++) {
			const int8_t *from =
				cells->first + z * cells->steps[0] + y * cells->steps[1] + c;

			for (x = cells->counts[2]; x > 0; x--, from += cells->steps[2])
				largest = vmaxq_s8(largest, vld1q_s8(from));
		}
	}
	return largest;
}

/* The sums of the cells of 16 channels. */
static inline int32x4x4_t sum_cells(const struct cells *cells, size_t c)
{
	int32x4x4_t sums;
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	sums.val[0] = sums.val[1] = sums.val[2] = sums.val[3] = vdupq_n_s32(0);
	for (z = 0; z < cells->counts[0]; z++) {
		for (y = 0; y < cells->counts[1]; y++) {
			const int8_t *from =
				cells->first + z * cells->steps[0] + y * cells->steps[1] + c;

			for (x = cells->counts[2]; x > 0;) {
				/* 256 cells fit into 16 bits. */
				size_t some = x < 256 ? x : 256;
				int16x8_t low = vdupq_n_s16(0);
				int16x8_t high = low;

				x -= some;
				for (; some > 0; some--, from += cells->steps[2]) {
					const int8x16_t value = vld1q_s8(from);

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
	const struct cl_finish *finish;
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
	return cl_finish16(ending->finish, scale4(values->val[0], ending),
			   scale4(values->val[1], ending), scale4(values->val[2], ending),
			   scale4(values->val[3], ending));
}

/* 16 channels of a window. */
static inline void pool_16(const struct cells *cells, size_t c, const struct ending *ending,
			   int8_t *out)
{
	int32x4x4_t values;

	if (ending->plain) {
		vst1q_s8(out + c, vminq_s8(vmaxq_s8(largest_cells(cells, c), ending->finish->low),
					   ending->finish->high));
		return;
	}
	values = ending->max ? cl_widen16(largest_cells(cells, c)) : sum_cells(cells, c);
	vst1q_s8(out + c, end_16(&values, ending));
}

/* The largest cell, or the sum of all, of one channel. */
static int32_t pool_channel(const struct cells *cells, size_t c, bool max)
{
	int32_t result = max ? INT8_MIN : 0;
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	for (z = 0; z < cells->counts[0]; z++) {
		for (y = 0; y < cells->counts[1]; y++) {
			for (x = 0; x < cells->counts[2]; x++) {
				const int8_t value =
					cells->first[z * cells->steps[0] + y * cells->steps[1] +
						     x * cells->steps[2] + c];

				if (!max)
					result += value;
				else if (value > result)
					result = value;
			}
		}
	}
	return result;
}

/* Taps of a window inside the padded input; it never begins before the padding. */
static uint32_t padded_taps(const struct cl_pool_s8 *pool, unsigned int dim, uint32_t index)
{
	const int64_t start = (int64_t)index * pool->stride[dim] - pool->pad_begin[dim];
	const int64_t end = (int64_t)pool->in_dims[dim] + pool->pad_end[dim];
	const int64_t dilation = pool->dilation[dim];

	if (start >= end)
		return 0;
	if (start + (pool->kernel[dim] - 1) * dilation < end)
		return pool->kernel[dim];
	return (uint32_t)((end - start + dilation - 1) / dilation);
}

/* A window along each dimension. */
struct windows {
	struct cl_window inside[DIMS];
	uint32_t padded[DIMS];
};

static void find_window(const struct cl_pool_s8 *pool, unsigned int dim, uint32_t index,
			struct windows *windows)
{
	windows->inside[dim] =
		cl_window_at(index, pool->kernel[dim], pool->stride[dim], pool->dilation[dim],
			     pool->pad_begin[dim], pool->in_dims[dim]);
	windows->padded[dim] = padded_taps(pool, dim, index);
}

/* One window of the image `in`. */
static void pool_one(const struct cl_pool_s8 *pool, const struct cl_finish *finish,
		     const struct windows *windows, const int8_t *in, int8_t *out)
{
	struct cells cells = {.first = in, .inside = 1};
	struct ending ending = {
		.finish = finish,
		.multiplier = pool->multiplier,
		.zeros = pool->in_zero,
		.max = pool->kind == CL_POOL_MAX,
	};
	const size_t channels = pool->channels;
	size_t step = channels;
	size_t padded = 1;
	size_t c = 0;
	unsigned int i = 0;

	for (i = DIMS; i-- > 0;) {
		const struct cl_window *window = &windows->inside[i];

		cells.first += (size_t)window->position * step;
		cells.counts[i] = window->end - window->begin;
		cells.steps[i] = step * pool->dilation[i];
		step *= pool->in_dims[i];
		cells.inside *= cells.counts[i];
		padded *= windows->padded[i];
	}
	if (!ending.max) {
		const size_t divisor = pool->kind == CL_POOL_AVERAGE ? cells.inside : padded;

		ending.multiplier /= (float)(divisor ? divisor : 1);
		ending.zeros *= (int32_t)cells.inside;
	}
	/* The common case: the output's scale and zero point are the input's. */
	ending.plain = ending.max && pool->multiplier == 1 && pool->in_zero == pool->finish.zero;

	for (; c + 16 <= channels; c += 16)
		pool_16(&cells, c, &ending, out);
	if (c < channels && channels >= 16) {
		pool_16(&cells, channels - 16, &ending, out);
		return;
	}
	for (; c < channels; c++)
		out[c] = cl_finish1(finish,
				    (float)(pool_channel(&cells, c, ending.max) - ending.zeros) *
					    ending.multiplier);
}

static void pool_s8_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool_s8 *pool = (const struct cl_pool_s8 *)op;
	const struct cl_finish finish = cl_finish_of(&pool->finish);
	const size_t image =
		(size_t)pool->in_dims[0] * pool->in_dims[1] * pool->in_dims[2] * pool->channels;
	const int8_t *in = cl_source(&pool->in, memory);
	int8_t *out = cl_target(&pool->out, memory);
	struct windows windows = {0};
	uint32_t n = 0;
	uint32_t z = 0;
	uint32_t y = 0;
	uint32_t x = 0;

	for (n = 0; n < pool->batch; n++, in += image) {
		for (z = 0; z < pool->out_dims[0]; z++) {
			find_window(pool, 0, z, &windows);
			for (y = 0; y < pool->out_dims[1]; y++) {
				find_window(pool, 1, y, &windows);
				for (x = 0; x < pool->out_dims[2]; x++, out += pool->channels) {
					find_window(pool, 2, x, &windows);
					pool_one(pool, &finish, &windows, in, out);
				}
			}
		}
	}
}

const struct cl_kernel_ops cl_pool_s8_kernel = {
	.record_size = sizeof(struct cl_pool_s8),
	.check = pool_s8_check,
	.run = pool_s8_run,
};
