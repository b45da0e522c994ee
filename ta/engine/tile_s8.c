/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both operands lie with the depth innermost, so that a product of two vectors
 * is 16 products of one sum: two widening multiplies and one pairwise add. The four
 * partial sums of every output are added up at the end.
 */
#include "tile_s8.h"

#include <string.h>

#define ROWS 4 /* computed together */

/* Partial sums of 16 products. */
static inline __attribute__((always_inline)) int32x4_t add_products(int32x4_t sum, int8x16_t a,
								    int8x16_t b, const bool any)
{
	int16x8_t products = vmull_s8(vget_low_s8(a), vget_low_s8(b));

	if (any) { /* -128 * -128 twice is beyond 16 bits */
		sum = vpadalq_s16(sum, products);
		return vpadalq_s16(sum, vmull_high_s8(a, b));
	}
	products = vmlal_high_s8(products, a, b);
	return vpadalq_s16(sum, products);
}

/* The sums of four columns from their partial sums. */
static inline int32x4_t add_up(const int32x4_t *partial)
{
	return vpaddq_s32(vpaddq_s32(partial[0], partial[1]), vpaddq_s32(partial[2], partial[3]));
}

static inline void store_row(int8_t *to, uint32_t bytes, size_t columns)
{
	memcpy(to, &bytes, columns < CL_S8_COLUMNS ? columns : CL_S8_COLUMNS);
}

/* One panel for 1 to ROWS rows; rows and any are literals. */
static inline __attribute__((always_inline)) void run_panel(const struct cl_tile_s8 *tile,
							    const int8_t *in, const int8_t *weights,
							    const struct cl_channels_s8 *channels,
							    int8_t *out, size_t columns,
							    const unsigned int rows, const bool any)
{
	const size_t steps = tile->steps;
	const int32x4_t bias = vld1q_s32(channels->bias);
	const float32x4_t multiplier = vld1q_f32(channels->multiplier);
	const int8_t *row[ROWS] = {in, in + tile->in_stride, in + 2 * tile->in_stride,
				   in + 3 * tile->in_stride};
	int32x4_t sums[ROWS][CL_S8_COLUMNS];
	int32x4_t rounded[ROWS];
	uint32x4_t bytes;
	unsigned int r = 0;
	unsigned int c = 0;
	size_t i = 0;

	for (r = 0; r < ROWS; r++)
		for (c = 0; c < CL_S8_COLUMNS; c++)
			sums[r][c] = vdupq_n_s32(0);
	for (i = 0; i < steps; i++) {
		const int8x16_t b[] = {vld1q_s8(weights), vld1q_s8(weights + 16),
				       vld1q_s8(weights + 32), vld1q_s8(weights + 48)};

		for (r = 0; r < rows; r++) {
			const int8x16_t a = vld1q_s8(row[r] + i * CL_S8_STEP);

			for (c = 0; c < CL_S8_COLUMNS; c++)
				sums[r][c] = add_products(sums[r][c], a, b[c], any);
		}
		weights += CL_S8_COLUMNS * CL_S8_STEP;
	}
	for (r = 0; r < ROWS; r++)
		rounded[r] = r < rows ? cl_round4(vmulq_f32(
						vcvtq_f32_s32(vaddq_s32(add_up(sums[r]), bias)),
						multiplier))
				      : rounded[0];
	bytes = vreinterpretq_u32_s8(
		cl_finish16(&tile->finish, rounded[0], rounded[1], rounded[2], rounded[3]));
	store_row(out, vgetq_lane_u32(bytes, 0), columns);
	if (rows > 1)
		store_row(out + tile->out_stride, vgetq_lane_u32(bytes, 1), columns);
	if (rows > 2)
		store_row(out + 2 * tile->out_stride, vgetq_lane_u32(bytes, 2), columns);
	if (rows > 3)
		store_row(out + 3 * tile->out_stride, vgetq_lane_u32(bytes, 3), columns);
}

/* Panel by panel, so that a panel's weights stay in the cache over all rows. */
static inline __attribute__((always_inline)) void run_tile(const struct cl_tile_s8 *tile,
							   size_t row_count, const bool any)
{
	const size_t panel_size = tile->steps * CL_S8_COLUMNS * CL_S8_STEP;
	const struct cl_channels_s8 *channels = tile->channels;
	const int8_t *weights = tile->weights;
	size_t column = 0;

	for (column = 0; column < tile->columns; column += CL_S8_COLUMNS) {
		const size_t columns = tile->columns - column;
		const int8_t *in = tile->in;
		int8_t *out = tile->out + column;
		size_t left = row_count;

		for (; left >= ROWS; left -= ROWS) {
			run_panel(tile, in, weights, channels, out, columns, ROWS, any);
			in += ROWS * tile->in_stride;
			out += ROWS * tile->out_stride;
		}
		if (left == 3)
			run_panel(tile, in, weights, channels, out, columns, 3, any);
		else if (left == 2)
			run_panel(tile, in, weights, channels, out, columns, 2, any);
		else if (left == 1)
			run_panel(tile, in, weights, channels, out, columns, 1, any);
		weights += panel_size;
		channels++;
	}
}

void cl_tile_s8_run(const struct cl_tile_s8 *tile, size_t row_count)
{
	if (tile->weights_kind == CL_WEIGHTS_S8_ANY)
		run_tile(tile, row_count, true);
	else
		run_tile(tile, row_count, false);
}
