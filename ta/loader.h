/* SPDX-License-Identifier: BSD-2-Clause */
/* From a sealed partition in anybody's memory to a checked one in secure memory. */
#ifndef CLOISTER_LOADER_H
#define CLOISTER_LOADER_H

#include "model.h"

/*
 * Opens the sealed partition `index` (sealed_size bytes of it are readable at
 * `sealed`, which others may change meanwhile) into secure memory, verifies its tag
 * and only then looks at it.
 *
 * As cl_sealed_check; TEE_ERROR_MAC_INVALID: the tag is wrong; CL_ERROR_VERSION,
 * TEE_ERROR_BAD_FORMAT: the plain partition is none that the engine can run;
 * TEE_ERROR_CANCEL. On any of them nothing of the partition is left.
 */
TEE_Result cl_loader_open(struct cl_model *model, uint32_t index, const uint8_t *sealed);

/*
 * Runs partition `index`, which was opened last or is resident. *asked counts the operators of
 * an inference, from 0 on: at every few the caller's wish to cancel is looked at.
 * TEE_ERROR_CANCEL.
 */
TEE_Result cl_loader_run(const struct cl_model *model, uint32_t index, unsigned int *asked);

#endif
