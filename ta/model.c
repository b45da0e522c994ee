/* SPDX-License-Identifier: BSD-2-Clause */
#include "model.h"

#include "crypto.h"
#include "device.h"

/*
 * Seconds since boot, which the normal world cannot set (TEE_GetREETime it can).
 * OP-TEE takes it from the generic timer.
 */
static uint32_t now(void)
{
	TEE_Time time = {0};

	TEE_GetSystemTime(&time);
	return time.seconds;
}

TEE_Result cl_model_charge(struct cl_model *model)
{
	struct cl_record_handle handle = {0};
	TEE_Result res = TEE_SUCCESS;

	if (cl_model_limited(model) && !cl_quota_covers(&model->licence, &model->grant, now())) {
		res = cl_record_open(CL_RECORD_LICENCE, model->licence_id, &handle);
		if (res)
			return res;
		res = cl_quota_take(&model->licence, &handle.record, &model->grant, now());
		if (!res) {
			res = cl_record_store(&handle);
			if (res)
				model->grant.left = 0;
		}
		cl_record_close(&handle);
		if (res)
			return res;
	}
	if (model->grant.left)
		model->grant.left--;
	model->queries++;
	return TEE_SUCCESS;
}

void cl_model_refund(struct cl_model *model)
{
	if (cl_model_limited(model))
		model->grant.left++;
	model->queries--;
}

/* Best effort: what cannot be written back is lost, never gained. */
static void return_grant(struct cl_model *model)
{
	struct cl_record_handle handle = {0};

	if (!model->grant.left || cl_record_open(CL_RECORD_LICENCE, model->licence_id, &handle))
		return;
	cl_quota_return(&handle.record, &model->grant);
	(void)cl_record_store(&handle);
	cl_record_close(&handle);
}

void cl_model_drop(struct cl_session *session)
{
	struct cl_model *model = &session->model;

	if (session->state == CL_STATE_RUNNING)
		cl_model_refund(model);
	cl_cipher_close(&model->cipher);
	cl_pages_unmap(&session->memory, &model->pages);
	cl_pages_unmap(&session->memory, &model->manifest_pages);
	cl_pages_unmap(&session->memory, &model->licence_pages);
	/* Storage is the normal world's: whatever it answers, or does not, the secrets are gone. */
	return_grant(model);
	cl_wipe(model, sizeof(*model));
	session->memory.peak = session->memory.held;
	session->memory.limit = 0;
	session->given = 0;
	session->next = 0;
	session->decrypted = 0;
	session->state = CL_STATE_OPEN;
}
