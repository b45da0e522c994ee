/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Convolution of 8-bit integers as a matrix product: rows are output pixels,
 * columns output channels. The input under the kernel is put together in scratch for a few
 * pixels at a time ("im2col"): a byte is copied once for out_c products, and the
 * inner kernel then needs no case for the border, nor for odd numbers of channels.
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

/* The input's pixels are the rows. */
static bool is_direct(const struct cl_conv2d_s8 *conv)
{
	return conv->kernel_h == 1 && conv->kernel_w == 1 && conv->stride_h == 1 &&
	       conv->stride_w == 1 && !conv->pad_top && !conv->pad_left &&
	       conv->out_h == conv->in_h && conv->out_w == conv->in_w &&
	       conv->in_c / conv->group % CL_S8_STEP == 0;
}

uint64_t cl_conv2d_s8_scratch(const struct cl_conv2d_s8 *conv)
{
	const uint32_t kernel[] = {conv->kernel_h, conv->kernel_w};
	uint64_t size = 0;

	if (conv->op.kernel == CL_KERNEL_DEPTHWISE_S8) {
		if (!cl_product(kernel, 2, &size) || !cl_mul(size, sizeof(int8_t *), &size) ||
		    !cl_add(size, conv->in_c, &size))
			return UINT64_MAX;
		return size;
	}
	if (!patch_depth(conv, &size))
		return UINT64_MAX;
	if (is_direct(conv))
		return 0;
	return cl_mul(cl_s8_steps(size), CL_S8_STEP * CL_S8_ROWS, &size) ? size : UINT64_MAX;
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
	uint64_t panels = 0;
	uint64_t depth = 0;
	uint64_t weight_count = 0;

	if (status != CL_OK)
		return status;
	if (!patch_depth(conv, &depth) ||
	    !cl_mul(((uint64_t)(conv->out_c / conv->group) + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS,
		    conv->group, &panels) ||
	    !cl_mul(panels, CL_S8_COLUMNS * CL_S8_STEP, &weight_count) ||
	    !cl_mul(weight_count, cl_s8_steps(depth), &weight_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->weights, memory, weight_count, 1) ||
	    !cl_can_read(&conv->channels, memory, cl_s8_channels_size(panels, conv->weights_kind),
			 1))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* The output pixel that comes next. */
struct pixel {
	const int8_t *image;
	uint32_t y;
	uint32_t x;
};

/* Output pixels of one row. */
struct strip {
	const int8_t *image; /* the input of their batch */
	int64_t y;           /* the window of the first one, in the input */
	int64_t x;
	size_t count;
	size_t inside_begin; /* pixels inside_begin..inside_end-1 have all columns inside */
	size_t inside_end;
	int8_t *to;
	size_t to_step; /* bytes from one pixel's patch to the next */
};

/* Finds the pixels whose windows begin at column 0 or behind and end inside. */
static void find_inside(const struct cl_conv2d_s8 *conv, struct strip *strip)
{
	const int64_t stride = conv->stride_w;
	const int64_t last = (int64_t)conv->in_w - conv->kernel_w - strip->x;
	int64_t begin = strip->x < 0 ? (-strip->x + stride - 1) / stride : 0;
	int64_t end = last < 0 ? 0 : last / stride + 1;

	end = end < (int64_t)strip->count ? end : (int64_t)strip->count;
	begin = begin < end ? begin : end;
	strip->inside_begin = (size_t)begin;
	strip->inside_end = (size_t)end;
}

/* One row of the kernel without gaps, at input column x: one run of bytes, in part outside. */
static __attribute__((noinline)) void copy_row_part(const struct cl_conv2d_s8 *conv,
						    const int8_t *source, int64_t x, int8_t *to)
{
	const size_t row = (size_t)conv->kernel_w * conv->in_c;
	const int64_t begin = x < 0 ? -x : 0;
	const int64_t end = x + conv->kernel_w > conv->in_w ? conv->in_w - x : conv->kernel_w;
	size_t first = 0;
	size_t last = 0;

	if (begin >= end) {
		cl_fill_bytes(to, conv->in_zero, row);
		return;
	}
	first = (size_t)begin * conv->in_c;
	last = (size_t)end * conv->in_c;
	cl_fill_bytes(to, conv->in_zero, first);
	cl_copy_bytes(to + first, source + (size_t)(x + begin) * conv->in_c, last - first);
	cl_fill_bytes(to + last, conv->in_zero, row - last);
}

/* One row of the kernel for several pixels that have all of it inside. */
static __attribute__((noinline)) void copy_inside_rows(const int8_t *from, size_t step, size_t size,
						       int8_t *to, size_t to_step, size_t count)
{
	/* One loop for each kind of copy. */
	if (size > 64)
		for (; count > 0; count--, from += step, to += to_step)
			cl_copy_bytes(to, from, size);
	else if (size > 32)
		for (; count > 0; count--, from += step, to += to_step)
			cl_copy_bytes(to, from, size);
	else if (size >= 16)
		for (; count > 0; count--, from += step, to += to_step)
			cl_copy_bytes(to, from, size);
	else if (size >= 8)
		for (; count > 0; count--, from += step, to += to_step)
			cl_copy_bytes(to, from, size);
	else
		for (; count > 0; count--, from += step, to += to_step)
			cl_copy_bytes(to, from, size);
}

/* The input's bytes under the kernel, whose rows have no gaps. */
static void copy_rows(const struct cl_conv2d_s8 *conv, const struct strip *strip)
{
	const size_t row = (size_t)conv->kernel_w * conv->in_c;
	const size_t step = (size_t)conv->stride_w * conv->in_c;
	int64_t y = strip->y;
	uint32_t ky = 0;
	size_t i = 0;

	for (ky = 0; ky < conv->kernel_h; ky++, y += conv->dilation_h) {
		int8_t *to = strip->to + ky * row;
		const int8_t *source = NULL;

		if (y < 0 || y >= conv->in_h) {
			for (i = 0; i < strip->count; i++, to += strip->to_step)
				cl_fill_bytes(to, conv->in_zero, row);
			continue;
		}
		source = strip->image + (size_t)y * conv->in_w * conv->in_c;
		for (i = 0; i < strip->inside_begin; i++, to += strip->to_step)
			copy_row_part(conv, source, strip->x + (int64_t)i * conv->stride_w, to);
		if (i < strip->inside_end) {
			const int64_t x = strip->x + (int64_t)i * conv->stride_w;

			copy_inside_rows(source + (size_t)x * conv->in_c, step, row, to,
					 strip->to_step, strip->inside_end - i);
			to += (strip->inside_end - i) * strip->to_step;
			i = strip->inside_end;
		}
		for (; i < strip->count; i++, to += strip->to_step)
			copy_row_part(conv, source, strip->x + (int64_t)i * conv->stride_w, to);
	}
}

/* The input's bytes of one group (first channel `channel`) under the kernel, tap by tap. */
static void copy_taps(const struct cl_conv2d_s8 *conv, const struct strip *strip, size_t channel,
		      size_t channels)
{
	size_t i = 0;
	uint32_t ky = 0;
	uint32_t kx = 0;

	for (i = 0; i < strip->count; i++) {
		int8_t *to = strip->to + i * strip->to_step;
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

/* The patches of one group for the next `count` pixels, which are then behind `next`. */
static void copy_patches(const struct cl_conv2d_s8 *conv, struct pixel *next, size_t count,
			 uint32_t group, int8_t *to, size_t to_step)
{
	const size_t channels = conv->in_c / conv->group;
	struct strip strip = {.to = to, .to_step = to_step};

	for (; count > 0; count -= strip.count, strip.to += strip.count * to_step) {
		strip.count = count < conv->out_w - next->x ? count : conv->out_w - next->x;
		strip.image = next->image;
		strip.y = (int64_t)next->y * conv->stride_h - conv->pad_top;
		strip.x = (int64_t)next->x * conv->stride_w - conv->pad_left;
		if (conv->group == 1 && conv->dilation_w == 1) {
			find_inside(conv, &strip);
			copy_rows(conv, &strip);
		} else {
			copy_taps(conv, &strip, group * channels, channels);
		}

		next->x += (uint32_t)strip.count;
		if (next->x == conv->out_w) {
			next->x = 0;
			if (++next->y == conv->out_h) {
				next->y = 0;
				next->image += (size_t)conv->in_h * conv->in_w * conv->in_c;
			}
		}
	}
}

static void conv2d_s8_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d_s8 *conv = (const struct cl_conv2d_s8 *)op;
	const bool direct = is_direct(conv);
	const size_t channels = conv->in_c / conv->group;
	const size_t columns = conv->out_c / conv->group;
	const size_t panels = (columns + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS;
	const size_t steps = cl_s8_steps((size_t)conv->kernel_h * conv->kernel_w * channels);
	const size_t pixel_count = (size_t)conv->batch * conv->out_h * conv->out_w;
	const int8_t *weights = cl_source(&conv->weights, memory);
	const struct cl_channels_s8 *ends = cl_source(&conv->channels, memory);
	const uint8_t *kinds = conv->weights_kind == CL_WEIGHTS_S8_PANELS
				       ? (const uint8_t *)(ends + conv->group * panels)
				       : NULL;
	const int8_t *in = cl_source(&conv->in, memory);
	int8_t *out = cl_target(&conv->out, memory);
	int8_t *scratch = cl_target(&conv->scratch, memory);
	struct pixel next = {.image = in};
	struct cl_tile_s8 tile = {
		.in_stride = direct ? conv->in_c : steps * CL_S8_STEP,
		.steps = steps,
		.columns = columns,
		.out_stride = conv->out_c,
		.finish = cl_finish_of(&conv->finish),
		.weights_kind = conv->weights_kind,
	};
	size_t done = 0;
	uint32_t group = 0;

	for (done = 0; done < pixel_count; done += CL_S8_ROWS) {
		const size_t left = pixel_count - done;
		const size_t count = left < CL_S8_ROWS ? left : CL_S8_ROWS;
		const struct pixel first = next;

		for (group = 0; group < conv->group; group++) {
			if (direct) {
				tile.in = in + done * conv->in_c + group * channels;
			} else {
				next = first;
				copy_patches(conv, &next, count, group, scratch, tile.in_stride);
				tile.in = scratch;
			}
			tile.weights =
				weights + group * panels * steps * CL_S8_COLUMNS * CL_S8_STEP;
			tile.channels = ends + group * panels;
			tile.kinds = kinds ? kinds + group * panels : NULL;
			tile.out = out + done * conv->out_c + group * columns;
			cl_tile_s8_run(&tile, count);
		}
	}
}

const struct cl_kernel_ops cl_conv2d_s8_kernel = {
	.record_size = sizeof(struct cl_conv2d_s8),
	.check = conv2d_s8_check,
	.run = conv2d_s8_run,
};
