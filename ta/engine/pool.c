/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pooling. A NaN in a max window gives NaN. A window without any cell inside
 * the input gives -infinity for max and 0 for both averages.
 */
#include "activation.h"
#include "extent.h"
#include "vmath.h"
#include "window.h"

#define DIMS 3

static enum cl_status pool_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool *pool = (const struct cl_pool *)op;
	const uint32_t outer_factors[] = {pool->batch, pool->channels};
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t outer = 0;
	uint64_t cells = 0;
	unsigned int i = 0;

	if (pool->reserved || pool->reserved2)
		return CL_BAD_FORMAT;
	if (pool->kind > CL_POOL_AVERAGE_INCLUDE_PAD || !cl_activation_valid(&pool->activation))
		return CL_BAD_KERNEL;
	for (i = 0; i < DIMS; i++)
		if (!cl_extent_valid(pool->kernel[i]) || !cl_extent_valid(pool->stride[i]) ||
		    !cl_extent_valid(pool->dilation[i]) || pool->pad_begin[i] > CL_MAX_EXTENT ||
		    pool->pad_end[i] > CL_MAX_EXTENT)
			return CL_BAD_FORMAT;
	if (!cl_product(outer_factors, 2, &outer) || !cl_product(pool->in_dims, DIMS, &in_count) ||
	    !cl_mul(in_count, outer, &in_count) || !cl_product(pool->out_dims, DIMS, &out_count) ||
	    !cl_mul(out_count, outer, &out_count) || !cl_product(pool->kernel, DIMS, &cells) ||
	    !cl_work_valid(out_count, cells))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&pool->in, memory, in_count, sizeof(float)) ||
	    !cl_can_write(&pool->out, memory, out_count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	return cl_refs_overlap(&pool->in, &pool->out) ? CL_BAD_FORMAT : CL_OK;
}

/* The cells of one window inside the input. */
struct cells {
	const float *first;
	size_t counts[DIMS];
	size_t steps[DIMS]; /* floats from one cell to the next */
};

static inline __attribute__((always_inline)) float32x4_t combine(float32x4_t sum, float32x4_t value,
								 const bool max)
{
	return max ? vmaxq_f32(sum, value) : vaddq_f32(sum, value);
}

/* Channels c to c + 4 * vectors of a window; divisor is not used for max. */
static inline __attribute__((always_inline)) void pool_vectors(const struct cells *cells, size_t c,
							       float divisor, float *out,
							       const bool max,
							       const unsigned int vectors)
{
	const float32x4_t start = vdupq_n_f32(max ? -__builtin_inff() : 0);
	float32x4_t sum0 = start;
	float32x4_t sum1 = start;
	float32x4_t sum2 = start;
	float32x4_t sum3 = start;
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	for (z = 0; z < cells->counts[0]; z++) {
		for (y = 0; y < cells->counts[1]; y++) {
			size_t at = z * cells->steps[0] + y * cells->steps[1] + c;

			for (x = cells->counts[2]; x > 0; x--) {
				sum0 = combine(sum0, vld1q_f32(cells->first + at), max);
				if (vectors == 4) {
					sum1 = combine(sum1, vld1q_f32(cells->first + at + 4), max);
					sum2 = combine(sum2, vld1q_f32(cells->first + at + 8), max);
					sum3 = combine(sum3, vld1q_f32(cells->first + at + 12),
						       max);
				}
				at += cells->steps[2];
			}
		}
	}
	if (!max) {
		const float32x4_t d = vdupq_n_f32(divisor);

		sum0 = cl_div4(sum0, d);
		sum1 = cl_div4(sum1, d);
		sum2 = cl_div4(sum2, d);
		sum3 = cl_div4(sum3, d);
	}
	vst1q_f32(out + c, sum0);
	if (vectors == 4) {
		vst1q_f32(out + c + 4, sum1);
		vst1q_f32(out + c + 8, sum2);
		vst1q_f32(out + c + 12, sum3);
	}
}

/* As pool_vectors, one channel. */
static void pool_channel(const struct cells *cells, size_t c, float divisor, float *out, bool max)
{
	float sum = max ? -__builtin_inff() : 0;
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	for (z = 0; z < cells->counts[0]; z++) {
		for (y = 0; y < cells->counts[1]; y++) {
			for (x = 0; x < cells->counts[2]; x++) {
				const float value =
					cells->first[z * cells->steps[0] + y * cells->steps[1] +
						     x * cells->steps[2] + c];

				if (!max)
					sum += value;
				else if (!(value <= sum)) /* true for NaN as well */
					sum = sum != sum ? sum : value;
			}
		}
	}
	out[c] = max ? sum : sum / divisor;
}

static inline __attribute__((always_inline)) void
pool_window(const struct cells *cells, size_t channels, float divisor, float *out, const bool max)
{
	size_t c = 0;

	for (; c + 16 <= channels; c += 16)
		pool_vectors(cells, c, divisor, out, max, 4);
	for (; c + 4 <= channels; c += 4)
		pool_vectors(cells, c, divisor, out, max, 1);
	if (c < channels && channels >= 4) {
		/* The last four channels, some of them once more. */
		pool_vectors(cells, channels - 4, divisor, out, max, 1);
		return;
	}
	for (; c < channels; c++)
		pool_channel(cells, c, divisor, out, max);
}

/* Taps of a window inside the padded input; it never begins before the padding. */
static uint32_t padded_taps(const struct cl_pool *pool, unsigned int dim, uint32_t index)
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

static void find_window(const struct cl_pool *pool, unsigned int dim, uint32_t index,
			struct windows *windows)
{
	windows->inside[dim] =
		cl_window_at(index, pool->kernel[dim], pool->stride[dim], pool->dilation[dim],
			     pool->pad_begin[dim], pool->in_dims[dim]);
	windows->padded[dim] = padded_taps(pool, dim, index);
}

/* One window of the image `in`. */
static void pool_one(const struct cl_pool *pool, const struct windows *windows, const float *in,
		     float *out)
{
	struct cells cells = {.first = in};
	size_t step = pool->channels;
	size_t inside = 1;
	size_t padded = 1;
	unsigned int i = 0;
	float divisor = 1;

	for (i = DIMS; i-- > 0;) {
		const struct cl_window *window = &windows->inside[i];

		cells.first += (size_t)window->position * step;
		cells.counts[i] = window->end - window->begin;
		cells.steps[i] = step * pool->dilation[i];
		step *= pool->in_dims[i];
		inside *= cells.counts[i];
		padded *= windows->padded[i];
	}
	if (pool->kind == CL_POOL_MAX) {
		pool_window(&cells, pool->channels, 1, out, true);
		return;
	}
	divisor = (float)(pool->kind == CL_POOL_AVERAGE ? inside : padded);
	pool_window(&cells, pool->channels, divisor > 0 ? divisor : 1, out, false);
}

static void pool_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool *pool = (const struct cl_pool *)op;
	const size_t channels = pool->channels;
	const size_t image =
		(size_t)pool->in_dims[0] * pool->in_dims[1] * pool->in_dims[2] * channels;
	const size_t row = pool->out_dims[2] * channels;
	const float *in = cl_source(&pool->in, memory);
	float *out = cl_target(&pool->out, memory);
	struct windows windows = {0};
	uint32_t n = 0;
	uint32_t z = 0;
	uint32_t y = 0;
	uint32_t x = 0;

	for (n = 0; n < pool->batch; n++, in += image) {
		for (z = 0; z < pool->out_dims[0]; z++) {
			find_window(pool, 0, z, &windows);
			for (y = 0; y < pool->out_dims[1]; y++, out += row) {
				find_window(pool, 1, y, &windows);
				for (x = 0; x < pool->out_dims[2]; x++) {
					find_window(pool, 2, x, &windows);
					pool_one(pool, &windows, in, out + x * channels);
				}
				if (pool->activation.function != CL_UNARY_IDENTITY)
					cl_activate(&pool->activation, out, out, row);
			}
		}
	}
}

const struct cl_kernel_ops cl_pool_kernel = {
	.record_size = sizeof(struct cl_pool),
	.check = pool_check,
	.run = pool_run,
};
