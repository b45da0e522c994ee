/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLOISTER_TEST_AEAD_RACE_H
#define CLOISTER_TEST_AEAD_RACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Opens; whether the tag was right. */
typedef bool race_open(void *cookie, const uint8_t *sealed, uint8_t *plain, size_t size);

extern const size_t race_size;
extern const int race_rounds;

/* How often what was opened with a right tag is not the plain text; counts wrong tags. */
int race(const uint8_t *sealed, const uint8_t *plain, race_open *open_it, void *cookie,
	 int *refused);

#endif
