/* SPDX-License-Identifier: BSD-2-Clause */
/* Visits all positions of a strided shape, for up to two strided tensors at once. */
#ifndef CLOISTER_WALK_H
#define CLOISTER_WALK_H

#include "kernel.h"

struct cl_walk {
	unsigned int rank;
	uint32_t dims[CL_MAX_RANK]; /* none is 1 */
	int64_t strides[2][CL_MAX_RANK];
	uint32_t index[CL_MAX_RANK];
	int64_t offset[2]; /* of the current position, in elements */
};

/* One dimension of a walk. */
struct cl_run {
	uint32_t count;
	int64_t strides[2];
};

/*
 * Appends an inner dimension, merged with the one before where both tensors
 * allow it. At most CL_MAX_RANK calls on a walk that began as zeros; the
 * product of all counts is below 2^32.
 */
void cl_walk_append(struct cl_walk *walk, uint32_t count, int64_t stride0, int64_t stride1);

/* Takes dimension `position` out; a single element where there is none. */
struct cl_run cl_walk_take(struct cl_walk *walk, unsigned int position);

/* Takes the innermost dimension out. */
static inline struct cl_run cl_walk_take_inner(struct cl_walk *walk)
{
	return cl_walk_take(walk, walk->rank ? walk->rank - 1 : 0);
}

/* Moves to the next position; false, and back at the first one, after the last. */
static inline bool cl_walk_next(struct cl_walk *walk)
{
	unsigned int i = walk->rank;

	while (i--) {
		walk->offset[0] += walk->strides[0][i];
		walk->offset[1] += walk->strides[1][i];
		if (++walk->index[i] < walk->dims[i])
			return true;
		walk->offset[0] -= walk->strides[0][i] * walk->dims[i];
		walk->offset[1] -= walk->strides[1][i] * walk->dims[i];
		walk->index[i] = 0;
	}
	return false;
}

#endif
