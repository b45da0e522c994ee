/* SPDX-License-Identifier: BSD-2-Clause */
#include "licence.h"

#include "engine/engine.h"
#include "result.h"

uint32_t cl_licence_parse(const void *data, size_t size)
{
	const struct cl_licence *licence = data;

	if (size < CL_LICENCE_SIZE || size > CL_LICENCE_MAX_SIZE || size % 8 ||
	    licence->magic != CL_MAGIC_LICENCE)
		return CL_ERROR_BAD_FORMAT;
	if (licence->version != CL_FORMAT_VERSION)
		return CL_ERROR_VERSION;
	if (licence->header_size != sizeof(*licence) || licence->total_size != size ||
	    licence->sealed_size != sizeof(licence->sealed) + (size - CL_LICENCE_SIZE))
		return CL_ERROR_BAD_FORMAT;
	return CL_SUCCESS;
}

uint32_t cl_licence_check_secret(const struct cl_licence_secret *secret, size_t size)
{
	if (secret->password_size != size - CL_LICENCE_SIZE || secret->output < CL_OUTPUT_LABEL ||
	    secret->output > CL_OUTPUT_FULL ||
	    (secret->output == CL_OUTPUT_TOP_K) != (secret->top_k > 0) ||
	    secret->min_model_version > secret->max_model_version)
		return CL_ERROR_BAD_FORMAT;
	if (!secret->password_size)
		return CL_SUCCESS;
	switch (cl_password_check(secret + 1, secret->password_size)) {
	case CL_OK:
		return CL_SUCCESS;
	case CL_BAD_VERSION:
		return CL_ERROR_VERSION;
	default:
		return CL_ERROR_BAD_FORMAT;
	}
}

uint32_t cl_licence_allows(const struct cl_licence_secret *secret, uint32_t output, uint32_t k)
{
	if (output < CL_OUTPUT_LABEL || output > CL_OUTPUT_FULL)
		return CL_ERROR_BAD_PARAMETERS;
	if (output == CL_OUTPUT_TOP_K && (!k || k > CL_MAX_TOP_K))
		return CL_ERROR_BAD_PARAMETERS;
	if (output > secret->output)
		return CL_ERROR_OUTPUT_LIMIT;
	if (output == CL_OUTPUT_TOP_K && secret->output == CL_OUTPUT_TOP_K && k > secret->top_k)
		return CL_ERROR_OUTPUT_LIMIT;
	return CL_SUCCESS;
}
