/* SPDX-License-Identifier: BSD-2-Clause */
/* INFO and DEVICE_KEY: what this TA and this device are. */
#include <string.h>

#include "commands.h"
#include "device.h"
#include "embed.h"
#include "params.h"
#include "user_ta_header_defines.h"
#include "vendor.h"

#define ONE_OUTPUT TEE_PARAM_TYPES(TEE_PARAM_TYPE_MEMREF_OUTPUT, 0, 0, 0)

TEE_Result cl_command_info(const struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	static const char build[] = "cloister " TA_VERSION;
	struct cl_info info = {
		.interface_version = CL_TA_INTERFACE_VERSION,
		.format_version = CL_FORMAT_VERSION,
		.state = session->state,
		.embedded = cl_embedded_manifest_size != 0,
		.suites = cl_cipher_suites(),
	};
	TEE_Result res = cl_params_check(types, ONE_OUTPUT, params);

	if (!res)
		res = cl_params_room(&params[0], sizeof(info));
	if (res)
		return res;
	memcpy(info.vendor_key, cl_vendor_key, sizeof(info.vendor_key));
	memcpy(info.build, build, sizeof(build));
	memcpy(params[0].memref.buffer, &info, sizeof(info));
	return TEE_SUCCESS;
}

TEE_Result cl_command_device_key(uint32_t types, TEE_Param params[4])
{
	uint8_t public_key[CL_KEY_SIZE] = {0};
	TEE_Result res = cl_params_check(types, ONE_OUTPUT, params);

	if (!res)
		res = cl_params_room(&params[0], sizeof(public_key));
	if (!res)
		res = cl_device_public_key(public_key);
	if (!res)
		memcpy(params[0].memref.buffer, public_key, sizeof(public_key));
	return res;
}
