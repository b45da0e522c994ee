/* SPDX-License-Identifier: BSD-2-Clause */
#include "params.h"

_Static_assert(CL_ERROR_CANCEL == TEE_ERROR_CANCEL && CL_ERROR_BAD_FORMAT == TEE_ERROR_BAD_FORMAT &&
		       CL_ERROR_BAD_PARAMETERS == TEE_ERROR_BAD_PARAMETERS &&
		       CL_ERROR_BAD_STATE == TEE_ERROR_BAD_STATE &&
		       CL_ERROR_NOT_SUPPORTED == TEE_ERROR_NOT_SUPPORTED &&
		       CL_ERROR_OUT_OF_MEMORY == TEE_ERROR_OUT_OF_MEMORY &&
		       CL_ERROR_SHORT_BUFFER == TEE_ERROR_SHORT_BUFFER &&
		       CL_ERROR_MAC_INVALID == TEE_ERROR_MAC_INVALID,
	       "result.h disagrees with the TEE Internal Core API");

TEE_Result cl_params_check(uint32_t types, uint32_t expected, const TEE_Param params[4])
{
	uint32_t i = 0;

	if (types != expected)
		return TEE_ERROR_BAD_PARAMETERS;
	for (i = 0; i < TEE_NUM_PARAMS; i++) {
		switch (TEE_PARAM_TYPE_GET(types, i)) {
		case TEE_PARAM_TYPE_MEMREF_INPUT:
		case TEE_PARAM_TYPE_MEMREF_OUTPUT:
		case TEE_PARAM_TYPE_MEMREF_INOUT:
			if (!params[i].memref.buffer && params[i].memref.size)
				return TEE_ERROR_BAD_PARAMETERS;
			break;
		default:
			break;
		}
	}
	return TEE_SUCCESS;
}

TEE_Result cl_params_room(TEE_Param *param, size_t size)
{
	bool fits = param->memref.size >= size;

	param->memref.size = size;
	return fits ? TEE_SUCCESS : TEE_ERROR_SHORT_BUFFER;
}
