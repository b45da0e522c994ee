/* SPDX-License-Identifier: BSD-2-Clause */
/* The cipher of a model's partitions: OP-TEE's AES-GCM, or one of the TA's own (aead/). */
#ifndef CLOISTER_CIPHER_H
#define CLOISTER_CIPHER_H

#include <tee_internal_api.h>

#include "suite.h"

struct cl_cipher {
	uint32_t suite; /* enum cl_suite; 0: not set */
	TEE_OperationHandle gcm;
	uint8_t key[CL_KEY_SIZE]; /* of the own ciphers; AES-GCM's is in the core */
};

/* The suites that this TA opens on this platform: bit 1 << enum cl_suite for each. */
uint32_t cl_cipher_suites(void);

/* Takes the content key; `suite` is one of cl_cipher_suites(). */
TEE_Result cl_cipher_set(struct cl_cipher *cipher, uint32_t suite,
			 const uint8_t content_key[CL_KEY_SIZE]);

/*
 * Decrypts `size` bytes at `sealed`, behind which the tag lies, to `plain`, and verifies the
 * tag. Others may change `sealed` meanwhile: every byte of it is read once. On any error the
 * caller wipes `plain`.
 *
 * TEE_ERROR_MAC_INVALID: the tag is wrong. TEE_ERROR_CANCEL.
 */
TEE_Result cl_cipher_open(const struct cl_cipher *cipher, const uint8_t nonce[CL_MAX_NONCE_SIZE],
			  const void *aad, size_t aad_size, const uint8_t *sealed, uint8_t *plain,
			  size_t size);

/* Gives back and wipes all of it. */
void cl_cipher_close(struct cl_cipher *cipher);

#endif
