/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Convolution as a matrix product: rows are output pixels, columns output
 * channels. For each 8 pixels scratch holds a table of pointers to the input's
 * pixels under the kernel, so that nothing but the input's border is copied.
 */
#include "conv2d.h"
#include "extent.h"
#include "neon.h"
#include "scaled.h"
#include "tile.h"

/*
 * Up to this many channels one pixel is little work. Then the rows of the input under the
 * kernel are copied with their border, and a row of the kernel (whose pixels lie one after
 * another) is taken as one.
 */
#define ROW_CHANNELS 16

/* How scratch is used. */
enum scratch_kind {
	SCRATCH_NONE,   /* 1x1 without stride or pads: the input's pixels are the rows */
	SCRATCH_ROWS,   /* float *[kernel_h][8], then rows [kernel_h][row_pixels()][in_c] */
	SCRATCH_PIXELS, /* float *[kernel_h][kernel_w][8], then in_c zeros */
};

static enum scratch_kind scratch_kind(const struct cl_conv2d *conv)
{
	if (conv->kernel_h == 1 && conv->kernel_w == 1 && conv->stride_h == 1 &&
	    conv->stride_w == 1 && !conv->pad_top && !conv->pad_left && conv->out_h == conv->in_h &&
	    conv->out_w == conv->in_w)
		return SCRATCH_NONE;
	if (conv->in_c <= ROW_CHANNELS && conv->group == 1 && conv->dilation_h == 1 &&
	    conv->dilation_w == 1 && conv->stride_w <= conv->kernel_w)
		return SCRATCH_ROWS;
	return SCRATCH_PIXELS;
}

/* Pixels of a row of the input with its border, as far as some window reaches; false: too many. */
static bool row_pixels(const struct cl_conv2d *conv, uint64_t *pixels)
{
	return conv->out_w && cl_mul(conv->out_w - 1, conv->stride_w, pixels) &&
	       cl_add(*pixels, conv->kernel_w, pixels);
}

uint64_t cl_conv2d_scratch(const struct cl_conv2d *conv)
{
	const uint32_t kernel[] = {conv->kernel_h, conv->kernel_w};
	uint64_t taps = 0;
	uint64_t pointers = 0;
	uint64_t floats = 0;
	uint64_t size = 0;

	if (conv->op.kernel == CL_KERNEL_DEPTHWISE)
		return 0;
	if (!cl_product(kernel, 2, &taps))
		return UINT64_MAX;
	switch (scratch_kind(conv)) {
	case SCRATCH_NONE:
		return 0;
	case SCRATCH_ROWS:
		pointers = (uint64_t)conv->kernel_h * CL_TILE_ROWS;
		if (!row_pixels(conv, &floats) || !cl_mul(floats, conv->in_c, &floats) ||
		    !cl_mul(floats, conv->kernel_h, &floats))
			return UINT64_MAX;
		break;
	default:
		floats = conv->in_c;
		if (!cl_mul(taps, CL_TILE_ROWS, &pointers))
			return UINT64_MAX;
		break;
	}
	if (!cl_mul(pointers, sizeof(float *), &pointers) ||
	    !cl_mul(floats, sizeof(float), &floats) || !cl_add(pointers, floats, &size))
		return UINT64_MAX;
	return size;
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
	if (!cl_scales_suffice(memory, &conv->bias, conv->out_c))
		return CL_BAD_FORMAT;
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

/* Output pixels of one row, `count` from x on, and their place in a tile. */
struct strip {
	const float *image; /* the input of their batch */
	int64_t y;          /* the window of the first one, in the input */
	int64_t x;
	unsigned int row; /* of the tile */
	unsigned int count;
};

/* The row of the input under row ky of the kernel, or NULL when that lies outside. */
static const float *input_row(const struct cl_conv2d *conv, const struct strip *strip, uint32_t ky)
{
	const int64_t y = strip->y + (int64_t)ky * conv->dilation_h;

	if (y < 0 || y >= conv->in_h)
		return NULL;
	return strip->image + (size_t)y * conv->in_w * conv->in_c;
}

/* table[ky][kx][row]; zeros stand for pixels outside. */
static void point_to_pixels(const struct cl_conv2d *conv, const struct strip *strip,
			    const float *zeros, const float **table)
{
	uint32_t ky = 0;
	uint32_t kx = 0;
	unsigned int i = 0;

	table += strip->row;
	for (ky = 0; ky < conv->kernel_h; ky++) {
		const float *source = input_row(conv, strip, ky);

		for (kx = 0; kx < conv->kernel_w; kx++, table += CL_TILE_ROWS) {
			/* What is left of the input wraps, and is beyond its width as well. */
			uint64_t x = (uint64_t)(strip->x + (int64_t)kx * conv->dilation_w);

			for (i = 0; i < strip->count; i++, x += conv->stride_w)
				table[i] =
					source && x < conv->in_w ? source + x * conv->in_c : zeros;
		}
	}
}

static void copy_floats(float *to, const float *from, size_t count)
{
	size_t i = 0;

	for (; i + 4 <= count; i += 4)
		vst1q_f32(to + i, vld1q_f32(from + i));
	for (; i < count; i++)
		to[i] = from[i];
}

static void clear_floats(float *to, size_t count)
{
	size_t i = 0;

	for (; i + 4 <= count; i += 4)
		vst1q_f32(to + i, vdupq_n_f32(0));
	for (; i < count; i++)
		to[i] = 0;
}

/* The next output pixel to be computed. */
struct pixel {
	const float *image;
	uint32_t y;
	uint32_t x;
};

/* The table for the next `count` pixels, which are then behind `next`. */
static void fill_table(const struct cl_conv2d *conv, struct pixel *next, unsigned int count,
		       const float *zeros, const float **table)
{
	struct strip strip = {0};

	for (; strip.row < count; strip.row += strip.count) {
		strip.count = count - strip.row;
		if (strip.count > conv->out_w - next->x)
			strip.count = conv->out_w - next->x;
		strip.image = next->image;
		strip.y = (int64_t)next->y * conv->stride_h - conv->pad_top;
		strip.x = (int64_t)next->x * conv->stride_w - conv->pad_left;
		point_to_pixels(conv, &strip, zeros, table);

		next->x += strip.count;
		if (next->x == conv->out_w) {
			next->x = 0;
			if (++next->y == conv->out_h) {
				next->y = 0;
				next->image += (size_t)conv->in_h * conv->in_w * conv->in_c;
			}
		}
	}
}

/* Row y of the input, which may lie outside, with its border. */
static void copy_row(const struct cl_conv2d *conv, const float *image, int64_t y, size_t pixels,
		     float *to)
{
	const size_t row = pixels * conv->in_c;
	const size_t first = (conv->pad_left < pixels ? conv->pad_left : pixels) * conv->in_c;
	const size_t wanted = row - first;
	const size_t present = (size_t)conv->in_w * conv->in_c;
	const size_t inside = wanted < present ? wanted : present;

	if (y < 0 || y >= conv->in_h) {
		clear_floats(to, row);
		return;
	}
	clear_floats(to, first);
	copy_floats(to + first, image + (size_t)y * present, inside);
	clear_floats(to + first + inside, wanted - inside);
}

/* table[ky][i] for the first `count` pixels of a row of results whose windows begin in row `top`.
 */
static void point_to_rows(const struct cl_conv2d *conv, const float *rows, uint64_t top, size_t row,
			  unsigned int count, const float **table)
{
	const size_t step = (size_t)conv->stride_w * conv->in_c;
	uint32_t ky = 0;
	unsigned int i = 0;

	for (ky = 0; ky < conv->kernel_h; ky++, table += CL_TILE_ROWS) {
		const float *from = rows + (top + ky) % conv->kernel_h * row;

		/* The entries behind the last are moved on with the others, but never used. */
		for (i = 0; i < CL_TILE_ROWS; i++)
			table[i] = i < count ? from + i * step : from;
	}
}

/* All of SCRATCH_ROWS: copied rows are kept in a ring for the next rows of results. */
static void run_by_rows(const struct cl_conv2d *conv, const struct cl_memory *memory,
			struct cl_tile *tile, const float **table)
{
	float *rows = (float *)(table + (size_t)conv->kernel_h * CL_TILE_ROWS);
	const float *image = cl_source(&conv->in, memory);
	const uint32_t blocks = conv->out_w / CL_TILE_ROWS + !!(conv->out_w % CL_TILE_ROWS);
	const size_t step = (size_t)conv->stride_w * conv->in_c;
	const size_t entries = (size_t)conv->kernel_h * CL_TILE_ROWS;
	uint64_t pixels = 0;
	uint64_t copied = 0; /* rows, counted from the top of the border */
	size_t row = 0;
	uint32_t n = 0;
	uint32_t y = 0;
	uint32_t x = 0;
	uint32_t block = 0;
	size_t last = 0; /* pixels of the block before */
	size_t i = 0;

	(void)row_pixels(conv, &pixels); /* the check saw that they fit */
	row = (size_t)pixels * conv->in_c;
	for (n = 0; n < conv->batch; n++) {
		copied = 0;
		for (y = 0; y < conv->out_h; y++) {
			const uint64_t top = (uint64_t)y * conv->stride_h;

			for (copied = copied < top ? top : copied; copied < top + conv->kernel_h;
			     copied++)
				copy_row(conv, image, (int64_t)copied - conv->pad_top,
					 (size_t)pixels, rows + copied % conv->kernel_h * row);
			for (block = 0, x = 0; block < blocks; block++) {
				/* Equal parts: a narrow last block would cost nearly as much as a
				 * full one. */
				const unsigned int count =
					(conv->out_w - x + blocks - block - 1) / (blocks - block);

				if (!x)
					point_to_rows(conv, rows, top, row, count, table);
				else
					for (i = 0; i < entries; i++)
						table[i] += last * step;
				last = count;
				cl_tile_run(tile, count);
				cl_fusion_finish(tile->fusion, tile->out,
						 (size_t)count * conv->out_c);
				tile->out += (size_t)count * conv->out_c;
				x += count;
			}
		}
		image += (size_t)conv->in_h * conv->in_w * conv->in_c;
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
	const float *weights = cl_source(&conv->weights, memory);
	const float *bias = cl_source(&conv->bias, memory);
	const float *scales = cl_scales_at(memory, &conv->bias);
	float *out = cl_target(&conv->out, memory);
	const float *own_table[CL_TILE_STRIP] = {NULL};
	const float **table = kind == SCRATCH_NONE
				      ? own_table
				      : (const float **)cl_target(&conv->scratch, memory);
	const unsigned int most = kind == SCRATCH_NONE ? CL_TILE_STRIP : CL_TILE_ROWS;
	float *floats = NULL;
	struct cl_fusion fusion = {0};
	struct cl_tile tile = {0};
	struct pixel next = {.image = cl_source(&conv->in, memory)};
	size_t done = 0;
	size_t i = 0;
	uint32_t group = 0;

	cl_fusion_init(&fusion, &conv->activation);
	tile.fusion = &fusion;
	tile.out_stride = conv->out_c;
	tile.columns = columns;
	tile.rows = table;
	tile.taps = kind == SCRATCH_PIXELS ? taps : kind == SCRATCH_ROWS ? conv->kernel_h : 1;
	tile.depth = kind == SCRATCH_ROWS ? conv->kernel_w * channels : channels;
	if (kind == SCRATCH_PIXELS)
		floats = (float *)(table + tile.taps * CL_TILE_ROWS);
	if (kind == SCRATCH_PIXELS)
		clear_floats(floats, conv->in_c);
	if (kind == SCRATCH_ROWS) {
		tile.weights = weights;
		tile.bias = bias;
		tile.scales = scales;
		tile.out = out;
		run_by_rows(conv, memory, &tile, table);
		return;
	}

	for (done = 0; done < pixel_count; done += most) {
		const size_t left = pixel_count - done;
		const unsigned int count = left < most ? (unsigned int)left : most;

		if (kind == SCRATCH_NONE)
			for (i = 0; i < count; i++, next.image += conv->in_c)
				table[i] = next.image;
		else
			fill_table(conv, &next, count, floats, table);
		for (group = 0; group < conv->group; group++) {
			tile.start = group * channels;
			tile.weights = weights + group * group_weights;
			tile.bias = bias ? bias + group * columns : NULL;
			tile.scales = scales ? scales + group * columns : NULL;
			tile.out = out + done * conv->out_c + group * columns;
			cl_tile_run(&tile, count);
		}
		cl_fusion_finish(&fusion, out + done * conv->out_c, count * conv->out_c);
	}
}

const struct cl_kernel_ops cl_conv2d_kernel = {
	.record_size = sizeof(struct cl_conv2d),
	.check = conv2d_check,
	.run = conv2d_run,
};
