/* SPDX-License-Identifier: BSD-2-Clause */
/* Depthwise convolution of 8-bit integers: vectors run along the channels. */
#include "conv2d_s8.h"
#include "tile_s8.h"

static enum cl_status depthwise_s8_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d_s8 *conv = (const struct cl_conv2d_s8 *)op;
	const uint32_t weight_factors[] = {conv->kernel_h, conv->kernel_w, conv->in_c};
	enum cl_status status = cl_conv_s8_check_common(conv, memory);
	uint64_t weight_count = 0;

	if (status != CL_OK)
		return status;
	if (conv->group != conv->in_c || conv->out_c != conv->in_c ||
	    !cl_product(weight_factors, 3, &weight_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->weights, memory, weight_count, 1) ||
	    !cl_can_read(&conv->channels, memory, conv->in_c, sizeof(int32_t) + sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* table[ky][kx]: the input under each tap; `outside` stands for pixels outside. */
static void point_to_taps(const struct cl_conv2d_s8 *conv, const int8_t *image, uint32_t out_y,
			  uint32_t out_x, const int8_t *outside, const int8_t **table)
{
	int64_t y = (int64_t)out_y * conv->stride_h - conv->pad_top;
	uint32_t ky = 0;
	uint32_t kx = 0;

	for (ky = 0; ky < conv->kernel_h; ky++, y += conv->dilation_h) {
		const bool inside = y >= 0 && y < conv->in_h;
		const int8_t *source = inside ? image + (size_t)y * conv->in_w * conv->in_c : NULL;
		/* What is left of the input wraps, and is beyond its width as well. */
		uint64_t x = (uint64_t)((int64_t)out_x * conv->stride_w - conv->pad_left);

		for (kx = 0; kx < conv->kernel_w; kx++, x += conv->dilation_w)
			*table++ = inside && x < conv->in_w ? source + x * conv->in_c : outside;
	}
}

static void depthwise_s8_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d_s8 *conv = (const struct cl_conv2d_s8 *)op;
	const struct cl_finish finish = cl_finish_of(&conv->finish);
	const size_t channels = conv->in_c;
	const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;
	const size_t image = (size_t)conv->in_h * conv->in_w * channels;
	const int8_t *in = cl_source(&conv->in, memory);
	const int8_t *weights = cl_source(&conv->weights, memory);
	const int32_t *bias = cl_source(&conv->channels, memory);
	const float *multiplier = (const float *)(bias + channels);
	const int8_t **table = cl_target(&conv->scratch, memory);
	int8_t *outside = (int8_t *)(table + taps);
	int8_t *out = cl_target(&conv->out, memory);
	uint32_t n = 0;
	uint32_t y = 0;
	uint32_t x = 0;
	size_t c = 0;
	size_t tap = 0;

	cl_fill_bytes(outside, conv->in_zero, channels);
	for (n = 0; n < conv->batch; n++, in += image) {
		for (y = 0; y < conv->out_h; y++) {
			for (x = 0; x < conv->out_w; x++, out += channels) {
				point_to_taps(conv, in, y, x, outside, table);
				for (c = 0; c < channels; c++) {
					uint32_t sum = (uint32_t)bias[c];

					for (tap = 0; tap < taps; tap++)
						sum += (uint32_t)(table[tap][c] *
								  weights[tap * channels + c]);
					out[c] = cl_finish1(&finish,
							    (float)(int32_t)sum * multiplier[c]);
				}
			}
		}
	}
}

const struct cl_kernel_ops cl_depthwise_s8_kernel = {
	.record_size = sizeof(struct cl_conv2d_s8),
	.check = depthwise_s8_check,
	.run = depthwise_s8_run,
};
