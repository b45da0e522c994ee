/* SPDX-License-Identifier: BSD-2-Clause */
/* A session, and the model that is loaded in it. */
#ifndef CLOISTER_MODEL_H
#define CLOISTER_MODEL_H

#include <tee_internal_api.h>

#include "cipher.h"
#include "cloister_ta.h"
#include "engine/engine.h"
#include "licence.h"
#include "manifest.h"
#include "plan.h"
#include "quota.h"
#include "secure_memory.h"

struct cl_model {
	struct cl_pages manifest_pages; /* slots, then the manifest */
	struct cl_manifest_view manifest;
	uint8_t digest[CL_DIGEST_SIZE];

	struct cl_licence_secret
		licence; /* without its content key, of which `cipher` has its own */
	uint8_t licence_id[CL_ID_SIZE];
	struct cl_pages licence_pages;      /* of a licence with a password, opened where it lies */
	const struct cl_password *password; /* in there; NULL: none */
	struct cl_scaled scaled; /* of the partition that was opened last, a streamed one */
	struct cl_grant grant;

	struct cl_pages pages; /* arena, then partitions */
	struct cl_slot *slots;
	uint32_t resident_count;
	struct cl_cipher cipher;
	const uint8_t *embedded; /* payload linked into the TA, or NULL */

	uint64_t bytes_decrypted;
	uint64_t queries;
};

struct cl_session {
	enum cl_state state;
	struct cl_secure_memory memory;
	struct cl_model model;
	uint32_t given;     /* RUNNING: inputs that are in the arena */
	uint32_t next;      /* RUNNING: partition that comes next */
	uint32_t decrypted; /* partitions decrypted for this inference */
};

static inline uint8_t *cl_model_arena(const struct cl_model *model)
{
	return model->pages.address;
}

/* The licence limits the number or the rate of answers. */
static inline bool cl_model_limited(const struct cl_model *model)
{
	return model->licence.query_limit || model->licence.rate_per_minute;
}

/*
 * Counts one answer before it is given.
 * CL_ERROR_QUERY_LIMIT, CL_ERROR_RATE_LIMIT, or as cl_record_open.
 */
TEE_Result cl_model_charge(struct cl_model *model);

/* Takes the charge of an answer back that was not given. */
void cl_model_refund(struct cl_model *model);

/* Wipes all of the model, gives its memory and unused queries back; afterwards OPEN. */
void cl_model_drop(struct cl_session *session);

#endif
