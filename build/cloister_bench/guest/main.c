/* SPDX-License-Identifier: BSD-2-Clause */
/* The benchmark's client on the device: one job for each start, results on standard output. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client.h"

#define MAX_CALLS 100000u

static const struct {
	const char *name;
	int arguments;
	int (*run)(char **arguments);
} jobs[] = {
	{"key", 1, job_key},         /* FILE: writes the device's public key */
	{"invoke", 5, job_invoke},   /* UUID COMMAND RESULT none|registered|temporary SIZE */
	{"open", 2, job_open},       /* UUID HELD: sessions that are open meanwhile */
	{"digest", 1, job_digest},   /* SIZE: SHA-256 by xtest's crypt TA */
	{"decrypt", 1, job_decrypt}, /* SIZE: AES-256-GCM by the same */
	{"load", 2, job_load},       /* DIRECTORY MEMORY: LOAD of a model */
	{"ta", 3, job_ta},           /* DIRECTORY MEMORY OUTPUT: inferences in the TA */
	{"normal", 2, job_normal},   /* DIRECTORY OUTPUT: the same in the normal world */
	{"steps", 3, job_steps},     /* as ta, but each partition is an invocation */
	/* DIRECTORY REPEATS INSTRUCTIONS: each partition alone, in the normal world */
	{"kernels", 3, job_kernels},
	{"pair", 3, job_pair},     /* DIRECTORY MEMORY OUTPUT: backbone here, then CPM in the TA */
	{"stages", 3, job_stages}, /* the same, each tap handed over when it is ready */
	{"overlap", 3, job_overlap}, /* the same, the TA called by a second thread */
};

uint64_t now(void)
{
	struct timespec time = {0};

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

/* Instructions of `calls` calls. */
static int repeat(const struct task *task, uint64_t calls, uint64_t *spent)
{
	uint64_t begin = 0;
	uint64_t i = 0;

	*spent = 0;
	if (!task->after) {
		begin = now();
		for (i = 0; i < calls; i++)
			if (task->call(task->cookie))
				return -1;
		*spent = now() - begin;
		return 0;
	}
	for (i = 0; i < calls; i++) {
		begin = now();
		if (task->call(task->cookie))
			return -1;
		*spent += now() - begin;
		if (task->after(task->cookie))
			return -1;
	}
	return 0;
}

static int nothing(void *cookie)
{
	(void)cookie;
	return 0;
}

int measure(const struct task *task)
{
	const uint64_t repeats = from_environment("BENCH_REPEATS", 5);
	const uint64_t wanted = from_environment("BENCH_INSTRUCTIONS", 20000000);
	const struct task idle = {nothing, task->after ? nothing : NULL, NULL};
	uint64_t overhead = 0;
	uint64_t calls = 1;
	uint64_t spent = 0;
	uint64_t i = 0;

	/* The first call faults pages in and decrypts what stays resident. */
	if (repeat(task, 1, &spent))
		return -1;
	print_value("first", spent);
	if (repeat(task, 1, &spent))
		return -1;
	if (spent && spent < wanted)
		calls = wanted / spent + 1;
	if (calls > MAX_CALLS)
		calls = MAX_CALLS;

	if (repeat(&idle, calls, &overhead) || repeat(&idle, calls, &overhead))
		return -1;
	for (i = 0; i < repeats; i++) {
		if (repeat(task, calls, &spent))
			return -1;
		printf("sample %llu %llu\n", (unsigned long long)calls,
		       (unsigned long long)(spent > overhead ? spent - overhead : 0));
		fflush(stdout);
	}
	return 0;
}

int measure_least(const struct task *task, uint64_t repeats, uint64_t wanted, uint64_t *calls,
		  uint64_t *spent)
{
	const struct task idle = {nothing, NULL, NULL};
	uint64_t overhead = 0;
	uint64_t now_spent = 0;
	uint64_t i = 0;

	*calls = 1;
	if (repeat(task, 1, spent))
		return -1;
	if (*spent && *spent < wanted)
		*calls = wanted / *spent + 1;
	if (*calls > MAX_CALLS)
		*calls = MAX_CALLS;
	if (repeat(&idle, *calls, &overhead) || repeat(&idle, *calls, &overhead))
		return -1;
	/* In a long call interrupts are few of all instructions. */
	if (*spent > 20 * wanted && repeats > 2)
		repeats = 2;
	*spent = UINT64_MAX;
	for (i = 0; i < repeats; i++) {
		if (repeat(task, *calls, &now_spent))
			return -1;
		if (now_spent < *spent)
			*spent = now_spent;
	}
	*spent = *spent > overhead ? *spent - overhead : 0;
	return 0;
}

void print_value(const char *name, uint64_t number)
{
	printf("value %s %llu\n", name, (unsigned long long)number);
}

int fail(const char *what, TEEC_Result result, uint32_t origin)
{
	if (result)
		fprintf(stderr, "%s: result 0x%08x, origin %u\n", what, result, origin);
	else
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return -1;
}

void *read_file(const char *directory, const char *name, size_t *size)
{
	char path[512] = {0};
	void *data = NULL;
	FILE *file = NULL;
	long length = 0;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "rb");
	if (!file || fseek(file, 0, SEEK_END) || (length = ftell(file)) < 0) {
		fail(path, 0, 0);
		goto out;
	}
	rewind(file);
	*size = (size_t)length;
	data = aligned_alloc(4096, (*size + 4096) / 4096 * 4096);
	if (!data || fread(data, 1, *size, file) != *size) {
		fail(path, 0, 0);
		free(data);
		data = NULL;
	}
out:
	if (file)
		fclose(file);
	return data;
}

int write_file(const char *path, const void *data, size_t size)
{
	FILE *file = fopen(path, "wb");
	size_t written = 0;

	if (!file)
		return fail(path, 0, 0);
	written = fwrite(data, 1, size, file);
	if (fclose(file) || written != size)
		return fail(path, 0, 0);
	return 0;
}

int main(int argc, char **argv)
{
	size_t i = 0;

	for (i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++)
		if (argc == jobs[i].arguments + 2 && !strcmp(argv[1], jobs[i].name))
			return jobs[i].run(argv + 2) ? 1 : 0;
	fprintf(stderr, "no such job, or a wrong number of arguments: %s\n",
		argc > 1 ? argv[1] : "");
	return 2;
}
