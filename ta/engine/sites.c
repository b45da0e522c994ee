/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Folding a password into the packed weights of a partition: what a locked channel computes
 * is linear in its weights and bias, so that an inference costs nothing more.
 */
#include <string.h>

#include "bounds.h"
#include "executor.h"
#include "neon.h"
#include "password.h"
#include "sites.h"

#define PANEL    8  /* channels of a panel of floats */
#define PANEL_S8 4  /* and of 8-bit weights */
#define STEP_S8  16 /* whose depth goes in steps of so many */

/* Beyond this a bias may not grow: sums of products are below 2^31. */
#define MOST_SHIFT 1073741824.0

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

static enum cl_status check_site(const struct cl_site *site, const struct cl_memory *memory)
{
	const bool whole =
		site->weights.space != CL_SPACE_NONE && site->bias.space != CL_SPACE_NONE;
	uint64_t weights = 0;
	uint64_t bias = 0;

	if (!site->channels || site->channels > CL_MAX_CHANNELS ||
	    site->first > CL_MAX_CHANNELS - site->channels || !site->groups ||
	    site->channels % site->groups || !site->depth)
		return CL_BAD_FORMAT;
	if (is_s8(site) ? !whole || !(site->out_scale > 0) || !cl_is_finite(site->out_scale)
			: site->out_scale != 0)
		return CL_BAD_FORMAT;
	if (!sizes(site, &weights, &bias))
		return CL_BAD_FORMAT;
	return inside(&site->weights, memory, weights) && inside(&site->bias, memory, bias)
		       ? CL_OK
		       : CL_OUT_OF_BOUNDS;
}

enum cl_status cl_sites_check(const struct cl_partition *header)
{
	const struct cl_site *sites = cl_partition_sites(header);
	struct cl_memory memory = {0};
	enum cl_status status = CL_OK;
	uint32_t i = 0;

	cl_partition_memory(header, NULL, &memory);
	for (i = 0; i < header->site_count && status == CL_OK; i++)
		status = check_site(&sites[i], &memory);
	return status;
}

/* Multiplies `count` rows of four weights that lie in a panel. */
static void scale_half(float *weights, size_t count, const float scales[4])
{
	const float32x4_t factor = vld1q_f32(scales);
	size_t i = 0;

	for (i = 0; i < count; i++, weights += PANEL)
		vst1q_f32(weights, vmulq_f32(vld1q_f32(weights), factor));
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

/*
 * Multiplies all `count` rows of a panel. A streamed partition is unlocked for every
 * inference: this is nearly all that a password costs there.
 */
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

/* Where channel c lies: the panel's number and the place in it. */
struct place {
	size_t panel;
	uint32_t lane;
};

static inline struct place place_of(const struct cl_site *site, uint32_t c, uint32_t lanes)
{
	uint64_t panel = 0;

	/* Divisions that nearly all sites can do without. */
	if (site->groups > 1) {
		const uint32_t each = site->channels / site->groups;

		panel = c / each * up(each, lanes);
		c %= each;
	}
	return (struct place){(size_t)(panel + c / lanes), c % lanes};
}

static void unlock_panels(const struct cl_site *site, const struct cl_lock_entry *entries,
			  uint32_t count, float *weights)
{
	uint32_t i = 0;

	while (i < count) {
		const struct place first = place_of(site, entries[i].channel - site->first, PANEL);
		float scales[PANEL] = {1, 1, 1, 1, 1, 1, 1, 1};
		float *panel = weights + first.panel * site->depth * PANEL;
		bool low = false;
		bool high = false;

		/* Channels ascend: all of this panel follow each other. */
		for (; i < count; i++) {
			const struct place place =
				place_of(site, entries[i].channel - site->first, PANEL);

			if (place.panel != first.panel)
				break;
			scales[place.lane] = entries[i].scale;
			low |= place.lane < 4;
			high |= place.lane >= 4;
		}
		if (low && high)
			scale_panel(panel, site->depth, scales);
		else if (low)
			scale_half(panel, site->depth, scales);
		else
			scale_half(panel + 4, site->depth, scales + 4);
	}
}

static void unlock_rows(const struct cl_site *site, const struct cl_lock_entry *entry,
			float *weights)
{
	const uint32_t c = entry->channel - site->first;
	uint32_t i = 0;

	for (i = 0; i < site->depth; i++)
		weights[(size_t)i * site->channels + c] *= entry->scale;
}

static void unlock_f32(const struct cl_site *site, const struct cl_lock_entry *entries,
		       uint32_t count, float *weights, float *bias)
{
	uint32_t i = 0;

	if (weights && site->packing == CL_PACKING_PANELS)
		unlock_panels(site, entries, count, weights);
	for (i = 0; i < count; i++) {
		const uint32_t c = entries[i].channel - site->first;

		if (weights && site->packing == CL_PACKING_ROWS)
			unlock_rows(site, &entries[i], weights);
		if (bias)
			bias[c] = bias[c] * entries[i].scale + entries[i].value;
	}
}

/* To the nearest integer, ties to even, into 32 bits; not a number is the least. */
static int32_t rounded(double value)
{
	const double whole =
		6755399441055744.0; /* 1.5 * 2^52: what is added to it loses its fraction */

	if (!(value > -2147483648.0))
		return INT32_MIN;
	if (value > 2147483647.0)
		return INT32_MAX;
	return (int32_t)(value + whole - whole);
}

/* New bias and multiplier; whether the channel's weights shall be zero. */
static bool unlock_channel(const struct cl_lock_entry *entry, float out_scale, int32_t *bias,
			   float *multiplier)
{
	const double step = (double)*multiplier * (double)out_scale;
	const double shift = (double)entry->value / ((double)entry->scale * step);

	if (entry->scale != 0 && shift >= -MOST_SHIFT && shift <= MOST_SHIFT) {
		*bias = (int32_t)((uint32_t)*bias + (uint32_t)rounded(shift));
		*multiplier *= entry->scale;
		return false;
	}
	*bias = rounded((double)entry->value / step);
	return true;
}

static void unlock_panel_s8(const struct cl_site *site, const struct cl_lock_entry *entry,
			    int8_t *weights, int32_t *channels)
{
	const struct place at = place_of(site, entry->channel - site->first, PANEL_S8);
	const size_t steps = (size_t)up(site->depth, STEP_S8);
	int32_t *bias = channels + at.panel * 2 * PANEL_S8 + at.lane;
	int8_t *row = weights + (at.panel * steps * PANEL_S8 + at.lane) * STEP_S8;
	size_t i = 0;

	if (unlock_channel(entry, site->out_scale, bias, (float *)(void *)(bias + PANEL_S8)))
		for (i = 0; i < steps; i++)
			memset(row + i * PANEL_S8 * STEP_S8, 0, STEP_S8);
}

static void unlock_row_s8(const struct cl_site *site, const struct cl_lock_entry *entry,
			  int8_t *weights, int32_t *channels)
{
	const uint32_t c = entry->channel - site->first;
	int32_t *bias = channels + c;
	uint32_t i = 0;

	if (unlock_channel(entry, site->out_scale, bias, (float *)(void *)(bias + site->channels)))
		for (i = 0; i < site->depth; i++)
			weights[(size_t)i * site->channels + c] = 0;
}

/* The entries whose channels lie in the site. */
static void unlock_site(const struct cl_site *site, const struct cl_lock_entry *entries,
			uint32_t count, uint8_t *base)
{
	void *weights = site->weights.space ? base + site->weights.offset : NULL;
	void *bias = site->bias.space ? base + site->bias.offset : NULL;
	uint32_t i = 0;

	while (count && entries[0].channel < site->first) {
		entries++;
		count--;
	}
	while (count && entries[count - 1].channel - site->first >= site->channels)
		count--;

	if (!is_s8(site)) {
		unlock_f32(site, entries, count, weights, bias);
		return;
	}
	for (i = 0; i < count; i++) {
		if (site->packing == CL_PACKING_PANELS_S8)
			unlock_panel_s8(site, &entries[i], weights, bias);
		else
			unlock_row_s8(site, &entries[i], weights, bias);
	}
}

/* In a register: every site is held against every lock. */
static inline uint64_t id_of(const uint8_t layer[CL_LAYER_ID_SIZE])
{
	uint64_t id = 0;

	memcpy(&id, layer, sizeof(id));
	return id;
}

_Static_assert(CL_LAYER_ID_SIZE == sizeof(uint64_t), "an id is a word");

enum cl_status cl_partition_unlock(void *partition, size_t size, const void *data)
{
	const struct cl_partition *header = partition;
	const struct cl_password *password = data;
	const struct cl_site *sites = NULL;
	enum cl_status status = cl_partition_check_header(partition, size);
	uint32_t i = 0;
	uint32_t j = 0;

	if (status != CL_OK)
		return status;
	sites = cl_partition_sites(header);
	for (i = 0; i < header->site_count; i++) {
		const struct cl_lock *locks = cl_locks_of(password);
		const struct cl_lock_entry *entries = cl_entries_of(password);

		for (j = 0; j < password->lock_count; entries += locks[j].entry_count, j++) {
			if (id_of(locks[j].layer) != id_of(sites[i].layer))
				continue;
			unlock_site(&sites[i], entries, locks[j].entry_count,
				    (uint8_t *)partition + header->weights_offset);
			break;
		}
	}
	return CL_OK;
}
