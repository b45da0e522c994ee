/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Limits on the numbers of an operator record, so that index arithmetic in
 * int64_t cannot overflow and no operator runs absurdly long.
 */
#ifndef CLOISTER_EXTENT_H
#define CLOISTER_EXTENT_H

#include "bounds.h"

/*
 * Largest kernel extent, stride, dilation and pad. Output extents are below
 * 2^30 (a run has at most 2^32 bytes), so that every position is below
 * 2^30 * 2^24 + 2^24 * 2^24 + 2^24 < 2^55.
 */
#define CL_MAX_EXTENT (UINT32_C(1) << 24)

/*
 * Largest number of inner steps (multiply-accumulates, comparisons) of one
 * operator. The largest layer of VGG-19 has 2^31; 2^35 can be minutes on a slow
 * core, and the caller can stop every few operators.
 */
#define CL_MAX_WORK (UINT64_C(1) << 35)

/* 1 <= value <= CL_MAX_EXTENT. */
static inline bool cl_extent_valid(uint32_t value)
{
	return value >= 1 && value <= CL_MAX_EXTENT;
}

/* a * b inner steps are few enough. */
static inline bool cl_work_valid(uint64_t a, uint64_t b)
{
	uint64_t work = 0;

	return cl_mul(a, b, &work) && work <= CL_MAX_WORK;
}

#endif
