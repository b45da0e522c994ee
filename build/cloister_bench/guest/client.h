/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of the benchmark's client on the device share. */
#ifndef CLOISTER_BENCH_CLIENT_H
#define CLOISTER_BENCH_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include <tee_client_api.h>

/* Something to be measured. Both functions return 0, or -1 after they reported why not. */
struct task {
	int (*call)(void *cookie);  /* timed */
	int (*after)(void *cookie); /* undoes it, not timed; NULL: nothing to undo */
	void *cookie;
};

/*
 * Calls a task often enough and prints "sample CALLS INSTRUCTIONS" for each repeat: the
 * loop's own cost is taken off. The first two calls are not counted.
 */
int measure(const struct task *task);

/*
 * The shortest of some repeats of at least `wanted` instructions, the loop's own cost taken off,
 * after a call that is not counted. `calls` is how many a repeat had.
 */
int measure_least(const struct task *task, uint64_t repeats, uint64_t wanted, uint64_t *calls,
		  uint64_t *spent);

/* Nanoseconds on the monotonic clock; with -icount shift=0 a nanosecond is an instruction. */
uint64_t now(void);

/* Prints "value NAME NUMBER". */
void print_value(const char *name, uint64_t number);

/* Reports on standard error what failed, with OP-TEE's result where it is not zero; returns -1. */
int fail(const char *what, TEEC_Result result, uint32_t origin);

/* A whole file in page-aligned memory; NULL after it reported why not. */
void *read_file(const char *directory, const char *name, size_t *size);
int write_file(const char *path, const void *data, size_t size);

/* The jobs; arguments as main.c describes them. */
int job_key(char **arguments);
int job_invoke(char **arguments);
int job_open(char **arguments);
int job_digest(char **arguments);
int job_decrypt(char **arguments);
int job_load(char **arguments);
int job_ta(char **arguments);
int job_steps(char **arguments);
int job_normal(char **arguments);
int job_kernels(char **arguments);
int job_pair(char **arguments);
int job_stages(char **arguments);
int job_overlap(char **arguments);

#endif
