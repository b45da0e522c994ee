/* SPDX-License-Identifier: BSD-2-Clause */
#include "walk.h"

void cl_walk_append(struct cl_walk *walk, uint32_t count, int64_t stride0, int64_t stride1)
{
	unsigned int last = walk->rank;

	if (count == 1)
		return;
	if (last && walk->strides[0][last - 1] == stride0 * count &&
	    walk->strides[1][last - 1] == stride1 * count) {
		last--;
		walk->dims[last] *= count;
	} else {
		walk->dims[last] = count;
		walk->rank++;
	}
	walk->strides[0][last] = stride0;
	walk->strides[1][last] = stride1;
}

struct cl_run cl_walk_take(struct cl_walk *walk, unsigned int position)
{
	struct cl_run run = {.count = 1, .strides = {1, 1}};
	unsigned int i = 0;

	if (position >= walk->rank)
		return run;
	run.count = walk->dims[position];
	run.strides[0] = walk->strides[0][position];
	run.strides[1] = walk->strides[1][position];
	walk->rank--;
	for (i = position; i < walk->rank; i++) {
		walk->dims[i] = walk->dims[i + 1];
		walk->strides[0][i] = walk->strides[0][i + 1];
		walk->strides[1][i] = walk->strides[1][i + 1];
	}
	return run;
}
