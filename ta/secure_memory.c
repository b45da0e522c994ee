/* SPDX-License-Identifier: BSD-2-Clause */
#include "secure_memory.h"

#include <pta_system.h>

#include "crypto.h"

static TEE_Result open_system(struct cl_secure_memory *memory)
{
	static const TEE_UUID uuid = PTA_SYSTEM_UUID;
	uint32_t origin = 0;

	if (memory->system != TEE_HANDLE_NULL)
		return TEE_SUCCESS;
	return TEE_OpenTASession(&uuid, TEE_TIMEOUT_INFINITE, 0, NULL, &memory->system, &origin);
}

TEE_Result cl_pages_map(struct cl_secure_memory *memory, uint64_t size, struct cl_pages *pages)
{
	const uint32_t types =
		TEE_PARAM_TYPES(TEE_PARAM_TYPE_VALUE_INPUT, TEE_PARAM_TYPE_VALUE_INOUT,
				TEE_PARAM_TYPE_VALUE_INPUT, TEE_PARAM_TYPE_NONE);
	TEE_Param params[TEE_NUM_PARAMS] = {0};
	uint32_t origin = 0;
	TEE_Result res = TEE_SUCCESS;

	/* The PTA takes 32 bits, and rounds up to pages itself. */
	if (!size || size > UINT32_MAX - CL_PAGE_SIZE)
		return TEE_ERROR_OUT_OF_MEMORY;
	size = (size + CL_PAGE_SIZE - 1) / CL_PAGE_SIZE * CL_PAGE_SIZE;
	if (memory->limit && (memory->held > memory->limit || size > memory->limit - memory->held))
		return TEE_ERROR_OUT_OF_MEMORY;

	res = open_system(memory);
	if (res)
		return res;
	params[0].value.a = (uint32_t)size;
	res = TEE_InvokeTACommand(memory->system, TEE_TIMEOUT_INFINITE, PTA_SYSTEM_MAP_ZI, types,
				  params, &origin);
	if (res)
		return res;

	pages->address = (void *)(((uintptr_t)params[1].value.a << 32) | params[1].value.b);
	pages->size = (size_t)size;
	memory->held += size;
	if (memory->held > memory->peak)
		memory->peak = memory->held;
	return TEE_SUCCESS;
}

void cl_pages_unmap(struct cl_secure_memory *memory, struct cl_pages *pages)
{
	const uint32_t types =
		TEE_PARAM_TYPES(TEE_PARAM_TYPE_VALUE_INPUT, TEE_PARAM_TYPE_VALUE_INPUT,
				TEE_PARAM_TYPE_NONE, TEE_PARAM_TYPE_NONE);
	TEE_Param params[TEE_NUM_PARAMS] = {0};
	uint32_t origin = 0;

	if (!pages->address)
		return;
	cl_wipe(pages->address, pages->size);
	params[0].value.a = (uint32_t)pages->size;
	params[1].value.a = (uint32_t)((uintptr_t)pages->address >> 32);
	params[1].value.b = (uint32_t)(uintptr_t)pages->address;
	/* Should it fail, the pages are wiped and stay charged until the session ends. */
	if (!TEE_InvokeTACommand(memory->system, TEE_TIMEOUT_INFINITE, PTA_SYSTEM_UNMAP, types,
				 params, &origin))
		memory->held -= pages->size;
	pages->address = NULL;
	pages->size = 0;
}

void cl_secure_memory_close(struct cl_secure_memory *memory)
{
	if (memory->system != TEE_HANDLE_NULL)
		TEE_CloseTASession(memory->system);
	memory->system = TEE_HANDLE_NULL;
}
