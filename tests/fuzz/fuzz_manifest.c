/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libFuzzer: the manifest's parser, and all that the TA later does with the numbers
 * that it let through: plan, sealed headers, sizes of answers.
 */
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "engine/engine.h"
#include "plan.h"
#include "sealed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the parser promises; the fuzzer reports a broken promise as a crash. */
static void require(int condition)
{
	if (!condition)
		abort();
}

static void use_plan(const struct cl_manifest_view *view)
{
	uint32_t count = view->header->partition_count;
	struct cl_slot *slots = calloc(count, sizeof(*slots));
	struct cl_plan plan = {0};
	uint64_t budgets[3] = {0, 0, 0};
	uint32_t i = 0;
	int b = 0;

	require(slots != NULL);
	cl_plan_range(view, &budgets[0], &budgets[1]);
	budgets[2] = (budgets[0] + budgets[1]) / 2;
	for (b = 0; b < 3; b++) {
		if (cl_plan_make(view, budgets[b], slots, &plan))
			continue;
		require(plan.total <= budgets[b]);
		for (i = 0; i < count; i++) {
			require(slots[i].offset >= view->header->arena_size);
			require(slots[i].offset + view->partitions[i].plain_size <= plan.total);
		}
	}
	free(slots);
}

/* Names a layer that there is none of: all are looked at. */
static const struct {
	struct cl_password head;
	struct cl_lock lock;
	float numbers[2];
} nothing = {.head = {.lock_count = 1, .channel_count = 1}, .lock = {"nothing", 0, 0, 0}};

static void use_view(const struct cl_manifest_view *view)
{
	const uint8_t digest[CL_DIGEST_SIZE] = {0};
	const struct cl_manifest *header = view->header;
	struct cl_sealed_header sealed = {0};
	struct cl_partition_aad aad;
	size_t answer = 0;
	uint32_t i = 0;

	for (i = 0; i < header->partition_count; i++) {
		const struct cl_partition_desc *desc = &view->partitions[i];

		require(desc->offset + desc->sealed_size <= header->payload_size);
		require(desc->plain_size <= header->largest_partition);
		(void)cl_sealed_check(&sealed, view, i);
		cl_sealed_aad(view, digest, i, &aad);
	}
	for (i = 0; i < header->input_count + header->output_count; i++)
		require((uint64_t)view->inputs[i].offset + view->inputs[i].size <=
			header->arena_size);
	for (i = 0; view->pair && i < header->input_count; i++)
		require(view->pair->first_use[i] < header->partition_count);
	for (i = 1; i <= CL_OUTPUT_FULL; i++)
		(void)cl_answer_size(view, i, 1, &answer);
	if (view->layers) {
		const struct cl_layer *layers = (const void *)(view->layers + 1);

		require((const uint8_t *)(layers + view->layer_count) + CL_TAG_SIZE ==
			view->signature);
		(void)cl_password_fits(&nothing.head, layers, view->layer_count);
	}
	use_plan(view);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cl_manifest_view view = {0};
	uint8_t *copy = malloc(size ? size : 1); /* aligned, with a guard behind it */

	require(copy != NULL);
	if (size)
		memcpy(copy, data, size);
	if (!cl_manifest_parse(copy, size, &view))
		use_view(&view);
	free(copy);
	return 0;
}
