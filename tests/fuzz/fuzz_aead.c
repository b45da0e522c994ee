/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libFuzzer: the TA's own ciphers on any key, nonce, associated data, length, alignment and
 * cut into pieces. What was sealed opens; what was changed does not; AEGIS-128L with AES
 * instructions and the portable one agree.
 */
#include <stdlib.h>
#include <string.h>

#include "aead.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

/* The numbers at the input's begin; all that follows is associated data, then plain text. */
struct choice {
	uint8_t key[32];
	uint8_t nonce[16];
	uint8_t aad_size;
	uint8_t piece; /* in steps of CL_AEAD_STEP, less one */
	uint8_t from;  /* alignments */
	uint8_t to;
	uint16_t flip;
	uint8_t what;
	uint8_t unused;
};

enum { CHACHA, AEGIS, PORTABLE };

union context {
	struct cl_chacha20_poly1305 chacha;
	struct cl_aegis128l aegis;
};

static void start(int cipher, union context *context, const struct choice *choice,
		  const uint8_t *aad)
{
	if (cipher == CHACHA)
		cl_chacha20_poly1305_start(&context->chacha, choice->key, choice->nonce, aad,
					   choice->aad_size);
	else if (cipher == AEGIS)
		cl_aegis128l_start(&context->aegis, choice->key, choice->nonce, aad,
				   choice->aad_size);
	else
		cl_aegis128l_portable_start(&context->aegis, choice->key, choice->nonce, aad,
					    choice->aad_size);
}

static void piece(int cipher, int seal, union context *context, const uint8_t *in, uint8_t *out,
		  size_t size)
{
	if (cipher == CHACHA)
		(seal ? cl_chacha20_poly1305_seal : cl_chacha20_poly1305_open)(&context->chacha, in,
									       out, size);
	else if (cipher == AEGIS)
		(seal ? cl_aegis128l_seal : cl_aegis128l_open)(&context->aegis, in, out, size);
	else
		(seal ? cl_aegis128l_portable_seal : cl_aegis128l_portable_open)(&context->aegis,
										 in, out, size);
}

static void finish(int cipher, union context *context, uint8_t tag[16])
{
	if (cipher == CHACHA)
		cl_chacha20_poly1305_tag(&context->chacha, tag);
	else if (cipher == AEGIS)
		cl_aegis128l_tag(&context->aegis, tag);
	else
		cl_aegis128l_portable_tag(&context->aegis, tag);
}

static void transform(int cipher, int seal, const struct choice *choice, const uint8_t *aad,
		      const uint8_t *in, uint8_t *out, size_t size, uint8_t tag[16])
{
	const size_t step = ((size_t)choice->piece + 1) * CL_AEAD_STEP;
	union context context;

	start(cipher, &context, choice, aad);
	for (; size > step; size -= step, in += step, out += step)
		piece(cipher, seal, &context, in, out, step);
	piece(cipher, seal, &context, in, out, size);
	finish(cipher, &context, tag);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct choice choice;
	uint8_t tag[16] = {0};
	uint8_t other_tag[16] = {0};
	uint8_t *sealed = NULL;
	uint8_t *opened = NULL;
	uint8_t *aad = NULL;
	uint8_t *in = NULL;
	uint8_t *out = NULL;
	int cipher = 0;
	int other = 0;

	if (size < sizeof(choice))
		return 0;
	memcpy(&choice, data, sizeof(choice));
	data += sizeof(choice);
	size -= sizeof(choice);
	if (choice.aad_size > size)
		choice.aad_size = (uint8_t)size;
	size -= choice.aad_size;
	choice.from %= 16;
	choice.to %= 16;
	cipher = choice.what % 3;
	if (cipher == AEGIS && !cl_aegis128l_usable())
		cipher = PORTABLE;
	other = cipher == AEGIS ? PORTABLE : cipher;

	/* Sized exactly, so that AddressSanitizer sees the byte behind the end. */
	aad = malloc(choice.aad_size ? choice.aad_size : 1);
	sealed = malloc(size + choice.from + 1);
	opened = malloc(size + choice.to + 1);
	require(aad && sealed && opened);
	memcpy(aad, data, choice.aad_size);
	data += choice.aad_size;
	in = sealed + choice.from + 1;
	out = opened + choice.to + 1;

	transform(cipher, 1, &choice, aad, data, in, size, tag);
	transform(other, 0, &choice, aad, in, out, size, other_tag);
	require(cl_aead_tags_equal(tag, other_tag));
	require(!memcmp(out, data, size));
	if (size) {
		in[choice.flip % size] ^= (uint8_t)(1 << choice.flip % 8);
		transform(other, 0, &choice, aad, in, out, size, other_tag);
		require(!cl_aead_tags_equal(tag, other_tag));
	}
	free(aad);
	free(sealed);
	free(opened);
	return 0;
}
