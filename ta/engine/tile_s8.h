/* SPDX-License-Identifier: BSD-2-Clause */
/* The inner kernel of CONV2D_S8 and GEMM_S8: rows of bytes times panels of 4 columns. */
#ifndef CLOISTER_TILE_S8_H
#define CLOISTER_TILE_S8_H

#include "quant.h"

#define CL_S8_STEP    16 /* products that one instruction begins */
#define CL_S8_COLUMNS 4
#define CL_S8_ROWS    8 /* rows that are put together in scratch at a time */

/* What follows a panel's sums. */
struct cl_channels_s8 {
	int32_t bias[CL_S8_COLUMNS];
	float multiplier[CL_S8_COLUMNS];
};

struct cl_tile_s8 {
	const int8_t *in;
	size_t in_stride;      /* bytes from one row to the next */
	size_t steps;          /* of CL_S8_STEP bytes in each row; what is beyond the depth has no
				* weight */
	const int8_t *weights; /* [ceil(columns / 4)][steps][4][16] */
	const struct cl_channels_s8 *channels; /* [ceil(columns / 4)] */
	size_t columns;
	int8_t *out;
	size_t out_stride;
	struct cl_finish finish;
	uint32_t weights_kind; /* enum cl_weights_s8 */
};

/* Any number of rows. */
void cl_tile_s8_run(const struct cl_tile_s8 *tile, size_t row_count);

/* Steps that hold `depth` bytes. */
static inline uint64_t cl_s8_steps(uint64_t depth)
{
	return depth / CL_S8_STEP + !!(depth % CL_S8_STEP);
}

/* Copies count bytes; a last vector overlaps the one before rather than leave bytes over. */
static inline void cl_copy_bytes(int8_t *to, const int8_t *from, size_t count)
{
	size_t i = 0;

	if (count >= 16) {
		for (; i + 16 <= count; i += 16)
			vst1q_s8(to + i, vld1q_s8(from + i));
		vst1q_s8(to + count - 16, vld1q_s8(from + count - 16));
		return;
	}
	if (count >= 8) {
		vst1_s8(to, vld1_s8(from));
		vst1_s8(to + count - 8, vld1_s8(from + count - 8));
		return;
	}
	for (; i < count; i++)
		to[i] = from[i];
}

static inline void cl_fill_bytes(int8_t *to, int32_t value, size_t count)
{
	size_t i = 0;

	for (; i + 16 <= count; i += 16)
		vst1q_s8(to + i, vdupq_n_s8((int8_t)value));
	for (; i < count; i++)
		to[i] = (int8_t)value;
}

#endif
