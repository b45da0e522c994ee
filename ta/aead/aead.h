/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The project's own authenticated ciphers: ChaCha20-Poly1305 (RFC 8439), which every
 * CPU with NEON can do fast, and AEGIS-128L (draft-irtf-cfrg-aegis-aead), which needs the
 * CPU's AES instructions. Portable: no OP-TEE header, no allocation, no table that is
 * indexed by a secret, no branch on one.
 *
 * All of them are used alike: _start, then _open or _seal for one piece after the other,
 * then _tag. Every piece but the last is a multiple of CL_AEAD_STEP bytes.
 *
 * _open reads each byte of `cipher` exactly once, so that it may lie in memory that others
 * write meanwhile: what it authenticates is what it decrypted. The plain bytes are worth
 * nothing before the caller has compared the tag; if it is wrong he wipes them. The two
 * buffers do not overlap. A context holds keys: the caller wipes it.
 */
#ifndef CLOISTER_AEAD_H
#define CLOISTER_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
#define CL_AEAD_STEP     64
#define CL_AEAD_TAG_SIZE 16

#define CL_CHACHA20_POLY1305_KEY_SIZE   32
#define CL_CHACHA20_POLY1305_NONCE_SIZE 12

#define CL_AEGIS128L_KEY_SIZE   16
#define CL_AEGIS128L_NONCE_SIZE 16

struct cl_chacha20_poly1305 {
	uint32_t state[16]; /* of ChaCha20, with the number of the next block */
	uint64_t r[2];      /* Poly1305: the clamped multiplier, */
	uint64_t s[2];      /* what is added at last, */
	uint64_t h[3];      /* and the sum, below 2^130 + something small */
	uint64_t aad_size;
	uint64_t size; /* bytes so far */
};

void cl_chacha20_poly1305_start(struct cl_chacha20_poly1305 *context, const uint8_t key[32],
				const uint8_t nonce[12], const uint8_t *aad, size_t aad_size);
void cl_chacha20_poly1305_open(struct cl_chacha20_poly1305 *context, const uint8_t *cipher,
			       uint8_t *plain, size_t size);
void cl_chacha20_poly1305_seal(struct cl_chacha20_poly1305 *context, const uint8_t *plain,
			       uint8_t *cipher, size_t size);
void cl_chacha20_poly1305_tag(struct cl_chacha20_poly1305 *context, uint8_t tag[16]);

/* The eight blocks of the state; each is the exclusive or of its two halves. */
struct cl_aegis128l {
	uint8_t state[2][8][16];
	uint64_t aad_size;
	uint64_t size;
};

/* With the AES instructions of Armv8 or x86, whose presence is the caller's to know. */
void cl_aegis128l_start(struct cl_aegis128l *context, const uint8_t key[16],
			const uint8_t nonce[16], const uint8_t *aad, size_t aad_size);
void cl_aegis128l_open(struct cl_aegis128l *context, const uint8_t *cipher, uint8_t *plain,
		       size_t size);
void cl_aegis128l_seal(struct cl_aegis128l *context, const uint8_t *plain, uint8_t *cipher,
		       size_t size);
void cl_aegis128l_tag(struct cl_aegis128l *context, uint8_t tag[16]);

/*
 * Outside of the TA only. Whether this processor has the instructions, and the same by
 * code for any processor, a hundred times slower.
 */
int cl_aegis128l_usable(void);
void cl_aegis128l_portable_start(struct cl_aegis128l *context, const uint8_t key[16],
				 const uint8_t nonce[16], const uint8_t *aad, size_t aad_size);
void cl_aegis128l_portable_open(struct cl_aegis128l *context, const uint8_t *cipher, uint8_t *plain,
				size_t size);
void cl_aegis128l_portable_seal(struct cl_aegis128l *context, const uint8_t *plain, uint8_t *cipher,
				size_t size);
void cl_aegis128l_portable_tag(struct cl_aegis128l *context, uint8_t tag[16]);
/* cffi: end */

/* Whether two tags are the same, in a time that does not tell where they differ. */
static inline bool cl_aead_tags_equal(const uint8_t a[CL_AEAD_TAG_SIZE],
				      const uint8_t b[CL_AEAD_TAG_SIZE])
{
	uint32_t differs = 0;
	size_t i = 0;

	for (i = 0; i < CL_AEAD_TAG_SIZE; i++)
		differs |= (uint32_t)(a[i] ^ b[i]);
	return (differs - 1) >> 31;
}

#endif
