/* SPDX-License-Identifier: BSD-2-Clause */
/* What the inner kernels of 8-bit integers share: where a panel lies, and how its sums end. */
#ifndef CLOISTER_PANEL_S8_H
#define CLOISTER_PANEL_S8_H

#include "tile_s8.h"

#define CL_S8_TILE_ROWS 4 /* computed together */

/* Four columns of a tile. */
struct cl_panel_s8 {
	const int8_t *weights;
	const struct cl_channels_s8 *channels;
	size_t columns; /* from this panel's first on */
};

static inline struct cl_panel_s8 cl_panel_s8_at(const struct cl_tile_s8 *tile, size_t index)
{
	const struct cl_panel_s8 panel = {
		.weights = tile->weights +
			   index * tile->taps * tile->steps * CL_S8_COLUMNS * CL_S8_STEP,
		.channels = tile->channels + index,
		.columns = tile->columns - index * CL_S8_COLUMNS,
	};

	return panel;
}

/* Some columns of each row, where a panel is not full. */
static __attribute__((noinline)) void cl_panel_s8_store_some(int8x16_t bytes, int8_t *out,
							     size_t out_stride,
							     unsigned int row_count, size_t columns)
{
	int8_t aside[CL_S8_TILE_ROWS * CL_S8_COLUMNS] = {0};
	unsigned int r = 0;

	vst1q_s8(aside, bytes);
	for (r = 0; r < row_count; r++, out += out_stride) {
		const int8_t *from = aside + (size_t)r * CL_S8_COLUMNS;

		out[0] = from[0];
		out[columns / 2] = from[columns / 2];
		out[columns - 1] = from[columns - 1];
	}
}

static inline void cl_panel_s8_store_4(int8_t *to, uint32_t bytes)
{
	memcpy(to, &bytes, sizeof(bytes));
}

/* Requantises the sums of 1 to CL_S8_TILE_ROWS rows and stores them; row_count is a literal. */
static inline __attribute__((always_inline)) void
cl_panel_s8_finish(const struct cl_tile_s8 *tile, const struct cl_panel_s8 *panel,
		   const int32x4_t *sums, int8_t *out, const unsigned int row_count)
{
	const int32x4_t bias = vld1q_s32(panel->channels->bias);
	const float32x4_t multiplier = vld1q_f32(panel->channels->multiplier);
	const size_t stride = tile->out_stride;
	int32x4_t rounded[CL_S8_TILE_ROWS] = {sums[0], sums[0], sums[0], sums[0]};
	uint32x4_t bytes;
	unsigned int r = 0;

	for (r = 0; r < row_count; r++)
		rounded[r] =
			cl_round4(vmulq_f32(vcvtq_f32_s32(vaddq_s32(sums[r], bias)), multiplier));
	bytes = vreinterpretq_u32_s8(
		cl_finish16(&tile->finish, rounded[0], rounded[1], rounded[2], rounded[3]));
	if (panel->columns < CL_S8_COLUMNS) {
		cl_panel_s8_store_some(vreinterpretq_s8_u32(bytes), out, stride, row_count,
				       panel->columns);
		return;
	}
	cl_panel_s8_store_4(out, vgetq_lane_u32(bytes, 0));
	if (row_count > 1)
		cl_panel_s8_store_4(out + stride, vgetq_lane_u32(bytes, 1));
	if (row_count > 2)
		cl_panel_s8_store_4(out + 2 * stride, vgetq_lane_u32(bytes, 2));
	if (row_count > 3)
		cl_panel_s8_store_4(out + 3 * stride, vgetq_lane_u32(bytes, 3));
}

#endif
