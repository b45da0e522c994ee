/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 3x3 convolution in the form F(4x4, 3x3) of S. Winograd (A. Lavin, S. Gray,
 * "Fast Algorithms for Convolutional Neural Networks", 2016): a tile of 4x4
 * results takes 36 products for each pair of channels and not 144.
 *
 * The 36 are computed twelve at a time, for two rows of the points of
 * interpolation, and what these add to the results is summed in the output
 * itself: a third of the transformed input and weights is all that exists at
 * once. Weights are transformed here, panel by panel, and not ahead: that is
 * about one instruction for each of their bytes, where four times the bytes
 * would have to be stored in secure memory and decrypted.
 *
 * A value that is not finite makes all results of the tiles that read it NaN.
 */
#include "winograd.h"
#include "bounds.h"
#include "packed.h"
#include "scaled.h"
#include "winograd_transform.h"

#define TILE  CL_WINOGRAD_TILE
#define BLOCK CL_WINOGRAD_BLOCK
#define PANEL CL_TILE_COLUMNS

/* Floats of scratch for the products of a block with a panel. */
#define SUM_FLOATS ((size_t)CL_WINOGRAD_PRODUCTS * BLOCK * PANEL)

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
	if (!cl_mul(cl_winograd_depth(conv) * CL_WINOGRAD_PRODUCTS, (uint64_t)tiles + PANEL,
		    &transformed) ||
	    !cl_add(transformed, SUM_FLOATS, &size) || !cl_mul(size, sizeof(float), &size))
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

/* Everything that stays the same while one convolution runs. */
struct run {
	const struct cl_conv2d *conv;
	const float *in;
	const float *weights;
	const float *bias;
	const float *scales;
	float *out;
	struct cl_fusion fusion;
	size_t depth;
	float *sums;
	float *panel;  /* transformed weights: [PRODUCTS][depth][PANEL] */
	float *blocks; /* transformed input of the tiles at hand, BLOCK by BLOCK */
};

/* Takes the next tiles of one row of tiles, `most` at most; `place` is then
 * behind them. */
static void take_strip(const struct cl_conv2d *conv, struct cl_winograd_strip *place,
		       unsigned int most, struct cl_winograd_strip *strip)
{
	const uint32_t left = (conv->out_w - place->x - 1) / TILE + 1;

	*strip = *place;
	strip->count = left < most ? left : most;
	if (strip->count < left) {
		place->x += strip->count * TILE;
		return;
	}
	place->x = 0;
	if (conv->out_h - place->y > TILE) {
		place->y += TILE;
		return;
	}
	place->y = 0;
	place->n++;
}

/* Tiles of the next of equal parts of `left` ones, each at most `most`. */
static unsigned int part_of(uint64_t left, uint32_t most)
{
	const uint64_t parts = (left + most - 1) / most;

	return (unsigned int)((left + parts - 1) / parts);
}

/* The input of `group` tiles; `place` is then behind them. */
static void transform_group(const struct run *run, struct cl_winograd_strip *place,
			    unsigned int group, enum cl_winograd_pair pair)
{
	struct cl_winograd_strip strip = {0};
	float *block = run->blocks;
	unsigned int done = 0;

	while (group) {
		const unsigned int count = part_of(group, BLOCK);

		for (done = 0; done < count; done += strip.count) {
			take_strip(run->conv, place, count - done, &strip);
			cl_winograd_input(run->conv, run->in, &strip, pair, block + done * 4,
					  count);
		}
		block += run->depth * CL_WINOGRAD_PRODUCTS * count;
		group -= count;
	}
}

/* The same tiles times one panel of weights. */
static void multiply_group(const struct run *run, struct cl_winograd_strip place,
			   unsigned int group, enum cl_winograd_pair pair, size_t channel)
{
	struct cl_winograd_strip strip = {0};
	const float *block = run->blocks;
	struct cl_winograd_start start;
	unsigned int done = 0;

	cl_winograd_begin(run->conv, run->bias, run->scales, pair, channel, &start);
	while (group) {
		const unsigned int count = part_of(group, BLOCK);

		cl_packed_tiles(block, run->panel, run->depth, CL_WINOGRAD_PRODUCTS, count,
				run->sums);
		for (done = 0; done < count; done += strip.count) {
			take_strip(run->conv, &place, count - done, &strip);
			cl_winograd_results(run->conv, &run->fusion,
					    run->sums + (size_t)done * PANEL, &start, &strip, pair,
					    channel, run->out);
		}
		block += run->depth * CL_WINOGRAD_PRODUCTS * count;
		group -= count;
	}
}

static void winograd_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	struct run run = {.conv = conv, .depth = cl_winograd_depth(conv)};
	const size_t tile_floats = run.depth * CL_WINOGRAD_PRODUCTS;
	struct cl_winograd_strip first = {0};
	struct cl_winograd_strip next = {0};
	uint64_t tiles = 0;
	uint64_t room = 0;
	unsigned int group = 0;
	enum cl_winograd_pair pair = CL_WINOGRAD_INNER;
	size_t channel = 0;

	run.in = cl_source(&conv->in, memory);
	run.weights = cl_source(&conv->weights, memory);
	run.bias = cl_source(&conv->bias, memory);
	run.scales = cl_scales_at(memory, &conv->bias);
	run.out = cl_target(&conv->out, memory);
	run.sums = cl_target(&conv->scratch, memory);
	run.panel = run.sums + SUM_FLOATS;
	run.blocks = run.panel + tile_floats * PANEL;
	cl_fusion_init(&run.fusion, &conv->activation);
	(void)count_tiles(conv, &tiles); /* the check saw that they fit */
	/* The check saw that there is room for one tile; what goes beyond whole
	 * blocks is of no use, but where all tiles fit. */
	room = (conv->scratch.size / sizeof(float) - SUM_FLOATS) / tile_floats - PANEL;
	if (room > BLOCK && room < tiles)
		room -= room % BLOCK;
	for (; tiles; tiles -= group) {
		group = part_of(tiles, (uint32_t)(room < UINT32_MAX ? room : UINT32_MAX));
		for (pair = 0; pair < CL_WINOGRAD_PAIRS; pair++) {
			next = first;
			transform_group(&run, &next, group, pair);
			for (channel = 0; channel < conv->out_c; channel += PANEL) {
				cl_winograd_weights(conv, run.weights + channel * 9 * conv->in_c,
						    pair, run.panel);
				multiply_group(&run, first, group, pair, channel);
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
