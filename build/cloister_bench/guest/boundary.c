/* SPDX-License-Identifier: BSD-2-Clause */
/* What the boundary itself costs: invocations, sessions, and primitives of a foreign TA. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "cloister_ta.h"

/* xtest's crypt TA, which offers GlobalPlatform's primitives one by one (optee_test, ta/crypt). */
static const TEEC_UUID crypt_ta = {
	0xcb3e5ba0, 0xadf1, 0x11e0, {0x99, 0x8b, 0x00, 0x02, 0xa5, 0xd5, 0xc5, 0x1b}};

enum crypt_command {
	CRYPT_ALLOCATE_OPERATION = 5,
	CRYPT_SET_OPERATION_KEY = 9,
	CRYPT_DIGEST_FINAL = 13,
	CRYPT_ALLOCATE_OBJECT = 21,
	CRYPT_POPULATE_OBJECT = 24,
	CRYPT_AE_INIT = 33,
	CRYPT_AE_UPDATE = 35,
};

/* GlobalPlatform TEE Internal Core API 1.1, annex. */
#define ALG_AES_GCM     0x40000810
#define ALG_SHA256      0x50000004
#define TYPE_AES        0xa0000010
#define ATTR_SECRET     0xc0000000
#define MODE_DECRYPT    1
#define MODE_DIGEST     5
#define AES_KEY_BITS    256
#define GCM_TAG_BYTES   16 /* the crypt TA makes bits of it */
#define GCM_NONCE_BYTES 12
#define DIGEST_BYTES    32

struct invocation {
	TEEC_Context context;
	TEEC_Session session;
	TEEC_Operation operation;
	uint32_t command;
	TEEC_Result expected;
};

static int parse_uuid(const char *text, TEEC_UUID *uuid)
{
	unsigned int part[11] = {0};
	size_t i = 0;

	if (sscanf(text, "%8x-%4x-%4x-%2x%2x-%2x%2x%2x%2x%2x%2x", &part[0], &part[1], &part[2],
		   &part[3], &part[4], &part[5], &part[6], &part[7], &part[8], &part[9],
		   &part[10]) != 11) {
		fprintf(stderr, "no UUID: %s\n", text);
		return -1;
	}
	uuid->timeLow = part[0];
	uuid->timeMid = (uint16_t)part[1];
	uuid->timeHiAndVersion = (uint16_t)part[2];
	for (i = 0; i < 8; i++)
		uuid->clockSeqAndNode[i] = (uint8_t)part[3 + i];
	return 0;
}

static int open_session(TEEC_Context *context, TEEC_Session *session, const TEEC_UUID *uuid)
{
	uint32_t origin = 0;
	TEEC_Result res =
		TEEC_OpenSession(context, session, uuid, TEEC_LOGIN_PUBLIC, NULL, NULL, &origin);

	return res ? fail("TEEC_OpenSession", res, origin) : 0;
}

static int start(struct invocation *invocation, const TEEC_UUID *uuid)
{
	TEEC_Result res = TEEC_InitializeContext(NULL, &invocation->context);

	if (res)
		return fail("TEEC_InitializeContext", res, 0);
	return open_session(&invocation->context, &invocation->session, uuid);
}

static int invoke(void *cookie)
{
	struct invocation *invocation = cookie;
	uint32_t origin = 0;
	TEEC_Result res = TEEC_InvokeCommand(&invocation->session, invocation->command,
					     &invocation->operation, &origin);

	if (res == invocation->expected)
		return 0;
	fprintf(stderr, "command %u: ", invocation->command);
	return fail("TEEC_InvokeCommand", res, origin);
}

static int measure_invocation(struct invocation *invocation)
{
	const struct task task = {invoke, NULL, invocation};

	return measure(&task);
}

/* Registers `size` bytes of new memory. */
static int share(struct invocation *invocation, TEEC_SharedMemory *memory, size_t size)
{
	TEEC_Result res = TEEC_SUCCESS;

	memory->size = size;
	memory->flags = TEEC_MEM_INPUT | TEEC_MEM_OUTPUT;
	memory->buffer = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
	if (!memory->buffer)
		return fail("memory", 0, 0);
	memset(memory->buffer, 0x5a, size);
	res = TEEC_RegisterSharedMemory(&invocation->context, memory);
	return res ? fail("TEEC_RegisterSharedMemory", res, 0) : 0;
}

static void set_partial(TEEC_Parameter *param, TEEC_SharedMemory *memory, size_t size)
{
	param->memref.parent = memory;
	param->memref.offset = 0;
	param->memref.size = size;
}

int job_key(char **arguments)
{
	const TEEC_UUID uuid = CL_TA_UUID;
	struct invocation invocation = {0};
	uint8_t key[CL_KEY_SIZE] = {0};

	if (start(&invocation, &uuid))
		return -1;
	invocation.command = CL_CMD_DEVICE_KEY;
	invocation.operation.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_TEMP_OUTPUT, 0, 0, 0);
	invocation.operation.params[0].tmpref.buffer = key;
	invocation.operation.params[0].tmpref.size = sizeof(key);
	if (invoke(&invocation))
		return -1;
	return write_file(arguments[0], key, sizeof(key));
}

int job_invoke(char **arguments)
{
	const size_t size = strtoull(arguments[4], NULL, 0);
	struct invocation invocation = {0};
	TEEC_SharedMemory memory = {0};
	TEEC_UUID uuid = {0};

	if (parse_uuid(arguments[0], &uuid) || start(&invocation, &uuid))
		return -1;
	invocation.command = (uint32_t)strtoul(arguments[1], NULL, 0);
	invocation.expected = (TEEC_Result)strtoul(arguments[2], NULL, 0);
	if (strcmp(arguments[3], "none")) {
		if (share(&invocation, &memory, size))
			return -1;
		if (!strcmp(arguments[3], "registered")) {
			invocation.operation.paramTypes =
				TEEC_PARAM_TYPES(TEEC_MEMREF_PARTIAL_INPUT, 0, 0, 0);
			set_partial(&invocation.operation.params[0], &memory, size);
		} else {
			invocation.operation.paramTypes =
				TEEC_PARAM_TYPES(TEEC_MEMREF_TEMP_INPUT, 0, 0, 0);
			invocation.operation.params[0].tmpref.buffer = memory.buffer;
			invocation.operation.params[0].tmpref.size = size;
		}
	}
	return measure_invocation(&invocation);
}

struct opening {
	TEEC_Context context;
	TEEC_Session session;
	TEEC_UUID uuid;
};

static int open_one(void *cookie)
{
	struct opening *opening = cookie;

	return open_session(&opening->context, &opening->session, &opening->uuid);
}

static int close_one(void *cookie)
{
	struct opening *opening = cookie;

	TEEC_CloseSession(&opening->session);
	return 0;
}

int job_open(char **arguments)
{
	struct opening opening = {0};
	const struct task task = {open_one, close_one, &opening};
	TEEC_Session held = {0};
	TEEC_Result res = TEEC_SUCCESS;

	if (parse_uuid(arguments[0], &opening.uuid))
		return -1;
	res = TEEC_InitializeContext(NULL, &opening.context);
	if (res)
		return fail("TEEC_InitializeContext", res, 0);
	if (atoi(arguments[1]) && open_session(&opening.context, &held, &opening.uuid))
		return -1;
	return measure(&task);
}

/* Invokes one of the crypt TA's commands on up to two values and a buffer. */
static int crypt(struct invocation *invocation, uint32_t command, uint32_t types,
		 TEEC_Parameter params[4])
{
	invocation->command = command;
	invocation->operation.paramTypes = types;
	memcpy(invocation->operation.params, params, sizeof(invocation->operation.params));
	if (invoke(invocation))
		return -1;
	memcpy(params, invocation->operation.params, sizeof(invocation->operation.params));
	return 0;
}

/* Makes an operation; gives its handle. */
static int make_operation(struct invocation *invocation, uint32_t algorithm, uint32_t mode,
			  uint32_t key_bits, uint32_t *handle)
{
	TEEC_Parameter params[4] = {0};

	params[0].value.b = algorithm;
	params[1].value.a = mode;
	params[1].value.b = key_bits;
	if (crypt(invocation, CRYPT_ALLOCATE_OPERATION,
		  TEEC_PARAM_TYPES(TEEC_VALUE_INOUT, TEEC_VALUE_INPUT, 0, 0), params))
		return -1;
	*handle = params[0].value.a;
	return 0;
}

int job_digest(char **arguments)
{
	const size_t size = strtoull(arguments[0], NULL, 0);
	struct invocation invocation = {0};
	TEEC_SharedMemory memory = {0};
	TEEC_SharedMemory digest = {0};
	uint32_t handle = 0;

	if (start(&invocation, &crypt_ta) ||
	    make_operation(&invocation, ALG_SHA256, MODE_DIGEST, 0, &handle) ||
	    share(&invocation, &memory, size) || share(&invocation, &digest, DIGEST_BYTES))
		return -1;
	memset(&invocation.operation, 0, sizeof(invocation.operation));
	invocation.command = CRYPT_DIGEST_FINAL;
	invocation.operation.paramTypes = TEEC_PARAM_TYPES(
		TEEC_VALUE_INPUT, TEEC_MEMREF_PARTIAL_INPUT, TEEC_MEMREF_PARTIAL_OUTPUT, 0);
	invocation.operation.params[0].value.a = handle;
	set_partial(&invocation.operation.params[1], &memory, size);
	set_partial(&invocation.operation.params[2], &digest, DIGEST_BYTES);
	return measure_invocation(&invocation);
}

/* Makes an operation that decrypts AES-256-GCM, with a key; gives its handle. */
static int make_cipher(struct invocation *invocation, uint32_t *handle)
{
	/* Count, then one attribute: its number, offset and size of its value. */
	uint32_t attributes[4 + 8] = {1, ATTR_SECRET, 16, AES_KEY_BITS / 8};
	TEEC_Parameter params[4] = {0};
	uint32_t object = 0;

	if (make_operation(invocation, ALG_AES_GCM, MODE_DECRYPT, AES_KEY_BITS, handle))
		return -1;
	params[0].value.a = TYPE_AES;
	params[0].value.b = AES_KEY_BITS;
	if (crypt(invocation, CRYPT_ALLOCATE_OBJECT,
		  TEEC_PARAM_TYPES(TEEC_VALUE_INPUT, TEEC_VALUE_OUTPUT, 0, 0), params))
		return -1;
	object = params[1].value.a;

	params[0].value.a = object;
	params[1].tmpref.buffer = attributes;
	params[1].tmpref.size = sizeof(attributes);
	if (crypt(invocation, CRYPT_POPULATE_OBJECT,
		  TEEC_PARAM_TYPES(TEEC_VALUE_INPUT, TEEC_MEMREF_TEMP_INPUT, 0, 0), params))
		return -1;

	params[0].value.a = *handle;
	params[0].value.b = object;
	return crypt(invocation, CRYPT_SET_OPERATION_KEY,
		     TEEC_PARAM_TYPES(TEEC_VALUE_INPUT, 0, 0, 0), params);
}

int job_decrypt(char **arguments)
{
	const size_t size = strtoull(arguments[0], NULL, 0);
	uint8_t nonce[GCM_NONCE_BYTES] = {0};
	struct invocation invocation = {0};
	TEEC_SharedMemory source = {0};
	TEEC_SharedMemory target = {0};
	TEEC_Parameter params[4] = {0};
	uint32_t handle = 0;

	if (start(&invocation, &crypt_ta) || make_cipher(&invocation, &handle) ||
	    share(&invocation, &source, size) || share(&invocation, &target, size))
		return -1;
	params[0].value.a = handle;
	params[0].value.b = GCM_TAG_BYTES;
	params[1].tmpref.buffer = nonce;
	params[1].tmpref.size = sizeof(nonce);
	if (crypt(&invocation, CRYPT_AE_INIT,
		  TEEC_PARAM_TYPES(TEEC_VALUE_INPUT, TEEC_MEMREF_TEMP_INPUT, TEEC_VALUE_INPUT, 0),
		  params))
		return -1;

	memset(&invocation.operation, 0, sizeof(invocation.operation));
	invocation.command = CRYPT_AE_UPDATE;
	invocation.operation.paramTypes = TEEC_PARAM_TYPES(
		TEEC_VALUE_INPUT, TEEC_MEMREF_PARTIAL_INPUT, TEEC_MEMREF_PARTIAL_OUTPUT, 0);
	invocation.operation.params[0].value.a = handle;
	set_partial(&invocation.operation.params[1], &source, size);
	set_partial(&invocation.operation.params[2], &target, size);
	return measure_invocation(&invocation);
}
