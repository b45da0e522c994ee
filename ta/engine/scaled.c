/* SPDX-License-Identifier: BSD-2-Clause */
/* Which results a kernel has to scale: a partition has few of them. */
#include "scaled.h"
#include "executor.h"

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
