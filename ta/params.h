/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Taking parameters in. Memory references point into memory that the normal world
 * can write at any moment: everything is copied out exactly once before it is looked at.
 */
#ifndef CLOISTER_PARAMS_H
#define CLOISTER_PARAMS_H

#include <tee_internal_api.h>

#include "result.h"

/* The parameters have these types, and no reference of some size leads nowhere. */
TEE_Result cl_params_check(uint32_t types, uint32_t expected, const TEE_Param params[4]);

/*
 * An output reference of `size` bytes or more; sets its size to `size`.
 * TEE_ERROR_SHORT_BUFFER: it is smaller; the size says what is needed.
 */
TEE_Result cl_params_room(TEE_Param *param, size_t size);

#endif
