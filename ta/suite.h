/* SPDX-License-Identifier: BSD-2-Clause */
/* What the cipher suites of the format are: sizes, and keys from the content key. Portable. */
#ifndef CLOISTER_SUITE_H
#define CLOISTER_SUITE_H

#include <stddef.h>

#include "cloister_format.h"

/* Bytes of a nonce of enum cl_suite; 0: no such suite. */
static inline size_t cl_suite_nonce_size(uint32_t suite)
{
	switch (suite) {
	case CL_SUITE_AES_256_GCM:
	case CL_SUITE_CHACHA20_POLY1305:
		return 12;
	case CL_SUITE_AEGIS_128L:
		return 16;
	default:
		return 0;
	}
}

/*
 * The suite's key: its first bytes, the others are zero for a suite with a shorter one.
 * CL_ERROR_CIPHER: no such suite. Else as cl_hmac_sha256.
 */
uint32_t cl_suite_key(uint32_t suite, const uint8_t content_key[CL_KEY_SIZE],
		      uint8_t key[CL_KEY_SIZE]);

#endif
