/* SPDX-License-Identifier: BSD-2-Clause */
/* What leaves the TA. Portable: no OP-TEE header. */
#ifndef CLOISTER_ANSWER_H
#define CLOISTER_ANSWER_H

#include "manifest.h"

/*
 * Bytes of an answer of kind `output` (enum cl_output) with k entries a row, k being
 * 1 for CL_OUTPUT_LABEL. The last dimension of the first output is a row.
 *
 * CL_ERROR_BAD_PARAMETERS: k is larger than a row.
 * CL_ERROR_NOT_SUPPORTED: labels of an output that is not float32.
 */
uint32_t cl_answer_size(const struct cl_manifest_view *manifest, uint32_t output, uint32_t k,
			size_t *size);

/*
 * Writes an answer whose size cl_answer_size gave. `answer` may be memory that
 * others can write: it is never read. Best first; equal scores, -0 and +0 among
 * them, in the order of their index; NaN ranks behind every number.
 */
void cl_answer_write(const struct cl_manifest_view *manifest, const uint8_t *arena, uint32_t output,
		     uint32_t k, uint8_t *answer);

#endif
