/* SPDX-License-Identifier: BSD-2-Clause */
#include "sealed.h"

#include <string.h>

#include "result.h"

uint32_t cl_sealed_check(const struct cl_sealed_header *header,
			 const struct cl_manifest_view *manifest, uint32_t index)
{
	if (header->magic != CL_MAGIC_SEALED || header->reserved)
		return CL_ERROR_BAD_FORMAT;
	if (header->version != CL_FORMAT_VERSION)
		return CL_ERROR_VERSION;
	if (memcmp(header->content_key_id, manifest->header->content_key_id, CL_ID_SIZE))
		return CL_ERROR_WRONG_KEY;
	if (header->index != index || header->count != manifest->header->partition_count)
		return CL_ERROR_WRONG_PARTITION;
	return CL_SUCCESS;
}

void cl_sealed_aad(const struct cl_manifest_view *manifest, const uint8_t digest[CL_DIGEST_SIZE],
		   uint32_t index, struct cl_partition_aad *aad)
{
	memset(aad, 0, sizeof(*aad));
	aad->magic = CL_MAGIC_SEALED;
	aad->version = CL_FORMAT_VERSION;
	aad->index = index;
	aad->count = manifest->header->partition_count;
	memcpy(aad->manifest_digest, digest, CL_DIGEST_SIZE);
}
