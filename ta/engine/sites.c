/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Folding a password into a partition: what a locked channel computes is linear in its
 * weights and bias, so that an inference costs nothing more. A streamed partition is opened
 * for every inference: there all of this is what a password costs, and what would take
 * longest, scaling large weights, is left to the kernels where they have less to scale.
 */
#if defined(__GNUC__) && !defined(__clang__)
/* Unrolled, these loops would be a third larger and hardly faster. */
#pragma GCC optimize("O2", "no-tree-vectorize")
#endif

#include <string.h>

#include "bounds.h"
#include "executor.h"
#include "neon.h"
#include "password.h"
#include "scaled.h"
#include "sites.h"
#include "vmath.h"

#define PANEL    8  /* channels of a panel of floats */
#define PANEL_S8 4  /* and of 8-bit weights */
#define STEP_S8  16 /* whose depth goes in steps of so many */

/* 8-bit: a smaller scale clears the weights. */
#define LEAST_SCALE 0x1p-40f

static uint64_t up(uint64_t value, uint32_t to)
{
	return (value + to - 1) / to;
}

/* The run is absent or holds so many bytes of the partition's weights. */
static bool inside(const struct cl_ref *ref, const struct cl_memory *memory, uint64_t size)
{
	return ref->space != CL_SPACE_ARENA && cl_can_read_optional(ref, memory, size, 1);
}

/* Bytes of the weights of `depth` rows and of the biases; false when they do not fit. */
static bool sizes(const struct cl_site *site, uint64_t *weights, uint64_t *bias)
{
	const uint64_t each = site->channels / site->groups;
	const uint64_t row = (uint64_t)site->depth;
	uint64_t panels = 0;

	switch (site->packing) {
	case CL_PACKING_PANELS:
	case CL_PACKING_PANELS_SCALED:
		*bias = (uint64_t)site->channels * sizeof(float);
		panels = site->groups * up(each, PANEL);
		return cl_mul(panels * PANEL * sizeof(float), row, weights);
	case CL_PACKING_ROWS:
		*bias = (uint64_t)site->channels * sizeof(float);
		return cl_mul(*bias, row, weights);
	case CL_PACKING_PANELS_S8:
		panels = site->groups * up(each, PANEL_S8);
		*bias = panels * PANEL_S8 * (sizeof(int32_t) + sizeof(float));
		return cl_mul(panels * PANEL_S8 * STEP_S8, up(row, STEP_S8), weights);
	case CL_PACKING_ROWS_S8:
		*bias = (uint64_t)site->channels * (sizeof(int32_t) + sizeof(float));
		return cl_mul(site->channels, row, weights);
	default:
		return false;
	}
}

static bool is_s8(const struct cl_site *site)
{
	return site->packing == CL_PACKING_PANELS_S8 || site->packing == CL_PACKING_ROWS_S8;
}

/* `work` grows by the bytes that a password changes. */
static enum cl_status check_site(const struct cl_site *site, const struct cl_memory *memory,
				 uint64_t *work)
{
	const bool whole =
		site->weights.space != CL_SPACE_NONE && site->bias.space != CL_SPACE_NONE;
	uint64_t weights = 0;
	uint64_t bias = 0;

	if (!site->channels || site->channels > CL_MAX_CHANNELS ||
	    site->first > CL_MAX_CHANNELS - site->channels || !site->groups ||
	    site->channels % site->groups || !site->depth)
		return CL_BAD_FORMAT;
	if (site->packing == CL_PACKING_PANELS_SCALED && !whole)
		return CL_BAD_FORMAT;
	if (is_s8(site) ? !whole || !(site->out_scale > 0) || !cl_is_finite(site->out_scale)
			: site->out_scale != 0)
		return CL_BAD_FORMAT;
	if (!sizes(site, &weights, &bias))
		return CL_BAD_FORMAT;
	if (!inside(&site->weights, memory, weights) || !inside(&site->bias, memory, bias))
		return CL_OUT_OF_BOUNDS;
	/* Both are below 2^32, and so are the sites. */
	*work += (site->weights.space ? weights : 0) + (site->bias.space ? bias : 0);
	return CL_OK;
}

enum cl_status cl_sites_check(const struct cl_partition *header)
{
	const struct cl_site *sites = cl_partition_sites(header);
	struct cl_memory memory = {0};
	enum cl_status status = CL_OK;
	uint64_t work = 0;
	uint32_t i = 0;

	cl_partition_memory(header, NULL, &memory);
	for (i = 0; i < header->site_count && status == CL_OK; i++)
		status = check_site(&sites[i], &memory, &work);
	/* Sites that overlap would make unlocking take longer than the partition is long. */
	return status == CL_OK && work > header->weights_size ? CL_BAD_FORMAT : status;
}

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
static void scale_panel(float *weights, size_t count, const float scales[PANEL])
{
	const float32x4_t low = vld1q_f32(scales);
	const float32x4_t high = vld1q_f32(scales + 4);
	const float *const end = weights + count * PANEL;

	for (; end - weights >= 8 * PANEL; weights += 8 * PANEL) {
		scale_two(weights, low, high);
		scale_two(weights + 2 * PANEL, low, high);
		scale_two(weights + 4 * PANEL, low, high);
		scale_two(weights + 6 * PANEL, low, high);
	}
	for (; weights < end; weights += PANEL) {
		vst1q_f32(weights, vmulq_f32(vld1q_f32(weights), low));
		vst1q_f32(weights + 4, vmulq_f32(vld1q_f32(weights + 4), high));
	}
}

/* The part of a lock that lies in a site; `first` and `end` count the site's channels. */
struct part {
	uint32_t first;
	uint32_t end;
	const float *scales;
	const float *values;
};

/* Neighbouring channels of one panel: the panel's number, the first one's place, how many. */
struct lanes {
	size_t panel;
	uint32_t lane;
	uint32_t count;
};

/* Those from c on, in panels of `width`. */
static inline struct lanes lanes_of(const struct cl_site *site, uint32_t c, uint32_t end,
				    uint32_t width)
{
	struct lanes lanes = {0};
	uint32_t left = end - c;

	/* Divisions that nearly all sites can do without. */
	if (site->groups > 1) {
		const uint32_t each = site->channels / site->groups;

		lanes.panel = c / each * (size_t)up(each, width);
		c %= each;
		left = left < each - c ? left : each - c;
	}
	lanes.panel += c / width;
	lanes.lane = c % width;
	lanes.count = left < width - lanes.lane ? left : width - lanes.lane;
	return lanes;
}

/* A panel's worth of `fill`, and of `from` where the lanes are. */
static void spread(const struct lanes *lanes, const float *from, float fill, float *to,
		   uint32_t width)
{
	uint32_t i = 0;

	for (i = 0; i < width; i++)
		to[i] = fill;
	for (i = 0; i < lanes->count; i++)
		to[lanes->lane + i] = from[i];
}

static bool all_ones(const float scales[PANEL])
{
	const float32x4_t one = vdupq_n_f32(1);
	const uint32x4_t same =
		vandq_u32(vceqq_f32(vld1q_f32(scales), one), vceqq_f32(vld1q_f32(scales + 4), one));

	return vminvq_u32(same) != 0;
}

static void unlock_panels(const struct cl_site *site, const struct part *part, float *weights)
{
	uint32_t c = part->first;

	while (c < part->end) {
		const struct lanes lanes = lanes_of(site, c, part->end, PANEL);
		const float *scales = part->scales + (c - part->first);
		float aside[PANEL];

		if (lanes.count < PANEL) {
			spread(&lanes, scales, 1, aside, PANEL);
			scales = aside;
		}
		if (!all_ones(scales))
			scale_panel(weights + lanes.panel * site->depth * PANEL, site->depth,
				    scales);
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

/* What scaled results start from. */
static void shift_bias(const struct part *part, float *bias)
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

static __attribute__((noinline)) void
unlock_f32(const struct cl_site *site, const struct part *part, float *weights, float *bias)
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
	uint32_t which[PANEL_S8];
	uint32_t lane = 0;
	size_t i = 0;

	vst1q_u32(which, clear);
	for (lane = 0; lane < PANEL_S8; lane++, panel += STEP_S8) {
		int8_t *row = panel;

		if (which[lane])
#pragma GCC unroll 4
			for (i = steps; i; i--, row += PANEL_S8 * STEP_S8)
				vst1q_s8(row, vdupq_n_s8(0));
	}
}

/* Whole panels, `count` of them. */
static __attribute__((noinline)) void unlock_whole_s8(int8_t *weights, int32_t *bias, size_t steps,
						      const float *scales, const float *values,
						      float out_scale, uint32_t count)
{
	const size_t size = steps * PANEL_S8 * STEP_S8;

	for (; count; count--) {
		const uint32x4_t clear = unlock_four(bias, (float *)(void *)(bias + PANEL_S8),
						     scales, values, out_scale);

		if (vmaxvq_u32(clear))
			clear_rows(weights, steps, clear);
		bias += 2 * PANEL_S8;
		scales += PANEL_S8;
		values += PANEL_S8;
		weights += size;
	}
}

static void unlock_panels_s8(const struct cl_site *site, const struct part *part, int8_t *weights,
			     int32_t *channels)
{
	const size_t steps = (size_t)up(site->depth, STEP_S8);
	uint32_t c = part->first;

	while (c < part->end) {
		struct lanes lanes = lanes_of(site, c, part->end, PANEL_S8);
		const float *scales = part->scales + (c - part->first);
		const float *values = part->values + (c - part->first);
		float aside[2][PANEL_S8];
		uint32_t count = 1;

		if (lanes.count < PANEL_S8) {
			spread(&lanes, scales, 1, aside[0], PANEL_S8);
			spread(&lanes, values, 0, aside[1], PANEL_S8);
			scales = aside[0];
			values = aside[1];
		} else if (site->groups == 1) {
			count = (part->end - c) / PANEL_S8;
			lanes.count = count * PANEL_S8;
		}
		unlock_whole_s8(weights + lanes.panel * steps * PANEL_S8 * STEP_S8,
				channels + lanes.panel * 2 * PANEL_S8, steps, scales, values,
				site->out_scale, count);
		c += lanes.count;
	}
}

static __attribute__((noinline)) void unlock_rows_s8(const struct cl_site *site,
						     const struct part *part, int8_t *weights,
						     int32_t *channels)
{
	float *multipliers = (float *)(void *)(channels + site->channels);
	uint32_t c = part->first;

	while (c < part->end) {
		const struct lanes lanes = {.count = part->end - c < 4 ? part->end - c : 4};
		const size_t bytes = lanes.count * sizeof(float);
		float scales[4];
		float values[4];
		int32_t bias[4] = {0};
		float multiplier[4] = {0};
		uint32_t which[4];
		uint32_t i = 0;
		uint32_t lane = 0;

		spread(&lanes, part->scales + (c - part->first), 1, scales, 4);
		spread(&lanes, part->values + (c - part->first), 0, values, 4);
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

static void unlock_part(const struct cl_site *site, const struct part *part, uint8_t *base,
			struct cl_scaled *scaled)
{
	void *weights = site->weights.space ? base + site->weights.offset : NULL;
	void *bias = site->bias.space ? base + site->bias.offset : NULL;

	switch (site->packing) {
	case CL_PACKING_PANELS_S8:
		unlock_panels_s8(site, part, weights, bias);
		break;
	case CL_PACKING_ROWS_S8:
		unlock_rows_s8(site, part, weights, bias);
		break;
	case CL_PACKING_PANELS_SCALED:
		if (scaled && scaled->count < CL_MAX_SCALED && !part->first &&
		    part->end == site->channels) {
			scaled->sites[scaled->count].bias = site->bias.offset;
			scaled->sites[scaled->count].channels = site->channels;
			scaled->sites[scaled->count].scales = part->scales;
			scaled->count++;
			shift_bias(part, bias);
			break;
		}
		unlock_f32(site, part, weights, bias);
		break;
	default:
		unlock_f32(site, part, weights, bias);
		break;
	}
}

/* A number in the order of the bytes. */
static inline uint64_t id_of(const uint8_t layer[CL_LAYER_ID_SIZE])
{
	uint64_t id = 0;

	memcpy(&id, layer, sizeof(id));
	return __builtin_bswap64(id);
}

_Static_assert(CL_LAYER_ID_SIZE == sizeof(uint64_t), "an id is a word");

/* The first lock that does not lie before the site. */
static const struct cl_lock *find_lock(const struct cl_password *password,
				       const struct cl_site *site, uint64_t id)
{
	const struct cl_lock *locks = cl_locks_of(password);
	uint32_t low = 0;
	uint32_t high = password->lock_count;

	while (low < high) {
		const uint32_t middle = (low + high) / 2;
		const uint64_t found = id_of(locks[middle].layer);

		if (found < id || (found == id && locks[middle].last < site->first))
			low = middle + 1;
		else
			high = middle;
	}
	return locks + low;
}

static void unlock_site(const struct cl_site *site, const struct cl_password *password,
			uint8_t *base, struct cl_scaled *scaled)
{
	const struct cl_lock *end = cl_locks_of(password) + password->lock_count;
	const uint64_t id = id_of(site->layer);
	const struct cl_lock *lock = find_lock(password, site, id);
	const uint32_t behind = site->first + site->channels;

	for (; lock < end && id_of(lock->layer) == id && lock->first < behind; lock++) {
		const uint32_t from = lock->first > site->first ? lock->first : site->first;
		const uint32_t to = lock->last < behind ? lock->last + 1U : behind;
		const uint32_t at = lock->at + (from - lock->first);
		const struct part part = {
			.first = from - site->first,
			.end = to - site->first,
			.scales = cl_scales_of(password) + at,
			.values = cl_values_of(password) + at,
		};

		unlock_part(site, &part, base, scaled);
	}
}

void cl_sites_unlock(struct cl_partition *header, const struct cl_password *password,
		     struct cl_scaled *scaled)
{
	const struct cl_site *sites = cl_partition_sites(header);
	uint8_t *base = (uint8_t *)header + header->weights_offset;
	uint32_t i = 0;

	for (i = 0; i < header->site_count; i++)
		unlock_site(&sites[i], password, base, scaled);
}

/* The place of this bias among those of scaled results; behind the last: it is none. */
static uint32_t find_scaled(const struct cl_scaled *scaled, const struct cl_ref *bias)
{
	uint32_t i = bias->space == CL_SPACE_WEIGHTS ? 0 : scaled->count;

	while (i < scaled->count && scaled->sites[i].bias != bias->offset)
		i++;
	return i;
}

const float *cl_scales_at(const struct cl_memory *memory, const struct cl_ref *bias)
{
	const struct cl_scaled *scaled = memory->scaled;
	const uint32_t i = scaled ? find_scaled(scaled, bias) : 0;

	return scaled && i < scaled->count ? scaled->sites[i].scales : NULL;
}

bool cl_scales_suffice(const struct cl_memory *memory, const struct cl_ref *bias, uint32_t channels)
{
	const struct cl_scaled *scaled = memory->scaled;
	const uint32_t i = scaled ? find_scaled(scaled, bias) : 0;

	return !scaled || i == scaled->count || channels <= scaled->sites[i].channels;
}
