/* SPDX-License-Identifier: BSD-2-Clause */
/* Folding a lock into floats: every weight of a channel is scaled, its bias scaled and shifted. */
#include "unlock.h"
#include "neon.h"
#include "vmath.h"

/* Multiplies two rows of a panel. */
static inline void scale_two(float *weights, float32x4_t low, float32x4_t high)
{
	float32x4x4_t rows = vld1q_f32_x4(weights);

	rows.val[0] = vmulq_f32(rows.val[0], low);
	rows.val[1] = vmulq_f32(rows.val[1], high);
	rows.val[2] = vmulq_f32(rows.val[2], low);
	rows.val[3] = vmulq_f32(rows.val[3], high);
#if defined(__aarch64__)
	vst1q_f32_x4(weights, rows);
#else
	/* SIMDe 0.7 has no store of four registers. */
	vst1q_f32(weights, rows.val[0]);
	vst1q_f32(weights + 4, rows.val[1]);
	vst1q_f32(weights + 8, rows.val[2]);
	vst1q_f32(weights + 12, rows.val[3]);
#endif
}

/* Multiplies all `count` rows of a panel. */
static void scale_panel(float *weights, size_t count, const float scales[CL_UNLOCK_PANEL])
{
	const float32x4_t low = vld1q_f32(scales);
	const float32x4_t high = vld1q_f32(scales + 4);
	const float *const end = weights + count * CL_UNLOCK_PANEL;

	for (; end - weights >= 8 * CL_UNLOCK_PANEL; weights += 8 * CL_UNLOCK_PANEL) {
		scale_two(weights, low, high);
		scale_two(weights + 2 * CL_UNLOCK_PANEL, low, high);
		scale_two(weights + 4 * CL_UNLOCK_PANEL, low, high);
		scale_two(weights + 6 * CL_UNLOCK_PANEL, low, high);
	}
	for (; weights < end; weights += CL_UNLOCK_PANEL) {
		vst1q_f32(weights, vmulq_f32(vld1q_f32(weights), low));
		vst1q_f32(weights + 4, vmulq_f32(vld1q_f32(weights + 4), high));
	}
}

static bool all_ones(const float scales[CL_UNLOCK_PANEL])
{
	const float32x4_t one = vdupq_n_f32(1);
	const uint32x4_t same =
		vandq_u32(vceqq_f32(vld1q_f32(scales), one), vceqq_f32(vld1q_f32(scales + 4), one));

	return vminvq_u32(same) != 0;
}

static void unlock_panels(const struct cl_site *site, const struct cl_lock_part *part,
			  float *weights)
{
	uint32_t c = part->first;

	while (c < part->end) {
		const struct cl_lanes lanes = cl_lanes_of(site, c, part->end, CL_UNLOCK_PANEL);
		const float *scales = part->scales + (c - part->first);
		float aside[CL_UNLOCK_PANEL];

		if (lanes.count < CL_UNLOCK_PANEL) {
			cl_lanes_spread(&lanes, scales, 1, aside, CL_UNLOCK_PANEL);
			scales = aside;
		}
		if (!all_ones(scales))
			scale_panel(weights + lanes.panel * site->depth * CL_UNLOCK_PANEL,
				    site->depth, scales);
		c += lanes.count;
	}
}

/* to = to * scales, or to * scales + values. */
static void scale_run(float *to, const float *scales, const float *values, size_t count)
{
	size_t i = 0;

	for (; i + 4 <= count; i += 4) {
		float32x4_t v = vmulq_f32(vld1q_f32(to + i), vld1q_f32(scales + i));

		if (values)
			v = vaddq_f32(v, vld1q_f32(values + i));
		vst1q_f32(to + i, v);
	}
	for (; i < count; i++)
		to[i] = values ? to[i] * scales[i] + values[i] : to[i] * scales[i];
}

void cl_unlock_shift(const struct cl_lock_part *part, float *bias)
{
	const uint32_t count = part->end - part->first;
	uint32_t i = 0;

	for (; i + 4 <= count; i += 4)
		vst1q_f32(bias + i,
			  vaddq_f32(vld1q_f32(bias + i), cl_div4(vld1q_f32(part->values + i),
								 vld1q_f32(part->scales + i))));
	for (; i < count; i++)
		bias[i] += part->values[i] / part->scales[i];
}

void cl_unlock_f32(const struct cl_site *site, const struct cl_lock_part *part, float *weights,
		   float *bias)
{
	const uint32_t count = part->end - part->first;
	uint32_t i = 0;

	if (weights && site->packing != CL_PACKING_ROWS)
		unlock_panels(site, part, weights);
	for (i = 0; weights && site->packing == CL_PACKING_ROWS && i < site->depth; i++)
		scale_run(weights + (size_t)i * site->channels + part->first, part->scales, NULL,
			  count);
	if (bias)
		scale_run(bias + part->first, part->scales, part->values, count);
}
