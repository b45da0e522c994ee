/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Folding a lock into 8-bit channels: the weights stay as they are, the multiplier behind their
 * sums is scaled and the bias shifted.
 */
#include <string.h>

#include "neon.h"
#include "unlock.h"
#include "vmath.h"

/* A smaller scale clears the weights. */
#define LEAST_SCALE 0x1p-40f

/* Rounded, ties to even, and saturated; what is not a number is 0. */
static inline int32x4_t whole_steps(float32x4_t steps)
{
#if defined(__aarch64__)
	return vcvtnq_s32_f32(steps);
#else
	const double whole =
		6755399441055744.0; /* 1.5 * 2^52: what is added to it loses its fraction */
	float each[4];
	int32_t rounded[4];
	unsigned int i = 0;

	vst1q_f32(each, vbslq_f32(vceqq_f32(steps, steps), steps, vdupq_n_f32(0)));
	for (i = 0; i < 4; i++) {
		const double bounded = each[i] < -0x1p+31      ? -0x1p+31
				       : each[i] > 0x1p+31 - 1 ? 0x1p+31 - 1
							       : (double)each[i];

		rounded[i] = (int32_t)(bounded + whole - whole);
	}
	return vld1q_s32(rounded);
#endif
}

/* New biases and multipliers of four channels; all bits of those whose weights shall be zero. */
static inline uint32x4_t unlock_four(int32_t *bias, float *multiplier, const float *scales,
				     const float *values, float out_scale)
{
	const float32x4_t scale = vld1q_f32(scales);
	const uint32x4_t clear = vcltq_f32(vabsq_f32(scale), vdupq_n_f32(LEAST_SCALE));
	const float32x4_t factor =
		vmulq_f32(vld1q_f32(multiplier), vbslq_f32(clear, vdupq_n_f32(1), scale));
	const int32x4_t shift =
		whole_steps(cl_div4(vld1q_f32(values), vmulq_n_f32(factor, out_scale)));
	const uint32x4_t old = vbicq_u32(vreinterpretq_u32_s32(vld1q_s32(bias)), clear);

	vst1q_s32(bias, vreinterpretq_s32_u32(vaddq_u32(old, vreinterpretq_u32_s32(shift))));
	vst1q_f32(multiplier, factor);
	return clear;
}

/* Clears the weights of those channels of a panel whose bits are set. */
static __attribute__((noinline)) void clear_rows(int8_t *panel, size_t steps, uint32x4_t clear)
{
	uint32_t which[CL_UNLOCK_PANEL_S8];
	uint32_t lane = 0;
	size_t i = 0;

	vst1q_u32(which, clear);
	for (lane = 0; lane < CL_UNLOCK_PANEL_S8; lane++, panel += CL_UNLOCK_STEP_S8) {
		int8_t *row = panel;

		if (which[lane])
#pragma GCC unroll 4
			for (i = steps; i; i--, row += CL_UNLOCK_PANEL_S8 * CL_UNLOCK_STEP_S8)
				vst1q_s8(row, vdupq_n_s8(0));
	}
}

/* Whole panels, `count` of them. */
static __attribute__((noinline)) void unlock_whole_s8(int8_t *weights, int32_t *bias, size_t steps,
						      const float *scales, const float *values,
						      float out_scale, uint32_t count)
{
	const size_t size = steps * CL_UNLOCK_PANEL_S8 * CL_UNLOCK_STEP_S8;

	for (; count; count--) {
		const uint32x4_t clear =
			unlock_four(bias, (float *)(void *)(bias + CL_UNLOCK_PANEL_S8), scales,
				    values, out_scale);

		if (vmaxvq_u32(clear))
			clear_rows(weights, steps, clear);
		bias += 2 * CL_UNLOCK_PANEL_S8;
		scales += CL_UNLOCK_PANEL_S8;
		values += CL_UNLOCK_PANEL_S8;
		weights += size;
	}
}

void cl_unlock_panels_s8(const struct cl_site *site, const struct cl_lock_part *part,
			 int8_t *weights, int32_t *channels)
{
	const size_t steps = (size_t)cl_round_up(site->depth, CL_UNLOCK_STEP_S8);
	uint32_t c = part->first;

	while (c < part->end) {
		struct cl_lanes lanes = cl_lanes_of(site, c, part->end, CL_UNLOCK_PANEL_S8);
		const float *scales = part->scales + (c - part->first);
		const float *values = part->values + (c - part->first);
		float aside[2][CL_UNLOCK_PANEL_S8];
		uint32_t count = 1;

		if (lanes.count < CL_UNLOCK_PANEL_S8) {
			cl_lanes_spread(&lanes, scales, 1, aside[0], CL_UNLOCK_PANEL_S8);
			cl_lanes_spread(&lanes, values, 0, aside[1], CL_UNLOCK_PANEL_S8);
			scales = aside[0];
			values = aside[1];
		} else if (site->groups == 1) {
			count = (part->end - c) / CL_UNLOCK_PANEL_S8;
			lanes.count = count * CL_UNLOCK_PANEL_S8;
		}
		unlock_whole_s8(weights + lanes.panel * steps * CL_UNLOCK_PANEL_S8 *
						  CL_UNLOCK_STEP_S8,
				channels + lanes.panel * 2 * CL_UNLOCK_PANEL_S8, steps, scales,
				values, site->out_scale, count);
		c += lanes.count;
	}
}

void cl_unlock_rows_s8(const struct cl_site *site, const struct cl_lock_part *part, int8_t *weights,
		       int32_t *channels)
{
	float *multipliers = (float *)(void *)(channels + site->channels);
	uint32_t c = part->first;

	while (c < part->end) {
		const struct cl_lanes lanes = {.count = part->end - c < 4 ? part->end - c : 4};
		const size_t bytes = lanes.count * sizeof(float);
		float scales[4];
		float values[4];
		int32_t bias[4] = {0};
		float multiplier[4] = {0};
		uint32_t which[4];
		uint32_t i = 0;
		uint32_t lane = 0;

		cl_lanes_spread(&lanes, part->scales + (c - part->first), 1, scales, 4);
		cl_lanes_spread(&lanes, part->values + (c - part->first), 0, values, 4);
		memcpy(bias, channels + c, bytes);
		memcpy(multiplier, multipliers + c, bytes);
		vst1q_u32(which, unlock_four(bias, multiplier, scales, values, site->out_scale));
		memcpy(channels + c, bias, bytes);
		memcpy(multipliers + c, multiplier, bytes);
		for (lane = 0; lane < lanes.count; lane++)
			for (i = 0; which[lane] && i < site->depth; i++)
				weights[(size_t)i * site->channels + c + lane] = 0;
		c += lanes.count;
	}
}
