/* SPDX-License-Identifier: BSD-2-Clause */
#include "suite.h"

#include <string.h>

#include "crypto.h"
#include "result.h"

static const char domain[] = "cloister suite v1";

#define AEGIS_128L_KEY_SIZE 16

uint32_t cl_suite_key(uint32_t suite, const uint8_t content_key[CL_KEY_SIZE],
		      uint8_t key[CL_KEY_SIZE])
{
	static const uint8_t no_salt[CL_KEY_SIZE];
	const uint8_t counter = 1;
	const struct cl_bytes content = {content_key, CL_KEY_SIZE};
	const struct cl_bytes info[] = {
		{domain, sizeof(domain) - 1},
		{&suite, sizeof(suite)},
		{&counter, sizeof(counter)},
	};
	uint8_t block[CL_DIGEST_SIZE] = {0};
	uint32_t res = CL_SUCCESS;

	if (!cl_suite_nonce_size(suite))
		return CL_ERROR_CIPHER;
	if (suite == CL_SUITE_AES_256_GCM) {
		memcpy(key, content_key, CL_KEY_SIZE);
		return CL_SUCCESS;
	}
	/* RFC 5869: extract, then one block of expand. */
	res = cl_hmac_sha256(no_salt, &content, 1, block);
	if (!res)
		res = cl_hmac_sha256(block, info, 3, block);
	memset(key, 0, CL_KEY_SIZE);
	if (!res)
		memcpy(key, block,
		       suite == CL_SUITE_AEGIS_128L ? AEGIS_128L_KEY_SIZE : CL_KEY_SIZE);
	cl_wipe(block, sizeof(block));
	return res;
}
