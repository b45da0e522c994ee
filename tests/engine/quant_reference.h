/* SPDX-License-Identifier: BSD-2-Clause */
/* The arithmetic of cloister_format.h for 8-bit integers, one value at a time. */
#ifndef CLOISTER_TEST_QUANT_REFERENCE_H
#define CLOISTER_TEST_QUANT_REFERENCE_H

#include <math.h>

#include "harness.h"

static inline int8_t random_s8(void)
{
	return (int8_t)random_range(0, 255);
}

/* Ends of the range often, as sums overflow there if anywhere. */
static inline void random_bytes(int8_t *to, size_t count, int8_t least)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		const int8_t value = random_s8();

		to[i] = random_range(0, 3) ? (value < least ? least : value)
			: value < 0        ? least
					   : INT8_MAX;
	}
}

static inline struct cl_finish_s8 random_finish(void)
{
	struct cl_finish_s8 finish = {.zero = random_s8(), .low = INT8_MIN, .high = INT8_MAX};

	if (random_range(0, 1)) {
		finish.low = (int32_t)random_range(0, 150) - 128;
		finish.high = finish.low + (int32_t)random_range(0, (uint32_t)(127 - finish.low));
	}
	return finish;
}

/* What is stored for a value. */
static inline int reference_finish(const struct cl_finish_s8 *finish, float value)
{
	const double stored = (isnan(value) ? 0 : rint((double)value)) + finish->zero;

	return (int)fmin(fmax(stored, finish->low), finish->high);
}

#endif
