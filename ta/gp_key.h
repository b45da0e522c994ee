/* SPDX-License-Identifier: BSD-2-Clause */
/* Operations of the GlobalPlatform API with a 256-bit key. */
#ifndef CLOISTER_GP_KEY_H
#define CLOISTER_GP_KEY_H

#include <tee_internal_api.h>

#include "cloister_format.h"

/*
 * Allocates an operation and sets its key, which `attribute` of an object of
 * `key_type` holds. The caller frees it with TEE_FreeOperation, which wipes the key.
 */
TEE_Result cl_gp_operation(uint32_t algorithm, uint32_t mode, uint32_t key_type, uint32_t attribute,
			   const uint8_t key[CL_KEY_SIZE], TEE_OperationHandle *operation);

#endif
