/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A model linked into the TA. `make CLOISTER_EMBED=<directory>` compiles every C file
 * of that directory, which together define these four; without it embed_none.c does.
 * The bytes are those of a bundle: the signed manifest, and the payload with all
 * sealed partitions. Both arrays are CL_ALIGN aligned. Embedded or not, partitions stay
 * sealed: reading the TA's file out must not give the model away.
 */
#ifndef CLOISTER_EMBED_H
#define CLOISTER_EMBED_H

#include "cloister_format.h"

extern const uint8_t cl_embedded_manifest[];
extern const uint32_t cl_embedded_manifest_size; /* 0: nothing is embedded */
extern const uint8_t cl_embedded_payload[];
extern const uint64_t cl_embedded_payload_size;

#endif
