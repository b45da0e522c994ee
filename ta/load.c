/* SPDX-License-Identifier: BSD-2-Clause */
/* LOAD: from a manifest and a licence that anybody may have sent to a model ready to run. */
#include <stddef.h>
#include <string.h>

#include "commands.h"
#include "crypto.h"
#include "device.h"
#include "embed.h"
#include "engine/engine.h"
#include "hpke.h"
#include "params.h"
#include "vendor.h"

static const char manifest_domain[] = "cloister manifest v1";
static const char licence_domain[] = "cloister licence v1";
static const char long_licence_domain[] = "cloister licence v2";
static const char layers_domain[] = "cloister layers v1";

#define DOMAIN_SIZE(domain) (sizeof(domain) - 1)

/*
 * A licence and, without a password, what its signature is over: the domain and its own clear
 * and sealed bytes. With a password it is longer than this structure.
 */
struct licence_copy {
	uint8_t pad[8 - DOMAIN_SIZE(licence_domain) % 8]; /* aligns what follows the domain */
	uint8_t domain[DOMAIN_SIZE(licence_domain)];
	struct cl_licence licence;
	uint8_t signature[CL_SIGNATURE_SIZE];
};

_Static_assert(offsetof(struct licence_copy, licence) ==
		       offsetof(struct licence_copy, domain) + DOMAIN_SIZE(licence_domain),
	       "domain and licence are one message");

/* Copies the manifest, behind room for the slots; checks its form, its signature and its suite. */
static TEE_Result take_manifest(struct cl_session *session, const void *data, size_t size)
{
	const size_t slots_size = CL_MAX_PARTITIONS * sizeof(struct cl_slot);
	uint8_t message[DOMAIN_SIZE(manifest_domain) + CL_DIGEST_SIZE] = {0};
	struct cl_model *model = &session->model;
	uint8_t *copy = NULL;
	size_t slots = 0;
	TEE_Result res = TEE_SUCCESS;

	if (size < sizeof(struct cl_manifest) || size > CL_MANIFEST_MAX_SIZE)
		return TEE_ERROR_BAD_FORMAT;
	/* Each partition takes a descriptor of the manifest, so `size` bounds the slots. */
	slots = size / sizeof(struct cl_partition_desc) * sizeof(struct cl_slot);
	if (slots > slots_size)
		slots = slots_size;
	res = cl_pages_map(&session->memory, slots + size, &model->manifest_pages);
	if (res)
		return res;
	model->slots = model->manifest_pages.address;
	copy = (uint8_t *)model->manifest_pages.address + slots;
	memcpy(copy, data, size);

	res = cl_manifest_parse(copy, size, &model->manifest);
	if (!res)
		res = cl_sha256(copy, model->manifest.signed_size, model->digest);
	if (res)
		return res;
	memcpy(message, manifest_domain, DOMAIN_SIZE(manifest_domain));
	memcpy(message + DOMAIN_SIZE(manifest_domain), model->digest, CL_DIGEST_SIZE);
	res = cl_ed25519_verify(cl_vendor_key, message, sizeof(message), model->manifest.signature);
	if (res)
		return res;
	return cl_cipher_suites() >> model->manifest.header->suite & 1 ? TEE_SUCCESS
								       : CL_ERROR_CIPHER;
}

/* The vendor signed the licence of `size` bytes. */
static TEE_Result verify_licence(const struct licence_copy *copy, size_t size)
{
	uint8_t message[DOMAIN_SIZE(long_licence_domain) + CL_DIGEST_SIZE] = {0};
	const size_t signed_size = size - CL_SIGNATURE_SIZE;
	/* From the whole, not from its member: a licence with a password goes on behind that. */
	const uint8_t *bytes = (const uint8_t *)copy + offsetof(struct licence_copy, licence);
	TEE_Result res = TEE_SUCCESS;

	if (size == CL_LICENCE_SIZE)
		return cl_ed25519_verify(cl_vendor_key, copy->domain,
					 sizeof(copy->domain) + signed_size, bytes + signed_size);
	memcpy(message, long_licence_domain, DOMAIN_SIZE(long_licence_domain));
	res = cl_sha256(bytes, signed_size, message + DOMAIN_SIZE(long_licence_domain));
	return res ? res
		   : cl_ed25519_verify(cl_vendor_key, message, sizeof(message),
				       bytes + signed_size);
}

/*
 * Copies the licence, a long one into pages of its own and any other to `copy`; checks its
 * form, its signature, and that it is for this device and model.
 */
static TEE_Result take_licence(struct cl_session *session, const void *data, size_t size,
			       struct licence_copy **copied, uint8_t public_key[CL_KEY_SIZE])
{
	struct cl_model *model = &session->model;
	uint8_t device_id[CL_DIGEST_SIZE] = {0};
	struct licence_copy *copy = *copied;
	TEE_Result res = TEE_SUCCESS;

	if (size < CL_LICENCE_SIZE || size > CL_LICENCE_MAX_SIZE)
		return TEE_ERROR_BAD_FORMAT;
	if (size > CL_LICENCE_SIZE) {
		res = cl_pages_map(&session->memory, offsetof(struct licence_copy, licence) + size,
				   &model->licence_pages);
		if (res)
			return res;
		copy = model->licence_pages.address;
		*copied = copy;
	}
	memcpy(copy->domain, licence_domain, sizeof(copy->domain));
	memcpy((uint8_t *)copy + offsetof(struct licence_copy, licence), data, size);
	res = cl_licence_parse(&copy->licence, size);
	if (!res)
		res = verify_licence(copy, size);
	if (!res)
		res = cl_device_public_key(public_key);
	if (!res)
		res = cl_sha256(public_key, CL_KEY_SIZE, device_id);
	if (res)
		return res;
	if (memcmp(copy->licence.device_id, device_id, sizeof(device_id)))
		return CL_ERROR_WRONG_DEVICE;
	if (memcmp(copy->licence.model_id, model->manifest.header->model_id, CL_ID_SIZE))
		return CL_ERROR_WRONG_MODEL;
	return TEE_SUCCESS;
}

/* The highest version of this model that was ever loaded here is not above the manifest's. */
static TEE_Result check_rollback(const struct cl_manifest *manifest)
{
	struct cl_record_handle handle = {0};
	TEE_Result res = cl_record_open(CL_RECORD_MODEL, manifest->model_id, &handle);

	if (!res && manifest->model_version < handle.record.version)
		res = CL_ERROR_ROLLBACK;
	cl_record_close(&handle);
	return res;
}

static TEE_Result raise_version(const struct cl_manifest *manifest)
{
	struct cl_record_handle handle = {0};
	TEE_Result res = cl_record_open(CL_RECORD_MODEL, manifest->model_id, &handle);

	if (!res && manifest->model_version < handle.record.version) {
		res = CL_ERROR_ROLLBACK; /* another session loaded a newer one meanwhile */
	} else if (!res && manifest->model_version > handle.record.version) {
		handle.record.version = manifest->model_version;
		res = cl_record_store(&handle);
	}
	cl_record_close(&handle);
	return res;
}

/* The password's layers and channels are this model's. */
static TEE_Result check_password(struct cl_session *session)
{
	const struct cl_manifest_view *manifest = &session->model.manifest;
	const size_t size = manifest->layer_count * sizeof(struct cl_layer);
	struct cl_model *model = &session->model;
	struct cl_pages pages = {0};
	TEE_Result res = TEE_SUCCESS;

	if (!manifest->layers)
		return CL_ERROR_PASSWORD;
	res = cl_pages_map(&session->memory, size, &pages);
	if (res)
		return res;
	res = cl_cipher_open(&model->cipher, manifest->layers->nonce, layers_domain,
			     DOMAIN_SIZE(layers_domain), (const uint8_t *)(manifest->layers + 1),
			     pages.address, size);
	if (!res && !cl_password_fits(model->password, pages.address, manifest->layer_count))
		res = CL_ERROR_PASSWORD;
	cl_pages_unmap(&session->memory, &pages);
	return res;
}

/* Opens the licence's secret where it lies, takes it out, and holds it against the manifest. */
static TEE_Result open_licence(struct cl_session *session, struct licence_copy *copy,
			       const uint8_t public_key[CL_KEY_SIZE])
{
	struct cl_model *model = &session->model;
	const struct cl_manifest *manifest = model->manifest.header;
	struct cl_licence_secret *secret = &model->licence;
	struct cl_licence *licence = &copy->licence;
	const uint32_t size = licence->total_size;
	uint8_t key_id[CL_DIGEST_SIZE] = {0};
	TEE_Result res = TEE_SUCCESS;

	/* The key schedule's info is the domain and the clear fields: the message's begin. */
	res = cl_hpke_open(licence->enc, public_key, copy->domain,
			   sizeof(copy->domain) + offsetof(struct cl_licence, enc), licence->sealed,
			   licence->sealed_size, licence->sealed);
	if (!res) {
		res = cl_licence_check_secret((const void *)licence->sealed, size);
		memcpy(secret, licence->sealed, sizeof(*secret));
		cl_wipe(licence->sealed, sizeof(*secret));
	}
	if (res)
		return res;
	memcpy(model->licence_id, licence->licence_id, CL_ID_SIZE);
	if (secret->password_size)
		model->password = (const void *)(licence->sealed + sizeof(*secret));

	if (manifest->model_version < secret->min_model_version ||
	    manifest->model_version > secret->max_model_version)
		return CL_ERROR_ROLLBACK;
	res = check_rollback(manifest);
	if (!res)
		res = cl_sha256(secret->content_key, CL_KEY_SIZE, key_id);
	if (!res && memcmp(key_id, manifest->content_key_id, CL_ID_SIZE))
		res = CL_ERROR_WRONG_KEY;
	if (!res)
		res = cl_cipher_set(&model->cipher, manifest->suite, secret->content_key);
	cl_wipe(secret->content_key, sizeof(secret->content_key));
	if (!res && model->password)
		res = check_password(session);
	return res;
}

/*
 * Takes the most memory that OP-TEE gives below the limit: everything resident if
 * possible, then less and less, down to the least that the model can run in.
 */
static TEE_Result take_memory(struct cl_session *session)
{
	struct cl_secure_memory *memory = &session->memory;
	struct cl_model *model = &session->model;
	struct cl_plan plan = {0};
	uint64_t budget = 0;
	uint64_t least = 0;
	uint64_t step = 0;
	TEE_Result res = TEE_ERROR_OUT_OF_MEMORY;

	cl_plan_range(&model->manifest, &least, &budget);
	if (budget < least)
		least = budget; /* a single partition: resident is least and most */
	step = (budget - least) / 16 + CL_PAGE_SIZE;
	if (memory->limit && memory->limit - memory->held < budget)
		budget = memory->limit - memory->held;

	while (!cl_plan_make(&model->manifest, budget, model->slots, &plan)) {
		res = cl_pages_map(memory, plan.total, &model->pages);
		if (res != TEE_ERROR_OUT_OF_MEMORY || plan.total <= least)
			break;
		budget = plan.total - least > step ? plan.total - step : least;
	}
	model->resident_count = plan.resident_count;
	return res;
}

static TEE_Result load(struct cl_session *session, const TEE_Param params[4])
{
	struct cl_model *model = &session->model;
	const void *manifest = params[0].memref.buffer;
	size_t manifest_size = params[0].memref.size;
	_Alignas(8) struct licence_copy short_licence = {0};
	struct licence_copy *licence = &short_licence;
	uint8_t public_key[CL_KEY_SIZE] = {0};
	TEE_Result res = TEE_SUCCESS;

	if (!cl_vendor_known())
		return CL_ERROR_NO_VENDOR;
	if (!manifest_size) {
		if (!cl_embedded_manifest_size)
			return TEE_ERROR_NOT_SUPPORTED;
		manifest = cl_embedded_manifest;
		manifest_size = cl_embedded_manifest_size;
		model->embedded = cl_embedded_payload;
	}
	if (!params[1].memref.size)
		return CL_ERROR_NO_LICENCE;

	res = take_manifest(session, manifest, manifest_size);
	if (!res && model->embedded &&
	    model->manifest.header->payload_size != cl_embedded_payload_size)
		res = TEE_ERROR_BAD_FORMAT;
	if (!res)
		res = take_licence(session, params[1].memref.buffer, params[1].memref.size,
				   &licence, public_key);
	if (!res)
		res = open_licence(session, licence, public_key);
	if (!res)
		res = take_memory(session);
	if (!res)
		res = raise_version(model->manifest.header);
	return res;
}

static TEE_Result queries_left(struct cl_model *model, uint64_t *left)
{
	struct cl_record_handle handle = {0};
	TEE_Result res = TEE_SUCCESS;

	*left = UINT64_MAX;
	if (!model->licence.query_limit)
		return TEE_SUCCESS;
	res = cl_record_open(CL_RECORD_LICENCE, model->licence_id, &handle);
	if (!res)
		*left = cl_quota_left(&model->licence, &handle.record, &model->grant);
	cl_record_close(&handle);
	return res;
}

TEE_Result cl_command_load(struct cl_session *session, uint32_t types, TEE_Param params[4])
{
	const uint32_t expected =
		TEE_PARAM_TYPES(TEE_PARAM_TYPE_MEMREF_INPUT, TEE_PARAM_TYPE_MEMREF_INPUT,
				TEE_PARAM_TYPE_MEMREF_OUTPUT, TEE_PARAM_TYPE_VALUE_INOUT);
	const struct cl_model *model = &session->model;
	struct cl_loaded loaded = {0};
	TEE_Result res = cl_params_check(types, expected, params);

	if (res)
		return res;
	if (session->state == CL_STATE_RUNNING)
		return TEE_ERROR_BAD_STATE;
	if (params[3].value.b & ~(uint32_t)CL_CPU_ALL)
		return TEE_ERROR_BAD_PARAMETERS;
	res = cl_params_room(&params[2], sizeof(loaded));
	if (res)
		return res;

	cl_model_drop(session);
	session->memory.limit = params[3].value.a;
	cl_engine_use(params[3].value.b);
	res = load(session, params);
	if (!res)
		res = queries_left(&session->model, &loaded.queries_left);
	if (res) {
		cl_model_drop(session);
		return res;
	}

	loaded.partition_count = model->manifest.header->partition_count;
	loaded.resident_count = model->resident_count;
	loaded.arena_size = model->manifest.header->arena_size;
	loaded.output = model->licence.output;
	loaded.top_k = model->licence.top_k;
	loaded.input_size = model->manifest.input_size;
	loaded.output_size = model->manifest.output_size;
	memcpy(params[2].memref.buffer, &loaded, sizeof(loaded));
	params[3].value.a = (uint32_t)session->memory.held;
	session->state = CL_STATE_READY;
	return TEE_SUCCESS;
}
