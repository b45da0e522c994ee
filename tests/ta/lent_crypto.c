/* SPDX-License-Identifier: BSD-2-Clause */
/* crypto.h over functions that the test lends at run time, so that hpke.c runs natively. */
#include <string.h>

#include "crypto.h"

typedef uint32_t hmac_fn(const uint8_t *key, const uint8_t *data, size_t size, uint8_t *mac);
typedef uint32_t open_fn(const uint8_t *key, const uint8_t *nonce, const uint8_t *sealed,
			 size_t size, uint8_t *plain);
typedef uint32_t agree_fn(const uint8_t *peer, uint8_t *secret);

static hmac_fn *hmac;
static open_fn *open_sealed;
static agree_fn *agree;

void lend(hmac_fn *hmac_, open_fn *open_, agree_fn *agree_);

void lend(hmac_fn *hmac_, open_fn *open_, agree_fn *agree_)
{
	hmac = hmac_;
	open_sealed = open_;
	agree = agree_;
}

uint32_t cl_hmac_sha256(const uint8_t key[CL_KEY_SIZE], const struct cl_bytes *parts, size_t count,
			uint8_t mac[CL_DIGEST_SIZE])
{
	uint8_t message[1024];
	size_t size = 0;
	size_t i = 0;

	for (i = 0; i < count; i++) {
		if (parts[i].size > sizeof(message) - size)
			return 1;
		if (parts[i].size)
			memcpy(message + size, parts[i].data, parts[i].size);
		size += parts[i].size;
	}
	return hmac(key, message, size, mac);
}

uint32_t cl_aes_gcm_open(const uint8_t key[CL_KEY_SIZE], const uint8_t nonce[CL_NONCE_SIZE],
			 const uint8_t *sealed, size_t sealed_size, uint8_t *plain)
{
	return open_sealed(key, nonce, sealed, sealed_size, plain);
}

uint32_t cl_device_agree(const uint8_t peer[CL_KEY_SIZE], uint8_t secret[CL_KEY_SIZE])
{
	return agree(peer, secret);
}

void cl_wipe(void *data, size_t size)
{
	memset(data, 0, size);
}
