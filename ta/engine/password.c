/* SPDX-License-Identifier: BSD-2-Clause */
#include "password.h"

#include <string.h>

/* The entries are in order and their numbers finite. */
static bool entries_valid(const struct cl_lock_entry *entries, uint32_t count)
{
	uint32_t i = 0;

	for (i = 0; i < count; i++)
		if (entries[i].reserved || entries[i].channel >= CL_MAX_CHANNELS ||
		    (i && entries[i].channel <= entries[i - 1].channel) ||
		    !cl_is_finite(entries[i].scale) || !cl_is_finite(entries[i].value))
			return false;
	return true;
}

static bool locks_valid(const struct cl_password *password)
{
	const struct cl_lock *locks = cl_locks_of(password);
	const struct cl_lock_entry *entries = cl_entries_of(password);
	uint32_t left = password->entry_count;
	uint32_t i = 0;

	for (i = 0; i < password->lock_count; i++) {
		const uint32_t count = locks[i].entry_count;

		if (locks[i].reserved || !count || count > left ||
		    (i && memcmp(locks[i - 1].layer, locks[i].layer, CL_LAYER_ID_SIZE) >= 0) ||
		    !entries_valid(entries, count))
			return false;
		entries += count;
		left -= count;
	}
	return !left;
}

enum cl_status cl_password_check(const void *data, size_t size)
{
	const struct cl_password *password = data;
	uint64_t end = 0;
	size_t i = 0;

	if (size < sizeof(*password) || size > CL_MAX_PASSWORD || size % 8 ||
	    password->magic != CL_MAGIC_PASSWORD)
		return CL_BAD_FORMAT;
	if (password->version != CL_FORMAT_VERSION)
		return CL_BAD_VERSION;
	end = sizeof(*password) + (uint64_t)password->lock_count * sizeof(struct cl_lock) +
	      (uint64_t)password->entry_count * sizeof(struct cl_lock_entry);
	if (password->header_size != sizeof(*password) || password->total_size != size ||
	    password->reserved || !password->lock_count || end > size)
		return CL_BAD_FORMAT;
	for (i = (size_t)end; i < size; i++)
		if (((const uint8_t *)data)[i])
			return CL_BAD_FORMAT;
	return locks_valid(password) ? CL_OK : CL_BAD_FORMAT;
}

bool cl_password_fits(const struct cl_password *password, const struct cl_layer *layers,
		      uint32_t count)
{
	const struct cl_lock *locks = cl_locks_of(password);
	const struct cl_lock_entry *entries = cl_entries_of(password);
	uint32_t i = 0;

	for (i = 0; i < password->lock_count; i++) {
		uint32_t layer = 0;

		while (layer < count &&
		       memcmp(layers[layer].id, locks[i].layer, CL_LAYER_ID_SIZE) != 0)
			layer++;
		entries += locks[i].entry_count;
		if (layer == count || entries[-1].channel >= layers[layer].channels)
			return false;
	}
	return true;
}
