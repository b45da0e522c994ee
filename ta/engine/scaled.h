/* SPDX-License-Identifier: BSD-2-Clause */
/* Results that a kernel scales because a password has not been folded into its weights. */
#ifndef CLOISTER_SCALED_H
#define CLOISTER_SCALED_H

#include "kernel.h"

/* A factor for each channel of the results that begin with this bias; NULL: they are as they are.
 */
const float *cl_scales_at(const struct cl_memory *memory, const struct cl_ref *bias);

/* If there are factors, there are so many. */
bool cl_scales_suffice(const struct cl_memory *memory, const struct cl_ref *bias,
		       uint32_t channels);

#endif
