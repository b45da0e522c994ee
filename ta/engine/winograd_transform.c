/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The points of interpolation are 0, +-sqrt(1/2), +-sqrt(2) and infinity: with
 * 0, +-1, +-2 the rounding error of random layers is two to six times as large.
 */
#include "winograd_transform.h"
#include "neon.h"

#define TILE   CL_WINOGRAD_TILE
#define WINDOW CL_WINOGRAD_WINDOW
#define PANEL  CL_TILE_COLUMNS

#define ROOT_HALF 0.70710678f
#define ROOT_TWO  1.41421356f

#define INLINE static inline __attribute__((always_inline))

/* a + b * k and a - b * k, rounded once. */
INLINE float32x4_t plus(float32x4_t a, float32x4_t b, float k)
{
	return vfmaq_f32(a, b, vdupq_n_f32(k));
}

INLINE float32x4_t minus(float32x4_t a, float32x4_t b, float k)
{
	return vfmaq_f32(a, b, vdupq_n_f32(-k));
}

/* Up to three floats, zeros behind them. */
static inline float32x4_t load_first(const float *from, size_t count)
{
	float32x4_t v = vdupq_n_f32(0);

	v = vld1q_lane_f32(from, v, 0);
	if (count > 1)
		v = vld1q_lane_f32(from + 1, v, 1);
	if (count > 2)
		v = vld1q_lane_f32(from + 2, v, 2);
	return v;
}

static inline void store_first(float *to, float32x4_t v, size_t count)
{
	vst1q_lane_f32(to, v, 0);
	if (count > 1)
		vst1q_lane_f32(to + 1, v, 1);
	if (count > 2)
		vst1q_lane_f32(to + 2, v, 2);
}

/* ---- Input ---- */

/* Transposed B of the paper, along a window. */
INLINE void transform_input(const float32x4_t *in, float *to, size_t step)
{
	const float32x4_t inner = minus(in[4], in[2], 2.0f);
	const float32x4_t inner_odd = minus(in[3], in[1], 2.0f);
	const float32x4_t outer = minus(in[4], in[2], 0.5f);
	const float32x4_t outer_odd = minus(in[3], in[1], 0.5f);

	vst1q_f32(to, minus(vaddq_f32(in[0], in[4]), in[2], 2.5f));
	vst1q_f32(to + step, plus(inner, inner_odd, ROOT_HALF));
	vst1q_f32(to + 2 * step, minus(inner, inner_odd, ROOT_HALF));
	vst1q_f32(to + 3 * step, plus(outer, outer_odd, ROOT_TWO));
	vst1q_f32(to + 4 * step, minus(outer, outer_odd, ROOT_TWO));
	vst1q_f32(to + 5 * step, minus(vaddq_f32(in[1], in[5]), in[3], 2.5f));
}

/* The input under a row of tiles. */
struct source {
	const uint8_t *rows[WINDOW]; /* NULL outside of the input */
	int64_t x;                   /* of the strip's first window, in the input */
	int64_t width;
	size_t step; /* bytes from one column to the next */
	size_t channel;
	size_t channels; /* of four that exist */
};

INLINE float32x4_t read_row(const struct source *source, unsigned int row, size_t at,
			    const bool inside, const bool four)
{
	const float *from = NULL;

	if (!inside && !source->rows[row])
		return vdupq_n_f32(0);
	from = (const float *)(const void *)(source->rows[row] + at);
	return four ? vld1q_f32(from) : load_first(from, source->channels);
}

/*
 * Four channels of one column, `at` bytes behind the rows' beginnings, down the
 * window. The literals: all rows lie inside of the input, and all four channels
 * exist.
 */
INLINE void read_column(const struct source *source, size_t at, const enum cl_winograd_pair pair,
			const bool inside, const bool four, float32x4_t *first, float32x4_t *second)
{
	const float32x4_t in1 = read_row(source, 1, at, inside, four);
	const float32x4_t in2 = read_row(source, 2, at, inside, four);
	const float32x4_t in3 = read_row(source, 3, at, inside, four);
	const float32x4_t in4 = read_row(source, 4, at, inside, four);

	if (pair == CL_WINOGRAD_ENDS) {
		const float32x4_t in0 = read_row(source, 0, at, inside, four);
		const float32x4_t in5 = read_row(source, 5, at, inside, four);

		*first = minus(vaddq_f32(in0, in4), in2, 2.5f);
		*second = minus(vaddq_f32(in1, in5), in3, 2.5f);
	} else {
		const float square = pair == CL_WINOGRAD_INNER ? 2.0f : 0.5f;
		const float root = pair == CL_WINOGRAD_INNER ? ROOT_HALF : ROOT_TWO;
		const float32x4_t even = minus(in4, in2, square);
		const float32x4_t odd = minus(in3, in1, square);

		*first = plus(even, odd, root);
		*second = minus(even, odd, root);
	}
}

/* The same of column x, zeros where that lies outside. */
INLINE void read_or_zero(const struct source *source, int64_t x, const enum cl_winograd_pair pair,
			 const bool inside, const bool four, float32x4_t *first,
			 float32x4_t *second)
{
	*first = vdupq_n_f32(0);
	*second = vdupq_n_f32(0);
	if (x >= 0 && x < source->width)
		read_column(source, (size_t)x * source->step + source->channel * sizeof(float),
			    pair, inside, four, first, second);
}

/* Four channels of all windows of a strip; windows lie TILE columns apart and
 * overlap. */
INLINE void transform_strip(const struct source *source, unsigned int tiles, float *to,
			    size_t point_step, const enum cl_winograd_pair pair, const bool inside,
			    const bool four)
{
	float32x4_t first[WINDOW];
	float32x4_t second[WINDOW];
	int64_t x = source->x;
	unsigned int j = 0;

#pragma GCC unroll 2
	for (j = 0; j < WINDOW - TILE; j++)
		read_or_zero(source, x + j, pair, inside, four, first + j, second + j);
	for (; tiles; tiles--, x += TILE, to += 4) {
		if (x + WINDOW - TILE >= 0 && x + WINDOW <= source->width) {
			size_t from = (size_t)(x + WINDOW - TILE) * source->step +
				      source->channel * sizeof(float);

#pragma GCC unroll 4
			for (j = WINDOW - TILE; j < WINDOW; j++, from += source->step)
				read_column(source, from, pair, inside, four, first + j,
					    second + j);
		} else {
#pragma GCC unroll 4
			for (j = WINDOW - TILE; j < WINDOW; j++)
				read_or_zero(source, x + j, pair, inside, four, first + j,
					     second + j);
		}
		transform_input(first, to, point_step);
		transform_input(second, to + WINDOW * point_step, point_step);
		first[0] = first[4];
		first[1] = first[5];
		second[0] = second[4];
		second[1] = second[5];
	}
}

INLINE void transform_channels(struct source *source, size_t channels, unsigned int strip_tiles,
			       float *to, unsigned int tiles, const enum cl_winograd_pair pair,
			       const bool inside)
{
	const size_t step = (channels + 3) / 4 * 4 * tiles;

	for (; source->channel + 4 <= channels; source->channel += 4, to += (size_t)tiles * 4)
		transform_strip(source, strip_tiles, to, step, pair, inside, true);
	source->channels = channels - source->channel;
	if (source->channels)
		transform_strip(source, strip_tiles, to, step, pair, false, false);
}

void cl_winograd_input(const struct cl_conv2d *conv, const float *in,
		       const struct cl_winograd_strip *strip, enum cl_winograd_pair pair, float *to,
		       unsigned int tiles)
{
	const float *image = in + (size_t)strip->n * conv->in_h * conv->in_w * conv->in_c;
	const unsigned int end = pair == CL_WINOGRAD_ENDS ? WINDOW : WINDOW - 1;
	struct source source = {
		.x = (int64_t)strip->x - conv->pad_left,
		.width = conv->in_w,
		.step = (size_t)conv->in_c * sizeof(float),
	};
	bool inside = true;
	unsigned int i = 0;

	for (i = pair == CL_WINOGRAD_ENDS ? 0 : 1; i < end; i++) {
		const int64_t y = (int64_t)strip->y - conv->pad_top + i;

		if (y < 0 || y >= conv->in_h)
			inside = false;
		else
			source.rows[i] =
				(const uint8_t *)(image + (size_t)y * conv->in_w * conv->in_c);
	}
	switch (pair) {
	case CL_WINOGRAD_INNER:
		if (inside)
			transform_channels(&source, conv->in_c, strip->count, to, tiles,
					   CL_WINOGRAD_INNER, true);
		else
			transform_channels(&source, conv->in_c, strip->count, to, tiles,
					   CL_WINOGRAD_INNER, false);
		break;
	case CL_WINOGRAD_OUTER:
		if (inside)
			transform_channels(&source, conv->in_c, strip->count, to, tiles,
					   CL_WINOGRAD_OUTER, true);
		else
			transform_channels(&source, conv->in_c, strip->count, to, tiles,
					   CL_WINOGRAD_OUTER, false);
		break;
	default:
		if (inside)
			transform_channels(&source, conv->in_c, strip->count, to, tiles,
					   CL_WINOGRAD_ENDS, true);
		else
			transform_channels(&source, conv->in_c, strip->count, to, tiles,
					   CL_WINOGRAD_ENDS, false);
		break;
	}
}

/* ---- Weights ---- */

/* G, along a row. */
INLINE void transform_weights(const float32x4_t *in, float32x4_t *out)
{
	const float32x4_t inner = minus(vmulq_n_f32(in[0], -2.0f / 3), in[2], 1.0f / 3);
	const float32x4_t outer = plus(vmulq_n_f32(in[0], 1.0f / 6), in[2], 1.0f / 3);

	out[0] = in[0];
	out[1] = minus(inner, in[1], ROOT_HALF * 2 / 3);
	out[2] = plus(inner, in[1], ROOT_HALF * 2 / 3);
	out[3] = plus(outer, in[1], ROOT_TWO / 6);
	out[4] = minus(outer, in[1], ROOT_TWO / 6);
	out[5] = in[2];
}

INLINE void transform_panel(const float *panel, size_t from_step, size_t to_step, float *to,
			    const enum cl_winograd_pair pair)
{
	const float *end = panel + from_step;
	float32x4_t first[3];
	float32x4_t second[3];
	float32x4_t out[WINDOW];
	unsigned int j = 0;

	for (; panel < end; panel += 4, to += 4) {
		const float *from = panel;
		float *at = to;

#pragma GCC unroll 3
		for (j = 0; j < 3; j++, from += from_step) {
			const float32x4_t top = vld1q_f32(from);
			const float32x4_t bottom = vld1q_f32(from + 6 * from_step);

			if (pair == CL_WINOGRAD_ENDS) {
				first[j] = top;
				second[j] = bottom;
			} else {
				const float32x4_t middle = vld1q_f32(from + 3 * from_step);
				const bool inner = pair == CL_WINOGRAD_INNER;
				const float outside = inner ? -2.0f / 3 : 1.0f / 6;
				const float inside = inner ? -ROOT_HALF * 2 / 3 : ROOT_TWO / 6;
				const float32x4_t even = plus(vmulq_n_f32(top, outside), bottom,
							      inner ? -1.0f / 3 : 1.0f / 3);

				first[j] = plus(even, middle, inside);
				second[j] = minus(even, middle, inside);
			}
		}
		transform_weights(first, out);
#pragma GCC unroll 6
		for (j = 0; j < WINDOW; j++, at += to_step)
			vst1q_f32(at, out[j]);
		transform_weights(second, out);
#pragma GCC unroll 6
		for (j = 0; j < WINDOW; j++, at += to_step)
			vst1q_f32(at, out[j]);
	}
}

void cl_winograd_weights(const struct cl_conv2d *conv, const float *panel,
			 enum cl_winograd_pair pair, float *to)
{
	const size_t from_step = (size_t)conv->in_c * PANEL;
	const size_t to_step = cl_winograd_depth(conv) * PANEL;
	size_t at = 0;
	unsigned int j = 0;

	switch (pair) {
	case CL_WINOGRAD_INNER:
		transform_panel(panel, from_step, to_step, to, CL_WINOGRAD_INNER);
		break;
	case CL_WINOGRAD_OUTER:
		transform_panel(panel, from_step, to_step, to, CL_WINOGRAD_OUTER);
		break;
	default:
		transform_panel(panel, from_step, to_step, to, CL_WINOGRAD_ENDS);
		break;
	}
	for (at = from_step; at < to_step; at += 4)
		for (j = 0; j < CL_WINOGRAD_PRODUCTS; j++)
			vst1q_f32(to + at + j * to_step, vdupq_n_f32(0));
}

/* ---- Results ---- */

/* Transposed A, along a tile: six sums to four results. */
INLINE void transform_sums(const float *sums, float32x4_t *out)
{
	float32x4_t in[WINDOW];
	unsigned int j = 0;

#pragma GCC unroll 6
	for (j = 0; j < WINDOW; j++)
		in[j] = vld1q_f32(sums + (size_t)j * CL_WINOGRAD_BLOCK * PANEL);

	const float32x4_t inner = vaddq_f32(in[1], in[2]);
	const float32x4_t inner_odd = vsubq_f32(in[1], in[2]);
	const float32x4_t outer = vaddq_f32(in[3], in[4]);
	const float32x4_t outer_odd = vsubq_f32(in[3], in[4]);

	out[0] = vaddq_f32(vaddq_f32(in[0], inner), outer);
	out[1] = vmulq_n_f32(plus(inner_odd, outer_odd, 2.0f), ROOT_HALF);
	out[2] = vmulq_n_f32(plus(inner, outer, 4.0f), 0.5f);
	out[3] = plus(in[5], plus(inner_odd, outer_odd, 8.0f), ROOT_HALF / 2);
}

/* What stays the same for the tiles of a strip. */
struct target {
	float32x4_t bias;
	float32x4_t low;
	float32x4_t high;
	float32x4_t factors[TILE]; /* of the rows that a pair adds */
	size_t row_step;
	size_t column_step;
	unsigned int rows; /* of results that lie inside */
	size_t channels;   /* of four that exist */
};

/*
 * Transposed A, down a tile: what a pair adds to each of TILE rows, the sum of its two rows and
 * the difference by turns, is multiplied by this.
 */
static const float row_factors[CL_WINOGRAD_PAIRS][TILE] = {
	{1, ROOT_HALF, 0.5f, ROOT_HALF / 2},
	{1, ROOT_TWO, 2, 2 * ROOT_TWO},
	{1, 0, 0, 1},
};

INLINE float32x4_t clip(const struct target *target, float32x4_t v)
{
	return vminq_f32(vmaxq_f32(v, target->low), target->high);
}

/* One row of a tile: the results inside, TILE unless `columns` is less. */
INLINE void add_row(const struct target *target, float *at, const float32x4_t *values,
		    const float32x4_t factor, const bool fresh, const bool complete,
		    const unsigned int columns, const bool four)
{
	const size_t step = target->column_step;
	unsigned int j = 0;

#pragma GCC unroll 4
	for (j = 0; j < columns; j++, at += step) {
		float32x4_t v = target->bias;

		if (!fresh)
			v = four ? vld1q_f32(at) : load_first(at, target->channels);
		v = vfmaq_f32(v, values[j], factor);
		if (complete)
			v = clip(target, v);
		if (four)
			vst1q_f32(at, v);
		else
			store_first(at, v, target->channels);
	}
}

/* Four channels of one tile; with the literal `whole` all of it lies inside. */
INLINE void add_tile(const struct target *target, const float *sums, float *out,
		     const enum cl_winograd_pair pair, const unsigned int columns, const bool whole)
{
	const float *second_sums = sums + (size_t)WINDOW * CL_WINOGRAD_BLOCK * PANEL;
	const unsigned int rows = whole ? TILE : target->rows;
	const bool fresh = pair == CL_WINOGRAD_INNER;
	const bool four = whole || target->channels >= 4;
	float32x4_t first[TILE];
	float32x4_t second[TILE];
	unsigned int j = 0;

	transform_sums(sums, first);
	transform_sums(second_sums, second);
	if (pair == CL_WINOGRAD_ENDS) {
		add_row(target, out, first, target->factors[0], false, true, columns, four);
		if (rows == TILE)
			add_row(target, out + 3 * target->row_step, second, target->factors[3],
				false, true, columns, four);
		return;
	}
#pragma GCC unroll 4
	for (j = 0; j < TILE; j++) {
		const float32x4_t even = vaddq_f32(first[j], second[j]);

		second[j] = vsubq_f32(first[j], second[j]);
		first[j] = even;
	}
#pragma GCC unroll 4
	for (j = 0; j < TILE; j++) {
		/* The ends still follow in the first and the last row. */
		const bool complete = pair == CL_WINOGRAD_OUTER && j % 3;

		if (j < rows)
			add_row(target, out, j % 2 ? second : first, target->factors[j], fresh,
				complete, columns, four);
		out += target->row_step;
	}
}

/* Tiles that reach beyond the results, and channels that fill no vector. */
static __attribute__((noinline)) void add_partial(const struct target *target, const float *sums,
						  float *out, enum cl_winograd_pair pair,
						  unsigned int columns)
{
	if (pair == CL_WINOGRAD_INNER)
		add_tile(target, sums, out, CL_WINOGRAD_INNER, columns, false);
	else if (pair == CL_WINOGRAD_OUTER)
		add_tile(target, sums, out, CL_WINOGRAD_OUTER, columns, false);
	else
		add_tile(target, sums, out, CL_WINOGRAD_ENDS, columns, false);
}

/* Four channels of a strip with so many columns of results. */
INLINE void add_strip(const struct target *from, const float *sums, float *out,
		      const enum cl_winograd_pair pair, unsigned int columns)
{
	const struct target target = *from;
	const size_t step = TILE * target.column_step;

	if (target.rows == TILE && target.channels >= 4)
		for (; columns >= TILE; columns -= TILE, sums += PANEL, out += step)
			add_tile(&target, sums, out, pair, TILE, true);
	for (; columns; sums += PANEL, out += step) {
		const unsigned int count = columns < TILE ? columns : TILE;

		add_partial(from, sums, out, pair, count);
		columns -= count;
	}
}

void cl_winograd_begin(const struct cl_conv2d *conv, const float *bias, const float *scales,
		       enum cl_winograd_pair pair, size_t channel, struct cl_winograd_start *start)
{
	const float *factors = row_factors[pair];
	unsigned int i = 0;
	unsigned int j = 0;

	for (i = 0; i < 2 && channel < conv->out_c; i++, channel += 4) {
		const size_t count = conv->out_c - channel;
		float32x4_t scale = vdupq_n_f32(1);
		float32x4_t first = vdupq_n_f32(0);

		if (bias)
			first = count >= 4 ? vld1q_f32(bias + channel)
					   : load_first(bias + channel, count);
		if (scales) {
			scale = count >= 4 ? vld1q_f32(scales + channel)
					   : load_first(scales + channel, count);
			first = vmulq_f32(first, scale);
		}
		vst1q_f32(start->bias + i * 4, first);
#pragma GCC unroll 4
		for (j = 0; j < TILE; j++)
			vst1q_f32(start->factors[i][j], vmulq_n_f32(scale, factors[j]));
	}
}

void cl_winograd_results(const struct cl_conv2d *conv, const struct cl_fusion *fusion,
			 const float *sums, const struct cl_winograd_start *start,
			 const struct cl_winograd_strip *strip, enum cl_winograd_pair pair,
			 size_t channel, float *out)
{
	const uint32_t wanted = strip->count * TILE;
	const uint32_t columns = wanted < conv->out_w - strip->x ? wanted : conv->out_w - strip->x;
	const uint32_t rows = conv->out_h - strip->y;
	const bool low = fusion->kind == CL_FUSED_RELU || fusion->kind == CL_FUSED_CLIP;
	const bool high = fusion->kind == CL_FUSED_CLIP;
	struct target target = {
		.bias = vdupq_n_f32(0),
		.low = vdupq_n_f32(low ? fusion->low : -__builtin_inff()),
		.high = vdupq_n_f32(high ? fusion->high : __builtin_inff()),
		.row_step = (size_t)conv->out_w * conv->out_c,
		.column_step = conv->out_c,
		.rows = rows < TILE ? rows : TILE,
	};
	size_t end = channel + PANEL < conv->out_c ? channel + PANEL : conv->out_c;
	const float *at = start->bias;
	const float(*factors)[4] = start->factors[0];
	unsigned int j = 0;

	out += (((size_t)strip->n * conv->out_h + strip->y) * conv->out_w + strip->x) * conv->out_c;
	for (; channel < end; channel += 4, sums += 4, at += 4, factors += TILE) {
		target.channels = end - channel;
		target.bias = vld1q_f32(at);
#pragma GCC unroll 4
		for (j = 0; j < TILE; j++)
			target.factors[j] = vld1q_f32(factors[j]);
		if (pair == CL_WINOGRAD_INNER)
			add_strip(&target, sums, out + channel, CL_WINOGRAD_INNER, columns);
		else if (pair == CL_WINOGRAD_OUTER)
			add_strip(&target, sums, out + channel, CL_WINOGRAD_OUTER, columns);
		else
			add_strip(&target, sums, out + channel, CL_WINOGRAD_ENDS, columns);
	}
}
