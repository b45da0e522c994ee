/* SPDX-License-Identifier: BSD-2-Clause */
/* Little-endian numbers, and reading memory that others may write. */
#ifndef CLOISTER_AEAD_BYTES_H
#define CLOISTER_AEAD_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../engine/neon.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers are read as they lie in memory: little-endian only"
#endif

static inline uint32_t cl_load32(const uint8_t *at)
{
	uint32_t value = 0;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline uint64_t cl_load64(const uint8_t *at)
{
	uint64_t value = 0;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline void cl_store64(uint8_t *at, uint64_t value)
{
	memcpy(at, &value, sizeof(value));
}

/*
 * The compiler may not read the memory behind `vector` a second time: after this, it has
 * to believe that the register's content came from nowhere.
 */
#if defined(__aarch64__)
#define CL_READ_ONCE(vector) __asm__("" : "+w"(vector))
#elif defined(__x86_64__)
#define CL_READ_ONCE(vector) __asm__("" : "+x"(vector))
#else
#define CL_READ_ONCE(vector) __asm__ volatile("" : "+m"(vector))
#endif

/* Copies the last bytes, each read once. */
static inline void cl_copy_bytes_once(uint8_t *to, const volatile uint8_t *from, size_t size)
{
	size_t i = 0;

	for (i = 0; i < size; i++)
		to[i] = from[i];
}

#endif
