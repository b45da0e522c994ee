/* SPDX-License-Identifier: BSD-2-Clause */
/* Which partitions stay resident, and where everything lies. Portable: no OP-TEE header. */
#ifndef CLOISTER_PLAN_H
#define CLOISTER_PLAN_H

#include <stdbool.h>

#include "manifest.h"

/* Where a partition lies once decrypted. */
struct cl_slot {
	uint64_t offset; /* from the model's memory */
	bool resident;   /* it has this place for itself; else all others share it in turn */
	bool loaded;     /* resident, decrypted and checked */
};

/* Offsets count from the model's memory, at whose begin the arena lies. */
struct cl_plan {
	uint64_t total; /* bytes of the model's memory */
	uint32_t resident_count;
};

/* Least and most memory that a model can use: everything streamed, everything resident. */
void cl_plan_range(const struct cl_manifest_view *manifest, uint64_t *least, uint64_t *most);

/*
 * Lays out arena, buffer and slots (partition_count of them) in at most `budget`
 * bytes. All partitions stay resident if that fits; otherwise a buffer for the
 * largest is set aside and those that still fit, in order, stay: an inference
 * walks the partitions in a cycle, and there pinning some and streaming the others
 * beats any eviction policy.
 *
 * CL_ERROR_OUT_OF_MEMORY: not even arena and buffer fit.
 */
uint32_t cl_plan_make(const struct cl_manifest_view *manifest, uint64_t budget,
		      struct cl_slot *slots, struct cl_plan *plan);

#endif
