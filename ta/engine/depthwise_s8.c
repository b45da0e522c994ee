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
	if (conv->weights_kind > CL_WEIGHTS_S8_ANY)
		return CL_BAD_KERNEL;
	if (conv->group != conv->in_c || conv->out_c != conv->in_c ||
	    !cl_product(weight_factors, 3, &weight_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&conv->weights, memory, weight_count, 1) ||
	    !cl_can_read(&conv->channels, memory, conv->in_c, sizeof(int32_t) + sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* What all pixels share. */
struct layer {
	const struct cl_conv2d_s8 *conv;
	const int8_t *weights; /* [taps][channels] */
	const int32_t *bias;
	const float *multiplier;
	size_t channels;
	size_t taps;
	const int8_t **table;  /* [taps]: the input under each tap of one pixel */
	const int8_t *outside; /* stands for a pixel outside: channels times in_zero */
	struct cl_finish finish;
};

/* The sums of 16 channels. */
struct sums {
	int32x4_t part[4];
};

static inline struct sums begin_sums(const int32_t *bias)
{
	struct sums sums;

	sums.part[0] = vld1q_s32(bias);
	sums.part[1] = vld1q_s32(bias + 4);
	sums.part[2] = vld1q_s32(bias + 8);
	sums.part[3] = vld1q_s32(bias + 12);
	return sums;
}

static inline __attribute__((always_inline)) void add_wide(struct sums *sums, int16x8_t low,
							   int16x8_t high)
{
	sums->part[0] = vaddw_s16(sums->part[0], vget_low_s16(low));
	sums->part[1] = vaddw_high_s16(sums->part[1], low);
	sums->part[2] = vaddw_s16(sums->part[2], vget_low_s16(high));
	sums->part[3] = vaddw_high_s16(sums->part[3], high);
}

static inline __attribute__((always_inline)) void add_tap(struct sums *sums, int8x16_t in,
							  int8x16_t weights)
{
	add_wide(sums, vmull_s8(vget_low_s8(in), vget_low_s8(weights)), vmull_high_s8(in, weights));
}

/* Two taps: their products' sum fits into 16 bits unless a weight is -128. */
static inline __attribute__((always_inline)) void add_two_taps(struct sums *sums, int8x16_t in0,
							       int8x16_t weights0, int8x16_t in1,
							       int8x16_t weights1, const bool any)
{
	if (any) {
		add_tap(sums, in0, weights0);
		add_tap(sums, in1, weights1);
		return;
	}
	add_wide(sums,
		 vmlal_s8(vmull_s8(vget_low_s8(in0), vget_low_s8(weights0)), vget_low_s8(in1),
			  vget_low_s8(weights1)),
		 vmlal_high_s8(vmull_high_s8(in0, weights0), in1, weights1));
}

static inline int32x4_t scale4(int32x4_t sum, const float *multiplier)
{
	return cl_round4(vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(multiplier)));
}

static inline __attribute__((always_inline)) void end_sums(const struct layer *layer, size_t c,
							   const struct sums *sums, int8_t *out)
{
	const float *multiplier = layer->multiplier + c;

	vst1q_s8(out + c, cl_finish16(&layer->finish, scale4(sums->part[0], multiplier),
				      scale4(sums->part[1], multiplier + 4),
				      scale4(sums->part[2], multiplier + 8),
				      scale4(sums->part[3], multiplier + 12)));
}

/* One pixel through the table, fewer than 16 channels. */
static void run_few_channels(const struct layer *layer, int8_t *out)
{
	size_t c = 0;
	size_t tap = 0;

	for (c = 0; c < layer->channels; c++) {
		/* Modulo 2^32, as the vectors are. */
		uint32_t sum = (uint32_t)layer->bias[c];

		for (tap = 0; tap < layer->taps; tap++)
			sum += (uint32_t)(layer->table[tap][c] *
					  layer->weights[tap * layer->channels + c]);
		out[c] = cl_finish1(&layer->finish, (float)(int32_t)sum * layer->multiplier[c]);
	}
}

/* One pixel through the table. The last 16 channels overlap those before. */
static inline __attribute__((always_inline)) void run_table(const struct layer *layer, int8_t *out,
							    const bool any)
{
	const size_t channels = layer->channels;
	const int8_t **table = layer->table;
	size_t c = 0;

	if (channels < 16) {
		run_few_channels(layer, out);
		return;
	}
	for (;;) {
		const int8_t *weights = layer->weights + c;
		struct sums sums = begin_sums(layer->bias + c);
		size_t tap = 0;

		for (; tap + 2 <= layer->taps; tap += 2) {
			add_two_taps(&sums, vld1q_s8(table[tap] + c), vld1q_s8(weights),
				     vld1q_s8(table[tap + 1] + c), vld1q_s8(weights + channels),
				     any);
			weights += 2 * channels;
		}
		if (tap < layer->taps)
			add_tap(&sums, vld1q_s8(table[tap] + c), vld1q_s8(weights));
		end_sums(layer, c, &sums, out);
		if (c + 16 == channels)
			return;
		c = c + 32 <= channels ? c + 16 : channels - 16;
	}
}

/* Pixels with all of 3x3 taps inside that are computed together. */
#define BLOCK 2

/*
 * BLOCK pixels whose 3x3 taps all lie inside, at least 16 channels. `in` is under
 * the first tap of the first one; any is a literal, and so is stride, the
 * distance of two pixels in the input: they share what they read.
 */
static inline __attribute__((always_inline)) void run_3x3(const struct layer *layer,
							  const int8_t *in, int8_t *out,
							  const unsigned int stride, const bool any)
{
	const size_t channels = layer->channels;
	const size_t row = layer->conv->in_w * channels;
	size_t c = 0;

	for (;;) {
		const int8_t *weights = layer->weights + c;
		struct sums sums0 = begin_sums(layer->bias + c);
		struct sums sums1 = sums0;
		/* The third column of the row before, which is paired with this row's. */
		int8x16_t left0 = vdupq_n_s8(0);
		int8x16_t left1 = left0;
		int8x16_t left_weights = left0;
		unsigned int y = 0;

		for (y = 0; y < 3; y++) {
			const int8_t *from = in + y * row + c;
			const int8x16_t w0 = vld1q_s8(weights);
			const int8x16_t w1 = vld1q_s8(weights + channels);
			const int8x16_t w2 = vld1q_s8(weights + 2 * channels);
			const int8x16_t in0 = vld1q_s8(from);
			const int8x16_t in1 = vld1q_s8(from + channels);
			const int8x16_t in2 = vld1q_s8(from + 2 * channels);
			const int8x16_t in3 = vld1q_s8(from + 3 * channels);
			const int8x16_t in4 = stride == 2 ? vld1q_s8(from + 4 * channels) : in3;

			add_two_taps(&sums0, in0, w0, in1, w1, any);
			if (stride == 2)
				add_two_taps(&sums1, in2, w0, in3, w1, any);
			else
				add_two_taps(&sums1, in1, w0, in2, w1, any);
			if (y == 1) {
				add_two_taps(&sums0, left0, left_weights, in2, w2, any);
				add_two_taps(&sums1, left1, left_weights, in4, w2, any);
			} else if (y == 2) {
				add_tap(&sums0, in2, w2);
				add_tap(&sums1, in4, w2);
			}
			left0 = in2;
			left1 = in4;
			left_weights = w2;
			weights += 3 * channels;
		}
		end_sums(layer, c, &sums0, out);
		end_sums(layer, c, &sums1, out + channels);
		if (c + 16 == channels)
			return;
		c = c + 32 <= channels ? c + 16 : channels - 16;
	}
}

/* Points the table to the input under each tap of an output pixel. */
static void point_to_taps(const struct layer *layer, const int8_t *image, uint32_t out_y,
			  uint32_t out_x)
{
	const struct cl_conv2d_s8 *conv = layer->conv;
	const int8_t **table = layer->table;
	int64_t y = (int64_t)out_y * conv->stride_h - conv->pad_top;
	uint32_t ky = 0;
	uint32_t kx = 0;

	for (ky = 0; ky < conv->kernel_h; ky++, y += conv->dilation_h) {
		const bool inside = y >= 0 && y < conv->in_h;
		const int8_t *source = inside ? image + (size_t)y * conv->in_w * conv->in_c : NULL;
		/* What is left of the input wraps, and is beyond its width as well. */
		uint64_t x = (uint64_t)((int64_t)out_x * conv->stride_w - conv->pad_left);

		for (kx = 0; kx < conv->kernel_w; kx++, x += conv->dilation_w)
			*table++ =
				inside && x < conv->in_w ? source + x * conv->in_c : layer->outside;
	}
}

/* One row of output pixels. */
static inline __attribute__((always_inline)) void
run_row(const struct layer *layer, const int8_t *image, uint32_t out_y, int8_t *out, const bool any)
{
	const struct cl_conv2d_s8 *conv = layer->conv;
	const int64_t y = (int64_t)out_y * conv->stride_h - conv->pad_top;
	const uint32_t stride = conv->stride_w;
	const bool blocks = conv->kernel_h == 3 && conv->kernel_w == 3 && conv->dilation_h == 1 &&
			    conv->dilation_w == 1 && stride <= 2 && layer->channels >= 16 &&
			    y >= 0 && y + 3 <= conv->in_h;
	/* Input columns under a block: they end at x + span. */
	const int64_t span = (int64_t)stride * (BLOCK - 1) + 3;
	uint32_t out_x = 0;

	while (out_x < conv->out_w) {
		const int64_t x = (int64_t)out_x * stride - conv->pad_left;

		if (blocks && x >= 0 && x + span <= conv->in_w && out_x + BLOCK <= conv->out_w) {
			const int8_t *in =
				image + ((size_t)y * conv->in_w + (size_t)x) * layer->channels;

			if (stride == 2)
				run_3x3(layer, in, out, 2, any);
			else
				run_3x3(layer, in, out, 1, any);
			out_x += BLOCK;
			out += BLOCK * layer->channels;
			continue;
		}
		point_to_taps(layer, image, out_y, out_x);
		run_table(layer, out, any);
		out_x++;
		out += layer->channels;
	}
}

static void depthwise_s8_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_conv2d_s8 *conv = (const struct cl_conv2d_s8 *)op;
	const size_t channels = conv->in_c;
	const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;
	const size_t image = (size_t)conv->in_h * conv->in_w * channels;
	const uint8_t *ends = cl_source(&conv->channels, memory);
	const int8_t **table = cl_target(&conv->scratch, memory);
	int8_t *outside = (int8_t *)(table + taps);
	const struct layer layer = {
		.conv = conv,
		.weights = cl_source(&conv->weights, memory),
		.bias = (const void *)ends,
		.multiplier = (const void *)(ends + channels * sizeof(int32_t)),
		.channels = channels,
		.taps = taps,
		.table = table,
		.outside = outside,
		.finish = cl_finish_of(&conv->finish),
	};
	const int8_t *in = cl_source(&conv->in, memory);
	int8_t *out = cl_target(&conv->out, memory);
	uint32_t n = 0;
	uint32_t y = 0;

	cl_fill_bytes(outside, conv->in_zero, channels);
	for (n = 0; n < conv->batch; n++, in += image) {
		for (y = 0; y < conv->out_h; y++, out += conv->out_w * channels) {
			if (conv->weights_kind == CL_WEIGHTS_S8_ANY)
				run_row(&layer, in, y, out, true);
			else
				run_row(&layer, in, y, out, false);
		}
	}
}

const struct cl_kernel_ops cl_depthwise_s8_kernel = {
	.record_size = sizeof(struct cl_conv2d_s8),
	.check = depthwise_s8_check,
	.run = depthwise_s8_run,
};
