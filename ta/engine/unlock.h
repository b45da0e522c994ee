/* SPDX-License-Identifier: BSD-2-Clause */
/* How a part of a lock is folded into the weights and biases of a site, by packing. */
#ifndef CLOISTER_UNLOCK_H
#define CLOISTER_UNLOCK_H

#include "kernel.h"

#if defined(__GNUC__) && !defined(__clang__)
/* Unrolled, the loops of what includes this would be a third larger and hardly faster. */
#pragma GCC optimize("O2", "no-tree-vectorize")
#endif

#define CL_UNLOCK_PANEL    8  /* channels of a panel of floats */
#define CL_UNLOCK_PANEL_S8 4  /* and of 8-bit weights */
#define CL_UNLOCK_STEP_S8  16 /* whose depth goes in steps of so many */

static inline uint64_t cl_round_up(uint64_t value, uint32_t to)
{
	return (value + to - 1) / to;
}

/* The part of a lock that lies in a site; `first` and `end` count the site's channels. */
struct cl_lock_part {
	uint32_t first;
	uint32_t end;
	const float *scales;
	const float *values;
};

/* Neighbouring channels of one panel: the panel's number, the first one's place, how many. */
struct cl_lanes {
	size_t panel;
	uint32_t lane;
	uint32_t count;
};

/* Those from c on, in panels of `width`. */
static inline struct cl_lanes cl_lanes_of(const struct cl_site *site, uint32_t c, uint32_t end,
					  uint32_t width)
{
	struct cl_lanes lanes = {0};
	uint32_t left = end - c;

	/* Divisions that nearly all sites can do without. */
	if (site->groups > 1) {
		const uint32_t each = site->channels / site->groups;

		lanes.panel = c / each * (size_t)cl_round_up(each, width);
		c %= each;
		left = left < each - c ? left : each - c;
	}
	lanes.panel += c / width;
	lanes.lane = c % width;
	lanes.count = left < width - lanes.lane ? left : width - lanes.lane;
	return lanes;
}

/* A panel's worth of `fill`, and of `from` where the lanes are. */
static inline void cl_lanes_spread(const struct cl_lanes *lanes, const float *from, float fill,
				   float *to, uint32_t width)
{
	uint32_t i = 0;

	for (i = 0; i < width; i++)
		to[i] = fill;
	for (i = 0; i < lanes->count; i++)
		to[lanes->lane + i] = from[i];
}

/* Weights and biases of floats in any packing; each may be NULL. */
void cl_unlock_f32(const struct cl_site *site, const struct cl_lock_part *part, float *weights,
		   float *bias);

/* Biases alone, where a kernel scales the results: what those then start from. */
void cl_unlock_shift(const struct cl_lock_part *part, float *bias);

/* 8-bit weights, and what follows their sums (struct cl_channels_s8 in panels, or two rows). */
void cl_unlock_panels_s8(const struct cl_site *site, const struct cl_lock_part *part,
			 int8_t *weights, int32_t *channels);
void cl_unlock_rows_s8(const struct cl_site *site, const struct cl_lock_part *part, int8_t *weights,
		       int32_t *channels);

#endif
