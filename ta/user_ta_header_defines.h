/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef USER_TA_HEADER_DEFINES_H
#define USER_TA_HEADER_DEFINES_H

#include "cloister_ta.h"

#define TA_UUID CL_TA_UUID

/*
 * Neither single-instance nor multi-session: each session has an address space
 * of its own, so that no fault and no read in one can reach another's model.
 */
#define TA_FLAGS 0

/*
 * The TA's own frames add up to less than 3 KiB on every path (-fstack-usage; the
 * largest is 752 bytes, nothing recurses); the rest is for libutee and margin.
 */
#define TA_STACK_SIZE (16 * 1024)

/* Operation handles and the session; models live in pages mapped at run time. */
#define TA_DATA_SIZE (32 * 1024)

#define TA_VERSION     "0.1.0"
#define TA_DESCRIPTION "Cloister: sealed neural networks"

#endif
