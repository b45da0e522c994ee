/* SPDX-License-Identifier: BSD-2-Clause */
#include "pool_walk.h"
#include "extent.h"
#include "window.h"

#define LAST (CL_POOL_DIMS - 1)

bool cl_pool_shape_valid(const struct cl_pool_shape *shape, uint64_t *in_count, uint64_t *out_count,
			 uint64_t *cells)
{
	const uint32_t outer_factors[] = {shape->batch, shape->channels};
	uint64_t outer = 0;
	unsigned int i = 0;

	for (i = 0; i < CL_POOL_DIMS; i++)
		if (!cl_extent_valid(shape->kernel[i]) || !cl_extent_valid(shape->stride[i]) ||
		    !cl_extent_valid(shape->dilation[i]) || shape->pad_begin[i] > CL_MAX_EXTENT ||
		    shape->pad_end[i] > CL_MAX_EXTENT)
			return false;
	return cl_product(outer_factors, 2, &outer) &&
	       cl_product(shape->in_dims, CL_POOL_DIMS, in_count) &&
	       cl_mul(*in_count, outer, in_count) &&
	       cl_product(shape->out_dims, CL_POOL_DIMS, out_count) &&
	       cl_mul(*out_count, outer, out_count) &&
	       cl_product(shape->kernel, CL_POOL_DIMS, cells) && cl_work_valid(*out_count, *cells);
}

/* Taps of a window inside the padded input; it never begins before the padding. */
static uint32_t padded_taps(const struct cl_pool_shape *shape, unsigned int dim, uint32_t index)
{
	const int64_t start = (int64_t)index * shape->stride[dim] - shape->pad_begin[dim];
	const int64_t end = (int64_t)shape->in_dims[dim] + shape->pad_end[dim];
	const int64_t dilation = shape->dilation[dim];

	if (start >= end)
		return 0;
	if (start + (shape->kernel[dim] - 1) * dilation < end)
		return shape->kernel[dim];
	return (uint32_t)((end - start + dilation - 1) / dilation);
}

/* One dimension of a window. */
struct part {
	size_t first; /* elements */
	size_t count;
	size_t padded;
	size_t step; /* elements from one cell to the next */
};

static struct part find_part(const struct cl_pool_shape *shape, unsigned int dim, uint32_t index,
			     size_t element_step)
{
	const struct cl_window window =
		cl_window_at(index, shape->kernel[dim], shape->stride[dim], shape->dilation[dim],
			     shape->pad_begin[dim], shape->in_dims[dim]);
	const struct part part = {
		.first = (size_t)window.position * element_step,
		.count = window.end - window.begin,
		.padded = padded_taps(shape, dim, index),
		.step = element_step * shape->dilation[dim],
	};

	return part;
}

/* Windows from `index` on along the last dimension that have the form of this one. */
static uint32_t equal_windows(const struct cl_pool_shape *shape, uint32_t index, size_t inside)
{
	const uint32_t left = shape->out_dims[LAST] - index;
	int64_t room = 0;

	if (inside != shape->kernel[LAST])
		return 1;
	/* Cells of the input behind this window's last; it and all its cells are inside. */
	room = (int64_t)shape->in_dims[LAST] - 1 -
	       ((int64_t)index * shape->stride[LAST] - shape->pad_begin[LAST]) -
	       (int64_t)(shape->kernel[LAST] - 1) * shape->dilation[LAST];
	room = room / shape->stride[LAST] + 1;
	return room < left ? (uint32_t)room : left;
}

void cl_pool_walk(const struct cl_pool_shape *shape,
		  void (*pool)(const void *context, const struct cl_windows *windows),
		  const void *context)
{
	const size_t row = (size_t)shape->in_dims[2] * shape->channels;
	const size_t plane = shape->in_dims[1] * row;
	struct cl_windows windows = {.advance = (size_t)shape->stride[LAST] * shape->channels};
	size_t image = 0;
	uint32_t n = 0;
	uint32_t z = 0;
	uint32_t y = 0;
	uint32_t x = 0;

	for (n = 0; n < shape->batch; n++, image += shape->in_dims[0] * plane) {
		for (z = 0; z < shape->out_dims[0]; z++) {
			const struct part deep = find_part(shape, 0, z, plane);

			windows.counts[0] = deep.count;
			windows.steps[0] = deep.step;
			for (y = 0; y < shape->out_dims[1]; y++) {
				const struct part high = find_part(shape, 1, y, row);

				windows.counts[1] = high.count;
				windows.steps[1] = high.step;
				for (x = 0; x < shape->out_dims[2]; x += (uint32_t)windows.count) {
					const struct part wide =
						find_part(shape, 2, x, shape->channels);

					windows.first =
						image + deep.first + high.first + wide.first;
					windows.counts[2] = wide.count;
					windows.steps[2] = wide.step;
					windows.inside = deep.count * high.count * wide.count;
					windows.padded = deep.padded * high.padded * wide.padded;
					windows.count = equal_windows(shape, x, wide.count);
					pool(context, &windows);
					windows.out += windows.count * shape->channels;
				}
			}
		}
	}
}
