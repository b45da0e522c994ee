/* SPDX-License-Identifier: BSD-2-Clause */
/* Whom this TA trusts. */
#ifndef CLOISTER_VENDOR_H
#define CLOISTER_VENDOR_H

#include <stdbool.h>

#include "cloister_format.h"

/* Ed25519; all zeros: nobody, and nothing can be loaded. */
extern const uint8_t cl_vendor_key[CL_KEY_SIZE];

bool cl_vendor_known(void);

#endif
