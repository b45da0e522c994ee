/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ciphers against the vectors of their specifications, against themselves in pieces
 * and at any alignment, and AEGIS-128L with instructions against the portable one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"
#include "race.h"
#include "vectors.h"

#define MAX_SIZE 1200

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

union context {
	struct cl_chacha20_poly1305 chacha;
	struct cl_aegis128l aegis;
};

static void chacha_start(union context *c, const uint8_t *key, const uint8_t *nonce,
			 const uint8_t *aad, size_t size)
{
	cl_chacha20_poly1305_start(&c->chacha, key, nonce, aad, size);
}

static void chacha_open(union context *c, const uint8_t *in, uint8_t *out, size_t size)
{
	cl_chacha20_poly1305_open(&c->chacha, in, out, size);
}

static void chacha_seal(union context *c, const uint8_t *in, uint8_t *out, size_t size)
{
	cl_chacha20_poly1305_seal(&c->chacha, in, out, size);
}

static void chacha_tag(union context *c, uint8_t *tag)
{
	cl_chacha20_poly1305_tag(&c->chacha, tag);
}

static void aegis_start(union context *c, const uint8_t *key, const uint8_t *nonce,
			const uint8_t *aad, size_t size)
{
	cl_aegis128l_start(&c->aegis, key, nonce, aad, size);
}

static void aegis_open(union context *c, const uint8_t *in, uint8_t *out, size_t size)
{
	cl_aegis128l_open(&c->aegis, in, out, size);
}

static void aegis_seal(union context *c, const uint8_t *in, uint8_t *out, size_t size)
{
	cl_aegis128l_seal(&c->aegis, in, out, size);
}

static void aegis_tag(union context *c, uint8_t *tag)
{
	cl_aegis128l_tag(&c->aegis, tag);
}

static void portable_start(union context *c, const uint8_t *key, const uint8_t *nonce,
			   const uint8_t *aad, size_t size)
{
	cl_aegis128l_portable_start(&c->aegis, key, nonce, aad, size);
}

static void portable_open(union context *c, const uint8_t *in, uint8_t *out, size_t size)
{
	cl_aegis128l_portable_open(&c->aegis, in, out, size);
}

static void portable_seal(union context *c, const uint8_t *in, uint8_t *out, size_t size)
{
	cl_aegis128l_portable_seal(&c->aegis, in, out, size);
}

static void portable_tag(union context *c, uint8_t *tag)
{
	cl_aegis128l_portable_tag(&c->aegis, tag);
}

struct cipher {
	const char *name;
	const struct vector *vectors;
	void (*start)(union context *, const uint8_t *, const uint8_t *, const uint8_t *, size_t);
	void (*open)(union context *, const uint8_t *, uint8_t *, size_t);
	void (*seal)(union context *, const uint8_t *, uint8_t *, size_t);
	void (*tag)(union context *, uint8_t *);
};

static const struct cipher ciphers[] = {
	{"chacha20-poly1305", chacha_vectors, chacha_start, chacha_open, chacha_seal, chacha_tag},
	{"aegis-128l", aegis_vectors, aegis_start, aegis_open, aegis_seal, aegis_tag},
	{"aegis-128l, portable", aegis_vectors, portable_start, portable_open, portable_seal,
	 portable_tag},
};

static size_t unhex(const char *text, uint8_t *out)
{
	size_t size = 0;
	unsigned int byte = 0;

	for (; text[0]; text += 2, size++) {
		CHECK(sscanf(text, "%2x", &byte) == 1);
		out[size] = (uint8_t)byte;
	}
	return size;
}

/* Exactly as long, so that AddressSanitizer sees the byte behind the end. */
static uint8_t *copy_of(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	CHECK(copy != NULL);
	if (size && data)
		memcpy(copy, data, size);
	else if (size)
		memset(copy, 0xa5, size);
	return copy;
}

/* Opens in one go; whether the tag is right. */
static bool opens(const struct cipher *cipher, const uint8_t *key, const uint8_t *nonce,
		  const uint8_t *aad, size_t aad_size, const uint8_t *sealed, size_t size,
		  const uint8_t tag[16], uint8_t *plain)
{
	union context context;
	uint8_t found[16] = {0};

	cipher->start(&context, key, nonce, aad, aad_size);
	cipher->open(&context, sealed, plain, size);
	cipher->tag(&context, found);
	return cl_aead_tags_equal(found, tag);
}

static void test_vectors(const struct cipher *cipher)
{
	const struct vector *vector = NULL;
	uint8_t key[32];
	uint8_t nonce[16];
	uint8_t aad[MAX_SIZE];
	uint8_t plain[MAX_SIZE];
	uint8_t sealed[MAX_SIZE];
	uint8_t out[MAX_SIZE];
	uint8_t tag[16];
	uint8_t found[16];
	union context context;

	for (vector = cipher->vectors; vector->key; vector++) {
		size_t aad_size = 0;
		size_t size = 0;

		unhex(vector->key, key);
		unhex(vector->nonce, nonce);
		CHECK(unhex(vector->tag, tag) == 16);
		aad_size = unhex(vector->aad, aad);
		size = unhex(vector->sealed, sealed);
		if (!vector->plain) {
			CHECK(!opens(cipher, key, nonce, aad, aad_size, sealed, size, tag, out));
			continue;
		}
		CHECK(unhex(vector->plain, plain) == size);
		CHECK(opens(cipher, key, nonce, aad, aad_size, sealed, size, tag, out));
		CHECK(!memcmp(out, plain, size));
		cipher->start(&context, key, nonce, aad, aad_size);
		cipher->seal(&context, plain, out, size);
		cipher->tag(&context, found);
		CHECK(!memcmp(out, sealed, size));
		CHECK(!memcmp(found, tag, 16));
	}
}

static void fill(uint8_t *data, size_t size, uint32_t seed)
{
	size_t i = 0;

	for (i = 0; i < size; i++) {
		seed = seed * 1664525 + 1013904223;
		data[i] = (uint8_t)(seed >> 24);
	}
}

/* Every length, in buffers of just that length; then damaged in one place. */
static void test_lengths(const struct cipher *cipher, const struct cipher *other)
{
	uint8_t key[32];
	uint8_t nonce[16];
	uint8_t tag[16];
	size_t size = 0;

	fill(key, sizeof(key), 1);
	fill(nonce, sizeof(nonce), 2);
	for (size = 0; size <= 700; size++) {
		const size_t aad_size = size % 97;
		uint8_t *aad = copy_of(NULL, aad_size);
		uint8_t *plain = copy_of(NULL, size);
		uint8_t *sealed = copy_of(NULL, size);
		uint8_t *out = copy_of(NULL, size);
		union context context;

		fill(plain, size, (uint32_t)size);
		fill(aad, aad_size, (uint32_t)size + 7);
		other->start(&context, key, nonce, aad, aad_size);
		other->seal(&context, plain, sealed, size);
		other->tag(&context, tag);
		CHECK(opens(cipher, key, nonce, aad, aad_size, sealed, size, tag, out));
		CHECK(!memcmp(out, plain, size));

		tag[size % 16] ^= (uint8_t)(1 << size % 8);
		CHECK(!opens(cipher, key, nonce, aad, aad_size, sealed, size, tag, out));
		tag[size % 16] ^= (uint8_t)(1 << size % 8);
		if (size) {
			sealed[size * 7 % size] ^= 0x80;
			CHECK(!opens(cipher, key, nonce, aad, aad_size, sealed, size, tag, out));
			sealed[size * 7 % size] ^= 0x80;
			CHECK(!opens(cipher, key, nonce, aad, aad_size, sealed, size - 1, tag,
				     out));
		}
		if (aad_size) {
			aad[size % aad_size] ^= 1;
			CHECK(!opens(cipher, key, nonce, aad, aad_size, sealed, size, tag, out));
			CHECK(!opens(cipher, key, nonce, aad, aad_size - 1, sealed, size, tag,
				     out));
		}
		free(aad);
		free(plain);
		free(sealed);
		free(out);
	}
}

/* Pieces of any multiple of CL_AEAD_STEP give what one piece gives, at any alignment. */
static void test_pieces(const struct cipher *cipher)
{
	static uint8_t plain[MAX_SIZE];
	static uint8_t sealed[MAX_SIZE];
	uint8_t key[32];
	uint8_t nonce[16];
	uint8_t tag[16];
	uint8_t found[16];
	size_t piece = 0;
	size_t shift = 0;

	fill(key, sizeof(key), 3);
	fill(nonce, sizeof(nonce), 4);
	fill(plain, sizeof(plain), 5);
	for (shift = 0; shift < 20; shift++) {
		const size_t size = 1100 + shift;
		uint8_t *from = copy_of(NULL, size + shift);
		uint8_t *to = copy_of(NULL, size + 19 - shift);
		union context context;

		cipher->start(&context, key, nonce, NULL, 0);
		cipher->seal(&context, plain, sealed, size);
		cipher->tag(&context, tag);
		memcpy(from + shift, sealed, size);
		for (piece = CL_AEAD_STEP; piece <= 8 * CL_AEAD_STEP; piece += CL_AEAD_STEP) {
			size_t at = 0;

			memset(to, 0, size);
			cipher->start(&context, key, nonce, NULL, 0);
			for (at = 0; size - at > piece; at += piece)
				cipher->open(&context, from + shift + at, to + 19 - shift + at,
					     piece);
			cipher->open(&context, from + shift + at, to + 19 - shift + at, size - at);
			cipher->tag(&context, found);
			CHECK(!memcmp(found, tag, 16));
			CHECK(!memcmp(to + 19 - shift, plain, size));
		}
		free(from);
		free(to);
	}
}

struct racing {
	const struct cipher *cipher;
	uint8_t key[32];
	uint8_t nonce[16];
	uint8_t tag[16];
};

static bool open_racing(void *cookie, const uint8_t *sealed, uint8_t *plain, size_t size)
{
	const struct racing *racing = cookie;

	return opens(racing->cipher, racing->key, racing->nonce, NULL, 0, sealed, size, racing->tag,
		     plain);
}

static void test_memory_that_changes(const struct cipher *cipher)
{
	struct racing racing = {.cipher = cipher};
	uint8_t *plain = copy_of(NULL, race_size);
	uint8_t *sealed = copy_of(NULL, race_size);
	union context context;
	int refused = 0;

	fill(racing.key, sizeof(racing.key), 6);
	fill(racing.nonce, sizeof(racing.nonce), 7);
	fill(plain, race_size, 8);
	cipher->start(&context, racing.key, racing.nonce, NULL, 0);
	cipher->seal(&context, plain, sealed, race_size);
	cipher->tag(&context, racing.tag);
	CHECK(race(sealed, plain, open_racing, &racing, &refused) == 0);
	printf("%s: %d of %d refused under attack\n", cipher->name, refused, race_rounds);
	free(plain);
	free(sealed);
}

static void test_tags_equal(void)
{
	uint8_t a[16] = {0};
	uint8_t b[16] = {0};
	int bit = 0;

	CHECK(cl_aead_tags_equal(a, b));
	for (bit = 0; bit < 128; bit++) {
		b[bit / 8] = (uint8_t)(1 << bit % 8);
		CHECK(!cl_aead_tags_equal(a, b));
		b[bit / 8] = 0;
	}
}

int main(void)
{
	size_t i = 0;

	test_tags_equal();
	for (i = 0; i < sizeof(ciphers) / sizeof(*ciphers); i++) {
		if (ciphers[i].open == aegis_open && !cl_aegis128l_usable()) {
			printf("%s: NOT TESTED, this processor has no AES instructions\n",
			       ciphers[i].name);
			continue;
		}
		test_vectors(&ciphers[i]);
		/* AEGIS with instructions opens what the portable one sealed. */
		test_lengths(&ciphers[i],
			     ciphers[i].open == aegis_open ? &ciphers[2] : &ciphers[i]);
		test_pieces(&ciphers[i]);
		/* The portable one takes too long, and is no device's. */
		if (ciphers[i].open != portable_open)
			test_memory_that_changes(&ciphers[i]);
		printf("%s: passed\n", ciphers[i].name);
	}
	return 0;
}
