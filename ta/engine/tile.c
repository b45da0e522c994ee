/* SPDX-License-Identifier: BSD-2-Clause */
#if defined(__GNUC__) && !defined(__clang__)
/*
 * GCC 12's scheduling before register allocation moves the loads of weights up
 * until accumulators have to be moved around: 88 instructions in the inner loop instead of 77.
 */
#pragma GCC optimize("no-schedule-insns")
#endif

#include "tile.h"
#include "neon.h"

/* The accumulators of row r are low##r and high##r; names need the row as a literal. */
#define FOR_ROWS(DO, ...)                                                                          \
	DO(0, __VA_ARGS__)                                                                         \
	DO(1, __VA_ARGS__)                                                                         \
	DO(2, __VA_ARGS__)                                                                         \
	DO(3, __VA_ARGS__)                                                                         \
	DO(4, __VA_ARGS__)                                                                         \
	DO(5, __VA_ARGS__)                                                                         \
	DO(6, __VA_ARGS__)                                                                         \
	DO(7, __VA_ARGS__)

#define ACCUMULATORS(r, ...)                                                                       \
	float32x4_t low##r = bias_low;                                                             \
	float32x4_t high##r = bias_high;

#define ROW_POINTER(r, ...) const float *row##r = row_count > (r) ? rows[r] : NULL;

#define LOAD_4(r, ...)                                                                             \
	const float32x4_t a##r = row_count > (r) ? vld1q_f32(at(row##r, i)) : bias_low;

#define MULTIPLY_ADD_4(r, b_low, b_high, lane)                                                     \
	if (row_count > (r)) {                                                                     \
		low##r = vfmaq_laneq_f32(low##r, b_low, a##r, lane);                               \
		high##r = vfmaq_laneq_f32(high##r, b_high, a##r, lane);                            \
	}

/*
 * Two of four steps. The empty assembly keeps GCC from adding both increments of
 * `weights` at once, so that each becomes part of its load.
 */
#define MULTIPLY_ADD_4_LANES(first)                                                                \
	{                                                                                          \
		const float32x4x4_t b = vld1q_f32_x4(weights);                                     \
                                                                                                   \
		weights += 16;                                                                     \
		__asm__("" : "+r"(weights));                                                       \
		FOR_ROWS(MULTIPLY_ADD_4, b.val[0], b.val[1], first)                                \
		FOR_ROWS(MULTIPLY_ADD_4, b.val[2], b.val[3], (first) + 1)                          \
	}

/* One of four steps. */
#define MULTIPLY_ADD_LANE(lane)                                                                    \
	{                                                                                          \
		const float32x4_t b_low = vld1q_f32(weights);                                      \
		const float32x4_t b_high = vld1q_f32(weights + 4);                                 \
                                                                                                   \
		FOR_ROWS(MULTIPLY_ADD_4, b_low, b_high, lane)                                      \
		weights += 8;                                                                      \
	}

#define MULTIPLY_ADD_1(r, ...)                                                                     \
	if (row_count > (r)) {                                                                     \
		const float32x4_t a = vld1q_dup_f32(at(row##r, i));                                \
                                                                                                   \
		low##r = vfmaq_f32(low##r, b_low, a);                                              \
		high##r = vfmaq_f32(high##r, b_high, a);                                           \
	}

#define SCALE(r, ...)                                                                              \
	low##r = vmulq_f32(low##r, scale_low);                                                     \
	high##r = vmulq_f32(high##r, scale_high);

#define CLIP(r, ...)                                                                               \
	low##r = vminq_f32(vmaxq_f32(low##r, least), most);                                        \
	high##r = vminq_f32(vmaxq_f32(high##r, least), most);

#define RELU(r, ...)                                                                               \
	low##r = vmaxq_f32(low##r, least);                                                         \
	high##r = vmaxq_f32(high##r, least);

#define STORE(r, ...)                                                                              \
	if (row_count > (r)) {                                                                     \
		vst1q_f32(to + (r)*stride, low##r);                                                \
		vst1q_f32(to + (r)*stride + 4, high##r);                                           \
	}

/* Counting in bytes saves the compiler a second counter in the innermost loop. */
static inline const float *at(const float *row, size_t bytes)
{
	return (const float *)((uintptr_t)row + bytes);
}

/* Where a panel's results go: to their place, or aside if the panel is not full. */
static __attribute__((noinline)) void store_aside(const float *from, unsigned int row_count,
						  size_t columns, float *out, size_t out_stride)
{
	unsigned int row = 0;
	size_t i = 0;

	for (row = 0; row < row_count; row++, from += CL_TILE_COLUMNS, out += out_stride) {
		if (columns >= 4) {
			vst1q_f32(out, vld1q_f32(from));
			vst1q_f32(out + columns - 4, vld1q_f32(from + columns - 4));
			continue;
		}
		for (i = 0; i < columns; i++)
			out[i] = from[i];
	}
}

/* A full panel's worth where fewer than eight biases or scales are left. */
static __attribute__((noinline)) void load_aside(const float *from, size_t columns, float *to)
{
	size_t i = 0;

	for (i = 0; i < CL_TILE_COLUMNS; i++)
		to[i] = i < columns ? from[i] : 0;
}

/*
 * row_count is a literal in each instance below, so that the rows which are not
 * there vanish. 16 accumulators, 8 rows and 2 registers of weights leave room
 * among the 32 registers; consecutive multiply-adds are independent, which an
 * in-order core needs.
 */
static inline __attribute__((always_inline)) void run_rows(const struct cl_tile *tile,
							   const unsigned int row_count)
{
	const size_t depth = tile->depth;
	const size_t begin = tile->start * sizeof(float);
	const size_t whole = begin + depth / 4 * 4 * sizeof(float);
	const size_t end = begin + depth * sizeof(float);
	const float *weights = tile->weights;
	const enum cl_fused fused = tile->fusion->kind;
	float aside[CL_TILE_ROWS * CL_TILE_COLUMNS] = {0};
	size_t column = 0;

	for (column = 0; column < tile->columns; column += CL_TILE_COLUMNS) {
		const size_t columns = tile->columns - column;
		const bool full = columns >= CL_TILE_COLUMNS;
		float32x4_t bias_low = vdupq_n_f32(0);
		float32x4_t bias_high = bias_low;
		const float *const *rows = tile->rows;
		float *to = full ? tile->out + column : aside;
		const size_t stride = full ? tile->out_stride : CL_TILE_COLUMNS;
		size_t tap = tile->taps;

		if (tile->bias) {
			const float *bias = tile->bias + column;

			if (!full) {
				load_aside(bias, columns, aside);
				bias = aside;
			}
			bias_low = vld1q_f32(bias);
			bias_high = vld1q_f32(bias + 4);
		}
		FOR_ROWS(ACCUMULATORS)

		do {
			size_t i = begin;

			FOR_ROWS(ROW_POINTER)
#pragma GCC unroll 2
			for (; i != whole; i += 4 * sizeof(float)) {
				FOR_ROWS(LOAD_4)
				MULTIPLY_ADD_4_LANES(0)
				MULTIPLY_ADD_4_LANES(2)
			}
			if (i != end && depth >= 4) {
				/* The last four floats once more, of which the last ones are new.
				 */
				i = end - 4 * sizeof(float);
				FOR_ROWS(LOAD_4)
				if (depth % 4 == 3)
					MULTIPLY_ADD_LANE(1)
				if (depth % 4 >= 2)
					MULTIPLY_ADD_LANE(2)
				MULTIPLY_ADD_LANE(3)
				i = end;
			}
			for (; i != end; i += sizeof(float)) {
				const float32x4_t b_low = vld1q_f32(weights);
				const float32x4_t b_high = vld1q_f32(weights + 4);

				FOR_ROWS(MULTIPLY_ADD_1)
				weights += 8;
			}
			rows += CL_TILE_ROWS;
		} while (--tap);

		if (tile->scales) {
			const float *scales = tile->scales + column;

			if (!full) {
				load_aside(scales, columns, aside);
				scales = aside;
			}
			const float32x4_t scale_low = vld1q_f32(scales);
			const float32x4_t scale_high = vld1q_f32(scales + 4);

			FOR_ROWS(SCALE)
		}
		if (fused == CL_FUSED_RELU) {
			const float32x4_t least = vdupq_n_f32(0);

			FOR_ROWS(RELU)
		} else if (fused == CL_FUSED_CLIP) {
			const float32x4_t least = vdupq_n_f32(tile->fusion->low);
			const float32x4_t most = vdupq_n_f32(tile->fusion->high);

			FOR_ROWS(CLIP)
		}
		FOR_ROWS(STORE)
		if (!full)
			store_aside(aside, row_count, columns, tile->out + column,
				    tile->out_stride);
	}
}

static void run_narrow(const struct cl_tile *tile, unsigned int row_count)
{
	switch (row_count) {
	case 1:
		run_rows(tile, 1);
		break;
	case 2:
		run_rows(tile, 2);
		break;
	case 3:
		run_rows(tile, 3);
		break;
	case 4:
		run_rows(tile, 4);
		break;
	case 5:
		run_rows(tile, 5);
		break;
	case 6:
		run_rows(tile, 6);
		break;
	case 7:
		run_rows(tile, 7);
		break;
	default:
		run_rows(tile, 8);
		break;
	}
}

void cl_tile_run(const struct cl_tile *tile, unsigned int row_count)
{
	struct cl_tile rest = *tile;
	unsigned int left = row_count;
	size_t done = 0;

	if (tile->columns >= CL_TILE_WIDE)
		done = cl_tile_run_wide(tile, row_count);
	if (done == tile->columns)
		return;
	rest.columns -= done;
	rest.weights += done * tile->taps * tile->depth;
	rest.bias = tile->bias ? tile->bias + done : NULL;
	rest.scales = tile->scales ? tile->scales + done : NULL;
	rest.out += done;
	for (; left > CL_TILE_ROWS; left -= CL_TILE_ROWS) {
		run_narrow(&rest, CL_TILE_ROWS);
		rest.rows += CL_TILE_ROWS;
		rest.out += CL_TILE_ROWS * rest.out_stride;
	}
	run_narrow(&rest, left);
}

void cl_tile_run_rows(const struct cl_tile *tile, const float *in, size_t row_count)
{
	const float *rows[CL_TILE_STRIP] = {NULL};
	struct cl_tile strip = *tile;
	size_t row = 0;

	strip.rows = rows;
	for (row = 0; row < row_count; row += CL_TILE_STRIP) {
		const size_t left = row_count - row;
		const unsigned int count =
			left < CL_TILE_STRIP ? (unsigned int)left : CL_TILE_STRIP;
		unsigned int i = 0;

		for (i = 0; i < count; i++, in += tile->depth)
			rows[i] = in;
		cl_tile_run(&strip, count);
		if (tile->fusion->kind == CL_FUSED_LATER)
			for (i = 0; i < count; i++)
				cl_fusion_finish(tile->fusion, strip.out + i * tile->out_stride,
						 tile->columns);
		strip.out += CL_TILE_STRIP * tile->out_stride;
	}
}

void cl_fusion_init(struct cl_fusion *fusion, const struct cl_activation *activation)
{
	fusion->kind = CL_FUSED_LATER;
	fusion->low = 0;
	fusion->high = 0;
	fusion->activation = activation;
	switch (activation->function) {
	case CL_UNARY_IDENTITY:
		fusion->kind = CL_FUSED_NONE;
		break;
	case CL_UNARY_RELU:
		fusion->kind = CL_FUSED_RELU;
		break;
	case CL_UNARY_CLIP:
		fusion->kind = CL_FUSED_CLIP;
		fusion->low = activation->a;
		fusion->high = activation->b;
		break;
	default:
		break;
	}
}
