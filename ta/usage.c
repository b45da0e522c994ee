/* SPDX-License-Identifier: BSD-2-Clause */
/* USAGE and UNLOAD: what the loaded model took, and giving it back. */
#include <string.h>

#include "commands.h"
#include "params.h"

TEE_Result cl_command_usage(const struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	struct cl_usage usage = {
		.peak_bytes = session->memory.peak,
		.resident_bytes = session->memory.held,
		.bytes_decrypted = session->model.bytes_decrypted,
		.queries = session->model.queries,
	};
	TEE_Result res = cl_params_check(
		types, TEE_PARAM_TYPES(TEE_PARAM_TYPE_MEMREF_OUTPUT, 0, 0, 0), params);

	if (res)
		return res;
	if (session->state != CL_STATE_READY)
		return TEE_ERROR_BAD_STATE;
	res = cl_params_room(&params[0], sizeof(usage));
	if (!res)
		memcpy(params[0].memref.buffer, &usage, sizeof(usage));
	return res;
}

TEE_Result cl_command_unload(struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	TEE_Result res = cl_params_check(types, 0, params);

	if (!res)
		cl_model_drop(session);
	return res;
}
