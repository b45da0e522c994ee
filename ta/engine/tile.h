/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The matrix product's inner kernel, shared by CONV2D, GEMM and MATMUL: up to 8
 * rows times panels of 8 columns, a panel's sums held in registers. Rows are found through
 * a table of pointers (an "indirection buffer", M. Dukhan, "The Indirect
 * Convolution Algorithm", 2019), so that a convolution needs no im2col.
 */
#ifndef CLOISTER_TILE_H
#define CLOISTER_TILE_H

#include "activation.h"

#define CL_TILE_ROWS    8
#define CL_TILE_COLUMNS 8
#define CL_TILE_WIDE    16 /* columns of two panels */

enum cl_fused {
	CL_FUSED_NONE,  /* store the sums */
	CL_FUSED_RELU,  /* store max(sum, 0) */
	CL_FUSED_CLIP,  /* store min(max(sum, low), high) */
	CL_FUSED_LATER, /* store the sums; cl_activate follows over what was stored */
};

/* An activation as the tiles apply it. */
struct cl_fusion {
	enum cl_fused kind;
	float low;
	float high;
	const struct cl_activation *activation;
};

/* `rows` rows times a weight matrix in panels of 8 columns. */
struct cl_tile {
	const float *const *rows; /* [taps][CL_TILE_ROWS], each points to `start + depth` floats */
	size_t taps;
	size_t start;         /* first float used behind each pointer */
	size_t depth;         /* floats used behind each pointer, at least 1 */
	const float *weights; /* [ceil(columns / 8)][taps][depth][8] */
	const float *bias;    /* [columns] or NULL */
	const float *scales;  /* [columns] or NULL: what the sums are multiplied by; needs a bias */
	size_t columns;
	float *out;
	size_t out_stride; /* floats from one row of out to the next */
	const struct cl_fusion *fusion;
};

/* Rows for which a caller with one tap should have pointers: weights then stay in the cache. */
#define CL_TILE_STRIP 32

/*
 * Computes row_count rows: 1 to CL_TILE_ROWS, or with one tap as many as there are pointers. The
 * pointers of further rows are not used.
 */
void cl_tile_run(const struct cl_tile *tile, unsigned int row_count);

/*
 * The same for as many columns as fill panels two by two, in tiles of 4 rows and 16 columns, which
 * take fewer loads. Returns those columns.
 */
size_t cl_tile_run_wide(const struct cl_tile *tile, unsigned int row_count);

/*
 * The same over any number of rows of tile->depth floats that lie one after
 * another at `in`, their activation included; tile->taps is 1, tile->rows is
 * set here.
 */
void cl_tile_run_rows(const struct cl_tile *tile, const float *in, size_t row_count);

void cl_fusion_init(struct cl_fusion *fusion, const struct cl_activation *activation);

/* What the tiles left to be done on `count` finished results. */
static inline void cl_fusion_finish(const struct cl_fusion *fusion, float *out, size_t count)
{
	if (fusion->kind == CL_FUSED_LATER)
		cl_activate(fusion->activation, out, out, count);
}

#endif
