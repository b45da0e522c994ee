/* SPDX-License-Identifier: BSD-2-Clause */
/* The clear header of a sealed partition, and the associated data that binds it. Portable. */
#ifndef CLOISTER_SEALED_H
#define CLOISTER_SEALED_H

#include "manifest.h"

/*
 * The header belongs to partition `index` of this manifest. It only serves to name
 * an honest mistake; the tag is what protects.
 *
 * CL_ERROR_BAD_FORMAT, CL_ERROR_VERSION: no sealed partition that this TA knows.
 * CL_ERROR_WRONG_PARTITION: another partition of this model, or of another one.
 * CL_ERROR_WRONG_KEY: sealed under another content key.
 */
uint32_t cl_sealed_check(const struct cl_sealed_header *header,
			 const struct cl_manifest_view *manifest, uint32_t index);

/* The associated data of partition `index`. */
void cl_sealed_aad(const struct cl_manifest_view *manifest, const uint8_t digest[CL_DIGEST_SIZE],
		   uint32_t index, struct cl_partition_aad *aad);

#endif
