/* SPDX-License-Identifier: BSD-2-Clause */
/* The sites of a partition: where a password is folded into its weights. */
#ifndef CLOISTER_SITES_H
#define CLOISTER_SITES_H

#include "kernel.h"

/* Right behind the operator records. */
static inline const struct cl_site *cl_partition_sites(const struct cl_partition *header)
{
	return (const struct cl_site *)((const uint8_t *)header + header->ops_offset +
					header->ops_size);
}

/* The sites of a partition whose sections were checked lie inside its weights. */
enum cl_status cl_sites_check(const struct cl_partition *header);

/*
 * Folds a checked password into the weights of a partition with a checked header; where
 * `scaled` is given, it gets what is left for the kernels to do.
 */
void cl_sites_unlock(struct cl_partition *header, const struct cl_password *password,
		     struct cl_scaled *scaled);

/* Address, sections, padding and sites of a partition of `size` bytes; not its operators. */
enum cl_status cl_partition_check_header(const void *partition, size_t size);

#endif
