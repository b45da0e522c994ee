/* SPDX-License-Identifier: BSD-2-Clause */
/* Poly1305 (RFC 8439, section 2.5) in 64-bit limbs; constant time where 64-bit products are. */
#ifndef CLOISTER_POLY1305_H
#define CLOISTER_POLY1305_H

#include "aead.h"

/* key: the one-time key, r then s. */
void cl_poly1305_start(struct cl_chacha20_poly1305 *context, const uint8_t key[32]);

/* Whole blocks of 16 bytes. */
void cl_poly1305_blocks(struct cl_chacha20_poly1305 *context, const uint8_t *data, size_t count);

/* size bytes, then zeros up to a whole block: how RFC 8439 pads. */
void cl_poly1305_padded(struct cl_chacha20_poly1305 *context, const uint8_t *data, size_t size);

void cl_poly1305_finish(const struct cl_chacha20_poly1305 *context, uint8_t tag[16]);

#endif
