/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the engine's tests share: a list of tests, assertions, seeded random
 * numbers, and a stage on which one kernel runs with guards around its runs.
 */
#ifndef CLOISTER_TEST_HARNESS_H
#define CLOISTER_TEST_HARNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "bounds.h"
#include "kernel.h"

/* A function that main() runs; it needs no other mention. */
#define TEST(name)                                                                                 \
	static void name(void);                                                                    \
	static struct test name##_entry = {#name, __FILE__, name, NULL};                           \
	__attribute__((constructor)) static void name##_register(void)                             \
	{                                                                                          \
		test_register(&name##_entry);                                                      \
	}                                                                                          \
	static void name(void)

/* Counts and reports a failure; the test goes on. */
#define EXPECT(condition, ...)                                                                     \
	do {                                                                                       \
		if (!(condition))                                                                  \
			test_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);                    \
	} while (0)

struct test {
	const char *name;
	const char *file;
	void (*run)(void);
	struct test *next;
};

void test_register(struct test *test);
void test_fail(const char *file, int line, const char *condition, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Seeded anew, from its name, before every test. */
uint32_t random_u32(void);
/* low <= result <= high */
uint32_t random_range(uint32_t low, uint32_t high);
/* Evenly spread. */
float random_float(float low, float high);
void random_floats(float *to, size_t count, float low, float high);

/* Distance in units in the last place of a float near `want`; infinities and NaN only match alike.
 */
double ulp_error(float got, double want);

/*
 * Adds results to the digest that is printed behind a passed test: equal digests of two builds
 * mean equal bits, NaN aside. stage_run adds its output.
 */
void digest_add(const void *bytes, size_t size);

#define STAGE_RUNS 8

/* An arena and weights with a few runs in them, and unused bytes between the runs. */
struct stage {
	struct cl_memory memory;
	struct cl_ref runs[STAGE_RUNS];
	unsigned int run_count;
};

/* Reserves a run, `bytes` long, before stage_build; all other bytes are guards. */
struct cl_ref stage_arena(struct stage *stage, size_t bytes);
struct cl_ref stage_weights(struct stage *stage, size_t bytes);
/* Allocates both spaces exactly and fills them with random bytes. */
void stage_build(struct stage *stage);
void *stage_at(const struct stage *stage, const struct cl_ref *ref);
void stage_free(struct stage *stage);

/*
 * Expects the check to pass, then runs the kernel. Guards must not be touched (with
 * AddressSanitizer, not be read either), and of the runs only `out` may change.
 */
void stage_run(struct stage *stage, const struct cl_kernel_ops *kernel, const void *op,
	       const struct cl_ref *out);

/* As stage_run, but `scratch` (NULL or absent: none) may change as well. */
void stage_run_scratch(struct stage *stage, const struct cl_kernel_ops *kernel, const void *op,
		       const struct cl_ref *out, const struct cl_ref *scratch);

/* Expects the check to give `status`. */
void expect_check(const struct stage *stage, const struct cl_kernel_ops *kernel, const void *op,
		  enum cl_status status, const char *what);

/*
 * Puts odd values into every word of the record, alone and in pairs. What the check lets
 * pass is run: AddressSanitizer tells whether it stays inside the memory.
 */
void expect_mutants_harmless(struct stage *stage, const struct cl_kernel_ops *kernel,
			     const void *op);

#endif
