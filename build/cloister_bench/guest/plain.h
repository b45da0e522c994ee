/* SPDX-License-Identifier: BSD-2-Clause */
/* A model in the normal world: what the host wrote for it, and the engine that runs it. */
#ifndef CLOISTER_BENCH_PLAIN_H
#define CLOISTER_BENCH_PLAIN_H

#include <stddef.h>
#include <stdint.h>

#include "engine.h"

#define MAX_TENSORS 16

struct tensor {
	size_t offset;
	size_t size;
};

struct plain_model {
	enum cl_status (*check)(const void *, size_t, size_t, uint32_t *);
	enum cl_status (*run)(const void *, void *, int (*)(void *), void *);
	uint8_t *inputs;
	uint8_t *partitions;
	uint8_t *arena;
	size_t arena_size;
	struct tensor input[MAX_TENSORS];
	struct tensor output[MAX_TENSORS];
	struct tensor *partition; /* places in `partitions` */
	size_t input_count;
	size_t output_count;
	size_t partition_count;
};

/* Everything in `directory`, each partition checked. 0, or -1 after it reported why not. */
int open_plain(struct plain_model *model, const char *directory);

/* Copies all inputs to their places in the arena. */
void plain_take_inputs(struct plain_model *model);

/* Runs partitions from `first` up to, without, `last`. */
int plain_run(struct plain_model *model, size_t first, size_t last);

#endif
