/* SPDX-License-Identifier: BSD-2-Clause */
/* Pairs: a backbone in the normal world, and a CPM in the Cloister TA that reads taps of it. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "model.h"
#include "plain.h"

/* An input of the CPM, as struct cl_tap has it. */
struct tap {
	unsigned long input; /* of the backbone; UINT32_MAX: in the arena */
	unsigned long ready;
	unsigned long offset;
	unsigned long size;
};

/* Taps that become ready together, and the least that handing them over took. */
struct stage {
	size_t ready; /* partitions of the backbone that run before */
	size_t first; /* of its taps */
	size_t last;
	size_t offset; /* in the shared memory */
	size_t size;
	uint64_t normal; /* instructions of the backbone's part and the copy */
	uint64_t secure; /* of the call */
};

struct pair {
	struct plain_model normal;
	struct ta_model cpm;
	struct tap tap[CL_MAX_IO];
	size_t tap_count;
	struct stage stage[CL_MAX_IO];
	size_t stage_count;
	uint8_t *taps; /* registered as cpm.inputs */
	size_t taps_size;
	uint64_t normal_least; /* that an inference at once took on either side */
	uint64_t secure_least;

	sem_t begun; /* a stage is ready for the second thread */
	sem_t done;  /* it has called the TA for the last one */
	int result;
};

static int read_taps(struct pair *pair, const char *directory)
{
	size_t size = 0;
	char *text = read_file(directory, "taps", &size);
	char *rest = NULL;
	char *line = NULL;

	if (!text)
		return -1;
	text[size] = 0;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct tap *tap = &pair->tap[pair->tap_count];
		struct stage *stage = &pair->stage[pair->stage_count];

		if (pair->tap_count == CL_MAX_IO ||
		    sscanf(line, "%lu %lu %lu %lu", &tap->input, &tap->ready, &tap->offset,
			   &tap->size) != 4) {
			fprintf(stderr, "bad line in the taps: %s\n", line);
			return -1;
		}
		if (pair->stage_count && stage[-1].ready == tap->ready)
			stage--;
		else
			*stage = (struct stage){.ready = tap->ready,
						.first = pair->tap_count,
						.offset = pair->taps_size,
						.normal = UINT64_MAX,
						.secure = UINT64_MAX};
		pair->stage_count = (size_t)(stage - pair->stage) + 1;
		pair->tap_count++;
		stage->last = pair->tap_count;
		stage->size += tap->size;
		pair->taps_size += tap->size;
	}
	return 0;
}

/* Copies taps from the arena, or from the backbone's inputs, behind each other. */
static void gather(struct pair *pair, size_t first, size_t last, uint8_t *target)
{
	size_t i = 0;

	for (i = first; i < last; i++) {
		const struct tap *tap = &pair->tap[i];
		const uint8_t *source = pair->normal.arena + tap->offset;
		size_t k = 0;

		if (tap->input != UINT32_MAX) {
			source = pair->normal.inputs;
			for (k = 0; k < tap->input; k++)
				source += pair->normal.input[k].size;
		}
		memcpy(target, source, tap->size);
		target += tap->size;
	}
}

/* RUN with taps that lie at `offset`: all, or those that are left. */
static int answer(struct pair *pair, size_t offset, size_t size)
{
	struct ta_model *model = &pair->cpm;
	TEEC_Operation op = {0};
	uint32_t origin = 0;
	TEEC_Result res = TEEC_SUCCESS;

	op.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_PARTIAL_INPUT,
					 model->resident ? TEEC_MEMREF_TEMP_INPUT
							 : TEEC_MEMREF_PARTIAL_INPUT,
					 TEEC_MEMREF_PARTIAL_OUTPUT, TEEC_VALUE_INOUT);
	set_part(&op.params[0], &model->inputs, offset, size);
	if (!model->resident)
		set_part(&op.params[1], &model->payload, 0, model->payload.size);
	set_part(&op.params[2], &model->answer, 0, model->answer.size);
	op.params[3].value.a = model->output;
	op.params[3].value.b = 1;
	res = TEEC_InvokeCommand(&model->session, CL_CMD_RUN, &op, &origin);
	model->invocations++;
	if (res)
		return fail("RUN", res, origin);
	model->answer_size = op.params[3].value.a;
	model->decrypted = op.params[3].value.b;
	model->resident = model->loaded.resident_count == model->loaded.partition_count;
	return 0;
}

static int feed(struct pair *pair, size_t offset, size_t size)
{
	TEEC_Operation op = {0};
	uint32_t origin = 0;
	TEEC_Result res = TEEC_SUCCESS;

	op.paramTypes = TEEC_PARAM_TYPES(TEEC_MEMREF_PARTIAL_INPUT, TEEC_VALUE_OUTPUT, 0, 0);
	set_part(&op.params[0], &pair->cpm.inputs, offset, size);
	res = TEEC_InvokeCommand(&pair->cpm.session, CL_CMD_FEED, &op, &origin);
	pair->cpm.invocations++;
	return res ? fail("FEED", res, origin) : 0;
}

static void keep_least(uint64_t *least, uint64_t spent)
{
	if (spent < *least)
		*least = spent;
}

static int run_pair(void *cookie)
{
	struct pair *pair = cookie;
	const uint64_t begin = now();
	uint64_t ready = 0;

	plain_take_inputs(&pair->normal);
	if (plain_run(&pair->normal, 0, pair->normal.partition_count))
		return -1;
	gather(pair, 0, pair->tap_count, pair->taps);
	ready = now();
	if (answer(pair, 0, pair->taps_size))
		return -1;
	keep_least(&pair->normal_least, ready - begin);
	keep_least(&pair->secure_least, now() - ready);
	return 0;
}

/* The backbone's part up to a stage, its taps in shared memory. */
static int reach(struct pair *pair, size_t index)
{
	const struct stage *stage = &pair->stage[index];

	if (!index)
		plain_take_inputs(&pair->normal);
	if (plain_run(&pair->normal, index ? stage[-1].ready : 0, stage->ready))
		return -1;
	gather(pair, stage->first, stage->last, pair->taps + stage->offset);
	return 0;
}

static int hand_over(struct pair *pair, size_t index)
{
	const struct stage *stage = &pair->stage[index];

	return index + 1 < pair->stage_count ? feed(pair, stage->offset, stage->size)
					     : answer(pair, stage->offset, stage->size);
}

/* One stage after the other, each measured on both sides. */
static int run_stages(void *cookie)
{
	struct pair *pair = cookie;
	size_t i = 0;

	for (i = 0; i < pair->stage_count; i++) {
		const uint64_t begin = now();
		uint64_t ready = 0;

		if (reach(pair, i))
			return -1;
		ready = now();
		if (hand_over(pair, i))
			return -1;
		keep_least(&pair->stage[i].normal, ready - begin);
		keep_least(&pair->stage[i].secure, now() - ready);
	}
	return 0;
}

static void *second(void *cookie)
{
	struct pair *pair = cookie;

	for (;;) {
		size_t i = 0;

		pair->result = 0;
		for (i = 0; i < pair->stage_count; i++) {
			sem_wait(&pair->begun);
			if (!pair->result)
				pair->result = hand_over(pair, i);
		}
		sem_post(&pair->done);
	}
	return NULL;
}

static int run_overlap(void *cookie)
{
	struct pair *pair = cookie;
	size_t i = 0;

	for (i = 0; i < pair->stage_count; i++) {
		if (reach(pair, i))
			return -1;
		sem_post(&pair->begun);
	}
	sem_wait(&pair->done);
	return pair->result;
}

static int open_pair(struct pair *pair, char **arguments)
{
	struct ta_model *model = &pair->cpm;
	size_t answer_size = 0;
	size_t size = 0;
	void *payload = read_file(arguments[0], "payload", &size);

	if (!payload || read_taps(pair, arguments[0]) || open_plain(&pair->normal, arguments[0]) ||
	    open_model(model, arguments[0], arguments[1]) || model_load(model))
		return -1;
	pair->taps = aligned_alloc(4096, (pair->taps_size + 4096) / 4096 * 4096);
	answer_size = (size_t)model->loaded.output_size / 4 * sizeof(struct cl_answer) +
		      sizeof(struct cl_answer);
	if (!pair->taps || model_share(model, &model->inputs, pair->taps, pair->taps_size) ||
	    share_payload(model, payload, size) ||
	    model_share(model, &model->answer,
			aligned_alloc(4096, (answer_size + 4095) / 4096 * 4096), answer_size))
		return -1;
	model->output = CL_OUTPUT_LABEL;
	/* Decrypts what stays; FEED runs what is loaded alone. */
	return run_pair(pair);
}

static int measure_pair(char **arguments, int (*run)(void *))
{
	static struct pair pair = {.normal_least = UINT64_MAX, .secure_least = UINT64_MAX};
	const struct task task = {run, NULL, &pair};
	pthread_t thread;
	size_t i = 0;

	if (open_pair(&pair, arguments))
		return -1;
	if (run != run_pair && !pair.cpm.resident) {
		fprintf(stderr, "the CPM does not stay resident\n");
		return -1;
	}
	if (run == run_overlap && (sem_init(&pair.begun, 0, 0) || sem_init(&pair.done, 0, 0) ||
				   pthread_create(&thread, NULL, second, &pair)))
		return fail("second thread", 0, 0);
	if (measure(&task) || print_usage(&pair.cpm))
		return -1;
	print_value("taps", pair.taps_size);
	print_value("stages", pair.stage_count);
	for (i = 0; run == run_stages && i < pair.stage_count; i++) {
		char name[32] = {0};

		snprintf(name, sizeof(name), "%zu.normal", i);
		print_value(name, pair.stage[i].normal);
		snprintf(name, sizeof(name), "%zu.secure", i);
		print_value(name, pair.stage[i].secure);
	}
	if (run == run_pair) {
		print_value("normal", pair.normal_least);
		print_value("secure", pair.secure_least);
	}
	pair.cpm.output = CL_OUTPUT_FULL;
	pair.cpm.invocations = 0;
	if (run(&pair))
		return -1;
	print_value("invocations", pair.cpm.invocations);
	return write_file(arguments[2], pair.cpm.answer.buffer, pair.cpm.answer_size);
}

int job_pair(char **arguments)
{
	return measure_pair(arguments, run_pair);
}

int job_stages(char **arguments)
{
	return measure_pair(arguments, run_stages);
}

int job_overlap(char **arguments)
{
	return measure_pair(arguments, run_overlap);
}
