/* SPDX-License-Identifier: BSD-2-Clause */
#include "loader.h"

#include <string.h>

#include "crypto.h"
#include "engine/engine.h"
#include "params.h"
#include "sealed.h"

/* Copied and decrypted at once: fits the second-level cache, and a multiple of the cipher's block.
 */
#define CHUNK_SIZE (64 * 1024)

static uint8_t *slot_address(const struct cl_model *model, uint32_t index)
{
	return cl_model_arena(model) + model->slots[index].offset;
}

/* Operators between two looks at the cancellation flag: a look is a system call of some 1,400
 * instructions, as much as a small operator itself.
 */
#define OPERATORS_PER_LOOK 8

static int should_stop(void *cookie)
{
	unsigned int *asked = cookie;

	return (*asked)++ % OPERATORS_PER_LOOK ? 0 : TEE_GetCancellationFlag();
}

static TEE_Result from_status(enum cl_status status)
{
	switch (status) {
	case CL_OK:
		return TEE_SUCCESS;
	case CL_BAD_VERSION:
		return CL_ERROR_VERSION;
	case CL_STOPPED:
		return TEE_ERROR_CANCEL;
	default:
		return TEE_ERROR_BAD_FORMAT;
	}
}

static void start_cipher(struct cl_model *model, uint32_t index)
{
	const struct cl_partition_desc *desc = &model->manifest.partitions[index];
	struct cl_partition_aad aad = {0};

	/* An operation that ended with a wrong tag stays active, and AEInit would panic. */
	TEE_ResetOperation(model->cipher);
	cl_sealed_aad(&model->manifest, model->digest, index, &aad);
	TEE_AEInit(model->cipher, desc->nonce, sizeof(desc->nonce), CL_TAG_SIZE * 8, sizeof(aad),
		   desc->plain_size);
	TEE_AEUpdateAAD(model->cipher, &aad, sizeof(aad));
}

/*
 * Decrypts in place, chunk by chunk behind the copy: OP-TEE's AES-GCM reads each
 * block before it writes it. The source is read once; what changes there later, or
 * changed between two chunks, is what the tag is checked against.
 */
static TEE_Result copy_and_decrypt(struct cl_model *model, uint32_t index, const uint8_t *cipher,
				   uint8_t *plain)
{
	size_t left = model->manifest.partitions[index].plain_size;
	uint8_t tag[CL_TAG_SIZE] = {0};
	size_t size = 0;
	TEE_Result res = TEE_SUCCESS;

	start_cipher(model, index);
	while (left > CHUNK_SIZE) {
		if (TEE_GetCancellationFlag())
			return TEE_ERROR_CANCEL;
		memcpy(plain, cipher, CHUNK_SIZE);
		size = CHUNK_SIZE;
		res = TEE_AEUpdate(model->cipher, plain, CHUNK_SIZE, plain, &size);
		if (res)
			return res;
		plain += CHUNK_SIZE;
		cipher += CHUNK_SIZE;
		left -= CHUNK_SIZE;
	}
	memcpy(plain, cipher, left);
	memcpy(tag, cipher + left, sizeof(tag));
	size = left;
	return TEE_AEDecryptFinal(model->cipher, plain, left, plain, &size, tag, sizeof(tag));
}

TEE_Result cl_loader_open(struct cl_model *model, uint32_t index, const uint8_t *sealed)
{
	uint32_t size = model->manifest.partitions[index].plain_size;
	uint8_t *plain = slot_address(model, index);
	struct cl_sealed_header header = {0};
	TEE_Result res = TEE_SUCCESS;

	memcpy(&header, sealed, sizeof(header));
	res = cl_sealed_check(&header, &model->manifest, index);
	if (res)
		return res;

	res = copy_and_decrypt(model, index, sealed + sizeof(header), plain);
	if (!res)
		res = from_status(
			cl_partition_check(plain, size, model->manifest.header->arena_size, NULL));
	if (res) {
		cl_wipe(plain, size);
		return res;
	}
	model->bytes_decrypted += size;
	model->slots[index].loaded = model->slots[index].resident;
	return TEE_SUCCESS;
}

TEE_Result cl_loader_run(const struct cl_model *model, uint32_t index)
{
	unsigned int asked = 0;

	return from_status(cl_partition_run(slot_address(model, index), cl_model_arena(model),
					    should_stop, &asked));
}
