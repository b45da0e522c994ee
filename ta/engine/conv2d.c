/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Convolution as a matrix product: rows are output pixels, columns output
 * channels. For each 8 pixels scratch holds either a table of pointers to the
 * input's pixels under each kernel tap (and a row of zeros for taps outside), or,
 * where a pixel has few channels, the 8 gathered patches themselves.
 */
#include "conv2d.h"
#include "extent.h"
#include "tile.h"

/* Up to this many channels per group the patches are copied: a tap alone is too little work. */
#define GATHER_CHANNELS 16

/* How scratch is used. */
enum scratch_kind {
	SCRATCH_NONE,     /* 1x1 without stride or pads: the pixels are the rows */
	SCRATCH_POINTERS, /* float *[taps][8], then in_c zeros */
	SCRATCH_PATCHES,  /* float [8][taps * in_c / group] */
};

static enum scratch_kind scratch_kind(const struct cl_conv2d *conv)
{
	if (conv->kernel_h == 1 && conv->kernel_w == 1 && conv->stride_h == 1 &&
	    conv->stride_w == 1 && !conv->pad_top && !conv->pad_left && conv->out_h == conv->in_h &&
	    conv->out_w == conv->in_w)
		return SCRATCH_NONE;
	if (conv->in_c / conv->group <= GATHER_CHANNELS)
		return SCRATCH_PATCHES;
	return SCRATCH_POINTERS;
}

uint64_t cl_conv2d_scratch(const struct cl_conv2d *conv)
{
	const uint32_t kernel[] = {conv->kernel_h, conv->kernel_w};
	uint64_t taps = 0;
	uint64_t size = 0;

	if (conv->op.kernel == CL_KERNEL_DEPTHWISE)
		return 0;
	if (!conv->group || !conv->in_c || conv->in_c % conv->group ||
	    !cl_product(kernel, 2, &taps))
		return UINT64_MAX;
	switch (scratch_kind(conv)) {
	case SCRATCH_NONE:
		return 0;
	case SCRATCH_PATCHES:
		if (!cl_mul(taps, conv->in_c / conv->group, &size) ||
		    !cl_mul(size, CL_TILE_ROWS * sizeof(float), &size))
			return UINT64_MAX;
		return size;
	default:
		if (!cl_mul(taps, CL_TILE_ROWS * sizeof(float *), &size) ||
		    !cl_add(size, (uint64_t)conv->in_c * sizeof(float), &size))
			return UINT64_MAX;
		return size;
	}
}

enum cl_status cl_conv_check_common(const struct cl_conv2d *conv, const struct cl_memory *memory)
{
	const uint32_t in_factors[] = {conv->batch, conv->in_h, conv->in_w, conv->in_c};
	const uint32_t out_factors[] = {conv->batch, conv->out_h, conv->out_w, conv->out_c};
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t work = 0;

	if (!cl_activation_valid(&conv->activation))
		return CL_BAD_KERNEL;
	if (!cl_extent_valid(conv->kernel_h) || !cl_extent_valid(conv->kernel_w) ||
	    !cl_extent_valid(conv->stride_h) || !cl_extent_valid(conv->stride_w) ||
	    !cl_extent_valid(conv->dilation_h) || !cl_extent_valid(conv->dilation_w) ||
	    conv->pad_top > CL_MAX_EXTENT || conv->pad_left > CL_MAX_EXTENT)
		return CL_BAD_FORMAT;
	if (!conv->group || conv->in_c % conv->group || conv->out_c % conv->group)
		return CL_BAD_FORMAT;
	if (!cl_product(in_factors, 4, &in_count) || !cl_product(out_factors, 4, &out_count) ||
	    !cl_mul((uint64_t)conv->kernel_h * conv->kernel_w, conv->in_c / conv->group, &work) ||
	    !cl_work_valid(out_count, work))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->in, memory, in_count, sizeof(float)) ||
	    !cl_can_read_optional(&conv->bias, memory, conv->out_c, sizeof(float)) ||
	    !cl_can_write(&conv->out, memory, out_count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	if (cl_refs_overlap(&conv->out, &conv->in) || cl_refs_overlap(&conv->out, &conv->weights) ||
	    cl_refs_overlap(&conv->out, &conv->bias) ||
	    cl_refs_overlap(&conv->out, &conv->scratch) ||
	    cl_refs_overlap(&conv->scratch, &conv->in) ||
	    cl_refs_overlap(&conv->scratch, &conv->weights) ||
	    cl_refs_overlap(&conv->scratch, &conv->bias))
		return CL_BAD_FORMAT;
	return CL_OK;
}

static enum cl_status conv2d_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	enum cl_status status = cl_conv_check_common(conv, memory);
	uint64_t weight_count = 0;
	uint64_t scratch = 0;

	if (status != CL_OK)
		return status;

	const uint32_t group_out_c = conv->out_c / conv->group;
	const uint32_t weight_factors[] = {
		conv->group,
		group_out_c / CL_TILE_COLUMNS + !!(group_out_c % CL_TILE_COLUMNS),
		conv->kernel_h,
		conv->kernel_w,
		conv->in_c / conv->group,
		CL_TILE_COLUMNS,
	};

	if (!cl_product(weight_factors, 6, &weight_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->weights, memory, weight_count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	scratch = cl_conv2d_scratch(conv);
	if (!scratch)
		return cl_ref_inside(&conv->scratch, memory) ? CL_OK : CL_OUT_OF_BOUNDS;
	return cl_can_write(&conv->scratch, memory, scratch, 1) ? CL_OK : CL_OUT_OF_BOUNDS;
}

/* An output pixel. */
struct pixel {
	uint32_t n;
	uint32_t y;
	uint32_t x;
};

static void next_pixel(const struct cl_conv2d *conv, struct pixel *pixel)
{
	if (++pixel->x < conv->out_w)
		return;
	pixel->x = 0;
	if (++pixel->y < conv->out_h)
		return;
	pixel->y = 0;
	pixel->n++;
}

/* The input pixel under tap (ky, kx) of the output pixel; `outside` when there is none. */
static const float *tap_source(const struct cl_conv2d *conv, const float *in,
			       const struct pixel *pixel, uint32_t ky, uint32_t kx,
			       const float *outside)
{
	const int64_t y =
		(int64_t)pixel->y * conv->stride_h - conv->pad_top + (int64_t)ky * conv->dilation_h;
	const int64_t x = (int64_t)pixel->x * conv->stride_w - conv->pad_left +
			  (int64_t)kx * conv->dilation_w;

	if (y < 0 || y >= conv->in_h || x < 0 || x >= conv->in_w)
		return outside;
	return in + (((uint64_t)pixel->n * conv->in_h + (uint64_t)y) * conv->in_w + (uint64_t)x) *
			    conv->in_c;
}

/* table[tap][row] for `count` pixels from `first` on. */
static void fill_pointers(const struct cl_conv2d *conv, const float *in, const struct pixel *first,
			  unsigned int count, const float *zeros, const float **table)
{
	struct pixel pixel = *first;
	unsigned int row = 0;
	uint32_t ky = 0;
	uint32_t kx = 0;

	for (row = 0; row < count; row++) {
		const float **entry = table + row;

		for (ky = 0; ky < conv->kernel_h; ky++) {
			for (kx = 0; kx < conv->kernel_w; kx++) {
				*entry = tap_source(conv, in, &pixel, ky, kx, zeros);
				entry += CL_TILE_ROWS;
			}
		}
		next_pixel(conv, &pixel);
	}
}

/* patches[row][tap][channel of the group] for `count` pixels; in points to the group's channels. */
static void fill_patches(const struct cl_conv2d *conv, const float *in, const struct pixel *first,
			 unsigned int count, float *patches)
{
	const uint32_t channels = conv->in_c / conv->group;
	struct pixel pixel = *first;
	unsigned int row = 0;
	uint32_t ky = 0;
	uint32_t kx = 0;
	uint32_t c = 0;

	for (row = 0; row < count; row++) {
		for (ky = 0; ky < conv->kernel_h; ky++) {
			for (kx = 0; kx < conv->kernel_w; kx++) {
				const float *source = tap_source(conv, in, &pixel, ky, kx, NULL);

				for (c = 0; c < channels; c++)
					*patches++ = source ? source[c] : 0;
			}
		}
		next_pixel(conv, &pixel);
	}
}

static void conv2d_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	const enum scratch_kind kind = scratch_kind(conv);
	const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;
	const size_t channels = conv->in_c / conv->group;
	const size_t columns = conv->out_c / conv->group;
	const size_t panels = (columns + CL_TILE_COLUMNS - 1) / CL_TILE_COLUMNS;
	const size_t group_weights = panels * taps * channels * CL_TILE_COLUMNS;
	const size_t pixel_count = (size_t)conv->batch * conv->out_h * conv->out_w;
	const float *in = cl_source(&conv->in, memory);
	const float *bias = cl_source(&conv->bias, memory);
	const float *weights = cl_source(&conv->weights, memory);
	float *out = cl_target(&conv->out, memory);
	void *scratch = kind == SCRATCH_NONE ? NULL : cl_target(&conv->scratch, memory);
	const float **table = scratch;
	float *patches = scratch;
	float *zeros = NULL;
	const float *own_rows[CL_TILE_ROWS] = {NULL};
	struct cl_fusion fusion = {0};
	struct cl_tile tile = {0};
	struct pixel pixel = {0};
	size_t done = 0;
	size_t i = 0;
	uint32_t group = 0;

	cl_fusion_init(&fusion, &conv->activation);
	tile.fusion = &fusion;
	tile.out_stride = conv->out_c;
	tile.rows = own_rows;
	tile.taps = 1;
	tile.depth = taps * channels;
	if (kind == SCRATCH_POINTERS) {
		tile.rows = table;
		tile.taps = taps;
		tile.depth = channels;
		zeros = (float *)(table + taps * CL_TILE_ROWS);
		for (i = 0; i < conv->in_c; i++)
			zeros[i] = 0;
	}

	for (done = 0; done < pixel_count; done += CL_TILE_ROWS) {
		const size_t left = pixel_count - done;
		const unsigned int count = left < CL_TILE_ROWS ? (unsigned int)left : CL_TILE_ROWS;

		if (kind == SCRATCH_POINTERS)
			fill_pointers(conv, in, &pixel, count, zeros, table);
		else if (kind == SCRATCH_NONE)
			for (i = 0; i < count; i++)
				own_rows[i] = in + (done + i) * conv->in_c;
		for (group = 0; group < conv->group; group++) {
			if (kind == SCRATCH_PATCHES) {
				fill_patches(conv, in + group * channels, &pixel, count, patches);
				for (i = 0; i < count; i++)
					own_rows[i] = patches + i * tile.depth;
			} else {
				tile.start = group * channels;
			}
			tile.weights = weights + group * group_weights;
			tile.out = out + done * conv->out_c + group * columns;
			cl_tile_run_panels(&tile, count, bias ? bias + group * columns : NULL,
					   columns);
		}
		cl_fusion_finish(&fusion, out + done * conv->out_c, count * conv->out_c);
		for (i = 0; i < count; i++)
			next_pixel(conv, &pixel);
	}
}

const struct cl_kernel_ops cl_conv2d_kernel = {
	.record_size = sizeof(struct cl_conv2d),
	.check = conv2d_check,
	.run = conv2d_run,
};
