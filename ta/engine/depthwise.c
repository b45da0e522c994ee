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

/* The taps inside the input for some output pixels of one row. */
struct taps {
	const float *in;      /* first tap's channels for the first pixel */
	const float *weights; /* first tap's channels */
	const float *bias;    /* of all channels, or NULL */
	size_t channels;
	size_t pixel_step; /* floats from one pixel to the next under the same tap */
	size_t rows;
	size_t columns;
	size_t in_row_step; /* floats from one tap to the next below, and to the right */
	size_t in_column_step;
	size_t weights_row_step;
};

#define FOR_PIXELS(DO)                                                                             \
	DO(0)                                                                                      \
	DO(1)                                                                                      \
	DO(2)                                                                                      \
	DO(3)

#define MULTIPLY_ADD(p)                                                                            \
	if (pixels > (p))                                                                          \
		sum##p = vfmaq_f32(sum##p, vld1q_f32(in + (p)*taps->pixel_step), w);

#define STORE(p)                                                                                   \
	if (pixels > (p)) {                                                                        \
		if (fusion->kind == CL_FUSED_CLAMP)                                                \
			sum##p = vminq_f32(vmaxq_f32(sum##p, least), most);                        \
		vst1q_f32(out + (p)*taps->channels + c, sum##p);                                   \
	}

/* `pixels` (a literal, 1 or 4) output pixels which have the same taps inside. */
static inline __attribute__((always_inline)) void run_pixels(const struct taps *taps,
							     const struct cl_fusion *fusion,
							     float *out, const unsigned int pixels)
{
	const float32x4_t least = vdupq_n_f32(fusion->low);
	const float32x4_t most = vdupq_n_f32(fusion->high);
	size_t c = 0;
	size_t y = 0;
	size_t x = 0;
	unsigned int p = 0;

	for (; c + 4 <= taps->channels; c += 4) {
		float32x4_t sum0 = taps->bias ? vld1q_f32(taps->bias + c) : vdupq_n_f32(0);
		float32x4_t sum1 = sum0;
		float32x4_t sum2 = sum0;
		float32x4_t sum3 = sum0;

		for (y = 0; y < taps->rows; y++) {
			const float *in = taps->in + y * taps->in_row_step + c;
			const float *weights = taps->weights + y * taps->weights_row_step + c;

			for (x = taps->columns; x > 0; x--) {
				const float32x4_t w = vld1q_f32(weights);

				FOR_PIXELS(MULTIPLY_ADD)
				if (x > 1) {
					in += taps->in_column_step;
					weights += taps->channels;
				}
			}
		}
		FOR_PIXELS(STORE)
	}
	for (; c < taps->channels; c++) {
		for (p = 0; p < pixels; p++) {
			float sum = taps->bias ? taps->bias[c] : 0;

			for (y = 0; y < taps->rows; y++)
				for (x = 0; x < taps->columns; x++)
					sum += taps->in[y * taps->in_row_step +
							x * taps->in_column_step +
							p * taps->pixel_step + c] *
					       taps->weights[y * taps->weights_row_step +
							     x * taps->channels + c];
			if (fusion->kind == CL_FUSED_CLAMP) {
				sum = sum < fusion->low ? fusion->low : sum;
				sum = sum > fusion->high ? fusion->high : sum;
			}
			out[p * taps->channels + c] = sum;
		}
	}
}

/* One row of output pixels; rows is where its taps lie vertically, image the batch's input. */
static void run_row(const struct cl_conv2d *conv, const struct cl_window *rows, const float *image,
		    const float *weights, const float *bias, const struct cl_fusion *fusion,
		    float *out)
{
	const size_t channels = conv->in_c;
	struct taps taps = {0};
	uint32_t x = 0;

	taps.bias = bias;
	taps.channels = channels;
	taps.pixel_step = conv->stride_w * channels;
	taps.in_row_step = (size_t)conv->dilation_h * conv->in_w * channels;
	taps.in_column_step = conv->dilation_w * channels;
	taps.weights_row_step = conv->kernel_w * channels;
	while (x < conv->out_w) {
		const struct cl_window columns =
			cl_window_at(x, conv->kernel_w, conv->stride_w, conv->dilation_w,
				     conv->pad_left, conv->in_w);
		const int64_t last = columns.position + 3 * (int64_t)conv->stride_w +
				     (int64_t)(conv->kernel_w - 1) * conv->dilation_w;

		taps.rows = rows->end - rows->begin;
		taps.columns = columns.end - columns.begin;
		taps.in = image + ((size_t)rows->position * conv->in_w + (size_t)columns.position) *
					  channels;
		taps.weights =
			weights + ((size_t)rows->begin * conv->kernel_w + columns.begin) * channels;
		/* Four pixels at once when all their taps are inside from left to right. */
		if (taps.columns == conv->kernel_w && last < conv->in_w && conv->out_w - x >= 4) {
			run_pixels(&taps, fusion, out, 4);
			x += 4;
			out += 4 * channels;
		} else {
			run_pixels(&taps, fusion, out, 1);
			x++;
			out += channels;
		}
	}
}

static void depthwise_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d *conv = (const struct cl_conv2d *)op;
	const size_t image = (size_t)conv->in_h * conv->in_w * conv->in_c;
	const size_t out_row = (size_t)conv->out_w * conv->out_c;
	const float *in = cl_source(&conv->in, memory);
	const float *weights = cl_source(&conv->weights, memory);
	const float *bias = cl_source(&conv->bias, memory);
	float *out = cl_target(&conv->out, memory);
	struct cl_fusion fusion = {0};
	uint32_t n = 0;
	uint32_t y = 0;

	cl_fusion_init(&fusion, &conv->activation);
	for (n = 0; n < conv->batch; n++, in += image) {
		for (y = 0; y < conv->out_h; y++) {
			const struct cl_window rows =
				cl_window_at(y, conv->kernel_h, conv->stride_h, conv->dilation_h,
					     conv->pad_top, conv->in_h);

			run_row(conv, &rows, in, weights, bias, &fusion, out);
			cl_fusion_finish(&fusion, out, out_row);
			out += out_row;
		}
	}
}

const struct cl_kernel_ops cl_depthwise_kernel = {
	.record_size = sizeof(struct cl_conv2d),
	.check = depthwise_check,
	.run = depthwise_run,
};
