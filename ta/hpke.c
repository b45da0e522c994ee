/* SPDX-License-Identifier: BSD-2-Clause */
#include "hpke.h"

#include <stdbool.h>
#include <string.h>

#include "result.h"

/* RFC 9180, section 7: KEM 0x0020, KDF 0x0001, AEAD 0x0002. */
static const uint8_t kem_suite[] = {'K', 'E', 'M', 0x00, 0x20};
static const uint8_t hpke_suite[] = {'H', 'P', 'K', 'E', 0x00, 0x20, 0x00, 0x01, 0x00, 0x02};
static const char version_label[] = "HPKE-v1";

/* A suite's identifier, a label and the data, as both labelled functions take them. */
struct labelled {
	struct cl_bytes suite;
	const char *label;
	struct cl_bytes data;
};

/* Section 4, LabeledExtract. A NULL salt is the empty one: HMAC pads it to zeros. */
static uint32_t extract(const uint8_t *salt, const struct labelled *in, uint8_t out[CL_DIGEST_SIZE])
{
	static const uint8_t no_salt[CL_KEY_SIZE];
	const struct cl_bytes parts[] = {
		{version_label, sizeof(version_label) - 1},
		in->suite,
		{in->label, strlen(in->label)},
		in->data,
	};

	return cl_hmac_sha256(salt ? salt : no_salt, parts, 4, out);
}

/* Section 4, LabeledExpand, for at most one block of output: HKDF's T(1). */
static uint32_t expand(const uint8_t *prk, const struct labelled *in, uint8_t *out, size_t size)
{
	const uint8_t length[] = {0, (uint8_t)size};
	const uint8_t counter = 1;
	const struct cl_bytes parts[] = {
		{length, sizeof(length)},
		{version_label, sizeof(version_label) - 1},
		in->suite,
		{in->label, strlen(in->label)},
		in->data,
		{&counter, 1},
	};
	uint8_t block[CL_DIGEST_SIZE] = {0};
	uint32_t res = CL_SUCCESS;

	if (size > sizeof(block))
		return CL_ERROR_BAD_PARAMETERS;
	res = cl_hmac_sha256(prk, parts, 6, block);
	if (!res)
		memcpy(out, block, size);
	cl_wipe(block, sizeof(block));
	return res;
}

/*
 * The points of order 1, 2, 4 and 8 on the curve and on its twist, in every encoding
 * below 2^255: with them X25519 gives zeros (RFC 7748, section 6.1), and OP-TEE's
 * TEE_DeriveKey panics.
 */
static const uint8_t low_order[][CL_KEY_SIZE] = {
	{0},
	{1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3,
	 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32,
	 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1,
	 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c,
	 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
	{0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	{0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	{0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
};

static bool is_low_order(const uint8_t point[CL_KEY_SIZE])
{
	uint8_t masked[CL_KEY_SIZE] = {0};
	size_t i = 0;

	memcpy(masked, point, sizeof(masked));
	masked[CL_KEY_SIZE - 1] &= 0x7f; /* RFC 7748, section 5: the top bit is ignored */
	for (i = 0; i < sizeof(low_order) / sizeof(low_order[0]); i++)
		if (!memcmp(masked, low_order[i], CL_KEY_SIZE))
			return true;
	return false;
}

/* Section 4.1, Decap. */
static uint32_t decapsulate(const uint8_t enc[CL_KEY_SIZE], const uint8_t public_key[CL_KEY_SIZE],
			    uint8_t shared_secret[CL_KEY_SIZE])
{
	uint8_t kem_context[2 * CL_KEY_SIZE] = {0};
	uint8_t dh[CL_KEY_SIZE] = {0};
	uint8_t eae_prk[CL_DIGEST_SIZE] = {0};
	struct labelled in = {{kem_suite, sizeof(kem_suite)}, "eae_prk", {dh, sizeof(dh)}};
	uint32_t res = CL_SUCCESS;

	if (is_low_order(enc))
		return CL_ERROR_MAC_INVALID;
	memcpy(kem_context, enc, CL_KEY_SIZE);
	memcpy(kem_context + CL_KEY_SIZE, public_key, CL_KEY_SIZE);

	res = cl_device_agree(enc, dh);
	if (!res)
		res = extract(NULL, &in, eae_prk);
	if (!res) {
		in.label = "shared_secret";
		in.data = (struct cl_bytes){kem_context, sizeof(kem_context)};
		res = expand(eae_prk, &in, shared_secret, CL_KEY_SIZE);
	}
	cl_wipe(dh, sizeof(dh));
	cl_wipe(eae_prk, sizeof(eae_prk));
	return res;
}

/* Section 5.1, KeySchedule in mode_base; the exporter secret is not needed. */
static uint32_t schedule(const uint8_t shared_secret[CL_KEY_SIZE], const void *info,
			 size_t info_size, uint8_t key[CL_KEY_SIZE], uint8_t nonce[CL_NONCE_SIZE])
{
	uint8_t context[1 + 2 * CL_DIGEST_SIZE] = {0}; /* mode, psk_id_hash, info_hash */
	uint8_t secret[CL_DIGEST_SIZE] = {0};
	struct labelled in = {{hpke_suite, sizeof(hpke_suite)}, "psk_id_hash", {"", 0}};
	uint32_t res = extract(NULL, &in, context + 1);

	if (!res) {
		in.label = "info_hash";
		in.data = (struct cl_bytes){info, info_size};
		res = extract(NULL, &in, context + 1 + CL_DIGEST_SIZE);
	}
	if (!res) {
		in.label = "secret";
		in.data = (struct cl_bytes){"", 0};
		res = extract(shared_secret, &in, secret);
	}
	in.data = (struct cl_bytes){context, sizeof(context)};
	if (!res) {
		in.label = "key";
		res = expand(secret, &in, key, CL_KEY_SIZE);
	}
	if (!res) {
		in.label = "base_nonce"; /* the first message's sequence number is zero */
		res = expand(secret, &in, nonce, CL_NONCE_SIZE);
	}
	cl_wipe(secret, sizeof(secret));
	return res;
}

uint32_t cl_hpke_open(const uint8_t enc[CL_KEY_SIZE], const uint8_t public_key[CL_KEY_SIZE],
		      const void *info, size_t info_size, const uint8_t *sealed, size_t sealed_size,
		      uint8_t *plain)
{
	uint8_t shared_secret[CL_KEY_SIZE] = {0};
	uint8_t key[CL_KEY_SIZE] = {0};
	uint8_t nonce[CL_NONCE_SIZE] = {0};
	uint32_t res = CL_SUCCESS;

	res = decapsulate(enc, public_key, shared_secret);
	if (!res)
		res = schedule(shared_secret, info, info_size, key, nonce);
	if (!res)
		res = cl_aes_gcm_open(key, nonce, sealed, sealed_size, plain);
	cl_wipe(shared_secret, sizeof(shared_secret));
	cl_wipe(key, sizeof(key));
	return res;
}
