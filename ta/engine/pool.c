/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pooling. A NaN in a max window gives NaN. A window without any cell inside
 * the input gives -infinity for max and 0 for both averages.
 */
#include "activation.h"
#include "bounds.h"
#include "pool_walk.h"
#include "vmath.h"

static enum cl_status pool_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool *pool = (const struct cl_pool *)op;
	const struct cl_pool_shape shape = CL_POOL_SHAPE(pool);
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t cells = 0;

	if (pool->reserved || pool->reserved2)
		return CL_BAD_FORMAT;
	if (pool->kind > CL_POOL_AVERAGE_INCLUDE_PAD || !cl_activation_valid(&pool->activation))
		return CL_BAD_KERNEL;
	if (!cl_pool_shape_valid(&shape, &in_count, &out_count, &cells))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&pool->in, memory, in_count, sizeof(float)) ||
	    !cl_can_write(&pool->out, memory, out_count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	return cl_refs_overlap(&pool->in, &pool->out) ? CL_BAD_FORMAT : CL_OK;
}

static inline __attribute__((always_inline)) float32x4_t combine(float32x4_t sum, float32x4_t value,
								 const bool max)
{
	return max ? vmaxq_f32(sum, value) : vaddq_f32(sum, value);
}

/*
 * Channels 0 to 4 * vectors of the window at `first`; divisor is not used for max. side is the
 * extent of a plain square window, or 0: then the loops count.
 */
static inline __attribute__((always_inline)) void
pool_vectors(const struct cl_windows *windows, const float *first, float divisor, float *out,
	     const bool max, const unsigned int vectors, const size_t side)
{
	const float32x4_t start = vdupq_n_f32(max ? -__builtin_inff() : 0);
	const size_t depth = side ? 1 : windows->counts[0];
	const size_t rows = side ? side : windows->counts[1];
	const size_t columns = side ? side : windows->counts[2];
	float32x4_t sum[4] = {start, start, start, start};
	unsigned int v = 0;
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	for (z = 0; z < depth; z++) {
		for (y = 0; y < rows; y++) {
			const float *at = first + z * windows->steps[0] + y * windows->steps[1];

			for (x = 0; x < columns; x++, at += windows->steps[2])
				for (v = 0; v < vectors; v++)
					sum[v] =
						combine(sum[v], vld1q_f32(at + (size_t)4 * v), max);
		}
	}
	for (v = 0; v < vectors; v++)
		vst1q_f32(out + (size_t)4 * v,
			  max ? sum[v] : cl_div4(sum[v], vdupq_n_f32(divisor)));
}

/* As pool_vectors, one channel. */
static void pool_channel(const struct cl_windows *windows, const float *first, float divisor,
			 float *out, bool max)
{
	float sum = max ? -__builtin_inff() : 0;
	size_t z = 0;
	size_t y = 0;
	size_t x = 0;

	for (z = 0; z < windows->counts[0]; z++) {
		for (y = 0; y < windows->counts[1]; y++) {
			for (x = 0; x < windows->counts[2]; x++) {
				const float value =
					first[z * windows->steps[0] + y * windows->steps[1] +
					      x * windows->steps[2]];

				if (!max)
					sum += value;
				else if (!(value <= sum)) /* true for NaN as well */
					sum = sum != sum ? sum : value;
			}
		}
	}
	*out = max ? sum : sum / divisor;
}

/* Few channels make the loops over cells the larger part: the usual window has none. */
static inline __attribute__((always_inline)) void pool_windows(const struct cl_windows *windows,
							       size_t channels, float divisor,
							       const float *in, float *out,
							       const bool max, const size_t side)
{
	size_t left = windows->count;

	for (; left > 0; left--, in += windows->advance, out += channels) {
		size_t c = 0;

		for (; c + 16 <= channels; c += 16)
			pool_vectors(windows, in + c, divisor, out + c, max, 4, side);
		for (; c + 4 <= channels; c += 4)
			pool_vectors(windows, in + c, divisor, out + c, max, 1, side);
		if (c < channels && channels >= 4) {
			/* The last four channels, some of them once more. */
			c = channels - 4;
			pool_vectors(windows, in + c, divisor, out + c, max, 1, side);
			continue;
		}
		for (; c < channels; c++)
			pool_channel(windows, in + c, divisor, out + c, max);
	}
}

/* A pooling and its data. */
struct context {
	const struct cl_pool *pool;
	const float *in;
	float *out;
};

static void pool_some(const void *cookie, const struct cl_windows *windows)
{
	const struct context *context = cookie;
	const struct cl_pool *pool = context->pool;
	const size_t channels = pool->channels;
	const float *in = context->in + windows->first;
	float *out = context->out + windows->out;
	const size_t *counts = windows->counts;

	if (pool->kind != CL_POOL_MAX) {
		const size_t cells =
			pool->kind == CL_POOL_AVERAGE ? windows->inside : windows->padded;

		pool_windows(windows, channels, cells ? (float)cells : 1, in, out, false, 0);
	} else if (counts[0] == 1 && counts[1] == 2 && counts[2] == 2) {
		pool_windows(windows, channels, 1, in, out, true, 2);
	} else {
		pool_windows(windows, channels, 1, in, out, true, 0);
	}
	if (pool->activation.function != CL_UNARY_IDENTITY)
		cl_activate(&pool->activation, out, out, windows->count * channels);
}

static void pool_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_pool *pool = (const struct cl_pool *)op;
	const struct cl_pool_shape shape = CL_POOL_SHAPE(pool);
	const struct context context = {
		.pool = pool,
		.in = cl_source(&pool->in, memory),
		.out = cl_target(&pool->out, memory),
	};

	cl_pool_walk(&shape, pool_some, &context);
}

const struct cl_kernel_ops cl_pool_kernel = {
	.record_size = sizeof(struct cl_pool),
	.check = pool_check,
	.run = pool_run,
};
