/* SPDX-License-Identifier: BSD-2-Clause */
/* ChaCha20 (RFC 8439, section 2.4), four blocks at once. */
#ifndef CLOISTER_CHACHA20_H
#define CLOISTER_CHACHA20_H

#include <stddef.h>
#include <stdint.h>

#define CL_CHACHA20_BLOCK 64
#define CL_CHACHA20_GROUP (4 * CL_CHACHA20_BLOCK)

/* state[12] is the number of the first block. */
void cl_chacha20_start(uint32_t state[16], const uint8_t key[32], uint32_t number,
		       const uint8_t nonce[12]);

/* Adds four blocks of the key stream (exclusive or) to CL_CHACHA20_GROUP bytes. */
void cl_chacha20_group(uint32_t state[16], uint8_t *data);

#endif
