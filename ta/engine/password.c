/* SPDX-License-Identifier: BSD-2-Clause */
#include "password.h"

#include <string.h>

/* Layers and channels are in order, and the locks' numbers are all there are. */
static bool locks_valid(const struct cl_password *password)
{
	const struct cl_lock *locks = cl_locks_of(password);
	uint32_t at = 0;
	uint32_t i = 0;

	for (i = 0; i < password->lock_count; i++) {
		const struct cl_lock *lock = &locks[i];
		const int order = i ? memcmp(lock[-1].layer, lock->layer, CL_LAYER_ID_SIZE) : -1;

		if (order > 0 || (!order && lock->first <= lock[-1].last) ||
		    lock->last < lock->first || lock->at != at)
			return false;
		at += (uint32_t)lock->last - lock->first + 1;
		if (at > password->channel_count)
			return false;
	}
	return at == password->channel_count;
}

static bool numbers_valid(const struct cl_password *password)
{
	const float *scales = cl_scales_of(password);
	const float *values = cl_values_of(password);
	uint32_t i = 0;

	for (i = 0; i < password->channel_count; i++)
		if (!cl_is_finite(scales[i]) || !cl_is_finite(values[i]) ||
		    (scales[i] < CL_SMALLEST_SCALE && scales[i] > -CL_SMALLEST_SCALE))
			return false;
	return true;
}

enum cl_status cl_password_check(const void *data, size_t size)
{
	const struct cl_password *password = data;
	uint64_t end = 0;
	size_t i = 0;

	if (size < sizeof(*password) || size > CL_MAX_PASSWORD || size % 8 ||
	    password->magic != CL_MAGIC_PASSWORD)
		return CL_BAD_FORMAT;
	if (password->version != CL_PASSWORD_VERSION)
		return CL_BAD_VERSION;
	end = sizeof(*password) + (uint64_t)password->lock_count * sizeof(struct cl_lock) +
	      (uint64_t)password->channel_count * 2 * sizeof(float);
	if (password->header_size != sizeof(*password) || password->total_size != size ||
	    password->reserved || !password->lock_count || end > size)
		return CL_BAD_FORMAT;
	for (i = (size_t)end; i < size; i++)
		if (((const uint8_t *)data)[i])
			return CL_BAD_FORMAT;
	return locks_valid(password) && numbers_valid(password) ? CL_OK : CL_BAD_FORMAT;
}

bool cl_password_fits(const struct cl_password *password, const struct cl_layer *layers,
		      uint32_t count)
{
	const struct cl_lock *locks = cl_locks_of(password);
	uint32_t i = 0;

	for (i = 0; i < password->lock_count; i++) {
		uint32_t layer = 0;

		while (layer < count &&
		       memcmp(layers[layer].id, locks[i].layer, CL_LAYER_ID_SIZE) != 0)
			layer++;
		if (layer == count || locks[i].last >= layers[layer].channels)
			return false;
	}
	return true;
}
