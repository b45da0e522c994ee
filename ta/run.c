/* SPDX-License-Identifier: BSD-2-Clause */
/* RUN, and the same in steps: BEGIN or FEED, STEP, FINISH. */
#include <string.h>

#include "answer.h"
#include "commands.h"
#include "loader.h"
#include "params.h"

/* What the caller wants to know of the result. */
struct request {
	uint32_t output; /* enum cl_output */
	uint32_t k;      /* entries a row */
	size_t size;     /* bytes of the answer */
};

/* Reads the request and makes sure that its answer fits, before anything is computed. */
static TEE_Result take_request(const struct cl_model *model, const TEE_Param *value,
			       TEE_Param *answer, struct request *request)
{
	uint32_t output = value->value.a;
	uint32_t k = value->value.b;
	TEE_Result res = cl_licence_allows(&model->licence, output, k);

	if (res)
		return res;
	request->output = output;
	request->k = output == CL_OUTPUT_LABEL ? 1 : k;
	res = cl_answer_size(&model->manifest, output, request->k, &request->size);
	return res ? res : cl_params_room(answer, request->size);
}

/* An inference can begin, or the one that runs lacks inputs. */
static bool wants_inputs(const struct cl_session *session)
{
	return session->state == CL_STATE_READY ||
	       (session->state == CL_STATE_RUNNING &&
		session->given < session->model.manifest.header->input_count);
}

/*
 * Takes the inputs that come next, and begins an inference where none runs: all that are
 * missing or, where `some` will do, at least one of them. An input comes before the first
 * partition that reads it, and its bytes of the arena are nobody else's until then.
 */
static TEE_Result take_inputs(struct cl_session *session, const TEE_Param *param, bool some)
{
	const struct cl_manifest_view *manifest = &session->model.manifest;
	const uint32_t count = manifest->header->input_count;
	const bool begins = session->state == CL_STATE_READY;
	const uint32_t first = begins ? 0 : session->given;
	const uint8_t *source = param->memref.buffer;
	uint8_t *arena = cl_model_arena(&session->model);
	size_t left = param->memref.size;
	TEE_Result res = TEE_SUCCESS;
	uint32_t last = first;
	uint32_t i = 0;

	while (last < count && manifest->inputs[last].size <= left)
		left -= manifest->inputs[last++].size;
	if (left || (last < count && (!some || last == first)))
		return TEE_ERROR_BAD_PARAMETERS;
	if (begins) {
		res = cl_model_charge(&session->model);
		if (res)
			return res;
		session->next = 0;
		session->decrypted = 0;
		session->state = CL_STATE_RUNNING;
	}
	TEE_UnmaskCancellation();
	for (i = first; i < last; i++) {
		memcpy(arena + manifest->inputs[i].offset, source, manifest->inputs[i].size);
		source += manifest->inputs[i].size;
	}
	session->given = last;
	return TEE_SUCCESS;
}

/* The first partition that needs an input which is missing; none: the number of partitions. */
static uint32_t runs_before(const struct cl_session *session)
{
	const struct cl_manifest_view *manifest = &session->model.manifest;

	if (session->given == manifest->header->input_count)
		return manifest->header->partition_count;
	return manifest->pair ? manifest->pair->first_use[session->given] : 0;
}

/* Ends the inference; one that gave no answer is not charged. */
static void end(struct cl_session *session, bool answered)
{
	TEE_MaskCancellation();
	if (!answered)
		cl_model_refund(&session->model);
	session->state = CL_STATE_READY;
}

/* Opens the next partition, which is not loaded, and runs it. */
static TEE_Result open_and_run(struct cl_session *session, const uint8_t *sealed,
			       unsigned int *asked)
{
	TEE_Result res = cl_loader_open(&session->model, session->next, sealed);

	if (res)
		return res;
	session->decrypted++;
	return cl_loader_run(&session->model, session->next, asked);
}

/*
 * Runs all partitions from the next one on that need nothing from the caller, up to one whose
 * input is missing: those loaded, and those for which there is a payload.
 */
static TEE_Result run_on(struct cl_session *session, const uint8_t *payload)
{
	const struct cl_model *model = &session->model;
	const struct cl_partition_desc *partitions = model->manifest.partitions;
	const uint32_t before = runs_before(session);
	unsigned int asked = 0;
	TEE_Result res = TEE_SUCCESS;

	while (session->next < before) {
		if (model->slots[session->next].loaded)
			res = cl_loader_run(model, session->next, &asked);
		else if (payload)
			res = open_and_run(session, payload + partitions[session->next].offset,
					   &asked);
		else
			break;
		if (res)
			return res;
		session->next++;
	}
	return TEE_SUCCESS;
}

static void write_answer(struct cl_session *session, const struct request *request,
			 TEE_Param *answer, TEE_Param *value)
{
	cl_answer_write(&session->model.manifest, cl_model_arena(&session->model), request->output,
			request->k, answer->memref.buffer);
	value->value.a = (uint32_t)request->size;
	value->value.b = session->decrypted;
}

static bool all_loaded(const struct cl_model *model)
{
	uint32_t i = 0;

	for (i = 0; i < model->manifest.header->partition_count; i++)
		if (!model->slots[i].loaded)
			return false;
	return true;
}

/* The payload to run from; NULL if none is needed. */
static TEE_Result take_payload(const struct cl_model *model, const TEE_Param *param,
			       const uint8_t **payload)
{
	*payload = model->embedded;
	if (param->memref.size) {
		if (param->memref.size != model->manifest.header->payload_size)
			return TEE_ERROR_BAD_PARAMETERS;
		*payload = param->memref.buffer;
	}
	return *payload || all_loaded(model) ? TEE_SUCCESS : TEE_ERROR_BAD_PARAMETERS;
}

TEE_Result cl_command_run(struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	const uint32_t expected =
		TEE_PARAM_TYPES(TEE_PARAM_TYPE_MEMREF_INPUT, TEE_PARAM_TYPE_MEMREF_INPUT,
				TEE_PARAM_TYPE_MEMREF_OUTPUT, TEE_PARAM_TYPE_VALUE_INOUT);
	const uint8_t *payload = NULL;
	struct request request = {0};
	TEE_Result res = cl_params_check(types, expected, params);

	if (res)
		return res;
	if (!wants_inputs(session))
		return TEE_ERROR_BAD_STATE;
	res = take_request(&session->model, &params[3], &params[2], &request);
	if (!res)
		res = take_payload(&session->model, &params[1], &payload);
	if (!res)
		res = take_inputs(session, &params[0], false);
	if (!res)
		res = run_on(session, payload);
	if (!res)
		write_answer(session, &request, &params[2], &params[3]);
	/* What is refused before it began leaves READY. */
	if (session->state == CL_STATE_RUNNING)
		end(session, !res);
	return res;
}

/* Runs what can be run, then tells which partition is wanted; a refusal ends the inference. */
static TEE_Result advance(struct cl_session *session, TEE_Param *wanted)
{
	const struct cl_manifest_view *manifest = &session->model.manifest;
	TEE_Result res = run_on(session, session->model.embedded);

	if (res) {
		end(session, false);
		return res;
	}
	wanted->value.a = session->next;
	wanted->value.b = session->next < runs_before(session)
				  ? manifest->partitions[session->next].sealed_size
				  : 0;
	return TEE_SUCCESS;
}

/* BEGIN, or FEED where some of the inputs will do. */
static TEE_Result take_and_advance(struct cl_session *session, uint32_t types, TEE_Param params[4],
				   bool some)
{
	const uint32_t expected =
		TEE_PARAM_TYPES(TEE_PARAM_TYPE_MEMREF_INPUT, TEE_PARAM_TYPE_VALUE_OUTPUT, 0, 0);
	TEE_Result res = cl_params_check(types, expected, params);

	if (res)
		return res;
	if (!wants_inputs(session) || (!some && session->state != CL_STATE_READY))
		return TEE_ERROR_BAD_STATE;
	res = take_inputs(session, &params[0], some);
	if (!res)
		return advance(session, &params[1]);
	if (session->state == CL_STATE_RUNNING)
		end(session, false);
	return res;
}

TEE_Result cl_command_begin(struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	return take_and_advance(session, types, params, false);
}

TEE_Result cl_command_feed(struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	return take_and_advance(session, types, params, true);
}

TEE_Result cl_command_step(struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	const uint32_t expected =
		TEE_PARAM_TYPES(TEE_PARAM_TYPE_MEMREF_INPUT, TEE_PARAM_TYPE_VALUE_OUTPUT, 0, 0);
	const struct cl_manifest_view *manifest = &session->model.manifest;
	unsigned int asked = 0;
	TEE_Result res = cl_params_check(types, expected, params);

	if (res)
		return res;
	if (session->state != CL_STATE_RUNNING)
		return TEE_ERROR_BAD_STATE;

	if (session->next >= runs_before(session))
		res = TEE_ERROR_BAD_STATE;
	else if (params[0].memref.size != manifest->partitions[session->next].sealed_size)
		res = TEE_ERROR_BAD_PARAMETERS;
	if (!res) {
		TEE_UnmaskCancellation();
		res = open_and_run(session, params[0].memref.buffer, &asked);
	}
	if (res) {
		end(session, false);
		return res;
	}
	session->next++;
	return advance(session, &params[1]);
}

TEE_Result cl_command_finish(struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	const uint32_t expected =
		TEE_PARAM_TYPES(TEE_PARAM_TYPE_MEMREF_OUTPUT, TEE_PARAM_TYPE_VALUE_INOUT, 0, 0);
	struct request request = {0};
	TEE_Result res = cl_params_check(types, expected, params);

	if (res)
		return res;
	if (session->state != CL_STATE_RUNNING ||
	    session->next != session->model.manifest.header->partition_count)
		return TEE_ERROR_BAD_STATE;
	res = take_request(&session->model, &params[1], &params[0], &request);
	if (res)
		return res;
	write_answer(session, &request, &params[0], &params[1]);
	end(session, true);
	return TEE_SUCCESS;
}
