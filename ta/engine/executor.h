/* SPDX-License-Identifier: BSD-2-Clause */
/* What checking and running a partition share. */
#ifndef CLOISTER_EXECUTOR_H
#define CLOISTER_EXECUTOR_H

#include "kernel.h"

/* The kernel of that number, or NULL. */
const struct cl_kernel_ops *cl_kernel_find(uint32_t kernel);

/* Where the operators of a partition with a checked header find their data. */
static inline void cl_partition_memory(const struct cl_partition *header, void *arena,
				       struct cl_memory *memory)
{
	memory->arena = arena;
	memory->arena_size = header->arena_size;
	memory->weights = (const uint8_t *)header + header->weights_offset;
	memory->weights_size = header->weights_size;
	memory->scaled = NULL;
}

#endif
