/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crypto.h over the GlobalPlatform API. Many of its functions panic on misuse, so
 * only sizes that were checked and handles that were made here reach it.
 */
#include "crypto.h"

#include <string.h>
#include <string_ext.h>
#include <tee_internal_api.h>

#include "gp_key.h"

#define KEY_BITS (CL_KEY_SIZE * 8)

void cl_wipe(void *data, size_t size)
{
	memzero_explicit(data, size);
}

TEE_Result cl_gp_operation(uint32_t algorithm, uint32_t mode, uint32_t key_type, uint32_t attribute,
			   const uint8_t key[CL_KEY_SIZE], TEE_OperationHandle *operation)
{
	TEE_ObjectHandle object = TEE_HANDLE_NULL;
	TEE_OperationHandle op = TEE_HANDLE_NULL;
	TEE_Attribute attr = {0};
	TEE_Result res = TEE_SUCCESS;

	res = TEE_AllocateOperation(&op, algorithm, mode, KEY_BITS);
	if (res)
		return res;
	res = TEE_AllocateTransientObject(key_type, KEY_BITS, &object);
	if (res)
		goto out;
	TEE_InitRefAttribute(&attr, attribute, key, CL_KEY_SIZE);
	res = TEE_PopulateTransientObject(object, &attr, 1);
	if (!res)
		res = TEE_SetOperationKey(op, object);
	TEE_FreeTransientObject(object);
out:
	if (res)
		TEE_FreeOperation(op);
	else
		*operation = op;
	return res;
}

uint32_t cl_sha256(const void *data, size_t size, uint8_t digest[CL_DIGEST_SIZE])
{
	TEE_OperationHandle op = TEE_HANDLE_NULL;
	size_t digest_size = CL_DIGEST_SIZE;
	TEE_Result res = TEE_AllocateOperation(&op, TEE_ALG_SHA256, TEE_MODE_DIGEST, 0);

	if (res)
		return res;
	res = TEE_DigestDoFinal(op, data, size, digest, &digest_size);
	TEE_FreeOperation(op);
	return res;
}

uint32_t cl_hmac_sha256(const uint8_t key[CL_KEY_SIZE], const struct cl_bytes *parts, size_t count,
			uint8_t mac[CL_DIGEST_SIZE])
{
	TEE_OperationHandle op = TEE_HANDLE_NULL;
	size_t mac_size = CL_DIGEST_SIZE;
	size_t i = 0;
	TEE_Result res = cl_gp_operation(TEE_ALG_HMAC_SHA256, TEE_MODE_MAC, TEE_TYPE_HMAC_SHA256,
					 TEE_ATTR_SECRET_VALUE, key, &op);

	if (res)
		return res;
	TEE_MACInit(op, NULL, 0);
	for (i = 0; i < count; i++)
		if (parts[i].size)
			TEE_MACUpdate(op, parts[i].data, parts[i].size);
	res = TEE_MACComputeFinal(op, NULL, 0, mac, &mac_size);
	TEE_FreeOperation(op);
	return res;
}

uint32_t cl_aes_gcm_open(const uint8_t key[CL_KEY_SIZE], const uint8_t nonce[CL_NONCE_SIZE],
			 const uint8_t *sealed, size_t sealed_size, uint8_t *plain)
{
	TEE_OperationHandle op = TEE_HANDLE_NULL;
	uint8_t tag[CL_TAG_SIZE] = {0};
	size_t size = 0;
	TEE_Result res = TEE_SUCCESS;

	if (sealed_size < CL_TAG_SIZE)
		return TEE_ERROR_BAD_PARAMETERS;
	size = sealed_size - CL_TAG_SIZE;
	memcpy(tag, sealed + size, sizeof(tag));

	res = cl_gp_operation(TEE_ALG_AES_GCM, TEE_MODE_DECRYPT, TEE_TYPE_AES,
			      TEE_ATTR_SECRET_VALUE, key, &op);
	if (res)
		return res;
	res = TEE_AEInit(op, nonce, CL_NONCE_SIZE, CL_TAG_SIZE * 8, 0, size);
	if (!res)
		res = TEE_AEDecryptFinal(op, sealed, size, plain, &size, tag, sizeof(tag));
	if (res)
		cl_wipe(plain, sealed_size - CL_TAG_SIZE);
	TEE_FreeOperation(op);
	return res;
}

uint32_t cl_ed25519_verify(const uint8_t public_key[CL_KEY_SIZE], const void *message, size_t size,
			   const uint8_t signature[CL_SIGNATURE_SIZE])
{
	TEE_OperationHandle op = TEE_HANDLE_NULL;
	TEE_Result res =
		cl_gp_operation(TEE_ALG_ED25519, TEE_MODE_VERIFY, TEE_TYPE_ED25519_PUBLIC_KEY,
				TEE_ATTR_ED25519_PUBLIC_VALUE, public_key, &op);

	if (res)
		return res;
	res = TEE_AsymmetricVerifyDigest(op, NULL, 0, message, size, signature, CL_SIGNATURE_SIZE);
	TEE_FreeOperation(op);
	return res;
}
