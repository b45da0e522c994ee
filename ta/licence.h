/* SPDX-License-Identifier: BSD-2-Clause */
/* Parsing a licence and the secret inside it. Portable: no OP-TEE header. */
#ifndef CLOISTER_LICENCE_H
#define CLOISTER_LICENCE_H

#include <stddef.h>

#include "cloister_format.h"

/* Without a password, and with the longest. */
#define CL_LICENCE_SIZE     (sizeof(struct cl_licence) + CL_SIGNATURE_SIZE)
#define CL_LICENCE_MAX_SIZE (CL_LICENCE_SIZE + CL_MAX_PASSWORD)

/*
 * Checks the clear part of `size` bytes at the 8-byte aligned address `data`.
 *
 * CL_ERROR_BAD_FORMAT: a field contradicts another.
 * CL_ERROR_VERSION: a format version this TA does not know.
 */
uint32_t cl_licence_parse(const void *data, size_t size);

/*
 * Checks the decrypted part of a licence of `size` bytes: the secret and the password behind
 * it, if there is one.
 *
 * CL_ERROR_BAD_FORMAT: a field is out of range.
 * CL_ERROR_VERSION: a version of the password that this TA does not know.
 */
uint32_t cl_licence_check_secret(const struct cl_licence_secret *secret, size_t size);

/*
 * The licence allows an answer of this kind (enum cl_output), with k entries a row for
 * CL_OUTPUT_TOP_K; the others ignore k.
 *
 * CL_ERROR_BAD_PARAMETERS: no such kind, or a k outside 1 to CL_MAX_TOP_K.
 * CL_ERROR_OUTPUT_LIMIT: the licence does not allow it.
 */
uint32_t cl_licence_allows(const struct cl_licence_secret *secret, uint32_t output, uint32_t k);

#endif
