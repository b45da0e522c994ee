/* SPDX-License-Identifier: BSD-2-Clause */
/* The definition of a convolution, one product at a time, for records of either element type. */
#ifndef CLOISTER_TEST_CONV_TAPS_H
#define CLOISTER_TEST_CONV_TAPS_H

#include "harness.h"

/* The fields of a record that say which element meets which weight. */
struct conv_shape {
	uint32_t in_h;
	uint32_t in_w;
	uint32_t in_c;
	uint32_t out_c;
	uint32_t kernel_h;
	uint32_t kernel_w;
	uint32_t stride_h;
	uint32_t stride_w;
	uint32_t dilation_h;
	uint32_t dilation_w;
	uint32_t pad_top;
	uint32_t pad_left;
	uint32_t group;
};

#define CONV_SHAPE(conv)                                                                           \
	((struct conv_shape){(conv)->in_h, (conv)->in_w, (conv)->in_c, (conv)->out_c,              \
			     (conv)->kernel_h, (conv)->kernel_w, (conv)->stride_h,                 \
			     (conv)->stride_w, (conv)->dilation_h, (conv)->dilation_w,             \
			     (conv)->pad_top, (conv)->pad_left, (conv)->group})

/* An output element: of channel o at (y, x) of image n. */
struct conv_place {
	uint32_t n;
	uint32_t y;
	uint32_t x;
	uint32_t o;
};

struct conv_product {
	bool inside;   /* the element is one of the input, which is */
	size_t in;     /* this one, NHWC; */
	size_t weight; /* it meets this weight, of (out_c, in_c / group, kh, kw) */
};

/* Products of one output element. */
static inline uint32_t conv_products(const struct conv_shape *shape)
{
	return shape->in_c / shape->group * shape->kernel_h * shape->kernel_w;
}

/* The k-th of them. */
static inline struct conv_product conv_product(const struct conv_shape *shape,
					       const struct conv_place *place, uint32_t k)
{
	const uint32_t kernel = shape->kernel_h * shape->kernel_w;
	const uint32_t first =
		place->o / (shape->out_c / shape->group) * (shape->in_c / shape->group);
	const long y = (long)place->y * shape->stride_h - shape->pad_top +
		       (long)(k % kernel / shape->kernel_w) * shape->dilation_h;
	const long x = (long)place->x * shape->stride_w - shape->pad_left +
		       (long)(k % shape->kernel_w) * shape->dilation_w;
	const struct conv_product product = {
		.inside = y >= 0 && y < shape->in_h && x >= 0 && x < shape->in_w,
		.in = (((size_t)place->n * shape->in_h + (size_t)y) * shape->in_w + (size_t)x) *
			      shape->in_c +
		      first + k / kernel,
		.weight = (size_t)place->o * conv_products(shape) + k,
	};

	return product;
}

/* Output extent along one dimension, at least 1. */
static inline uint32_t out_extent(uint32_t in, uint32_t kernel, uint32_t stride, uint32_t dilation,
				  uint32_t pads)
{
	const uint32_t span = (kernel - 1) * dilation + 1;

	return in + pads < span ? 1 : (in + pads - span) / stride + 1;
}

#endif
