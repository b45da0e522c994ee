/* SPDX-License-Identifier: BSD-2-Clause */
/* What POOL and POOL_S8 share: which cells of the input lie in which window. */
#ifndef CLOISTER_POOL_WALK_H
#define CLOISTER_POOL_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CL_POOL_DIMS 3

/* The fields of a record that say where its windows lie. */
struct cl_pool_shape {
	uint32_t batch;
	uint32_t channels;
	const uint32_t *in_dims;
	const uint32_t *out_dims;
	const uint32_t *kernel;
	const uint32_t *stride;
	const uint32_t *dilation;
	const uint32_t *pad_begin;
	const uint32_t *pad_end;
};

/* `record` is a struct cl_pool or a struct cl_pool_s8. */
#define CL_POOL_SHAPE(record)                                                                      \
	((struct cl_pool_shape){                                                                   \
		.batch = (record)->batch,                                                          \
		.channels = (record)->channels,                                                    \
		.in_dims = (record)->in_dims,                                                      \
		.out_dims = (record)->out_dims,                                                    \
		.kernel = (record)->kernel,                                                        \
		.stride = (record)->stride,                                                        \
		.dilation = (record)->dilation,                                                    \
		.pad_begin = (record)->pad_begin,                                                  \
		.pad_end = (record)->pad_end,                                                      \
	})

/* Elements of the input and the output, and cells of a window; false where a number is invalid. */
bool cl_pool_shape_valid(const struct cl_pool_shape *shape, uint64_t *in_count, uint64_t *out_count,
			 uint64_t *cells);

/* Windows of one form that follow each other along the last dimension. */
struct cl_windows {
	size_t first; /* element of the input: the first cell of the first window, channel 0 */
	size_t counts[CL_POOL_DIMS]; /* cells inside the input */
	size_t steps[CL_POOL_DIMS];  /* elements from one cell to the next */
	size_t inside;               /* cells inside the input: the product of the counts */
	size_t padded;               /* and inside the padded input */
	size_t out;                  /* element of the output */
	size_t count;                /* windows */
	size_t advance;              /* elements from one window to the next */
};

/* Calls `pool` for all windows, in the order of the output. */
void cl_pool_walk(const struct cl_pool_shape *shape,
		  void (*pool)(const void *context, const struct cl_windows *windows),
		  const void *context);

#endif
