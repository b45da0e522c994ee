/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The primitives that the TA needs, over whatever provides them: crypto.c uses the
 * GlobalPlatform API, the native tests another library. Portable.
 *
 * All return CL_SUCCESS or a TEE error code; CL_ERROR_OUT_OF_MEMORY everywhere.
 */
#ifndef CLOISTER_CRYPTO_H
#define CLOISTER_CRYPTO_H

#include <stddef.h>

#include "cloister_format.h"

struct cl_bytes {
	const void *data;
	size_t size;
};

uint32_t cl_sha256(const void *data, size_t size, uint8_t digest[CL_DIGEST_SIZE]);

/* HMAC-SHA256 (RFC 2104) over the parts, one after the other. */
uint32_t cl_hmac_sha256(const uint8_t key[CL_KEY_SIZE], const struct cl_bytes *parts, size_t count,
			uint8_t mac[CL_DIGEST_SIZE]);

/*
 * AES-256-GCM in one go, no associated data; `sealed` ends with the tag. `plain`
 * holds sealed_size - CL_TAG_SIZE bytes and is zeros on failure.
 * CL_ERROR_MAC_INVALID: the tag is wrong.
 */
uint32_t cl_aes_gcm_open(const uint8_t key[CL_KEY_SIZE], const uint8_t nonce[CL_NONCE_SIZE],
			 const uint8_t *sealed, size_t sealed_size, uint8_t *plain);

/* Ed25519 (RFC 8032); 0xffff3072 (TEE_ERROR_SIGNATURE_INVALID): not by this key. */
uint32_t cl_ed25519_verify(const uint8_t public_key[CL_KEY_SIZE], const void *message, size_t size,
			   const uint8_t signature[CL_SIGNATURE_SIZE]);

/* X25519 (RFC 7748) of the device's private key and a peer's public key. */
uint32_t cl_device_agree(const uint8_t peer[CL_KEY_SIZE], uint8_t secret[CL_KEY_SIZE]);

/* Overwrites memory in a way that the compiler keeps. */
void cl_wipe(void *data, size_t size);

#endif
