/* SPDX-License-Identifier: BSD-2-Clause */
/* A model that is loaded in the Cloister TA. Functions return 0, or -1 after they reported why not.
 */
#ifndef CLOISTER_BENCH_MODEL_H
#define CLOISTER_BENCH_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tee_client_api.h>

#include "cloister_ta.h"

struct ta_model {
	TEEC_Context context;
	TEEC_Session session;
	uint8_t *manifest;
	size_t manifest_size;
	uint8_t *licence;
	size_t licence_size;
	uint32_t memory; /* most bytes that the TA may take; 0: no limit */
	struct cl_loaded loaded;
	uint32_t taken; /* bytes that it took */

	TEEC_SharedMemory inputs;
	TEEC_SharedMemory payload; /* all of it, or room for one partition */
	const uint8_t *source;     /* where partitions are copied from in the second case */
	TEEC_SharedMemory answer;
	uint32_t output; /* enum cl_output */
	uint32_t answer_size;
	uint32_t decrypted; /* partitions, of the last inference */
	uint32_t invocations;
	bool resident; /* the TA needs the payload no more */
	bool steps;    /* the payload cannot be mapped at once */
};

/* Reads manifest and licence, and opens a session; `memory` is a number. */
int open_model(struct ta_model *model, const char *directory, const char *memory);

/* LOAD; the cookie is the model. */
int model_load(void *cookie);

/* Registers memory that the TA may read and write. */
int model_share(struct ta_model *model, TEEC_SharedMemory *memory, void *data, size_t size);

/* Registers the payload, or room for one partition of it. */
int share_payload(struct ta_model *model, void *payload, size_t size);

void set_part(TEEC_Parameter *param, TEEC_SharedMemory *memory, size_t offset, size_t size);

/* Prints what the model took of the secure world. */
int print_usage(struct ta_model *model);

#endif
