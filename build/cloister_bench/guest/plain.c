/* SPDX-License-Identifier: BSD-2-Clause */
/* Models and single kernels in the normal world, with the engine that the TA has. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "plain.h"

/* Reads the table that the host wrote: a word and numbers in each line. */
static int read_table(struct plain_model *model, char *text)
{
	char *rest = NULL;
	char *line = NULL;

	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned long long offset = 0;
		unsigned long long size = 0;
		char word[16] = {0};
		struct tensor *place = NULL;

		if (sscanf(line, "%15s %llu %llu", word, &offset, &size) != 3) {
			fprintf(stderr, "bad line in the table: %s\n", line);
			return -1;
		}
		if (!strcmp(word, "arena")) {
			model->arena_size = size;
			continue;
		}
		if (!strcmp(word, "input") && model->input_count < MAX_TENSORS) {
			place = &model->input[model->input_count++];
		} else if (!strcmp(word, "output") && model->output_count < MAX_TENSORS) {
			place = &model->output[model->output_count++];
		} else if (!strcmp(word, "partition")) {
			model->partition = realloc(model->partition,
						   (model->partition_count + 1) * sizeof(*place));
			if (!model->partition)
				return fail("memory", 0, 0);
			place = &model->partition[model->partition_count++];
		} else {
			fprintf(stderr, "bad line in the table: %s\n", line);
			return -1;
		}
		place->offset = offset;
		place->size = size;
	}
	return 0;
}

void plain_take_inputs(struct plain_model *model)
{
	const uint8_t *source = model->inputs;
	size_t i = 0;

	for (i = 0; i < model->input_count; i++) {
		memcpy(model->arena + model->input[i].offset, source, model->input[i].size);
		source += model->input[i].size;
	}
}

int plain_run(struct plain_model *model, size_t first, size_t last)
{
	size_t i = 0;

	for (i = first; i < last; i++)
		if (model->run(model->partitions + model->partition[i].offset, model->arena, NULL,
			       NULL)) {
			fprintf(stderr, "partition %zu does not run\n", i);
			return -1;
		}
	return 0;
}

static int run_plain(void *cookie)
{
	struct plain_model *model = cookie;

	plain_take_inputs(model);
	return plain_run(model, 0, model->partition_count);
}

static int open_engine(struct plain_model *model)
{
	void *library = dlopen("libcloister_engine.so", RTLD_NOW);

	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return -1;
	}
	/* POSIX has dlsym() give functions as data pointers. */
	*(void **)&model->check = dlsym(library, "cl_partition_check");
	*(void **)&model->run = dlsym(library, "cl_partition_run");
	if (model->check && model->run)
		return 0;
	fprintf(stderr, "the engine lacks a function: %s\n", dlerror());
	return -1;
}

int open_plain(struct plain_model *model, const char *directory)
{
	size_t size = 0;
	char *table = read_file(directory, "table", &size);
	size_t i = 0;

	if (!table || open_engine(model))
		return -1;
	/* read_file() leaves room behind the data. */
	table[size] = 0;
	if (read_table(model, table))
		return -1;
	model->inputs = read_file(directory, "inputs", &size);
	model->partitions = read_file(directory, "partitions", &size);
	model->arena = aligned_alloc(4096, (model->arena_size + 4096) / 4096 * 4096);
	if (!model->inputs || !model->partitions || !model->arena)
		/* cppcheck-suppress memleak ; the process ends */
		return -1;
	memset(model->arena, 0, model->arena_size);
	for (i = 0; i < model->partition_count; i++)
		if (model->check(model->partitions + model->partition[i].offset,
				 model->partition[i].size, model->arena_size, NULL)) {
			fprintf(stderr, "partition %zu is refused\n", i);
			return -1;
		}
	return 0;
}

int job_normal(char **arguments)
{
	struct plain_model model = {0};
	const struct task task = {run_plain, NULL, &model};
	FILE *out = NULL;
	size_t i = 0;

	if (open_plain(&model, arguments[0]))
		return -1;
	if (measure(&task))
		return -1;
	out = fopen(arguments[1], "wb");
	if (!out)
		return fail(arguments[1], 0, 0);
	for (i = 0; i < model.output_count; i++)
		fwrite(model.arena + model.output[i].offset, 1, model.output[i].size, out);
	return fclose(out) ? fail(arguments[1], 0, 0) : 0;
}

/* One partition of a model. */
struct part {
	struct plain_model *model;
	size_t index;
};

static int run_part(void *cookie)
{
	const struct part *part = cookie;
	struct plain_model *model = part->model;

	return model->run(model->partitions + model->partition[part->index].offset, model->arena,
			  NULL, NULL)
		       ? -1
		       : 0;
}

/* Numbers of moderate size, none of them zero, negative or too large for any kernel. */
static void fill_arena(struct plain_model *model)
{
	float *floats = (float *)model->arena;
	size_t i = 0;

	for (i = 0; i < model->arena_size / sizeof(*floats); i++)
		floats[i] = 0.1f + 0.05f * (float)(i % 17);
}

/*
 * The costs of partitions that have nothing to do with each other. A repeat during which a timer
 * interrupt came is longer: the shortest counts.
 */
int job_kernels(char **arguments)
{
	struct plain_model model = {0};
	struct part part = {.model = &model};
	const struct task task = {run_part, NULL, &part};
	const uint64_t repeats = strtoull(arguments[1], NULL, 10);
	const uint64_t wanted = strtoull(arguments[2], NULL, 10);
	char name[32] = {0};

	if (open_plain(&model, arguments[0]))
		return -1;
	for (part.index = 0; part.index < model.partition_count; part.index++) {
		uint64_t calls = 0;
		uint64_t spent = 0;

		fill_arena(&model);
		if (measure_least(&task, repeats, wanted, &calls, &spent)) {
			fprintf(stderr, "partition %zu does not run\n", part.index);
			return -1;
		}
		snprintf(name, sizeof(name), "%zu.calls", part.index);
		print_value(name, calls);
		snprintf(name, sizeof(name), "%zu.spent", part.index);
		print_value(name, spent);
	}
	return 0;
}
