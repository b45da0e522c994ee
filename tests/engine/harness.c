/* SPDX-License-Identifier: BSD-2-Clause */
/* posix_memalign */
#define _POSIX_C_SOURCE 200112L

#include "harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)   ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#define MAX_RECORD 256

/* Failures of one test that are printed; all are counted. */
#define MAX_PRINTED 10

static struct test *tests;
static unsigned int failures;
static uint64_t random_state;
static uint32_t digest;

void test_register(struct test *test)
{
	struct test **place = &tests;

	while (*place && strcmp((*place)->file, test->file) <= 0)
		place = &(*place)->next;
	test->next = *place;
	*place = test;
}

void test_fail(const char *file, int line, const char *condition, const char *format, ...)
{
	va_list arguments;

	if (failures++ >= MAX_PRINTED)
		return;
	printf("%s:%d: not true: %s: ", file, line, condition);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
}

/* splitmix64 (S. Vigna, public domain) */
uint32_t random_u32(void)
{
	uint64_t z = 0;

	random_state += UINT64_C(0x9e3779b97f4a7c15);
	z = random_state;
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (uint32_t)((z ^ (z >> 31)) >> 32);
}

uint32_t random_range(uint32_t low, uint32_t high)
{
	return low + (uint32_t)((uint64_t)random_u32() * ((uint64_t)high - low + 1) >> 32);
}

float random_float(float low, float high)
{
	return low + (high - low) * ((float)(random_u32() >> 8) * 0x1p-24f);
}

void random_floats(float *to, size_t count, float low, float high)
{
	size_t i = 0;

	for (i = 0; i < count; i++)
		to[i] = random_float(low, high);
}

double ulp_error(float got, double want)
{
	float nearest = (float)want;
	int exponent = 0;

	if (isnan(want) || isnan(got))
		return isnan(want) && isnan(got) ? 0 : INFINITY;
	if (isinf(got) || isinf(nearest)) {
		if (got == nearest)
			return 0;
		if (!isinf(got) && fabsf(got) == 0x1.fffffep127f && got * nearest > 0)
			return 1;
		if (!isinf(nearest) && fabsf(nearest) == 0x1.fffffep127f && got * nearest > 0)
			return 1;
		return INFINITY;
	}
	if (want != 0)
		(void)frexp(want, &exponent);
	if (want == 0 || exponent < -125)
		exponent = -125;
	return fabs(got - want) / ldexp(1.0, exponent - 24);
}

void digest_add(const void *bytes, size_t size)
{
	const uint8_t *from = bytes;
	uint32_t word = 0;
	size_t i = 0;

	for (i = 0; i < size; i += sizeof(word)) {
		word = 0;
		memcpy(&word, from + i, size - i < sizeof(word) ? size - i : sizeof(word));
		if ((word & 0x7fffffff) > 0x7f800000)
			word = 0x7fc00000;             /* processors make NaN with different bits */
		digest = (digest ^ word) * 0x01000193; /* FNV-1a, by words */
		digest ^= digest >> 15;
	}
}

static struct cl_ref stage_reserve(struct stage *stage, uint32_t space, size_t *used, size_t bytes)
{
	struct cl_ref ref = {0};

	if (stage->run_count == STAGE_RUNS)
		abort();
	*used = (*used + 7) / 8 * 8 + 8 * random_range(0, 9);
	ref.space = space;
	ref.offset = (uint32_t)*used;
	ref.size = (uint32_t)bytes;
	*used += bytes;
	stage->runs[stage->run_count++] = ref;
	return ref;
}

struct cl_ref stage_arena(struct stage *stage, size_t bytes)
{
	return stage_reserve(stage, CL_SPACE_ARENA, &stage->memory.arena_size, bytes);
}

struct cl_ref stage_weights(struct stage *stage, size_t bytes)
{
	return stage_reserve(stage, CL_SPACE_WEIGHTS, &stage->memory.weights_size, bytes);
}

static uint8_t *allocate(size_t size)
{
	void *memory = NULL;
	size_t i = 0;

	if (posix_memalign(&memory, CL_ALIGN, size ? size : 1))
		abort();
	for (i = 0; i < size; i++)
		((uint8_t *)memory)[i] = (uint8_t)random_u32();
	return memory;
}

void stage_build(struct stage *stage)
{
	stage->memory.arena = allocate(stage->memory.arena_size);
	stage->memory.weights = allocate(stage->memory.weights_size);
}

void *stage_at(const struct stage *stage, const struct cl_ref *ref)
{
	const uint8_t *base =
		ref->space == CL_SPACE_ARENA ? stage->memory.arena : stage->memory.weights;

	return (uint8_t *)(uintptr_t)base + ref->offset;
}

void stage_free(struct stage *stage)
{
	free(stage->memory.arena);
	free((void *)(uintptr_t)stage->memory.weights);
	memset(stage, 0, sizeof(*stage));
}

/* Makes all bytes but those of the runs unreadable, or readable again. */
static void guard(struct stage *stage, bool on)
{
	unsigned int i = 0;

	if (on) {
		ASAN_POISON_MEMORY_REGION(stage->memory.arena, stage->memory.arena_size);
		ASAN_POISON_MEMORY_REGION(stage->memory.weights, stage->memory.weights_size);
		for (i = 0; i < stage->run_count; i++)
			ASAN_UNPOISON_MEMORY_REGION(stage_at(stage, &stage->runs[i]),
						    stage->runs[i].size);
	} else {
		ASAN_UNPOISON_MEMORY_REGION(stage->memory.arena, stage->memory.arena_size);
		ASAN_UNPOISON_MEMORY_REGION(stage->memory.weights, stage->memory.weights_size);
	}
}

void stage_run(struct stage *stage, const struct cl_kernel_ops *kernel, const void *op,
	       const struct cl_ref *out)
{
	stage_run_scratch(stage, kernel, op, out, NULL);
}

void stage_run_scratch(struct stage *stage, const struct cl_kernel_ops *kernel, const void *op,
		       const struct cl_ref *out, const struct cl_ref *scratch)
{
	const size_t arena_size = stage->memory.arena_size;
	const size_t out_end = (size_t)out->offset + out->size;
	uint8_t *before = allocate(arena_size);

	expect_check(stage, kernel, op, CL_OK, "valid record");
	memcpy(before, stage->memory.arena, arena_size);
	guard(stage, true);
	kernel->run(op, &stage->memory);
	guard(stage, false);
	if (scratch && scratch->space != CL_SPACE_NONE)
		memcpy(before + scratch->offset, stage_at(stage, scratch), scratch->size);
	EXPECT(!memcmp(before, stage->memory.arena, out->offset) &&
		       !memcmp(before + out_end, stage->memory.arena + out_end,
			       arena_size - out_end),
	       "bytes outside the output changed");
	free(before);
	digest_add(stage_at(stage, out), out->size);
}

void expect_check(const struct stage *stage, const struct cl_kernel_ops *kernel, const void *op,
		  enum cl_status status, const char *what)
{
	struct cl_memory memory = stage->memory;
	enum cl_status got = CL_OK;

	memory.arena = NULL;
	got = kernel->check(op, &memory);
	EXPECT(got == status, "check of %s gave %d, not %d", what, got, status);
}

static uint32_t odd_value(uint32_t old)
{
	static const uint32_t values[] = {0,          1,          2,          3,
					  7,          8,          0xff,       0x10000,
					  0x7fffffff, 0x80000000, 0x80000001, 0xfffffff8,
					  0xffffffff, 0x7f800000, 0x55555556};
	uint32_t choice = random_range(0, 24);

	if (choice < sizeof(values) / sizeof(values[0]))
		return values[choice];
	switch (choice) {
	case 15:
		return old + 1;
	case 16:
		return old - 1;
	case 17:
		return old * 2;
	case 18:
		return old / 2;
	case 19:
		return old + 8;
	case 20:
		return old - 8;
	case 21:
		return 0 - old;
	case 22:
		return random_range(0, 64);
	default:
		return random_u32();
	}
}

void expect_mutants_harmless(struct stage *stage, const struct cl_kernel_ops *kernel,
			     const void *op)
{
	const size_t words = kernel->record_size / sizeof(uint32_t);
	uint64_t record[MAX_RECORD / sizeof(uint64_t)] = {0};
	size_t i = 0;
	unsigned int round = 0;

	for (i = 2; i < words; i++) {
		for (round = 0; round < 120; round++) {
			struct cl_memory memory = stage->memory;
			unsigned int changes = round < 40 ? 1 : random_range(2, 4);
			uint32_t *word = (uint32_t *)record;
			size_t at = i;

			memcpy(record, op, kernel->record_size);
			for (; changes; changes--) {
				word[at] = odd_value(word[at]);
				at = random_range(2, (uint32_t)words - 1);
			}
			memory.arena = NULL;
			if (kernel->check((const struct cl_op *)record, &memory) == CL_OK)
				kernel->run((const struct cl_op *)record, &stage->memory);
		}
	}
}

static void seed(const char *name)
{
	random_state = 0;
	for (; *name; name++)
		random_state = random_state * 31 + (unsigned char)*name;
}

int main(int argc, char **argv)
{
	const char *wanted = argc > 1 ? argv[1] : "";
	unsigned int failed = 0;
	unsigned int count = 0;
	struct test *test = NULL;

	for (test = tests; test; test = test->next) {
		if (!strstr(test->name, wanted))
			continue;
		failures = 0;
		digest = 0;
		seed(test->name);
		test->run();
		count++;
		failed += failures != 0;
		if (failures)
			printf("FAIL %s (%u failures)\n", test->name, failures);
		else
			printf("ok   %s %08x\n", test->name, digest);
		fflush(stdout);
	}
	printf("%u of %u tests passed\n", count - failed, count);
	return failed || !count ? EXIT_FAILURE : EXIT_SUCCESS;
}
