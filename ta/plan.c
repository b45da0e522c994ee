/* SPDX-License-Identifier: BSD-2-Clause */
#include "plan.h"

#include "result.h"

/* Sizes are 32 bits wide and partitions at most 4096: 64-bit sums cannot overflow. */
static uint64_t aligned(uint32_t size)
{
	return ((uint64_t)size + CL_ALIGN - 1) / CL_ALIGN * CL_ALIGN;
}

void cl_plan_range(const struct cl_manifest_view *manifest, uint64_t *least, uint64_t *most)
{
	uint64_t arena = aligned(manifest->header->arena_size);
	uint64_t all = 0;
	uint32_t i = 0;

	for (i = 0; i < manifest->header->partition_count; i++)
		all += aligned(manifest->partitions[i].plain_size);
	*least = arena + aligned(manifest->header->largest_partition);
	*most = arena + all;
}

uint32_t cl_plan_make(const struct cl_manifest_view *manifest, uint64_t budget,
		      struct cl_slot *slots, struct cl_plan *plan)
{
	uint64_t buffer = aligned(manifest->header->arena_size);
	uint64_t least = 0;
	uint64_t most = 0;
	uint64_t next = 0;
	uint32_t i = 0;

	cl_plan_range(manifest, &least, &most);
	if (budget < least)
		return CL_ERROR_OUT_OF_MEMORY;

	/* With everything resident there is no buffer: slots begin where it would lie. */
	next = budget >= most ? buffer : least;
	plan->resident_count = 0;
	for (i = 0; i < manifest->header->partition_count; i++) {
		uint64_t size = aligned(manifest->partitions[i].plain_size);

		slots[i].loaded = false;
		slots[i].resident = size <= budget - next;
		slots[i].offset = slots[i].resident ? next : buffer;
		if (slots[i].resident) {
			next += size;
			plan->resident_count++;
		}
	}
	plan->total = next;
	return CL_SUCCESS;
}
