/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inner kernel of 8-bit integers by the dot product of Armv8.2 (FEAT_DotProd): one
 * instruction adds four products to each of four partial sums. It reads the same weights as the
 * baseline, whose sums it gives to the bit, whatever the weights are.
 */
#if defined(__aarch64__)
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include "panel_s8.h"

#define ROWS CL_S8_TILE_ROWS

/* One step of 16 products for each of row_count rows and four columns. */
static inline __attribute__((always_inline)) void add_step(int32x4_t sums[ROWS][CL_S8_COLUMNS],
							   const int8_t *const *at, size_t offset,
							   const int8_t *weights,
							   const unsigned int row_count)
{
	const int8x16_t b[CL_S8_COLUMNS] = {
		vld1q_s8(weights),
		vld1q_s8(weights + CL_S8_STEP),
		vld1q_s8(weights + 2 * CL_S8_STEP),
		vld1q_s8(weights + 3 * CL_S8_STEP),
	};
	unsigned int r = 0;
	unsigned int c = 0;

	for (r = 0; r < row_count; r++) {
		const int8x16_t a = vld1q_s8(at[r] + offset);

		for (c = 0; c < CL_S8_COLUMNS; c++)
			sums[r][c] = vdotq_s32(sums[r][c], a, b[c]);
	}
}

/* One panel for 1 to ROWS rows; row_count is a literal. */
static inline __attribute__((always_inline)) void
run_panel(const struct cl_tile_s8 *tile, const int8_t *const *rows, const struct cl_panel_s8 *panel,
	  int8_t *out, const unsigned int row_count)
{
	const size_t size = tile->steps * CL_S8_STEP;
	const int8_t *weights = panel->weights;
	int32x4_t partial[ROWS][CL_S8_COLUMNS];
	int32x4_t sums[ROWS];
	size_t tap = tile->taps;
	unsigned int r = 0;
	unsigned int c = 0;

	for (r = 0; r < row_count; r++)
		for (c = 0; c < CL_S8_COLUMNS; c++)
			partial[r][c] = vdupq_n_s32(0);
	do {
		const int8_t *const at[ROWS] = {
			rows[0],
			row_count > 1 ? rows[1] : NULL,
			row_count > 2 ? rows[2] : NULL,
			row_count > 3 ? rows[3] : NULL,
		};
		size_t offset = 0;

		if (tile->steps % 2) {
			add_step(partial, at, 0, weights, row_count);
			weights += (size_t)CL_S8_COLUMNS * CL_S8_STEP;
			offset = CL_S8_STEP;
		}
		for (; offset < size; offset += (size_t)2 * CL_S8_STEP) {
			add_step(partial, at, offset, weights, row_count);
			add_step(partial, at, offset + CL_S8_STEP,
				 weights + (size_t)CL_S8_COLUMNS * CL_S8_STEP, row_count);
			weights += (size_t)2 * CL_S8_COLUMNS * CL_S8_STEP;
		}
		rows += CL_S8_ROWS;
	} while (--tap);
	for (r = 0; r < row_count; r++)
		sums[r] = vpaddq_s32(vpaddq_s32(partial[r][0], partial[r][1]),
				     vpaddq_s32(partial[r][2], partial[r][3]));
	cl_panel_s8_finish(tile, panel, sums, out, row_count);
}

void cl_tile_s8_run_dot(const struct cl_tile_s8 *tile, unsigned int row_count)
{
	const size_t panels = (tile->columns + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS;
	size_t index = 0;

	for (index = 0; index < panels; index++) {
		const struct cl_panel_s8 panel = cl_panel_s8_at(tile, index);
		const int8_t *const *rows = tile->rows;
		int8_t *out = tile->out + index * CL_S8_COLUMNS;
		unsigned int left = row_count;

		for (; left >= ROWS; left -= ROWS) {
			run_panel(tile, rows, &panel, out, ROWS);
			rows += ROWS;
			out += ROWS * tile->out_stride;
		}
		if (left == 3)
			run_panel(tile, rows, &panel, out, 3);
		else if (left == 2)
			run_panel(tile, rows, &panel, out, 2);
		else if (left == 1)
			run_panel(tile, rows, &panel, out, 1);
	}
}
