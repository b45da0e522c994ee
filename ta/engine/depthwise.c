/* SPDX-License-Identifier: BSD-2-Clause */
/* Depthwise convolution: each channel has its own kernel, so vectors run along the channels. */
#include "conv2d.h"
#include "extent.h"
#include "neon.h"
#include "tile.h"
#include "window.h"

static enum cl_status depthwise_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	const uint32_t weight_factors[] = {conv->kernel_h, conv->kernel_w, conv->in_c};
	enum cl_status status = cl_conv_check_common(conv, memory);
	uint64_t weight_count = 0;

	if (status != CL_OK)
		return status;
	if (conv->group != conv->in_c || conv->out_c != conv->in_c ||
	    !cl_product(weight_factors, 3, &weight_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->weights, memory, weight_count, sizeof(float)) ||
	    !cl_ref_inside(&conv->scratch, memory))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* The taps inside the input for some output pixels of one row, and how to apply them. */
struct taps {
	const float *in;      /* first tap's channels for the first pixel */
	const float *weights; /* first tap's channels */
	const float *bias;    /* of all channels, or NULL */
	const struct cl_fusion *fusion;
	size_t channels;
	size_t rows;
	size_t columns;
	size_t pixel_step; /* floats from one pixel to the next under the same tap */
	size_t row_step;   /* floats from one tap to the next below, in the input */
	size_t column_step;
	size_t weights_row_step;
};

/* Pixels that are computed together. */
#define BLOCK 4

/* vmaxq and vminq for one value: NaN stays. */
static float clip(float x, const struct cl_fusion *fusion)
{
	if (fusion->kind == CL_FUSED_RELU)
		return x < 0 ? 0 : x;
	if (fusion->kind != CL_FUSED_CLIP)
		return x;
	x = x < fusion->low ? fusion->low : x;
	return x > fusion->high ? fusion->high : x;
}

/* The channels that fill no vector. */
static void run_last_channels(const struct taps *taps, unsigned int pixels, float *out)
{
	size_t c = taps->channels / 4 * 4;
	size_t y = 0;
	size_t x = 0;
	unsigned int p = 0;

	for (; c < taps->channels; c++) {
		for (p = 0; p < pixels; p++) {
			float sum = taps->bias ? taps->bias[c] : 0;

			for (y = 0; y < taps->rows; y++)
				for (x = 0; x < taps->columns; x++)
					sum += taps->in[y * taps->row_step + x * taps->column_step +
							p * taps->pixel_step + c] *
					       taps->weights[y * taps->weights_row_step +
							     x * taps->channels + c];
			out[p * taps->channels + c] = clip(sum, taps->fusion);
		}
	}
}

/*
 * Sums of one vector of channels under one row of the kernel, for 1 or BLOCK
 * pixels; `in` and `weights` count floats from the first tap's first channel.
 */
static inline __attribute__((always_inline)) void add_row(const struct taps *taps, size_t in,
							  size_t weights, float32x4_t *sums,
							  const unsigned int pixels)
{
	const float *in0 = taps->in;
	const float *in1 = pixels == BLOCK ? in0 + taps->pixel_step : in0;
	const float *in2 = pixels == BLOCK ? in1 + taps->pixel_step : in0;
	const float *in3 = pixels == BLOCK ? in2 + taps->pixel_step : in0;
	size_t x = 0;

	for (x = taps->columns; x > 0; x--) {
		const float32x4_t w = vld1q_f32(taps->weights + weights);

		sums[0] = vfmaq_f32(sums[0], vld1q_f32(in0 + in), w);
		if (pixels == BLOCK) {
			sums[1] = vfmaq_f32(sums[1], vld1q_f32(in1 + in), w);
			sums[2] = vfmaq_f32(sums[2], vld1q_f32(in2 + in), w);
			sums[3] = vfmaq_f32(sums[3], vld1q_f32(in3 + in), w);
		}
		in += taps->column_step;
		weights += taps->channels;
	}
}

/* 1 or BLOCK output pixels which have the same taps inside; pixels is a literal. */
static inline __attribute__((always_inline)) void run_pixels(const struct taps *taps, float *out,
							     const unsigned int pixels)
{
	const struct cl_fusion *fusion = taps->fusion;
	const bool unbounded = fusion->kind == CL_FUSED_NONE || fusion->kind == CL_FUSED_LATER;
	const float32x4_t least = vdupq_n_f32(unbounded ? -__builtin_inff() : fusion->low);
	const float32x4_t most =
		vdupq_n_f32(fusion->kind == CL_FUSED_CLIP ? fusion->high : __builtin_inff());
	const size_t channels = taps->channels;
	size_t c = 0;
	size_t y = 0;

	for (; c + 4 <= channels; c += 4) {
		const float32x4_t start = taps->bias ? vld1q_f32(taps->bias + c) : vdupq_n_f32(0);
		float32x4_t sums[BLOCK] = {start, start, start, start};
		size_t in = c;
		size_t weights = c;

		for (y = 0; y < taps->rows; y++) {
			add_row(taps, in, weights, sums, pixels);
			in += taps->row_step;
			weights += taps->weights_row_step;
		}
		vst1q_f32(out + c, vminq_f32(vmaxq_f32(sums[0], least), most));
		if (pixels == BLOCK) {
			vst1q_f32(out + c + channels, vminq_f32(vmaxq_f32(sums[1], least), most));
			vst1q_f32(out + c + 2 * channels,
				  vminq_f32(vmaxq_f32(sums[2], least), most));
			vst1q_f32(out + c + 3 * channels,
				  vminq_f32(vmaxq_f32(sums[3], least), most));
		}
	}
	if (c < channels)
		run_last_channels(taps, pixels, out);
}

/* Columns of the input under BLOCK pixels. */
#define LARGEST_KERNEL          5
#define COLUMNS(kernel, stride) ((BLOCK - 1) * (stride) + (kernel))
#define MOST_COLUMNS            COLUMNS(LARGEST_KERNEL, 2)

/* The columns before the first `before` and from the last `after` on lie outside of the input. */
struct edges {
	unsigned int before;
	unsigned int after;
};

/*
 * BLOCK pixels of a square kernel without dilation: neighbours share what they read. kernel and
 * stride are literals, edges as well where there are few of them; taps->in is the first column
 * inside. All channels but those that fill no vector.
 */
static inline __attribute__((always_inline)) void run_shared(const struct taps *taps, float *out,
							     const unsigned int kernel,
							     const unsigned int stride,
							     const struct edges edges)
{
	const struct cl_fusion *fusion = taps->fusion;
	const bool bounded = fusion->kind == CL_FUSED_RELU || fusion->kind == CL_FUSED_CLIP;
	const float32x4_t least = vdupq_n_f32(fusion->low);
	const float32x4_t most =
		vdupq_n_f32(fusion->kind == CL_FUSED_CLIP ? fusion->high : __builtin_inff());
	const unsigned int columns = COLUMNS(kernel, stride);
	const size_t channels = taps->channels;
	float32x4_t in[MOST_COLUMNS];
	size_t c = 0;
	size_t y = 0;
	unsigned int x = 0;
	unsigned int p = 0;

	for (; c + 4 <= channels; c += 4) {
		const float32x4_t start = taps->bias ? vld1q_f32(taps->bias + c) : vdupq_n_f32(0);
		float32x4_t sums[BLOCK] = {start, start, start, start};
		const float *row = taps->in + c;
		const float *weights = taps->weights + c;

		for (y = 0; y < taps->rows; y++) {
#pragma GCC unroll 16
			for (x = 0; x < columns; x++)
				in[x] = x < edges.before || x >= columns - edges.after
						? vdupq_n_f32(0)
						: vld1q_f32(row + (x - edges.before) * channels);
#pragma GCC unroll 8
			for (x = 0; x < kernel; x++) {
				const float32x4_t w = vld1q_f32(weights + x * channels);

#pragma GCC unroll 4
				for (p = 0; p < BLOCK; p++)
					sums[p] = vfmaq_f32(sums[p], in[p * stride + x], w);
			}
			row += taps->row_step;
			weights += taps->weights_row_step;
		}
		if (bounded)
#pragma GCC unroll 4
			for (p = 0; p < BLOCK; p++)
				sums[p] = vminq_f32(vmaxq_f32(sums[p], least), most);
#pragma GCC unroll 4
		for (p = 0; p < BLOCK; p++)
			vst1q_f32(out + c + p * channels, sums[p]);
	}
}

/*
 * `blocks` blocks of BLOCK pixels side by side under a whole 3x3 kernel, whose weights stay in
 * registers from block to block; no column lies outside. stride is a literal.
 */
static inline __attribute__((always_inline)) void
run_whole(const struct taps *taps, float *out, uint32_t blocks, const unsigned int stride)
{
	const struct cl_fusion *fusion = taps->fusion;
	const bool bounded = fusion->kind == CL_FUSED_RELU || fusion->kind == CL_FUSED_CLIP;
	const float32x4_t least = vdupq_n_f32(fusion->low);
	const float32x4_t most =
		vdupq_n_f32(fusion->kind == CL_FUSED_CLIP ? fusion->high : __builtin_inff());
	const size_t channels = taps->channels;
	const size_t step = BLOCK * stride * channels;
	float32x4_t in[COLUMNS(3, 2)];
	float32x4_t w[9];
	size_t c = 0;
	unsigned int y = 0;
	unsigned int x = 0;
	unsigned int p = 0;

	for (; c + 4 <= channels; c += 4) {
		const float32x4_t start = taps->bias ? vld1q_f32(taps->bias + c) : vdupq_n_f32(0);
		const float *rows[3] = {taps->in + c, taps->in + c + taps->row_step,
					taps->in + c + 2 * taps->row_step};
		float *to = out + c;
		uint32_t left = blocks;

#pragma GCC unroll 9
		for (x = 0; x < 9; x++)
			w[x] = vld1q_f32(taps->weights + c + x * channels);
		for (; left; left--) {
			float32x4_t sums[BLOCK] = {start, start, start, start};

#pragma GCC unroll 3
			for (y = 0; y < 3; y++) {
#pragma GCC unroll 16
				for (x = 0; x < COLUMNS(3, stride); x++)
					in[x] = vld1q_f32(rows[y] + x * channels);
#pragma GCC unroll 3
				for (x = 0; x < 3; x++)
#pragma GCC unroll 4
					for (p = 0; p < BLOCK; p++)
						sums[p] = vfmaq_f32(sums[p], in[p * stride + x],
								    w[3 * y + x]);
				rows[y] += step;
			}
			if (bounded)
#pragma GCC unroll 4
				for (p = 0; p < BLOCK; p++)
					sums[p] = vminq_f32(vmaxq_f32(sums[p], least), most);
#pragma GCC unroll 4
			for (p = 0; p < BLOCK; p++)
				vst1q_f32(to + p * channels, sums[p]);
			to += BLOCK * channels;
		}
	}
}

/* The instances of run_shared. */
static void run_shared_block(const struct taps *taps, uint32_t kernel, uint32_t stride,
			     struct edges edges, float *out)
{
	const struct edges none = {0, 0};
	const struct edges before = {1, 0};
	const struct edges after = {0, 1};

	if (kernel == 3 && !edges.before && !edges.after) {
		if (stride == 1)
			run_shared(taps, out, 3, 1, none);
		else
			run_shared(taps, out, 3, 2, none);
	} else if (kernel == 3 && edges.before == 1 && !edges.after) {
		if (stride == 1)
			run_shared(taps, out, 3, 1, before);
		else
			run_shared(taps, out, 3, 2, before);
	} else if (kernel == 3 && !edges.before && edges.after == 1) {
		if (stride == 1)
			run_shared(taps, out, 3, 1, after);
		else
			run_shared(taps, out, 3, 2, after);
	} else if (kernel == 3) {
		if (stride == 1)
			run_shared(taps, out, 3, 1, edges);
		else
			run_shared(taps, out, 3, 2, edges);
	} else if (!edges.before && !edges.after) {
		if (stride == 1)
			run_shared(taps, out, 5, 1, none);
		else
			run_shared(taps, out, 5, 2, none);
	} else {
		if (stride == 1)
			run_shared(taps, out, 5, 1, edges);
		else
			run_shared(taps, out, 5, 2, edges);
	}
}

static void run_block(const struct taps *taps, float *out)
{
	run_pixels(taps, out, BLOCK);
}

static void run_single(const struct taps *taps, float *out)
{
	run_pixels(taps, out, 1);
}

/* Output pixels from here on whose windows are inside from left to right. */
static uint32_t pixels_inside(const struct cl_conv2d *conv, uint32_t x)
{
	const int64_t start = (int64_t)x * conv->stride_w - conv->pad_left;
	const int64_t room =
		(int64_t)conv->in_w - 1 - (int64_t)(conv->kernel_w - 1) * conv->dilation_w - start;
	const uint32_t left = conv->out_w - x;
	int64_t fit = 0;

	if (start < 0 || room < 0)
		return 0;
	fit = room / conv->stride_w + 1;
	return fit < left ? (uint32_t)fit : left;
}

/* run_shared has an instance for the kernel, and every block of BLOCK pixels has a column inside.
 */
static bool is_shared(const struct cl_conv2d *conv)
{
	return (conv->kernel_w == 3 || conv->kernel_w == 5) && conv->stride_w <= 2 &&
	       conv->dilation_w == 1 && conv->in_c % 4 == 0 && conv->out_w >= BLOCK &&
	       conv->pad_left < conv->kernel_w &&
	       ((int64_t)conv->out_w - BLOCK) * conv->stride_w - conv->pad_left < conv->in_w;
}

/* One row of output pixels by run_shared; image and weights are of the row's first taps inside. */
static void run_shared_row(const struct cl_conv2d *conv, struct taps *taps, const float *image,
			   const float *weights, float *out)
{
	const int64_t columns = COLUMNS((int64_t)conv->kernel_w, conv->stride_w);
	uint32_t x = 0;

	taps->weights = weights;
	for (;;) {
		const int64_t start = (int64_t)x * conv->stride_w - conv->pad_left;
		const int64_t end = start + columns;
		const struct edges edges = {
			.before = start < 0 ? (unsigned int)-start : 0,
			.after = end > conv->in_w ? (unsigned int)(end - conv->in_w) : 0,
		};

		taps->in = image + (size_t)(start < 0 ? 0 : start) * conv->in_c;
		if (conv->kernel_w == 3 && taps->rows == 3 && !edges.before && !edges.after) {
			const uint32_t blocks = pixels_inside(conv, x) / BLOCK;

			if (conv->stride_w == 1)
				run_whole(taps, out + (size_t)x * conv->in_c, blocks, 1);
			else
				run_whole(taps, out + (size_t)x * conv->in_c, blocks, 2);
			x += (blocks - 1) * BLOCK;
		} else {
			run_shared_block(taps, conv->kernel_w, conv->stride_w, edges,
					 out + (size_t)x * conv->in_c);
		}
		if (x + BLOCK >= conv->out_w)
			break;
		/* The last block overlaps the one before it where they do not come out even. */
		x = x + 2 * BLOCK <= conv->out_w ? x + BLOCK : conv->out_w - BLOCK;
	}
}

/* One row of output pixels; rows is where its taps lie vertically, image the batch's input. */
static void run_row(const struct cl_conv2d *conv, struct taps *taps, const struct cl_window *rows,
		    const float *image, const float *weights, float *out)
{
	const size_t channels = conv->in_c;
	uint32_t x = 0;

	taps->rows = rows->end - rows->begin;
	image += (size_t)rows->position * conv->in_w * channels;
	weights += (size_t)rows->begin * conv->kernel_w * channels;
	if (is_shared(conv)) {
		run_shared_row(conv, taps, image, weights, out);
		return;
	}
	while (x < conv->out_w) {
		uint32_t inside = pixels_inside(conv, x);
		const struct cl_window columns =
			cl_window_at(x, conv->kernel_w, conv->stride_w, conv->dilation_w,
				     conv->pad_left, conv->in_w);

		taps->columns = columns.end - columns.begin;
		taps->in = image + (size_t)columns.position * channels;
		taps->weights = weights + columns.begin * channels;
		if (inside < BLOCK) {
			run_single(taps, out + x * channels);
			x++;
			continue;
		}
		/* The last block overlaps the one before it where they do not come out even. */
		while (inside > 0) {
			if (inside < BLOCK) {
				x -= BLOCK - inside;
				taps->in -= (BLOCK - inside) * taps->pixel_step;
				inside = BLOCK;
			}
			run_block(taps, out + x * channels);
			x += BLOCK;
			inside -= BLOCK;
			if (inside > 0)
				taps->in += BLOCK * taps->pixel_step;
		}
	}
}

static void depthwise_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	const size_t channels = conv->in_c;
	const size_t image = (size_t)conv->in_h * conv->in_w * channels;
	const size_t out_row = (size_t)conv->out_w * channels;
	const float *in = cl_source(&conv->in, memory);
	const float *weights = cl_source(&conv->weights, memory);
	float *out = cl_target(&conv->out, memory);
	struct cl_fusion fusion = {0};
	struct taps taps = {0};
	uint32_t n = 0;
	uint32_t y = 0;

	cl_fusion_init(&fusion, &conv->activation);
	taps.bias = cl_source(&conv->bias, memory);
	taps.fusion = &fusion;
	taps.channels = channels;
	taps.pixel_step = conv->stride_w * channels;
	taps.row_step = (size_t)conv->dilation_h * conv->in_w * channels;
	taps.column_step = conv->dilation_w * channels;
	taps.weights_row_step = conv->kernel_w * channels;
	for (n = 0; n < conv->batch; n++, in += image) {
		for (y = 0; y < conv->out_h; y++, out += out_row) {
			const struct cl_window rows =
				cl_window_at(y, conv->kernel_h, conv->stride_h, conv->dilation_h,
					     conv->pad_top, conv->in_h);

			run_row(conv, &taps, &rows, in, weights, out);
			cl_fusion_finish(&fusion, out, out_row);
		}
	}
}

const struct cl_kernel_ops cl_depthwise_kernel = {
	.record_size = sizeof(struct cl_conv2d),
	.check = depthwise_check,
	.run = depthwise_run,
};
