/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Folding a password into a partition: what a locked channel computes is linear in its
 * weights and bias, so that an inference costs nothing more. A streamed partition is opened
 * for every inference: there all of this is what a password costs, and what would take
 * longest, scaling large weights, is left to the kernels where they have less to scale.
 */
#include <string.h>

#include "bounds.h"
#include "executor.h"
#include "password.h"
#include "sites.h"
#include "unlock.h"

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
		panels = site->groups * cl_round_up(each, CL_UNLOCK_PANEL);
		return cl_mul(panels * CL_UNLOCK_PANEL * sizeof(float), row, weights);
	case CL_PACKING_ROWS:
		*bias = (uint64_t)site->channels * sizeof(float);
		return cl_mul(*bias, row, weights);
	case CL_PACKING_PANELS_S8:
		panels = site->groups * cl_round_up(each, CL_UNLOCK_PANEL_S8);
		*bias = panels * CL_UNLOCK_PANEL_S8 * (sizeof(int32_t) + sizeof(float));
		return cl_mul(panels * CL_UNLOCK_PANEL_S8 * CL_UNLOCK_STEP_S8,
			      cl_round_up(row, CL_UNLOCK_STEP_S8), weights);
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
	/* One that changes nothing would take time and count for nothing. */
	if (site->weights.space == CL_SPACE_NONE && site->bias.space == CL_SPACE_NONE)
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

static void unlock_part(const struct cl_site *site, const struct cl_lock_part *part, uint8_t *base,
			struct cl_scaled *scaled)
{
	void *weights = site->weights.space ? base + site->weights.offset : NULL;
	void *bias = site->bias.space ? base + site->bias.offset : NULL;

	switch (site->packing) {
	case CL_PACKING_PANELS_S8:
		cl_unlock_panels_s8(site, part, weights, bias);
		break;
	case CL_PACKING_ROWS_S8:
		cl_unlock_rows_s8(site, part, weights, bias);
		break;
	case CL_PACKING_PANELS_SCALED:
		if (scaled && scaled->count < CL_MAX_SCALED && !part->first &&
		    part->end == site->channels) {
			scaled->sites[scaled->count].bias = site->bias.offset;
			scaled->sites[scaled->count].channels = site->channels;
			scaled->sites[scaled->count].scales = part->scales;
			scaled->count++;
			cl_unlock_shift(part, bias);
			break;
		}
		cl_unlock_f32(site, part, weights, bias);
		break;
	default:
		cl_unlock_f32(site, part, weights, bias);
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
		const struct cl_lock_part part = {
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
