/* SPDX-License-Identifier: BSD-2-Clause */
#include "loader.h"

#include <string.h>

#include "crypto.h"
#include "engine/engine.h"
#include "params.h"
#include "sealed.h"

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

TEE_Result cl_loader_open(struct cl_model *model, uint32_t index, const uint8_t *sealed)
{
	uint32_t size = model->manifest.partitions[index].plain_size;
	uint8_t *plain = slot_address(model, index);
	struct cl_sealed_header header = {0};
	struct cl_partition_aad aad = {0};
	TEE_Result res = TEE_SUCCESS;

	memcpy(&header, sealed, sizeof(header));
	res = cl_sealed_check(&header, &model->manifest, index);
	if (res)
		return res;

	cl_sealed_aad(&model->manifest, model->digest, index, &aad);
	res = cl_cipher_open(&model->cipher, model->manifest.partitions[index].nonce, &aad,
			     sizeof(aad), sealed + sizeof(header), plain, size);
	/* What stays is unlocked once, as far as can be. */
	if (!res)
		res = from_status(cl_partition_open(
			plain, size, model->manifest.header->arena_size, model->password,
			model->slots[index].resident ? NULL : &model->scaled, NULL));
	if (res) {
		cl_wipe(plain, size);
		return res;
	}
	model->bytes_decrypted += size;
	model->slots[index].loaded = model->slots[index].resident;
	return TEE_SUCCESS;
}

TEE_Result cl_loader_run(const struct cl_model *model, uint32_t index, unsigned int *asked)
{
	const bool resident = model->slots[index].resident;

	return from_status(
		cl_partition_run_scaled(slot_address(model, index), cl_model_arena(model),
					resident ? NULL : &model->scaled, should_stop, asked));
}
