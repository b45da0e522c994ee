/* SPDX-License-Identifier: BSD-2-Clause */
/* The inner kernel of CONV2D_S8 and GEMM_S8: rows of bytes times panels of 4 columns. */
#ifndef CLOISTER_TILE_S8_H
#define CLOISTER_TILE_S8_H

#include <string.h>

#include "quant.h"

#define CL_S8_STEP    16 /* products that one instruction begins */
#define CL_S8_COLUMNS 4
#define CL_S8_ROWS    32 /* most rows of a tile */

/* What follows a panel's sums. */
struct cl_channels_s8 {
	int32_t bias[CL_S8_COLUMNS];
	float multiplier[CL_S8_COLUMNS];
};

/*
 * Up to CL_S8_ROWS rows times a weight matrix. A row lies in `taps` pieces, which are found through
 * a table of pointers, of `steps` steps each; what is beyond its depth has no weight.
 */
struct cl_tile_s8 {
	const int8_t *const *rows; /* [taps][CL_S8_ROWS] */
	size_t taps;
	size_t steps;                          /* of CL_S8_STEP bytes */
	const int8_t *weights;                 /* [ceil(columns / 4)][taps][steps][4][16] */
	const struct cl_channels_s8 *channels; /* [ceil(columns / 4)] */
	size_t columns;
	int8_t *out;
	size_t out_stride;
	struct cl_finish finish;
	uint32_t weights_kind; /* enum cl_weights_s8, of all panels */
	const uint8_t *kinds;  /* or of each, unless NULL */
};

/* Bytes of `channels` for so many panels, of which each may have its own kind of weights. */
static inline uint64_t cl_s8_channels_size(uint64_t panels, uint32_t weights_kind)
{
	return panels * (sizeof(struct cl_channels_s8) + (weights_kind == CL_WEIGHTS_S8_PANELS));
}

/*
 * Computes row_count rows (1 to CL_S8_ROWS) panel by panel, so that a panel's weights stay in the
 * cache; the pointers of further rows are not used.
 */
void cl_tile_s8_run(const struct cl_tile_s8 *tile, unsigned int row_count);

/* The same with FEAT_DotProd, for which cl_tile_s8_run looks itself. */
void cl_tile_s8_run_dot(const struct cl_tile_s8 *tile, unsigned int row_count);

/* Steps that hold `depth` bytes. */
static inline uint64_t cl_s8_steps(uint64_t depth)
{
	return depth / CL_S8_STEP + !!(depth % CL_S8_STEP);
}

/*
 * Copies count bytes by few instructions: vectors from both ends, which overlap if
 * need be. The rows of a convolution's input are short.
 */
static inline __attribute__((always_inline)) void cl_copy_bytes(int8_t *to, const int8_t *from,
								size_t count)
{
	for (; count > 64; count -= 64, from += 64, to += 64) {
		const int8x16_t bytes[] = {vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32),
					   vld1q_s8(from + 48)};

		vst1q_s8(to, bytes[0]);
		vst1q_s8(to + 16, bytes[1]);
		vst1q_s8(to + 32, bytes[2]);
		vst1q_s8(to + 48, bytes[3]);
	}
	if (count >= 16) {
		const int8x16_t first = vld1q_s8(from);
		const int8x16_t last = vld1q_s8(from + count - 16);

		if (count > 32) {
			const int8x16_t second = vld1q_s8(from + 16);
			const int8x16_t third = vld1q_s8(from + count - 32);

			vst1q_s8(to + 16, second);
			vst1q_s8(to + count - 32, third);
		}
		vst1q_s8(to, first);
		vst1q_s8(to + count - 16, last);
	} else if (count >= 8) {
		const int8x8_t first = vld1_s8(from);
		const int8x8_t last = vld1_s8(from + count - 8);

		vst1_s8(to, first);
		vst1_s8(to + count - 8, last);
	} else if (count >= 4) {
		uint32_t first = 0;
		uint32_t last = 0;

		memcpy(&first, from, sizeof(first));
		memcpy(&last, from + count - 4, sizeof(last));
		memcpy(to, &first, sizeof(first));
		memcpy(to + count - 4, &last, sizeof(last));
	} else if (count) {
		to[0] = from[0];
		to[count / 2] = from[count / 2];
		to[count - 1] = from[count - 1];
	}
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
