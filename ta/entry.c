/* SPDX-License-Identifier: BSD-2-Clause */
/* The entry points that OP-TEE calls; they only dispatch. */
#include <tee_internal_api.h>

#include "commands.h"
#include "params.h"

TEE_Result TA_CreateEntryPoint(void)
{
	return TEE_SUCCESS;
}

void TA_DestroyEntryPoint(void)
{
}

TEE_Result TA_OpenSessionEntryPoint(uint32_t types, TEE_Param params[4], void **context)
{
	struct cl_session *session = NULL;
	TEE_Result res = cl_params_check(types, 0, params);

	if (res)
		return res;
	session = TEE_Malloc(sizeof(*session), TEE_MALLOC_FILL_ZERO);
	if (!session)
		return TEE_ERROR_OUT_OF_MEMORY;
	*context = session;
	return TEE_SUCCESS;
}

void TA_CloseSessionEntryPoint(void *context)
{
	struct cl_session *session = context;

	cl_model_drop(session);
	cl_secure_memory_close(&session->memory);
	TEE_Free(session);
}

TEE_Result TA_InvokeCommandEntryPoint(void *context, uint32_t command, uint32_t types,
				      TEE_Param params[4])
{
	struct cl_session *session = context;

	switch (command) {
	case CL_CMD_INFO:
		return cl_command_info(session, types, params);
	case CL_CMD_DEVICE_KEY:
		return cl_command_device_key(types, params);
	case CL_CMD_LOAD:
		return cl_command_load(session, types, params);
	case CL_CMD_RUN:
		return cl_command_run(session, types, params);
	case CL_CMD_BEGIN:
		return cl_command_begin(session, types, params);
	case CL_CMD_STEP:
		return cl_command_step(session, types, params);
	case CL_CMD_FINISH:
		return cl_command_finish(session, types, params);
	case CL_CMD_UNLOAD:
		return cl_command_unload(session, types, params);
	case CL_CMD_FEED:
		return cl_command_feed(session, types, params);
	case CL_CMD_USAGE:
		return cl_command_usage(session, types, params);
	default:
		return TEE_ERROR_NOT_SUPPORTED;
	}
}
