/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Another thread changes the ciphertext while it is opened. What was opened with a right
 * tag has to be the plain text that was sealed: a cipher that reads a byte once to
 * authenticate it and once more to decrypt it gives something else sooner or later.
 */
#define _POSIX_C_SOURCE 200809L

#include "race.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE   16384
#define ROUNDS 4000

struct attack {
	volatile uint8_t *bytes;
	atomic_int stop;
};

/* Every bit pattern comes back, so that now and then all bytes are right when they are read. */
static void *change(void *cookie)
{
	struct attack *attack = cookie;
	uint32_t seed = 1;

	while (!atomic_load(&attack->stop)) {
		volatile uint8_t *byte = NULL;
		int wait = 0;

		seed = seed * 1664525 + 1013904223;
		byte = &attack->bytes[(seed >> 8) % SIZE];
		*byte ^= 0x40;
		for (wait = 0; wait < (int)(seed >> 28); wait++)
			atomic_load(&attack->stop);
		*byte ^= 0x40;
	}
	return NULL;
}

int race(const uint8_t *sealed, const uint8_t *plain, race_open *open_it, void *cookie,
	 int *refused)
{
	static uint8_t shared[SIZE];
	static uint8_t out[SIZE];
	struct attack attack = {.bytes = shared};
	pthread_t thread;
	int wrong = 0;
	int i = 0;

	memcpy(shared, sealed, SIZE);
	if (pthread_create(&thread, NULL, change, &attack)) {
		perror("pthread_create");
		exit(1);
	}
	*refused = 0;
	for (i = 0; i < ROUNDS; i++) {
		if (!open_it(cookie, shared, out, SIZE))
			++*refused;
		else if (memcmp(out, plain, SIZE))
			wrong++;
	}
	atomic_store(&attack.stop, 1);
	pthread_join(thread, NULL);
	return wrong;
}

const size_t race_size = SIZE;
const int race_rounds = ROUNDS;
