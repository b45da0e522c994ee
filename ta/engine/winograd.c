/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 3x3 convolution in the form F(4x4, 3x3) of S. Winograd (A. Lavin, S. Gray, "Fast
 * Algorithms for Convolutional Neural Networks", 2016): a tile of 4x4 results takes 36
 * products for each pair of channels and not 144.
 *
 * The points of interpolation are 0, +-sqrt(1/2), +-sqrt(2) and infinity: with 0, +-1, +-2
 * the rounding error of random layers is two to six times as large. Weights are transformed
 * here, panel by panel, and not ahead: that is about one instruction for each of their bytes,
 * where four times the bytes would have to be stored in secure memory and decrypted.
 *
 * A value that is not finite makes all results of the tiles that read it NaN.
 */
#include "winograd.h"
#include "bounds.h"
#include "neon.h"
#include "packed.h"
#include "tile.h"

#define TILE   4 /* results of one tile, along each axis */
#define WINDOW 6 /* what they read */
#define POINTS (WINDOW * WINDOW)
#define BLOCK  8  /* tiles of one matrix product */
#define SLICE  16 /* channels whose input is transformed together */
/* Input columns under a row of BLOCK tiles. */
#define COLUMNS (BLOCK * TILE + WINDOW - TILE)
#define PANEL   CL_TILE_COLUMNS

/* Floats of scratch, as cloister_format.h has them in bytes: half-transformed input, later sums. */
#define WORK_FLOATS ((size_t)WINDOW * COLUMNS * SLICE)
_Static_assert(WORK_FLOATS >= (size_t)POINTS * BLOCK * PANEL, "sums fit as well");

#define ROOT_HALF 0.70710678f
#define ROOT_TWO  1.41421356f

static uint64_t depth_of(const struct cl_conv2d *conv)
{
	return ((uint64_t)conv->in_c + 3) / 4 * 4;
}

/* Tiles of the whole output; false when they do not fit. */
static bool count_tiles(const struct cl_conv2d *conv, uint64_t *tiles)
{
	const uint32_t factors[] = {
		conv->batch,
		conv->out_h / TILE + !!(conv->out_h % TILE),
		conv->out_w / TILE + !!(conv->out_w % TILE),
	};

	return cl_product(factors, 3, tiles);
}

uint64_t cl_winograd_scratch(const struct cl_conv2d *conv, uint32_t tiles)
{
	uint64_t present = 0;
	uint64_t transformed = 0;
	uint64_t size = 0;

	if (!conv->in_c || !count_tiles(conv, &present))
		return UINT64_MAX;
	if (tiles > present)
		tiles = (uint32_t)present;
	if (!cl_mul(depth_of(conv) * POINTS, (uint64_t)tiles + PANEL, &transformed) ||
	    !cl_add(transformed, WORK_FLOATS, &size) || !cl_mul(size, sizeof(float), &size))
		return UINT64_MAX;
	return size;
}

static enum cl_status winograd_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	enum cl_status status = cl_conv_check_common(conv, memory);
	uint64_t weight_count = 0;

	if (status != CL_OK)
		return status;
	if (conv->kernel_h != 3 || conv->kernel_w != 3 || conv->stride_h != 1 ||
	    conv->stride_w != 1 || conv->dilation_h != 1 || conv->dilation_w != 1 ||
	    conv->group != 1)
		return CL_BAD_FORMAT;

	const uint32_t weight_factors[] = {
		conv->out_c / PANEL + !!(conv->out_c % PANEL), 3, 3, conv->in_c, PANEL,
	};

	if (!cl_product(weight_factors, 5, &weight_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->weights, memory, weight_count, sizeof(float)) ||
	    !cl_can_write(&conv->scratch, memory, cl_winograd_scratch(conv, 1), 1))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* a + b * k and a - b * k, rounded once. */
static inline float32x4_t plus(float32x4_t a, float32x4_t b, float k)
{
	return vfmaq_f32(a, b, vdupq_n_f32(k));
}

static inline float32x4_t minus(float32x4_t a, float32x4_t b, float k)
{
	return vfmaq_f32(a, b, vdupq_n_f32(-k));
}

/* Transposed B of the paper: six values of the input. */
static inline __attribute__((always_inline)) void transform_input(const float32x4_t *in,
								  float32x4_t *out)
{
	const float32x4_t inner = minus(in[4], in[2], 2.0f);
	const float32x4_t inner_odd = minus(in[3], in[1], 2.0f);
	const float32x4_t outer = minus(in[4], in[2], 0.5f);
	const float32x4_t outer_odd = minus(in[3], in[1], 0.5f);

	out[0] = minus(vaddq_f32(in[0], in[4]), in[2], 2.5f);
	out[1] = plus(inner, inner_odd, ROOT_HALF);
	out[2] = minus(inner, inner_odd, ROOT_HALF);
	out[3] = plus(outer, outer_odd, ROOT_TWO);
	out[4] = minus(outer, outer_odd, ROOT_TWO);
	out[5] = minus(vaddq_f32(in[1], in[5]), in[3], 2.5f);
}

/* G: three weights. */
static inline __attribute__((always_inline)) void transform_weights(const float32x4_t *in,
								    float32x4_t *out)
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

/* Transposed A: six sums to four results. */
static inline __attribute__((always_inline)) void transform_sums(const float32x4_t *in,
								 float32x4_t *out)
{
	const float32x4_t inner = vaddq_f32(in[1], in[2]);
	const float32x4_t inner_odd = vsubq_f32(in[1], in[2]);
	const float32x4_t outer = vaddq_f32(in[3], in[4]);
	const float32x4_t outer_odd = vsubq_f32(in[3], in[4]);

	out[0] = vaddq_f32(vaddq_f32(in[0], inner), outer);
	out[1] = vmulq_n_f32(plus(inner_odd, outer_odd, 2.0f), ROOT_HALF);
	out[2] = vmulq_n_f32(plus(inner, outer, 4.0f), 0.5f);
	out[3] = plus(in[5], plus(inner_odd, outer_odd, 8.0f), ROOT_HALF / 2);
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

/* Neighbouring tiles of one row of tiles. */
struct strip {
	const float *image; /* the input of their batch */
	int64_t y;          /* of the first one's window, in the input */
	int64_t x;
	unsigned int count;
};

/*
 * The windows of a strip transformed along y, for `channels` channels from `first` on (the
 * last ones may be missing in the input): half[WINDOW][COLUMNS][SLICE].
 */
static void transform_down(const struct cl_conv2d *conv, const struct strip *strip, size_t first,
			   size_t channels, float *half)
{
	static const float zeros[SLICE] = {0};
	const unsigned int columns = strip->count * TILE + WINDOW - TILE;
	const size_t present = conv->in_c - first < channels ? conv->in_c - first : channels;
	const float *rows[WINDOW] = {NULL};
	size_t steps[WINDOW] = {0};
	float32x4_t in[WINDOW];
	float32x4_t out[WINDOW];
	unsigned int column = 0;
	unsigned int i = 0;
	size_t c = 0;

	for (i = 0; i < WINDOW; i++) {
		const int64_t y = strip->y + i;
		const int64_t x = strip->x < 0 ? 0 : strip->x;

		rows[i] = zeros;
		if (y >= 0 && y < conv->in_h && x < conv->in_w) {
			rows[i] = strip->image + ((size_t)y * conv->in_w + (size_t)x) * conv->in_c +
				  first;
			steps[i] = conv->in_c;
		}
	}
	for (column = 0; column < columns; column++, half += SLICE) {
		const int64_t x = strip->x + column;

		if (x < 0 || x >= conv->in_w) {
			for (i = 0; i < WINDOW; i++)
				for (c = 0; c < channels; c += 4)
					vst1q_f32(half + (size_t)i * COLUMNS * SLICE + c,
						  vdupq_n_f32(0));
			continue;
		}
		for (c = 0; c + 4 <= present; c += 4) {
			for (i = 0; i < WINDOW; i++)
				in[i] = vld1q_f32(rows[i] + c);
			transform_input(in, out);
			for (i = 0; i < WINDOW; i++)
				vst1q_f32(half + (size_t)i * COLUMNS * SLICE + c, out[i]);
		}
		if (c < present) {
			for (i = 0; i < WINDOW; i++)
				in[i] = load_first(rows[i] + c, present - c);
			transform_input(in, out);
			for (i = 0; i < WINDOW; i++)
				vst1q_f32(half + (size_t)i * COLUMNS * SLICE + c, out[i]);
		}
		for (i = 0; i < WINDOW; i++)
			rows[i] += steps[i];
	}
}

/* One tile along x: to[POINTS], `step` floats apart. */
static inline void transform_across(const float *half, float *to, size_t step)
{
	float32x4_t in[WINDOW];
	float32x4_t out[WINDOW];
	unsigned int i = 0;
	unsigned int j = 0;

	for (i = 0; i < WINDOW; i++) {
		for (j = 0; j < WINDOW; j++)
			in[j] = vld1q_f32(half + j * SLICE);
		transform_input(in, out);
		for (j = 0; j < WINDOW; j++)
			vst1q_f32(to + j * step, out[j]);
		half += (size_t)COLUMNS * SLICE;
		to += WINDOW * step;
	}
}

/* Where a tile lies. */
struct place {
	uint32_t n;
	uint32_t y; /* in tiles */
	uint32_t x;
};

static void advance(const struct cl_conv2d *conv, struct place *place, unsigned int count)
{
	place->x += count;
	if (place->x * (uint64_t)TILE < conv->out_w)
		return;
	place->x = 0;
	if (++place->y * (uint64_t)TILE < conv->out_h)
		return;
	place->y = 0;
	place->n++;
}

/* Tiles from `place` on in its row, `most` at most. */
static unsigned int tiles_in_row(const struct cl_conv2d *conv, const struct place *place,
				 unsigned int most)
{
	const uint32_t left = conv->out_w / TILE + !!(conv->out_w % TILE) - place->x;

	return left < most ? left : most;
}

/* The input of `count` tiles, which are then behind `next`: block[POINTS][depth / 4][count][4]. */
static void transform_block(const struct cl_conv2d *conv, const float *in, struct place *next,
			    unsigned int count, float *half, float *block)
{
	const size_t depth = (size_t)depth_of(conv);
	unsigned int done = 0;
	unsigned int i = 0;
	size_t first = 0;
	size_t c = 0;

	while (done < count) {
		struct strip strip = {
			.image = in + (size_t)next->n * conv->in_h * conv->in_w * conv->in_c,
			.y = (int64_t)next->y * TILE - conv->pad_top,
			.x = (int64_t)next->x * TILE - conv->pad_left,
			.count = tiles_in_row(conv, next, count - done),
		};

		for (first = 0; first < depth; first += SLICE) {
			const size_t channels = depth - first < SLICE ? depth - first : SLICE;

			transform_down(conv, &strip, first, channels, half);
			for (i = 0; i < strip.count; i++)
				for (c = 0; c < channels; c += 4)
					transform_across(half + (size_t)i * TILE * SLICE + c,
							 block + (first + c) * count +
								 (size_t)(done + i) * 4,
							 depth * count);
		}
		done += strip.count;
		advance(conv, next, strip.count);
	}
}

/* One panel of weights, [3][3][in_c][8], to[POINTS][depth][8]. */
static void transform_panel(const struct cl_conv2d *conv, const float *weights, float *to)
{
	const size_t depth = (size_t)depth_of(conv);
	const size_t from_step = (size_t)conv->in_c * PANEL;
	const size_t to_step = depth * PANEL;
	float32x4_t down[3][WINDOW];
	float32x4_t in[3];
	float32x4_t out[WINDOW];
	unsigned int i = 0;
	unsigned int j = 0;
	size_t at = 0;

	for (at = 0; at < from_step; at += 4) {
		float *row = to + at;

		for (j = 0; j < 3; j++) {
			for (i = 0; i < 3; i++)
				in[i] = vld1q_f32(weights + at + (i * 3 + j) * from_step);
			transform_weights(in, down[j]);
		}
		for (i = 0; i < WINDOW; i++) {
			for (j = 0; j < 3; j++)
				in[j] = down[j][i];
			transform_weights(in, out);
			for (j = 0; j < WINDOW; j++)
				vst1q_f32(row + j * to_step, out[j]);
			row += WINDOW * to_step;
		}
	}
	for (; at < to_step; at += 4)
		for (i = 0; i < POINTS; i++)
			vst1q_f32(to + at + i * to_step, vdupq_n_f32(0));
}

/* What a tile's results become. */
struct target {
	float *out; /* its first result's channel */
	size_t row_step;
	size_t column_step;
	unsigned int rows; /* those inside of the output */
	unsigned int columns;
};

static __attribute__((noinline)) void store_channels(const struct target *target,
						     const float32x4_t *results, size_t channels)
{
	float lanes[4] = {0};
	unsigned int i = 0;
	unsigned int j = 0;
	size_t c = 0;

	for (i = 0; i < target->rows; i++) {
		for (j = 0; j < target->columns; j++) {
			vst1q_f32(lanes, results[i * TILE + j]);
			for (c = 0; c < channels; c++)
				target->out[i * target->row_step + j * target->column_step + c] =
					lanes[c];
		}
	}
}

/*
 * sums[POINTS], BLOCK * PANEL floats apart, of four channels: biased and activated, to the
 * output where the literal `whole` says that all results lie inside, else to results[TILE * TILE].
 */
static inline __attribute__((always_inline)) void
transform_tile(const float *sums, float32x4_t bias, const struct cl_fusion *fusion,
	       const struct target *target, float32x4_t *results, const bool whole)
{
	const bool low = fusion->kind == CL_FUSED_RELU || fusion->kind == CL_FUSED_CLIP;
	const bool high = fusion->kind == CL_FUSED_CLIP;
	const float32x4_t least = vdupq_n_f32(fusion->low);
	const float32x4_t most = vdupq_n_f32(fusion->high);
	const size_t step = target->column_step;
	float *row = target->out;
	float32x4_t down[WINDOW][TILE];
	float32x4_t in[WINDOW];
	float32x4_t out[TILE];
	unsigned int i = 0;
	unsigned int j = 0;

#pragma GCC unroll 6
	for (j = 0; j < WINDOW; j++) {
#pragma GCC unroll 6
		for (i = 0; i < WINDOW; i++)
			in[i] = vld1q_f32(sums + (size_t)(i * WINDOW + j) * BLOCK * PANEL);
		transform_sums(in, down[j]);
	}
#pragma GCC unroll 4
	for (i = 0; i < TILE; i++) {
#pragma GCC unroll 6
		for (j = 0; j < WINDOW; j++)
			in[j] = down[j][i];
		transform_sums(in, out);
#pragma GCC unroll 4
		for (j = 0; j < TILE; j++)
			out[j] = vaddq_f32(out[j], bias);
		if (low)
#pragma GCC unroll 4
			for (j = 0; j < TILE; j++)
				out[j] = vmaxq_f32(out[j], least);
		if (high)
#pragma GCC unroll 4
			for (j = 0; j < TILE; j++)
				out[j] = vminq_f32(out[j], most);
#pragma GCC unroll 4
		for (j = 0; j < TILE; j++)
			vst1q_f32(whole ? row + j * step : (float *)(results + i * TILE + j),
				  out[j]);
		row += target->row_step;
	}
}

/* Results of one tile, of which `channels` of four exist. */
static void finish_tile(const float *sums, float32x4_t bias, const struct cl_fusion *fusion,
			const struct target *target, size_t channels)
{
	float32x4_t results[TILE * TILE];
	unsigned int i = 0;
	unsigned int j = 0;

	if (target->rows == TILE && target->columns == TILE && channels >= 4) {
		transform_tile(sums, bias, fusion, target, NULL, true);
		return;
	}
	transform_tile(sums, bias, fusion, target, results, false);
	if (channels < 4) {
		store_channels(target, results, channels);
		return;
	}
	for (i = 0; i < target->rows; i++)
		for (j = 0; j < target->columns; j++)
			vst1q_f32(target->out + i * target->row_step + j * target->column_step,
				  results[i * TILE + j]);
}

/* Everything that stays the same while one convolution runs. */
struct run {
	const struct cl_conv2d *conv;
	const float *in;
	const float *bias;
	float *out;
	struct cl_fusion fusion;
	float *work;
	float *weights; /* transformed, of one panel */
	float *blocks;  /* transformed input of the tiles at hand */
};

/* Results of `count` tiles for the panel of output channels from `channel` on. */
static void finish_block(const struct run *run, struct place *next, unsigned int count,
			 size_t channel)
{
	const struct cl_conv2d *conv = run->conv;
	const size_t channels = conv->out_c - channel;
	float32x4_t bias[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
	unsigned int i = 0;

	if (run->bias) {
		bias[0] = channels >= 4 ? vld1q_f32(run->bias + channel)
					: load_first(run->bias + channel, channels);
		if (channels > 4)
			bias[1] = channels >= 8 ? vld1q_f32(run->bias + channel + 4)
						: load_first(run->bias + channel + 4, channels - 4);
	}
	for (i = 0; i < count; i++) {
		const uint64_t y = (uint64_t)next->y * TILE;
		const uint64_t x = (uint64_t)next->x * TILE;
		struct target target = {
			.out = run->out +
			       (((size_t)next->n * conv->out_h + y) * conv->out_w + x) *
				       conv->out_c +
			       channel,
			.row_step = (size_t)conv->out_w * conv->out_c,
			.column_step = conv->out_c,
			.rows = conv->out_h - y < TILE ? (unsigned int)(conv->out_h - y) : TILE,
			.columns = conv->out_w - x < TILE ? (unsigned int)(conv->out_w - x) : TILE,
		};
		const float *sums = run->work + (size_t)i * PANEL;

		finish_tile(sums, bias[0], &run->fusion, &target, channels);
		if (channels > 4) {
			target.out += 4;
			finish_tile(sums + 4, bias[1], &run->fusion, &target, channels - 4);
		}
		advance(conv, next, 1);
	}
}

/* Tiles of the next of equal parts of `left` ones, each at most `most`. */
static unsigned int part_of(uint64_t left, uint32_t most)
{
	const uint64_t parts = (left + most - 1) / most;

	return (unsigned int)((left + parts - 1) / parts);
}

static void winograd_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	const float *weights = cl_source(&conv->weights, memory);
	const size_t depth = (size_t)depth_of(conv);
	const size_t tile_floats = depth * POINTS;
	struct run run = {.conv = conv};
	struct place first = {0};
	uint64_t tiles = 0;
	uint64_t room = 0;
	unsigned int group = 0;

	run.in = cl_source(&conv->in, memory);
	run.bias = cl_source(&conv->bias, memory);
	run.out = cl_target(&conv->out, memory);
	run.work = cl_target(&conv->scratch, memory);
	run.weights = run.work + WORK_FLOATS;
	run.blocks = run.weights + tile_floats * PANEL;
	cl_fusion_init(&run.fusion, &conv->activation);
	(void)count_tiles(conv, &tiles); /* the check saw that they fit */
	/* The check saw that there is room for one tile; what goes beyond whole blocks is of no
	 * use. */
	room = (conv->scratch.size / sizeof(float) - WORK_FLOATS) / tile_floats - PANEL;
	if (room > BLOCK)
		room -= room % BLOCK;
	for (; tiles; tiles -= group) {
		struct place next = first;
		float *block = run.blocks;
		unsigned int left = 0;
		size_t channel = 0;

		group = part_of(tiles, (uint32_t)(room < UINT32_MAX ? room : UINT32_MAX));
		for (left = group; left;) {
			const unsigned int count = part_of(left, BLOCK);

			transform_block(conv, run.in, &next, count, run.work, block);
			block += tile_floats * count;
			left -= count;
		}
		for (channel = 0; channel < conv->out_c; channel += PANEL) {
			struct place at = first;

			transform_panel(conv, weights + channel * 9 * conv->in_c, run.weights);
			block = run.blocks;
			for (left = group; left;) {
				const unsigned int count = part_of(left, BLOCK);

				cl_packed_tiles(block, run.weights, depth, POINTS, count, run.work);
				finish_block(&run, &at, count, channel);
				block += tile_floats * count;
				left -= count;
			}
		}
		first = next;
	}
	cl_fusion_finish(&run.fusion, run.out,
			 (size_t)conv->batch * conv->out_h * conv->out_w * conv->out_c);
}

const struct cl_kernel_ops cl_winograd_kernel = {
	.record_size = sizeof(struct cl_conv2d),
	.check = winograd_check,
	.run = winograd_run,
};
