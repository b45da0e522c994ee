/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A test double of libteec for the host: it keeps books and no secrets.
 *
 * It shows what no real implementation can: in which order the bridge frees things, and that it
 * frees everything when a call fails at any point. It stands in for nothing in any result; the same
 * bridge is held against OP-TEE in tests/qemu/test_teec_qemu.py.
 *
 * Failures of order abort the process. Counters are read with teec_double_count().
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <tee_client_api.h>

enum { CONTEXTS, SESSIONS, BLOCKS, CANCELS, CALLS, COUNTERS };

static int counts[COUNTERS];
static uint32_t fail_code;
static const char *fail_at = "";
static volatile int cancelled;

int teec_double_count(int which)
{
	return which >= 0 && which < COUNTERS ? counts[which] : -1;
}

void teec_double_fail(const char *function, uint32_t code)
{
	fail_at = function;
	fail_code = code;
}

static TEEC_Result failing(const char *function)
{
	return strcmp(fail_at, function) ? TEEC_SUCCESS : fail_code;
}

TEEC_Result TEEC_InitializeContext(const char *name, TEEC_Context *context)
{
	(void)name;
	memset(context, 0, sizeof(*context));
	if (failing(__func__))
		return fail_code;
	counts[CONTEXTS]++;
	return TEEC_SUCCESS;
}

void TEEC_FinalizeContext(TEEC_Context *context)
{
	(void)context;
	if (counts[CONTEXTS] == 1 && (counts[SESSIONS] || counts[BLOCKS]))
		abort();
	counts[CONTEXTS]--;
	if (counts[CONTEXTS] < 0)
		abort();
}

TEEC_Result TEEC_RegisterSharedMemory(TEEC_Context *context, TEEC_SharedMemory *shm)
{
	(void)context;
	if (failing(__func__))
		return fail_code;
	if (!shm->buffer || !shm->size)
		abort();
	memset(&shm->imp, 0, sizeof(shm->imp));
	counts[BLOCKS]++;
	return TEEC_SUCCESS;
}

TEEC_Result TEEC_AllocateSharedMemory(TEEC_Context *context, TEEC_SharedMemory *shm)
{
	(void)context;
	if (failing(__func__))
		return fail_code;
	memset(&shm->imp, 0, sizeof(shm->imp));
	shm->buffer = calloc(1, shm->size);
	shm->imp.shadow_buffer = shm->buffer; /* marks it as ours to free */
	counts[BLOCKS]++;
	return shm->buffer ? TEEC_SUCCESS : TEEC_ERROR_OUT_OF_MEMORY;
}

void TEEC_ReleaseSharedMemory(TEEC_SharedMemory *shm)
{
	if (shm->imp.shadow_buffer) {
		memset(shm->buffer, 0xdd, shm->size);
		free(shm->buffer);
	}
	counts[BLOCKS]--;
	if (counts[BLOCKS] < 0)
		abort();
}

TEEC_Result TEEC_OpenSession(TEEC_Context *context, TEEC_Session *session,
			     const TEEC_UUID *destination, uint32_t method, const void *data,
			     TEEC_Operation *operation, uint32_t *origin)
{
	(void)method;
	(void)data;
	(void)operation;
	*origin = TEEC_ORIGIN_TEE;
	if (failing(__func__))
		return fail_code;
	if (destination->timeLow == 0)
		return TEEC_ERROR_ITEM_NOT_FOUND;
	session->imp.ctx = context;
	session->imp.session_id = destination->timeLow;
	counts[SESSIONS]++;
	return TEEC_SUCCESS;
}

void TEEC_CloseSession(TEEC_Session *session)
{
	if (!counts[CONTEXTS] || !session->imp.ctx)
		abort();
	session->imp.ctx = NULL;
	counts[SESSIONS]--;
	if (counts[SESSIONS] < 0)
		abort();
}

/* Command 1 echoes the parameter types, 2 asks for 100 bytes in every output, 3 waits for a
 * cancellation. */
TEEC_Result TEEC_InvokeCommand(TEEC_Session *session, uint32_t command, TEEC_Operation *operation,
			       uint32_t *origin)
{
	struct timespec pause = {0, 1000000};
	unsigned int i = 0;

	*origin = TEEC_ORIGIN_TRUSTED_APP;
	if (!session->imp.ctx)
		abort();
	counts[CALLS]++;
	if (failing(__func__))
		return fail_code;
	switch (command) {
	case 1:
		operation->params[0].value.a = operation->paramTypes;
		return TEEC_SUCCESS;
	case 2:
		for (i = 0; i < TEEC_CONFIG_PAYLOAD_REF_COUNT; i++) {
			switch (TEEC_PARAM_TYPE_GET(operation->paramTypes, i)) {
			case TEEC_MEMREF_TEMP_OUTPUT:
			case TEEC_MEMREF_TEMP_INOUT:
				operation->params[i].tmpref.size = 100;
				break;
			case TEEC_MEMREF_WHOLE:
			case TEEC_MEMREF_PARTIAL_OUTPUT:
			case TEEC_MEMREF_PARTIAL_INOUT:
				operation->params[i].memref.size = 100;
				break;
			default:
				break;
			}
		}
		return TEEC_ERROR_SHORT_BUFFER;
	case 3:
		operation->imp.session = session;
		for (i = 0; i < 5000 && !cancelled; i++)
			nanosleep(&pause, NULL);
		cancelled = 0;
		return i < 5000 ? TEEC_ERROR_CANCEL : TEEC_SUCCESS;
	default:
		return command;
	}
}

void TEEC_RequestCancellation(TEEC_Operation *operation)
{
	if (!operation->imp.session)
		return;
	counts[CANCELS]++;
	cancelled = 1;
}
