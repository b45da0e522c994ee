/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The engine's whole interface: check a partition, run it. No allocation, no
 * operating system, no OP-TEE header; the caller owns all memory. The same
 * sources build into the TA, an aarch64 Linux library and a native library.
 */
#ifndef CLOISTER_ENGINE_H
#define CLOISTER_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "cloister_format.h"

/* cffi: begin */
enum cl_status {
	CL_OK = 0,
	CL_BAD_FORMAT = 1,    /* a header, size or count contradicts another */
	CL_BAD_VERSION = 2,   /* format version that this engine does not know */
	CL_BAD_KERNEL = 3,    /* kernel, function or element type that it does not know */
	CL_OUT_OF_BOUNDS = 4, /* an operator would read or write outside its memory */
	CL_STOPPED = 5,       /* should_stop said so */
};

/*
 * Checks every number in a partition of `size` bytes at the CL_ALIGN aligned
 * address `partition` against an arena of `arena_size` bytes. After CL_OK,
 * cl_partition_run on the same, unchanged bytes touches nothing outside the
 * partition and the arena, whatever the bytes are. `failed_op`, unless NULL,
 * receives the index of the operator at fault, or UINT32_MAX.
 */
enum cl_status cl_partition_check(const void *partition, size_t size, size_t arena_size,
				  uint32_t *failed_op);

/*
 * Runs a partition that cl_partition_check passed. `arena` is CL_ALIGN aligned.
 * should_stop, unless NULL, is asked before each operator.
 */
enum cl_status cl_partition_run(const void *partition, void *arena, int (*should_stop)(void *),
				void *cookie);
/* cffi: end */

#endif
