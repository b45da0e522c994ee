/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The three transformations of F(4x4, 3x3), for two rows of its points of
 * interpolation at a time: twelve of the 36 products of a tile.
 */
#ifndef CLOISTER_WINOGRAD_TRANSFORM_H
#define CLOISTER_WINOGRAD_TRANSFORM_H

#include "conv2d.h"
#include "tile.h"

#define CL_WINOGRAD_TILE     4 /* results of one tile, along each axis */
#define CL_WINOGRAD_WINDOW   6 /* what they read; rows of points, and points of a row */
#define CL_WINOGRAD_BLOCK    8 /* tiles of one matrix product */
#define CL_WINOGRAD_PRODUCTS (2 * CL_WINOGRAD_WINDOW) /* of a pair of rows of points */

/*
 * Rows of points that are computed together, in this order: the first ones
 * write the results, the others add to them.
 */
enum cl_winograd_pair {
	CL_WINOGRAD_INNER, /* +-sqrt(1/2) */
	CL_WINOGRAD_OUTER, /* +-sqrt(2) */
	CL_WINOGRAD_ENDS,  /* 0 and infinity */
	CL_WINOGRAD_PAIRS,
};

/* Neighbouring tiles of one row of tiles; places count results. */
struct cl_winograd_strip {
	uint32_t n;
	uint32_t y;
	uint32_t x;
	unsigned int count;
};

/* Channels rounded up to whole vectors. */
static inline size_t cl_winograd_depth(const struct cl_conv2d *conv)
{
	return ((size_t)conv->in_c + 3) / 4 * 4;
}

/*
 * The windows of a strip: to[PRODUCTS][depth / 4][tiles][4], of which
 * strip->count tiles are written; `tiles` are those of the whole block.
 */
void cl_winograd_input(const struct cl_conv2d *conv, const float *in,
		       const struct cl_winograd_strip *strip, enum cl_winograd_pair pair, float *to,
		       unsigned int tiles);

/* One panel of weights, [3][3][in_c][8]: to[PRODUCTS][depth][8]. */
void cl_winograd_weights(const struct cl_conv2d *conv, const float *panel,
			 enum cl_winograd_pair pair, float *to);

/* What the results of a panel start from, and what the rows that a pair adds are multiplied by. */
struct cl_winograd_start {
	float bias[CL_TILE_COLUMNS];
	float factors[2][CL_WINOGRAD_TILE][4];
};

/* Bias and scales, unless NULL, of the panel of output channels from `channel` on. */
void cl_winograd_begin(const struct cl_conv2d *conv, const float *bias, const float *scales,
		       enum cl_winograd_pair pair, size_t channel, struct cl_winograd_start *start);

/*
 * What a pair adds to the results of a strip, for the panel of output channels
 * from `channel` on: sums[PRODUCTS][BLOCK][8], of which the first strip->count
 * tiles are read. Results that are complete are clipped; other activations are left to be
 * done.
 */
void cl_winograd_results(const struct cl_conv2d *conv, const struct cl_fusion *fusion,
			 const float *sums, const struct cl_winograd_start *start,
			 const struct cl_winograd_strip *strip, enum cl_winograd_pair pair,
			 size_t channel, float *out);

#endif
