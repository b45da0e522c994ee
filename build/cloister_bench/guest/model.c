/* SPDX-License-Identifier: BSD-2-Clause */
/* Whole models in the Cloister TA. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "client.h"
#include "model.h"

int model_load(void *cookie)
{
	struct ta_model *model = cookie;
	TEEC_Operation op = {0};
	uint32_t origin = 0;
	TEEC_Result res = TEEC_SUCCESS;

	op.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_TEMP_INPUT, TEEC_MEMREF_TEMP_INPUT,
					 TEEC_MEMREF_TEMP_OUTPUT, TEEC_VALUE_INOUT);
	op.params[0].tmpref.buffer = model->manifest;
	op.params[0].tmpref.size = model->manifest_size;
	op.params[1].tmpref.buffer = model->licence;
	op.params[1].tmpref.size = model->licence_size;
	op.params[2].tmpref.buffer = &model->loaded;
	op.params[2].tmpref.size = sizeof(model->loaded);
	op.params[3].value.a = model->memory;
	op.params[3].value.b = getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? CL_CPU_DOTPROD : 0;
	res = TEEC_InvokeCommand(&model->session, CL_CMD_LOAD, &op, &origin);
	if (res)
		return fail("LOAD", res, origin);
	model->taken = op.params[3].value.a;
	return 0;
}

static int unload(void *cookie)
{
	struct ta_model *model = cookie;
	TEEC_Operation op = {0};
	uint32_t origin = 0;
	TEEC_Result res = TEEC_InvokeCommand(&model->session, CL_CMD_UNLOAD, &op, &origin);

	return res ? fail("UNLOAD", res, origin) : 0;
}

int open_model(struct ta_model *model, const char *directory, const char *memory)
{
	const TEEC_UUID uuid = CL_TA_UUID;
	uint32_t origin = 0;
	TEEC_Result res = TEEC_SUCCESS;

	model->memory = (uint32_t)strtoul(memory, NULL, 0);
	model->manifest = read_file(directory, "manifest", &model->manifest_size);
	model->licence = read_file(directory, "licence", &model->licence_size);
	if (!model->manifest || !model->licence)
		return -1;
	res = TEEC_InitializeContext(NULL, &model->context);
	if (res)
		return fail("TEEC_InitializeContext", res, 0);
	res = TEEC_OpenSession(&model->context, &model->session, &uuid, TEEC_LOGIN_PUBLIC, NULL,
			       NULL, &origin);
	return res ? fail("TEEC_OpenSession", res, origin) : 0;
}

int job_load(char **arguments)
{
	struct ta_model model = {0};
	const struct task task = {model_load, unload, &model};

	if (open_model(&model, arguments[0], arguments[1]))
		return -1;
	return measure(&task);
}

int model_share(struct ta_model *model, TEEC_SharedMemory *memory, void *data, size_t size)
{
	TEEC_Result res = TEEC_SUCCESS;

	memory->buffer = data;
	memory->size = size;
	memory->flags = TEEC_MEM_INPUT | TEEC_MEM_OUTPUT;
	res = TEEC_RegisterSharedMemory(&model->context, memory);
	return res ? fail("TEEC_RegisterSharedMemory", res, 0) : 0;
}

void set_part(TEEC_Parameter *param, TEEC_SharedMemory *memory, size_t offset, size_t size)
{
	param->memref.parent = memory;
	param->memref.offset = offset;
	param->memref.size = size;
}

static TEEC_Result run_whole(struct ta_model *model, uint32_t *origin)
{
	TEEC_Operation op = {0};
	TEEC_Result res = TEEC_SUCCESS;

	op.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_PARTIAL_INPUT,
					 model->resident ? TEEC_MEMREF_TEMP_INPUT
							 : TEEC_MEMREF_PARTIAL_INPUT,
					 TEEC_MEMREF_PARTIAL_OUTPUT, TEEC_VALUE_INOUT);
	set_part(&op.params[0], &model->inputs, 0, model->inputs.size);
	if (!model->resident)
		set_part(&op.params[1], &model->payload, 0, model->payload.size);
	set_part(&op.params[2], &model->answer, 0, model->answer.size);
	op.params[3].value.a = model->output;
	op.params[3].value.b = 1;
	res = TEEC_InvokeCommand(&model->session, CL_CMD_RUN, &op, origin);
	model->invocations++;
	if (res)
		return res;
	model->answer_size = op.params[3].value.a;
	model->decrypted = op.params[3].value.b;
	model->resident = model->loaded.resident_count == model->loaded.partition_count;
	return TEEC_SUCCESS;
}

static const struct cl_partition_desc *descriptors(const struct ta_model *model)
{
	const struct cl_manifest *header = (const struct cl_manifest *)model->manifest;

	return (const struct cl_partition_desc *)(model->manifest + header->header_size +
						  (header->input_count + header->output_count) *
							  sizeof(struct cl_io));
}

static TEEC_Result run_steps(struct ta_model *model, uint32_t *origin)
{
	const uint32_t count = model->loaded.partition_count;
	const struct cl_partition_desc *desc = descriptors(model);
	TEEC_Operation op = {0};
	TEEC_Result res = TEEC_SUCCESS;

	op.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_PARTIAL_INPUT, TEEC_VALUE_OUTPUT, 0, 0);
	set_part(&op.params[0], &model->inputs, 0, model->inputs.size);
	res = TEEC_InvokeCommand(&model->session, CL_CMD_BEGIN, &op, origin);
	model->invocations++;
	model->decrypted = 0;
	while (!res && op.params[1].value.a < count) {
		const struct cl_partition_desc *wanted = &desc[op.params[1].value.a];
		size_t offset = (size_t)wanted->offset;

		memset(&op, 0, sizeof(op));
		op.paramTypes =
			TEEC_PARAM_TYPES(TEEC_MEMREF_PARTIAL_INPUT, TEEC_VALUE_OUTPUT, 0, 0);
		if (model->source) {
			memcpy(model->payload.buffer, model->source + offset, wanted->sealed_size);
			offset = 0;
		}
		set_part(&op.params[0], &model->payload, offset, wanted->sealed_size);
		res = TEEC_InvokeCommand(&model->session, CL_CMD_STEP, &op, origin);
		model->invocations++;
		model->decrypted++;
	}
	if (res)
		return res;
	memset(&op, 0, sizeof(op));
	op.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_PARTIAL_OUTPUT, TEEC_VALUE_INOUT, 0, 0);
	set_part(&op.params[0], &model->answer, 0, model->answer.size);
	op.params[1].value.a = model->output;
	op.params[1].value.b = 1;
	res = TEEC_InvokeCommand(&model->session, CL_CMD_FINISH, &op, origin);
	model->invocations++;
	if (!res)
		model->answer_size = op.params[1].value.a;
	return res;
}

static int run(void *cookie)
{
	struct ta_model *model = cookie;
	uint32_t origin = 0;
	TEEC_Result res = TEEC_ERROR_OUT_OF_MEMORY;

	if (!model->steps) {
		res = run_whole(model, &origin);
		/* OP-TEE maps at most CFG_PGT_CACHE_ENTRIES x 2 MiB of one TA at once. */
		if (res == TEEC_ERROR_OUT_OF_MEMORY && !model->resident)
			model->steps = true;
	}
	if (model->steps)
		res = run_steps(model, &origin);
	return res ? fail("RUN", res, origin) : 0;
}

/*
 * OP-TEE keeps a table of a registered buffer's pages in a heap that is too small for very large
 * payloads: then each partition is copied into a small buffer before its step.
 */
int share_payload(struct ta_model *model, void *payload, size_t size)
{
	const struct cl_partition_desc *desc = descriptors(model);
	size_t largest = 1;
	uint32_t i = 0;

	model->payload.buffer = payload;
	model->payload.size = size;
	model->payload.flags = TEEC_MEM_INPUT;
	if (!TEEC_RegisterSharedMemory(&model->context, &model->payload))
		return 0;
	for (i = 0; i < model->loaded.partition_count; i++)
		if (desc[i].sealed_size > largest)
			largest = desc[i].sealed_size;
	model->source = payload;
	model->steps = true;
	memset(&model->payload, 0, sizeof(model->payload));
	return model_share(model, &model->payload,
			   aligned_alloc(4096, (largest + 4095) / 4096 * 4096), largest);
}

int print_usage(struct ta_model *model)
{
	struct cl_usage usage = {0};
	TEEC_Operation op = {0};
	uint32_t origin = 0;
	TEEC_Result res = TEEC_SUCCESS;

	op.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_TEMP_OUTPUT, 0, 0, 0);
	op.params[0].tmpref.buffer = &usage;
	op.params[0].tmpref.size = sizeof(usage);
	res = TEEC_InvokeCommand(&model->session, CL_CMD_USAGE, &op, &origin);
	if (res)
		return fail("USAGE", res, origin);
	print_value("peak", usage.peak_bytes);
	print_value("taken", model->taken);
	print_value("partitions", model->loaded.partition_count);
	print_value("resident", model->loaded.resident_count);
	print_value("decrypted", model->decrypted);
	print_value("steps", model->steps);
	return 0;
}

static int run_model(char **arguments, bool steps)
{
	struct ta_model model = {.steps = steps};
	const struct task task = {run, NULL, &model};
	size_t inputs_size = 0;
	size_t payload_size = 0;
	void *inputs = read_file(arguments[0], "inputs", &inputs_size);
	void *payload = read_file(arguments[0], "payload", &payload_size);
	size_t answer_size = 0;

	if (!inputs || !payload || open_model(&model, arguments[0], arguments[1]) ||
	    model_load(&model))
		return -1;
	/* A label takes eight bytes for each row, and a row may be a single number. */
	answer_size = (size_t)model.loaded.output_size / 4 * sizeof(struct cl_answer) +
		      sizeof(struct cl_answer);
	if (model_share(&model, &model.inputs, inputs, inputs_size) ||
	    share_payload(&model, payload, payload_size) ||
	    model_share(&model, &model.answer,
			aligned_alloc(4096, (answer_size + 4095) / 4096 * 4096), answer_size))
		return -1;
	model.output = CL_OUTPUT_LABEL;
	if (measure(&task) || print_usage(&model))
		return -1;
	print_value("inputs", inputs_size);
	model.output = CL_OUTPUT_FULL;
	model.invocations = 0;
	if (run(&model))
		return -1;
	print_value("invocations", model.invocations);
	return write_file(arguments[2], model.answer.buffer, model.answer_size);
}

int job_ta(char **arguments)
{
	return run_model(arguments, false);
}

int job_steps(char **arguments)
{
	return run_model(arguments, true);
}
