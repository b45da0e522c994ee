/* SPDX-License-Identifier: BSD-2-Clause */
#if defined(__GNUC__) && !defined(__clang__)
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

#define FOR_LANES(DO)                                                                              \
	DO(0)                                                                                      \
	DO(1)                                                                                      \
	DO(2)                                                                                      \
	DO(3)

#define ACCUMULATORS(r, ...)                                                                       \
	float32x4_t low##r = bias_low;                                                             \
	float32x4_t high##r = bias_high;

#define ROW_POINTER(r, ...) const float *row##r = row_count > (r) ? rows[r] : NULL;

#define LOAD_4(r, ...) const float32x4_t a##r = row_count > (r) ? vld1q_f32(row##r + i) : bias_low;

#define MULTIPLY_ADD_4(r, lane)                                                                    \
	if (row_count > (r)) {                                                                     \
		low##r = vfmaq_laneq_f32(low##r, b_low, a##r, lane);                               \
		high##r = vfmaq_laneq_f32(high##r, b_high, a##r, lane);                            \
	}

#define MULTIPLY_ADD_4_LANE(lane)                                                                  \
	{                                                                                          \
		const float32x4_t b_low = vld1q_f32(weights + 8 * (lane));                         \
		const float32x4_t b_high = vld1q_f32(weights + 8 * (lane) + 4);                    \
                                                                                                   \
		FOR_ROWS(MULTIPLY_ADD_4, lane)                                                     \
	}

#define MULTIPLY_ADD_1(r, ...)                                                                     \
	if (row_count > (r)) {                                                                     \
		const float32x4_t a = vld1q_dup_f32(row##r + i);                                   \
                                                                                                   \
		low##r = vfmaq_f32(low##r, b_low, a);                                              \
		high##r = vfmaq_f32(high##r, b_high, a);                                           \
	}

#define CLAMP(r, ...)                                                                              \
	low##r = vminq_f32(vmaxq_f32(low##r, least), most);                                        \
	high##r = vminq_f32(vmaxq_f32(high##r, least), most);

#define STORE(r, ...)                                                                              \
	if (row_count > (r))                                                                       \
		store(tile->out + (r)*tile->out_stride, low##r, high##r, tile->columns);

/* Stores the first `columns` of eight values. */
static inline __attribute__((always_inline)) void store(float *out, float32x4_t low,
							float32x4_t high, unsigned int columns)
{
	float values[CL_TILE_COLUMNS] = {0};
	unsigned int i = 0;

	if (columns == CL_TILE_COLUMNS) {
		vst1q_f32(out, low);
		vst1q_f32(out + 4, high);
		return;
	}
	vst1q_f32(values, low);
	vst1q_f32(values + 4, high);
	for (i = 0; i < columns; i++)
		out[i] = values[i];
}

/*
 * row_count is a literal in each instance below, so that the rows which are not
 * there vanish. Order of the loads: 16 accumulators, 8 rows and 4 registers of
 * weights leave room among the 32 registers; each lane's sums are independent,
 * which an in-order core needs.
 */
static inline __attribute__((always_inline)) void run_rows(const struct cl_tile *tile,
							   const unsigned int row_count)
{
	const float32x4_t bias_low = vld1q_f32(tile->bias);
	const float32x4_t bias_high = vld1q_f32(tile->bias + 4);
	const float *const *rows = tile->rows;
	const float *weights = tile->weights;
	const size_t end = tile->start + tile->depth;
	const size_t whole = end - tile->depth % 4;
	size_t tap = tile->taps;

	FOR_ROWS(ACCUMULATORS)

	do {
		size_t i = tile->start;

		FOR_ROWS(ROW_POINTER)
		for (; i != whole; i += 4) {
			FOR_ROWS(LOAD_4)
			FOR_LANES(MULTIPLY_ADD_4_LANE)
			weights += 32;
		}
		for (; i < end; i++) {
			const float32x4_t b_low = vld1q_f32(weights);
			const float32x4_t b_high = vld1q_f32(weights + 4);

			FOR_ROWS(MULTIPLY_ADD_1)
			weights += 8;
		}
		rows += CL_TILE_ROWS;
	} while (--tap);

	if (tile->fusion->kind == CL_FUSED_CLAMP) {
		const float32x4_t least = vdupq_n_f32(tile->fusion->low);
		const float32x4_t most = vdupq_n_f32(tile->fusion->high);

		FOR_ROWS(CLAMP)
	}
	FOR_ROWS(STORE)
}

/* Eight rows are nearly all of the work; remainders are done with as few instances as pay. */
void cl_tile_run(const struct cl_tile *tile, unsigned int row_count)
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

void cl_tile_run_panels(const struct cl_tile *tile, unsigned int row_count, const float *bias,
			size_t column_count)
{
	const size_t panel_size = tile->taps * tile->depth * CL_TILE_COLUMNS;
	float own_bias[CL_TILE_COLUMNS] = {0};
	struct cl_tile panel = *tile;
	size_t column = 0;

	for (column = 0; column < column_count; column += CL_TILE_COLUMNS) {
		size_t left = column_count - column;
		size_t i = 0;

		panel.columns = left < CL_TILE_COLUMNS ? (unsigned int)left : CL_TILE_COLUMNS;
		panel.bias = own_bias;
		if (bias && left >= CL_TILE_COLUMNS)
			panel.bias = bias + column;
		else if (bias)
			for (i = 0; i < left; i++)
				own_bias[i] = bias[column + i];
		cl_tile_run(&panel, row_count);
		panel.weights += panel_size;
		panel.out += CL_TILE_COLUMNS;
	}
}

void cl_tile_run_rows(const struct cl_tile *tile, const float *in, size_t row_count,
		      const float *bias, size_t column_count)
{
	const float *rows[CL_TILE_ROWS] = {NULL};
	struct cl_tile strip = *tile;
	size_t row = 0;

	strip.rows = rows;
	for (row = 0; row < row_count; row += CL_TILE_ROWS) {
		const size_t left = row_count - row;
		const unsigned int count = left < CL_TILE_ROWS ? (unsigned int)left : CL_TILE_ROWS;
		unsigned int i = 0;

		for (i = 0; i < count; i++)
			rows[i] = in + (row + i) * tile->depth;
		strip.out = tile->out + row * tile->out_stride;
		cl_tile_run_panels(&strip, count, bias, column_count);
		for (i = 0; i < count; i++)
			cl_fusion_finish(tile->fusion, strip.out + i * tile->out_stride,
					 column_count);
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
		fusion->kind = CL_FUSED_CLAMP;
		fusion->high = __builtin_inff();
		break;
	case CL_UNARY_CLIP:
		fusion->kind = CL_FUSED_CLAMP;
		fusion->low = activation->a;
		fusion->high = activation->b;
		break;
	default:
		break;
	}
}
