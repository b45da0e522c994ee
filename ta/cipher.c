/* SPDX-License-Identifier: BSD-2-Clause */
#include "cipher.h"

#include <string.h>

#include "aead/aead.h"
#include "crypto.h"
#include "gp_key.h"

/* Between two looks at the cancellation flag, a system call. Fits the second-level cache. */
#define CHUNK_SIZE (64 * 1024)

_Static_assert(CHUNK_SIZE % CL_AEAD_STEP == 0 && CL_AEAD_TAG_SIZE == CL_TAG_SIZE, "pieces");

union own_context {
	struct cl_chacha20_poly1305 chacha;
#ifdef CL_CPU_AES
	struct cl_aegis128l aegis;
#endif
};

uint32_t cl_cipher_suites(void)
{
	uint32_t suites = 1U << CL_SUITE_AES_256_GCM | 1U << CL_SUITE_CHACHA20_POLY1305;

#ifdef CL_CPU_AES
	suites |= 1U << CL_SUITE_AEGIS_128L;
#endif
	return suites;
}

TEE_Result cl_cipher_set(struct cl_cipher *cipher, uint32_t suite,
			 const uint8_t content_key[CL_KEY_SIZE])
{
	TEE_Result res = cl_suite_key(suite, content_key, cipher->key);

	if (!res && suite == CL_SUITE_AES_256_GCM) {
		res = cl_gp_operation(TEE_ALG_AES_GCM, TEE_MODE_DECRYPT, TEE_TYPE_AES,
				      TEE_ATTR_SECRET_VALUE, cipher->key, &cipher->gcm);
		cl_wipe(cipher->key, sizeof(cipher->key));
	}
	if (!res)
		cipher->suite = suite;
	return res;
}

/*
 * Decrypts in place, chunk by chunk behind the copy: OP-TEE's AES-GCM reads each
 * block before it writes it. The source is read once; what changes there later, or
 * changed between two chunks, is what the tag is checked against.
 */
static TEE_Result open_gcm(TEE_OperationHandle gcm, const uint8_t *nonce, const void *aad,
			   size_t aad_size, const uint8_t *sealed, uint8_t *plain, size_t left)
{
	uint8_t tag[CL_TAG_SIZE] = {0};
	size_t size = 0;
	TEE_Result res = TEE_SUCCESS;

	/* An operation that ended with a wrong tag stays active, and AEInit would panic. */
	TEE_ResetOperation(gcm);
	TEE_AEInit(gcm, nonce, CL_NONCE_SIZE, CL_TAG_SIZE * 8, aad_size, left);
	TEE_AEUpdateAAD(gcm, aad, aad_size);
	while (left > CHUNK_SIZE) {
		if (TEE_GetCancellationFlag())
			return TEE_ERROR_CANCEL;
		memcpy(plain, sealed, CHUNK_SIZE);
		size = CHUNK_SIZE;
		res = TEE_AEUpdate(gcm, plain, CHUNK_SIZE, plain, &size);
		if (res)
			return res;
		plain += CHUNK_SIZE;
		sealed += CHUNK_SIZE;
		left -= CHUNK_SIZE;
	}
	memcpy(plain, sealed, left);
	memcpy(tag, sealed + left, sizeof(tag));
	size = left;
	return TEE_AEDecryptFinal(gcm, plain, left, plain, &size, tag, sizeof(tag));
}

static void start(const struct cl_cipher *cipher, union own_context *context, const uint8_t *nonce,
		  const void *aad, size_t aad_size)
{
	switch (cipher->suite) {
#ifdef CL_CPU_AES
	case CL_SUITE_AEGIS_128L:
		cl_aegis128l_start(&context->aegis, cipher->key, nonce, aad, aad_size);
		break;
#endif
	default:
		cl_chacha20_poly1305_start(&context->chacha, cipher->key, nonce, aad, aad_size);
		break;
	}
}

static void decrypt(const struct cl_cipher *cipher, union own_context *context,
		    const uint8_t *sealed, uint8_t *plain, size_t size)
{
	switch (cipher->suite) {
#ifdef CL_CPU_AES
	case CL_SUITE_AEGIS_128L:
		cl_aegis128l_open(&context->aegis, sealed, plain, size);
		break;
#endif
	default:
		cl_chacha20_poly1305_open(&context->chacha, sealed, plain, size);
		break;
	}
}

static void finish(const struct cl_cipher *cipher, union own_context *context,
		   uint8_t tag[CL_TAG_SIZE])
{
	switch (cipher->suite) {
#ifdef CL_CPU_AES
	case CL_SUITE_AEGIS_128L:
		cl_aegis128l_tag(&context->aegis, tag);
		break;
#endif
	default:
		cl_chacha20_poly1305_tag(&context->chacha, tag);
		break;
	}
}

/* The TA's own ciphers read memory of others once by themselves: nothing is copied first. */
static TEE_Result open_own(const struct cl_cipher *cipher, const uint8_t *nonce, const void *aad,
			   size_t aad_size, const uint8_t *sealed, uint8_t *plain, size_t left)
{
	uint8_t expected[CL_TAG_SIZE] = {0};
	uint8_t found[CL_TAG_SIZE] = {0};
	union own_context context;
	TEE_Result res = TEE_SUCCESS;

	start(cipher, &context, nonce, aad, aad_size);
	while (left > CHUNK_SIZE) {
		if (TEE_GetCancellationFlag()) {
			res = TEE_ERROR_CANCEL;
			goto out;
		}
		decrypt(cipher, &context, sealed, plain, CHUNK_SIZE);
		plain += CHUNK_SIZE;
		sealed += CHUNK_SIZE;
		left -= CHUNK_SIZE;
	}
	decrypt(cipher, &context, sealed, plain, left);
	finish(cipher, &context, expected);
	memcpy(found, sealed + left, sizeof(found));
	if (!cl_aead_tags_equal(found, expected))
		res = TEE_ERROR_MAC_INVALID;
out:
	cl_wipe(&context, sizeof(context));
	cl_wipe(expected, sizeof(expected));
	return res;
}

TEE_Result cl_cipher_open(const struct cl_cipher *cipher, const uint8_t nonce[CL_MAX_NONCE_SIZE],
			  const void *aad, size_t aad_size, const uint8_t *sealed, uint8_t *plain,
			  size_t size)
{
	if (cipher->suite == CL_SUITE_AES_256_GCM)
		return open_gcm(cipher->gcm, nonce, aad, aad_size, sealed, plain, size);
	return open_own(cipher, nonce, aad, aad_size, sealed, plain, size);
}

void cl_cipher_close(struct cl_cipher *cipher)
{
	if (cipher->gcm != TEE_HANDLE_NULL)
		TEE_FreeOperation(cipher->gcm);
	cl_wipe(cipher, sizeof(*cipher));
}
