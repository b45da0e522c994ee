/* SPDX-License-Identifier: BSD-2-Clause */
#include "device.h"

#include <string.h>

#include "crypto.h"

#define KEY_BITS    (CL_KEY_SIZE * 8)
#define MAX_RECORDS 1024 /* each was made for a model or licence that the vendor signed */

/* Without a share flag the object has one user at a time, across all sessions. */
#define ACCESS (TEE_DATA_FLAG_ACCESS_READ | TEE_DATA_FLAG_ACCESS_WRITE)

/* Another session holds the object for a few writes at most. */
#define RETRIES    200
#define RETRY_WAIT 5 /* milliseconds */

static const char object_id[] = "cloister device v1";

static TEE_Result create(TEE_ObjectHandle *object)
{
	TEE_ObjectHandle pair = TEE_HANDLE_NULL;
	TEE_Result res = TEE_AllocateTransientObject(TEE_TYPE_X25519_KEYPAIR, KEY_BITS, &pair);

	if (res)
		return res;
	res = TEE_GenerateKey(pair, KEY_BITS, NULL, 0);
	/* Neither extractable nor good for anything else, not even for this TA. */
	if (!res)
		res = TEE_RestrictObjectUsage1(pair, TEE_USAGE_DERIVE);
	if (!res)
		res = TEE_CreatePersistentObject(TEE_STORAGE_PRIVATE, object_id, sizeof(object_id),
						 ACCESS, pair, NULL, 0, object);
	TEE_FreeTransientObject(pair);
	return res;
}

static TEE_Result open_object(TEE_ObjectHandle *object)
{
	TEE_Result res = TEE_SUCCESS;
	unsigned int i = 0;

	for (i = 0; i < RETRIES; i++) {
		res = TEE_OpenPersistentObject(TEE_STORAGE_PRIVATE, object_id, sizeof(object_id),
					       ACCESS, object);
		if (res == TEE_ERROR_ITEM_NOT_FOUND)
			res = create(object);
		/* A conflict while creating: another session was faster. */
		if (res != TEE_ERROR_ACCESS_CONFLICT)
			return res;
		if (TEE_Wait(RETRY_WAIT) == TEE_ERROR_CANCEL)
			return TEE_ERROR_CANCEL;
	}
	return TEE_ERROR_BUSY;
}

static TEE_Result get_public_key(TEE_ObjectHandle object, uint8_t public_key[CL_KEY_SIZE])
{
	size_t size = CL_KEY_SIZE;
	TEE_Result res = TEE_GetObjectBufferAttribute(object, TEE_ATTR_X25519_PUBLIC_VALUE,
						      public_key, &size);

	if (!res && size != CL_KEY_SIZE)
		res = TEE_ERROR_CORRUPT_OBJECT;
	return res;
}

TEE_Result cl_device_public_key(uint8_t public_key[CL_KEY_SIZE])
{
	TEE_ObjectHandle object = TEE_HANDLE_NULL;
	TEE_Result res = open_object(&object);

	if (res)
		return res;
	res = get_public_key(object, public_key);
	TEE_CloseObject(object);
	return res;
}

static TEE_Result derive(TEE_ObjectHandle pair, const uint8_t peer[CL_KEY_SIZE],
			 uint8_t secret[CL_KEY_SIZE])
{
	TEE_OperationHandle op = TEE_HANDLE_NULL;
	TEE_ObjectHandle derived = TEE_HANDLE_NULL;
	TEE_Attribute attr = {0};
	size_t size = CL_KEY_SIZE;
	TEE_Result res = TEE_AllocateOperation(&op, TEE_ALG_X25519, TEE_MODE_DERIVE, KEY_BITS);

	if (res)
		return res;
	res = TEE_AllocateTransientObject(TEE_TYPE_GENERIC_SECRET, KEY_BITS, &derived);
	if (res)
		goto out;
	res = TEE_SetOperationKey(op, pair);
	if (!res) {
		TEE_InitRefAttribute(&attr, TEE_ATTR_X25519_PUBLIC_VALUE, peer, CL_KEY_SIZE);
		TEE_DeriveKey(op, &attr, 1, derived);
		res = TEE_GetObjectBufferAttribute(derived, TEE_ATTR_SECRET_VALUE, secret, &size);
	}
	if (!res && size != CL_KEY_SIZE)
		res = TEE_ERROR_GENERIC;
	TEE_FreeTransientObject(derived);
out:
	TEE_FreeOperation(op);
	return res;
}

uint32_t cl_device_agree(const uint8_t peer[CL_KEY_SIZE], uint8_t secret[CL_KEY_SIZE])
{
	TEE_ObjectHandle object = TEE_HANDLE_NULL;
	TEE_Result res = open_object(&object);

	if (res)
		return res;
	res = derive(object, peer, secret);
	TEE_CloseObject(object);
	return res;
}

/* Looks the record up; leaves `position` behind the last one if there is none. */
static TEE_Result find(struct cl_record_handle *handle, enum cl_record_kind kind,
		       const uint8_t id[CL_ID_SIZE])
{
	struct cl_record records[8] = {0};
	size_t position = 0;
	size_t count = 0;
	size_t i = 0;
	TEE_Result res = TEE_SeekObjectData(handle->object, 0, TEE_DATA_SEEK_SET);

	while (!res) {
		res = TEE_ReadObjectData(handle->object, records, sizeof(records), &count);
		if (res)
			break;
		for (i = 0; i < count / sizeof(records[0]); i++) {
			if (records[i].kind == kind && !memcmp(records[i].id, id, CL_ID_SIZE)) {
				handle->record = records[i];
				handle->position = position + i * sizeof(records[0]);
				return TEE_SUCCESS;
			}
		}
		position += count / sizeof(records[0]) * sizeof(records[0]);
		if (count < sizeof(records))
			break;
	}
	handle->position = position;
	handle->record = (struct cl_record){.kind = kind};
	memcpy(handle->record.id, id, CL_ID_SIZE);
	return res;
}

/*
 * An object that is found damaged while it is read or written is removed, and its
 * handle with it (TEE Internal Core API, gpd.ta.doesNotCloseHandleOnCorruptObject
 * being false): TEE_CloseObject panics on it.
 */
static void close_after(struct cl_record_handle *handle, TEE_Result res)
{
	if (res == TEE_ERROR_CORRUPT_OBJECT)
		handle->object = TEE_HANDLE_NULL;
	cl_record_close(handle);
}

TEE_Result cl_record_open(enum cl_record_kind kind, const uint8_t id[CL_ID_SIZE],
			  struct cl_record_handle *handle)
{
	TEE_Result res = TEE_SUCCESS;

	memset(handle, 0, sizeof(*handle));
	res = open_object(&handle->object);
	if (res)
		return res;
	res = find(handle, kind, id);
	if (res)
		close_after(handle, res);
	return res;
}

TEE_Result cl_record_store(struct cl_record_handle *handle)
{
	TEE_Result res = TEE_SUCCESS;

	if (handle->position >= MAX_RECORDS * sizeof(handle->record))
		return TEE_ERROR_STORAGE_NO_SPACE;
	res = TEE_SeekObjectData(handle->object, (intmax_t)handle->position, TEE_DATA_SEEK_SET);
	if (!res)
		res = TEE_WriteObjectData(handle->object, &handle->record, sizeof(handle->record));
	if (res)
		close_after(handle, res);
	return res;
}

void cl_record_close(struct cl_record_handle *handle)
{
	if (handle->object != TEE_HANDLE_NULL)
		TEE_CloseObject(handle->object);
	handle->object = TEE_HANDLE_NULL;
}
