/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the device remembers: one persistent object that holds the X25519 key pair
 * and, in its data, the records of models and licences. One and not many, because
 * OP-TEE removes an object whose file was damaged: whoever damages the counters
 * loses the key with them, and no licence opens any more.
 */
#ifndef CLOISTER_DEVICE_H
#define CLOISTER_DEVICE_H

#include <tee_internal_api.h>

#include "quota.h"

/*
 * The storage errors of the GlobalPlatform API pass through all of these, and
 * TEE_ERROR_BUSY where another session keeps the object for too long.
 */

/* The public key; makes the pair on first use. */
TEE_Result cl_device_public_key(uint8_t public_key[CL_KEY_SIZE]);

/* An open record. Other sessions wait for it: close it soon. */
struct cl_record_handle {
	TEE_ObjectHandle object;
	size_t position; /* of the record in the object's data */
	struct cl_record record;
};

/* Opens the record of that kind and name; a fresh one, not yet stored, if there is none. */
TEE_Result cl_record_open(enum cl_record_kind kind, const uint8_t id[CL_ID_SIZE],
			  struct cl_record_handle *handle);

/* Stores the record as it now is; closes the handle where it cannot. */
TEE_Result cl_record_store(struct cl_record_handle *handle);

void cl_record_close(struct cl_record_handle *handle);

#endif
