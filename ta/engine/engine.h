/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The engine's whole interface: check a partition, run it, and unlock it with a password
 * before. No allocation, no operating system, no OP-TEE header; the caller owns all memory.
 * The same sources build into the TA, an aarch64 Linux library and a native library.
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
 * The CPU has these features (enum cl_cpu; none at first), which cl_partition_run uses from then
 * on; results stay the same to the bit. The Linux library for AArch64 says so by itself.
 */
void cl_engine_use(uint32_t features);

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

/* Checks every number in a password of `size` bytes at an 8-byte aligned address. */
enum cl_status cl_password_check(const void *password, size_t size);

/* Each layer that a checked password names is among `count` layers and has its channels. */
_Bool cl_password_fits(const struct cl_password *password, const struct cl_layer *layers,
		       uint32_t count);

/*
 * Folds a checked password into the weights of a partition of `size` bytes at a CL_ALIGN
 * aligned address, as struct cl_site says. The partition's header and sites are checked;
 * cl_partition_check comes afterwards, as it holds tables in the weights against their
 * bounds. On any error nothing was changed.
 */
enum cl_status cl_partition_unlock(void *partition, size_t size, const void *password);

/* Sites of one partition, PANELS_SCALED, whose results are scaled and not their weights. */
#define CL_MAX_SCALED 16

struct cl_scaled {
	uint32_t count;
	uint32_t reserved;
	struct {
		uint32_t bias; /* of the site, in the weights */
		uint32_t channels;
		const float *scales; /* in the password */
	} sites[CL_MAX_SCALED];
};

/*
 * cl_partition_unlock with a password, unless it is NULL, and cl_partition_check. With
 * `scaled`, which is written, the password is folded into no more weights than it has to be:
 * cheaper to open, dearer to run. The partition is then run by cl_partition_run_scaled, with
 * the same `scaled` and while the password stays where it is.
 */
enum cl_status cl_partition_open(void *partition, size_t size, size_t arena_size,
				 const void *password, struct cl_scaled *scaled,
				 uint32_t *failed_op);
enum cl_status cl_partition_run_scaled(const void *partition, void *arena,
				       const struct cl_scaled *scaled, int (*should_stop)(void *),
				       void *cookie);
/* cffi: end */

#endif
