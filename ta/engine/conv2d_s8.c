/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Convolution of 8-bit integers as a matrix product: rows are output pixels, columns output
 * channels. The rows of the input under the kernel are copied with their border into a ring,
 * where a row of the kernel lies without gaps for every pixel; so the inner kernel needs no case
 * for the border. Where rows of the kernel would fill their last step badly, and for groups and
 * dilations, the input under the kernel is put together for a few pixels at a time ("im2col").
 */
#include "conv2d_s8.h"
#include "extent.h"
#include "tile_s8.h"

/* Bytes of the input under the kernel, for one group; false when that does not fit. */
static bool patch_depth(const struct cl_conv2d_s8 *conv, uint64_t *depth)
{
	const uint32_t factors[] = {conv->kernel_h, conv->kernel_w,
				    conv->group ? conv->in_c / conv->group : 0};

	return cl_product(factors, 3, depth);
}

/* What is read of the input, and from where; cloister_format.h says what follows from it. */
struct layout {
	bool direct;          /* 1x1: the input's pixels are the rows */
	bool ring;            /* rows of the input are copied with their border */
	bool patches;         /* the input under the kernel is put together */
	uint64_t taps;        /* pieces of a row, */
	uint64_t steps;       /* and the steps of each */
	uint64_t rows;        /* of the ring */
	uint64_t pixels;      /* of each of its rows */
	unsigned int at_once; /* pixels of the output that are computed together */
};

/* From this depth on a few pixels make work enough, and take less memory. */
#define DEEP 512
#define FEW  8

/* The last window ends inside. */
static bool ends_inside(uint32_t out, uint32_t stride, uint32_t in)
{
	return out && (uint64_t)(out - 1) * stride < in;
}

/* Rows of the output that pixels which are computed together may lie in. */
static uint64_t rows_touched(const struct cl_conv2d_s8 *conv, unsigned int at_once)
{
	uint32_t most = (at_once - 2) / conv->out_w + 2;

	if (at_once % conv->out_w == 0)
		most = at_once / conv->out_w;
	else if (conv->out_w % at_once == 0)
		most = 1;
	return most < conv->out_h ? most : conv->out_h;
}

/* False where the numbers make no sense. */
static bool find_layout(const struct cl_conv2d_s8 *conv, struct layout *layout)
{
	const bool plain = conv->group == 1 && conv->dilation_h == 1 && conv->dilation_w == 1;
	uint64_t touched = 0;
	uint64_t depth = 0;
	uint64_t row = 0;

	*layout = (struct layout){.taps = 1};
	if (!patch_depth(conv, &depth) || !conv->out_w || !conv->out_h)
		return false;
	layout->steps = cl_s8_steps(depth);
	layout->at_once = depth < DEEP ? CL_S8_ROWS : FEW;
	row = cl_s8_steps(depth / conv->kernel_h);
	if (conv->kernel_h == 1 && conv->kernel_w == 1 && !conv->pad_top && !conv->pad_left &&
	    ends_inside(conv->out_h, conv->stride_h, conv->in_h) &&
	    ends_inside(conv->out_w, conv->stride_w, conv->in_w) && depth % CL_S8_STEP == 0) {
		layout->direct = true;
		return true;
	}
	layout->ring = plain;
	layout->patches = !plain || row * conv->kernel_h != layout->steps;
	if (!layout->patches) {
		layout->taps = conv->kernel_h;
		layout->steps = row;
	}
	/* Patches are put together row by row of the output. */
	touched = layout->patches ? 1 : rows_touched(conv, layout->at_once);
	return !plain || (cl_mul(touched - 1, conv->stride_h, &layout->rows) &&
			  cl_add(layout->rows, conv->kernel_h, &layout->rows) &&
			  cl_mul(conv->out_w - 1, conv->stride_w, &layout->pixels) &&
			  cl_add(layout->pixels, conv->kernel_w, &layout->pixels));
}

/* Bytes in front of the ring: the table of pointers. */
static size_t table_size(const struct cl_conv2d_s8 *conv)
{
	return (size_t)conv->kernel_h * CL_S8_ROWS * sizeof(int8_t *);
}

/* Bytes that reads beyond a row's depth, or writes beyond a patch's, may touch. */
#define SLACK CL_S8_STEP

uint64_t cl_conv2d_s8_scratch(const struct cl_conv2d_s8 *conv)
{
	const uint32_t kernel[] = {conv->kernel_h, conv->kernel_w};
	struct layout layout = {0};
	uint64_t size = 0;
	uint64_t part = 0;

	if (conv->op.kernel == CL_KERNEL_DEPTHWISE_S8) {
		if (!cl_product(kernel, 2, &size) || !cl_mul(size, sizeof(int8_t *), &size) ||
		    !cl_add(size, conv->in_c, &size))
			return UINT64_MAX;
		return size;
	}
	if (!find_layout(conv, &layout))
		return UINT64_MAX;
	if (layout.ring &&
	    (!cl_mul(layout.rows, layout.pixels, &size) || !cl_mul(size, conv->in_c, &size) ||
	     !cl_add(size, table_size(conv) + SLACK, &size)))
		return UINT64_MAX;
	if (layout.patches && (!cl_mul(layout.steps, CL_S8_STEP * layout.at_once, &part) ||
			       !cl_add(part, SLACK, &part) || !cl_add(size, part, &size)))
		return UINT64_MAX;
	return size;
}

enum cl_status cl_conv_s8_check_common(const struct cl_conv2d_s8 *conv,
				       const struct cl_memory *memory)
{
	const uint32_t in_factors[] = {conv->batch, conv->in_h, conv->in_w, conv->in_c};
	const uint32_t out_factors[] = {conv->batch, conv->out_h, conv->out_w, conv->out_c};
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t work = 0;
	uint64_t scratch = 0;

	if (conv->weights_kind >= CL_WEIGHTS_S8_COUNT)
		return CL_BAD_KERNEL;
	if (!cl_extent_valid(conv->kernel_h) || !cl_extent_valid(conv->kernel_w) ||
	    !cl_extent_valid(conv->stride_h) || !cl_extent_valid(conv->stride_w) ||
	    !cl_extent_valid(conv->dilation_h) || !cl_extent_valid(conv->dilation_w) ||
	    conv->pad_top > CL_MAX_EXTENT || conv->pad_left > CL_MAX_EXTENT)
		return CL_BAD_FORMAT;
	if (!conv->group || conv->in_c % conv->group || conv->out_c % conv->group ||
	    !cl_zero_valid(conv->in_zero) || !cl_finish_s8_valid(&conv->finish))
		return CL_BAD_FORMAT;
	if (!cl_product(in_factors, 4, &in_count) || !cl_product(out_factors, 4, &out_count) ||
	    !patch_depth(conv, &work) || !cl_work_valid(out_count, work))
		return CL_BAD_FORMAT;
	scratch = cl_conv2d_s8_scratch(conv);
	if (!cl_can_read(&conv->in, memory, in_count, 1) ||
	    !cl_can_write(&conv->out, memory, out_count, 1) ||
	    (scratch ? !cl_can_write(&conv->scratch, memory, scratch, 1)
		     : !cl_ref_inside(&conv->scratch, memory)))
		return CL_OUT_OF_BOUNDS;
	if (cl_refs_overlap(&conv->out, &conv->in) || cl_refs_overlap(&conv->out, &conv->weights) ||
	    cl_refs_overlap(&conv->out, &conv->channels) ||
	    cl_refs_overlap(&conv->out, &conv->scratch) ||
	    cl_refs_overlap(&conv->scratch, &conv->in) ||
	    cl_refs_overlap(&conv->scratch, &conv->weights) ||
	    cl_refs_overlap(&conv->scratch, &conv->channels))
		return CL_BAD_FORMAT;
	return CL_OK;
}

static enum cl_status conv2d_s8_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d_s8 *conv = (const struct cl_conv2d_s8 *)op;
	enum cl_status status = cl_conv_s8_check_common(conv, memory);
	struct layout layout = {0};
	uint64_t panels = 0;
	uint64_t weight_count = 0;

	if (status != CL_OK)
		return status;
	if (!find_layout(conv, &layout) ||
	    !cl_mul(((uint64_t)(conv->out_c / conv->group) + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS,
		    conv->group, &panels) ||
	    !cl_mul(panels, CL_S8_COLUMNS * CL_S8_STEP, &weight_count) ||
	    !cl_mul(weight_count, layout.taps * layout.steps, &weight_count))
		return CL_BAD_FORMAT;
	/*
	 * The ring copies whole rows, with the pixels that a wide stride steps over.
	 * The product fits into 64 bits: scratch holds rows of this length.
	 */
	if (layout.ring && !cl_work_valid((uint64_t)conv->batch * conv->out_h,
					  layout.pixels * conv->in_c * conv->kernel_h))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->weights, memory, weight_count, 1) ||
	    !cl_can_read(&conv->channels, memory, cl_s8_channels_size(panels, conv->weights_kind),
			 1))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* Where the next output pixels are, and what has been copied for them. */
struct position {
	const int8_t *image;
	uint32_t y;
	uint32_t x;
	uint64_t copied; /* rows of this image, counted from the top of the border */
};

/* What stays the same over all pixels. */
struct plan {
	const struct cl_conv2d_s8 *conv;
	struct layout layout;
	const int8_t **table;
	int8_t *ring;
	int8_t *patches;
	size_t ring_row; /* bytes */
};

/* Output pixels of one row. */
struct strip {
	const int8_t *image; /* the input of their batch */
	int64_t y;           /* the window of the first one, in the input */
	int64_t x;
	unsigned int first; /* of the tile's rows */
	unsigned int count;
};

static struct strip next_strip(const struct cl_conv2d_s8 *conv, const struct position *next,
			       unsigned int first, unsigned int end)
{
	const uint32_t left = conv->out_w - next->x;
	const struct strip strip = {
		.image = next->image,
		.y = (int64_t)next->y * conv->stride_h - conv->pad_top,
		.x = (int64_t)next->x * conv->stride_w - conv->pad_left,
		.first = first,
		.count = left < end - first ? left : end - first,
	};

	return strip;
}

static void move_on(const struct cl_conv2d_s8 *conv, struct position *next, unsigned int count)
{
	next->x += count;
	if (next->x < conv->out_w)
		return;
	next->x = 0;
	if (++next->y < conv->out_h)
		return;
	next->y = 0;
	next->copied = 0;
	next->image += (size_t)conv->in_h * conv->in_w * conv->in_c;
}

/*
 * Row y of the input, which may lie outside. Left and right of it lies its border: what the ring
 * was filled with.
 */
static void copy_row(const struct plan *plan, const int8_t *image, int64_t y, int8_t *to)
{
	const struct cl_conv2d_s8 *conv = plan->conv;
	const size_t pixels = (size_t)plan->layout.pixels;
	const size_t first = (conv->pad_left < pixels ? conv->pad_left : pixels) * conv->in_c;
	const size_t wanted = plan->ring_row - first;
	const size_t present = (size_t)conv->in_w * conv->in_c;
	const size_t inside = wanted < present ? wanted : present;

	if (y < 0 || y >= conv->in_h)
		cl_fill_bytes(to, conv->in_zero, plan->ring_row);
	else
		cl_copy_bytes(to + first, image + (size_t)y * present, inside);
}

/* The rows of the input under a row of the output; the row of the ring where they begin. */
static size_t fill_ring(const struct plan *plan, const struct strip *strip, struct position *next)
{
	const struct cl_conv2d_s8 *conv = plan->conv;
	const uint64_t top = (uint64_t)next->y * conv->stride_h;
	uint64_t row = next->copied < top ? top : next->copied;

	for (; row < top + conv->kernel_h; row++)
		copy_row(plan, strip->image, (int64_t)row - conv->pad_top,
			 plan->ring + (size_t)(row % plan->layout.rows) * plan->ring_row);
	next->copied = row;
	return (size_t)(top % plan->layout.rows);
}

/* table[ky][i]: the row of the kernel under pixel i. */
static void point_into_ring(const struct plan *plan, const struct strip *strip,
			    const struct position *next, size_t place)
{
	const struct cl_conv2d_s8 *conv = plan->conv;
	const size_t step = (size_t)conv->stride_w * conv->in_c;
	const int8_t **table = plan->table + strip->first;
	uint32_t row = 0;

	for (row = 0; row < conv->kernel_h; row++, table += CL_S8_ROWS) {
		const int8_t *from = plan->ring + place * plan->ring_row + next->x * step;
		const int8_t **const end = table + strip->count;
		const int8_t **to = table;

		for (; end - to >= 4; to += 4) {
			to[0] = from;
			to[1] = from += step;
			to[2] = from += step;
			to[3] = from += step;
			from += step;
			/* GCC 12 would make vectors of pointers, at twice the cost. */
			__asm__("" : "+r"(from));
		}
		for (; to < end; to++, from += step)
			*to = from;
		place = place + 1 < plan->layout.rows ? place + 1 : 0;
	}
}

/* What patches are put together from: rows of the kernel. */
struct pieces {
	const int8_t *const *rows; /* under the first pixel */
	size_t count;
	size_t size;  /* bytes of each */
	size_t step;  /* to the next pixel */
	size_t patch; /* bytes of a patch */
};

/*
 * Patches for `count` pixels: whole vectors, of which what is beyond a row is overwritten by the
 * next one, or meets no weight. rows and vectors (of a row) are literals, or 0.
 */
static inline __attribute__((always_inline)) void copy_pieces(const struct pieces *pieces,
							      int8_t *to, unsigned int count,
							      const size_t rows,
							      const size_t vectors)
{
	const int8_t *first[3] = {pieces->rows[0], rows ? pieces->rows[1] : NULL,
				  rows ? pieces->rows[2] : NULL};
	const size_t size = pieces->size;
	const size_t all = pieces->count;
	const size_t patch = pieces->patch;
	const size_t step = pieces->step;
	size_t offset = 0;
	size_t row = 0;
	size_t at = 0;

	for (; count; count--, offset += step, to += patch) {
		int8_t *piece = to;

		for (row = 0; row < (rows ? rows : all); row++, piece += size) {
			const int8_t *from = (rows ? first[row] : pieces->rows[row]) + offset;

			vst1q_s8(piece, vld1q_s8(from));
			for (at = 16; at < (vectors ? vectors * 16 : size); at += 16)
				vst1q_s8(piece + at, vld1q_s8(from + at));
		}
	}
}

/* The pixels' patches from the ring. */
static void copy_patches(const struct plan *plan, const struct strip *strip,
			 const struct position *next, size_t place)
{
	const struct cl_conv2d_s8 *conv = plan->conv;
	const struct pieces pieces = {
		.rows = plan->table,
		.count = conv->kernel_h,
		.size = (size_t)conv->kernel_w * conv->in_c,
		.step = (size_t)conv->stride_w * conv->in_c,
		.patch = (size_t)plan->layout.steps * CL_S8_STEP,
	};
	int8_t *to = plan->patches + strip->first * pieces.patch;
	uint32_t row = 0;

	for (row = 0; row < conv->kernel_h; row++) {
		plan->table[row] = plan->ring + place * plan->ring_row + next->x * pieces.step;
		place = place + 1 < plan->layout.rows ? place + 1 : 0;
	}
	if (conv->kernel_h == 3 && pieces.size <= 16)
		copy_pieces(&pieces, to, strip->count, 3, 1);
	else if (conv->kernel_h == 3 && pieces.size <= 32)
		copy_pieces(&pieces, to, strip->count, 3, 2);
	else if (conv->kernel_h == 3 && pieces.size <= 48)
		copy_pieces(&pieces, to, strip->count, 3, 3);
	else
		copy_pieces(&pieces, to, strip->count, 0, 0);
}

/* The input's bytes of one group (first channel `channel`) under the kernel, tap by tap. */
static void copy_taps(const struct plan *plan, const struct strip *strip, size_t channel,
		      size_t channels)
{
	const struct cl_conv2d_s8 *conv = plan->conv;
	unsigned int i = 0;
	uint32_t ky = 0;
	uint32_t kx = 0;

	for (i = 0; i < strip->count; i++) {
		int8_t *to = plan->patches +
			     (strip->first + i) * (size_t)plan->layout.steps * CL_S8_STEP;
		int64_t y = strip->y;

		for (ky = 0; ky < conv->kernel_h; ky++, y += conv->dilation_h) {
			const bool inside = y >= 0 && y < conv->in_h;
			/* What is left of the input wraps, and is beyond its width as well. */
			uint64_t x = (uint64_t)(strip->x + (int64_t)i * conv->stride_w);

			for (kx = 0; kx < conv->kernel_w;
			     kx++, x += conv->dilation_w, to += channels) {
				if (inside && x < conv->in_w)
					cl_copy_bytes(to,
						      strip->image +
							      ((size_t)y * conv->in_w + x) *
								      conv->in_c +
							      channel,
						      channels);
				else
					cl_fill_bytes(to, conv->in_zero, channels);
			}
		}
	}
}

/* Makes the rows of one group ready for `count` pixels, which are then behind `next`. */
static void find_rows(const struct plan *plan, struct position *next, unsigned int count,
		      uint32_t group, const int8_t **rows)
{
	const struct cl_conv2d_s8 *conv = plan->conv;
	const size_t channels = conv->in_c / conv->group;
	struct strip strip = {0};
	unsigned int done = 0;
	unsigned int i = 0;

	for (done = 0; done < count; done += strip.count) {
		strip = next_strip(conv, next, done, count);
		if (plan->layout.direct) {
			const int8_t *from =
				strip.image +
				((size_t)strip.y * conv->in_w + (size_t)strip.x) * conv->in_c +
				group * channels;

			for (i = 0; i < strip.count; i++)
				rows[done + i] = from + (size_t)i * conv->stride_w * conv->in_c;
		} else if (plan->layout.ring) {
			const size_t place = fill_ring(plan, &strip, next);

			if (plan->layout.patches)
				copy_patches(plan, &strip, next, place);
			else
				point_into_ring(plan, &strip, next, place);
		} else {
			copy_taps(plan, &strip, group * channels, channels);
		}
		move_on(conv, next, strip.count);
	}
}

static void conv2d_s8_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d_s8 *conv = (const struct cl_conv2d_s8 *)op;
	const size_t columns = conv->out_c / conv->group;
	const size_t panels = (columns + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS;
	const size_t image_pixels = (size_t)conv->out_h * conv->out_w;
	const int8_t *weights = cl_source(&conv->weights, memory);
	const struct cl_channels_s8 *ends = cl_source(&conv->channels, memory);
	const uint8_t *kinds = conv->weights_kind == CL_WEIGHTS_S8_PANELS
				       ? (const uint8_t *)(ends + conv->group * panels)
				       : NULL;
	const int8_t *own_rows[CL_S8_ROWS] = {NULL};
	int8_t *out = cl_target(&conv->out, memory);
	struct position next = {.image = cl_source(&conv->in, memory)};
	struct plan plan = {.conv = conv, .patches = cl_target(&conv->scratch, memory)};
	struct cl_tile_s8 tile = {
		.columns = columns,
		.out_stride = conv->out_c,
		.finish = cl_finish_of(&conv->finish),
		.weights_kind = conv->weights_kind,
	};
	size_t weights_size = 0;
	uint32_t batch = 0;
	size_t done = 0;
	uint32_t group = 0;
	unsigned int at_once = 0;
	unsigned int i = 0;

	(void)find_layout(conv, &plan.layout); /* the check saw that it makes sense */
	tile.taps = (size_t)plan.layout.taps;
	tile.steps = (size_t)plan.layout.steps;
	weights_size = panels * tile.taps * tile.steps * CL_S8_COLUMNS * CL_S8_STEP;
	if (plan.layout.ring) {
		plan.table = (const int8_t **)cl_target(&conv->scratch, memory);
		plan.ring = plan.patches + table_size(conv);
		plan.ring_row = (size_t)plan.layout.pixels * conv->in_c;
		plan.patches = plan.ring + (size_t)plan.layout.rows * plan.ring_row + SLACK;
		cl_fill_bytes(plan.ring, conv->in_zero, (size_t)plan.layout.rows * plan.ring_row);
	}
	tile.rows = plan.layout.ring && !plan.layout.patches ? plan.table : own_rows;
	at_once = plan.layout.at_once;
	if (plan.layout.patches)
		for (i = 0; i < at_once; i++)
			own_rows[i] = plan.patches + i * tile.steps * CL_S8_STEP;

	for (batch = 0; batch < conv->batch; batch++) {
		for (done = 0; done < image_pixels; done += at_once) {
			const size_t left = image_pixels - done;
			const unsigned int count = left < at_once ? (unsigned int)left : at_once;
			const struct position first = next;

			for (group = 0; group < conv->group; group++) {
				next = first;
				find_rows(&plan, &next, count, group, own_rows);
				tile.weights = weights + group * weights_size;
				tile.channels = ends + group * panels;
				tile.kinds = kinds ? kinds + group * panels : NULL;
				tile.out = out + group * columns;
				cl_tile_s8_run(&tile, count);
			}
			out += (size_t)count * conv->out_c;
		}
	}
}

const struct cl_kernel_ops cl_conv2d_s8_kernel = {
	.record_size = sizeof(struct cl_conv2d_s8),
	.check = conv2d_s8_check,
	.run = conv2d_s8_run,
};
