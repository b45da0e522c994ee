/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both operands lie with the depth innermost, so that a product of two vectors
 * is 16 products of one sum: two widening multiplies and one pairwise add. The four
 * partial sums of every output are added up at the end.
 */
#include "tile_s8.h"

#include <string.h>

#define ROWS 4 /* computed together */

#define STEP_SIZE ((size_t)CL_S8_COLUMNS * CL_S8_STEP) /* bytes of a panel's weights */

/* Adds 16 products to the partial sums of each of four columns, in an order that waits for none. */
static inline __attribute__((always_inline)) void
add_products(int32x4_t *sums, int8x16_t a, const int8_t *weights, const bool any)
{
	const int8x16_t b[CL_S8_COLUMNS] = {
		vld1q_s8(weights),
		vld1q_s8(weights + CL_S8_STEP),
		vld1q_s8(weights + 2 * CL_S8_STEP),
		vld1q_s8(weights + 3 * CL_S8_STEP),
	};
	int16x8_t products[CL_S8_COLUMNS];
	unsigned int c = 0;

	for (c = 0; c < CL_S8_COLUMNS; c++)
		products[c] = vmull_s8(vget_low_s8(a), vget_low_s8(b[c]));
	if (any) { /* -128 * -128 twice is beyond 16 bits */
		for (c = 0; c < CL_S8_COLUMNS; c++) {
			sums[c] = vpadalq_s16(sums[c], products[c]);
			products[c] = vmull_high_s8(a, b[c]);
		}
	} else {
		for (c = 0; c < CL_S8_COLUMNS; c++)
			products[c] = vmlal_high_s8(products[c], a, b[c]);
	}
	for (c = 0; c < CL_S8_COLUMNS; c++)
		sums[c] = vpadalq_s16(sums[c], products[c]);
}

#if defined(__aarch64__)
/*
 * The inner loop in assembly: it takes all 32 registers, 16 of them for the sums,
 * and GCC 12 moves sums out of registers in every form that we tried (up to a
 * third more instructions). Two steps at a time, so that loads come in pairs.
 *
 * v0-v3 products; v4, v5 and v14, v15 the bytes of even and odd rows; v6-v9 and
 * v10-v13 the weights of the two steps. `sum` is saddlp in the first turn, which
 * begins the sums, and sadalp then.
 */
#define ASM_MULTIPLY(a, b0, b1, b2, b3)                                                            \
	"smull  v0.8h, " a ".8b, " b0 ".8b\n"                                                      \
	"smull  v1.8h, " a ".8b, " b1 ".8b\n"                                                      \
	"smull  v2.8h, " a ".8b, " b2 ".8b\n"                                                      \
	"smull  v3.8h, " a ".8b, " b3 ".8b\n"                                                      \
	"smlal2 v0.8h, " a ".16b, " b0 ".16b\n"                                                    \
	"smlal2 v1.8h, " a ".16b, " b1 ".16b\n"                                                    \
	"smlal2 v2.8h, " a ".16b, " b2 ".16b\n"                                                    \
	"smlal2 v3.8h, " a ".16b, " b3 ".16b\n"

#define ASM_SUM(sum, row)                                                                          \
	sum " %[s" row "0].4s, v0.8h\n" sum " %[s" row "1].4s, v1.8h\n" sum " %[s" row             \
	    "2].4s, v2.8h\n" sum " %[s" row "3].4s, v3.8h\n"

#define ASM_ROW(sum, row, a0, a1, load_next)                                                       \
	ASM_MULTIPLY(a0, "v6", "v7", "v8", "v9")                                                   \
	load_next ASM_SUM(sum, row) ASM_MULTIPLY(a1, "v10", "v11", "v12", "v13")                   \
		ASM_SUM("sadalp", row)

#define ASM_TWO_STEPS(sum)                                                                         \
	"ldp q4, q5, [%[row0]], #32\n"                                                             \
	"ldp q8, q9, [%[weights], #32]\n"                                                          \
	"ldp q10, q11, [%[weights], #64]\n"                                                        \
	"ldp q12, q13, [%[weights], #96]\n"                                                        \
	"ldp q6, q7, [%[weights]], #128\n" ASM_ROW(sum, "0", "v4", "v5",                           \
						   "ldp q14, q15, [%[row1]], #32\n")               \
		ASM_ROW(sum, "1", "v14", "v15", "ldp q4, q5, [%[row2]], #32\n")                    \
			ASM_ROW(sum, "2", "v4", "v5", "ldp q14, q15, [%[row3]], #32\n")            \
				ASM_ROW(sum, "3", "v14", "v15", "")

#define SUMS_OF(row)                                                                               \
	[s##row##0] "=&w"(sums[row][0]), [s##row##1] "=&w"(sums[row][1]),                          \
		[s##row##2] "=&w"(sums[row][2]), [s##row##3] "=&w"(sums[row][3])

/* Begins the sums of ROWS rows over 2 * pairs steps, pairs > 0; moves the pointers on. */
static inline __attribute__((always_inline)) const int8_t *
begin_four_rows(const int8_t **row, const int8_t *weights, size_t pairs,
		int32x4_t sums[ROWS][CL_S8_COLUMNS])
{
	__asm__ volatile(
		ASM_TWO_STEPS("saddlp") "subs %[pairs], %[pairs], #1\n"
					"b.eq 2f\n"
					"1:\n" ASM_TWO_STEPS(
						"sadalp") "subs %[pairs], %[pairs], #1\n"
							  "b.ne 1b\n"
							  "2:\n"
		: SUMS_OF(0), SUMS_OF(1), SUMS_OF(2),
		  SUMS_OF(3), [row0] "+r"(row[0]), [row1] "+r"(row[1]), [row2] "+r"(row[2]),
		  [row3] "+r"(row[3]), [weights] "+r"(weights), [pairs] "+r"(pairs)
		:
		: "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12",
		  "v13", "v14", "v15", "cc", "memory");
	return weights;
}
#endif

/* The sums of four columns from their partial sums. */
static inline int32x4_t add_up(const int32x4_t *partial)
{
	return vpaddq_s32(vpaddq_s32(partial[0], partial[1]), vpaddq_s32(partial[2], partial[3]));
}

/* Some columns of each row, where a panel is not full. */
static __attribute__((noinline)) void store_some(int8x16_t bytes, int8_t *out, size_t out_stride,
						 unsigned int rows, size_t columns)
{
	int8_t aside[ROWS * CL_S8_COLUMNS] = {0};
	unsigned int r = 0;
	size_t c = 0;

	vst1q_s8(aside, bytes);
	for (r = 0; r < rows; r++)
		for (c = 0; c < columns; c++)
			out[r * out_stride + c] = aside[r * CL_S8_COLUMNS + c];
}

static inline void store_4(int8_t *to, uint32_t bytes)
{
	memcpy(to, &bytes, sizeof(bytes));
}

/* One panel for 1 to ROWS rows; rows and any are literals. */
static inline __attribute__((always_inline)) void run_panel(const struct cl_tile_s8 *tile,
							    const int8_t *in, const int8_t *weights,
							    const struct cl_channels_s8 *channels,
							    int8_t *out, size_t columns,
							    const unsigned int rows, const bool any)
{
	const size_t stride = tile->in_stride;
	const int8_t *row[ROWS] = {in, in + stride, in + 2 * stride, in + 3 * stride};
	int32x4_t sums[ROWS][CL_S8_COLUMNS];
	int32x4_t rounded[ROWS];
	uint32x4_t bytes;
	size_t steps = tile->steps;
	unsigned int r = 0;
	unsigned int c = 0;

#if defined(__aarch64__)
	if (rows == ROWS && !any && steps > 1) {
		weights = begin_four_rows(row, weights, steps / 2, sums);
		steps %= 2;
	} else
#endif
	{
		for (r = 0; r < ROWS; r++)
			for (c = 0; c < CL_S8_COLUMNS; c++)
				sums[r][c] = vdupq_n_s32(0);
	}
	for (; steps > 0; steps--) {
		for (r = 0; r < rows; r++) {
			add_products(sums[r], vld1q_s8(row[r]), weights, any);
			row[r] += CL_S8_STEP;
		}
		weights += STEP_SIZE;
	}

	const int32x4_t bias = vld1q_s32(channels->bias);
	const float32x4_t multiplier = vld1q_f32(channels->multiplier);

	for (r = 0; r < ROWS; r++)
		rounded[r] = r < rows ? cl_round4(vmulq_f32(
						vcvtq_f32_s32(vaddq_s32(add_up(sums[r]), bias)),
						multiplier))
				      : rounded[0];
	bytes = vreinterpretq_u32_s8(
		cl_finish16(&tile->finish, rounded[0], rounded[1], rounded[2], rounded[3]));
	if (columns < CL_S8_COLUMNS) {
		store_some(vreinterpretq_s8_u32(bytes), out, tile->out_stride, rows, columns);
		return;
	}
	store_4(out, vgetq_lane_u32(bytes, 0));
	if (rows > 1)
		store_4(out + tile->out_stride, vgetq_lane_u32(bytes, 1));
	if (rows > 2)
		store_4(out + 2 * tile->out_stride, vgetq_lane_u32(bytes, 2));
	if (rows > 3)
		store_4(out + 3 * tile->out_stride, vgetq_lane_u32(bytes, 3));
}

/* Panel by panel, so that a panel's weights stay in the cache over all rows. */
static inline __attribute__((always_inline)) void run_tile(const struct cl_tile_s8 *tile,
							   size_t row_count, const bool any)
{
	const size_t panel_size = tile->steps * STEP_SIZE;
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
