/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Results of the portable parts, which include no OP-TEE header. Values are
 * GlobalPlatform's (TEE Internal Core API, table 3-5); params.c holds them against
 * tee_api_defines.h.
 */
#ifndef CLOISTER_RESULT_H
#define CLOISTER_RESULT_H

#include "cloister_ta.h"

#define CL_SUCCESS              UINT32_C(0x00000000)
#define CL_ERROR_CANCEL         UINT32_C(0xffff0002)
#define CL_ERROR_BAD_FORMAT     UINT32_C(0xffff0005)
#define CL_ERROR_BAD_PARAMETERS UINT32_C(0xffff0006)
#define CL_ERROR_BAD_STATE      UINT32_C(0xffff0007)
#define CL_ERROR_NOT_SUPPORTED  UINT32_C(0xffff000a)
#define CL_ERROR_OUT_OF_MEMORY  UINT32_C(0xffff000c)
#define CL_ERROR_SHORT_BUFFER   UINT32_C(0xffff0010)
#define CL_ERROR_MAC_INVALID    UINT32_C(0xffff3071)

#endif
