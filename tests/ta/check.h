/* SPDX-License-Identifier: BSD-2-Clause */
/* The least that a test in C needs. */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

#define CHECK_EQ(a, b)                                                                             \
	do {                                                                                       \
		uint64_t a_ = (uint64_t)(a);                                                       \
		uint64_t b_ = (uint64_t)(b);                                                       \
		if (a_ != b_) {                                                                    \
			fprintf(stderr, "%s:%d: %s is 0x%" PRIx64 ", not 0x%" PRIx64 "\n",         \
				__FILE__, __LINE__, #a, a_, b_);                                   \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

void test_manifest(void);
void test_licence(void);
void test_password(void);
void test_plan(void);
void test_quota(void);
void test_answer(void);
void test_sealed(void);
void test_vendor(void);

#endif
