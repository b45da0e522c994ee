/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLOISTER_CONV2D_S8_H
#define CLOISTER_CONV2D_S8_H

#include "kernel.h"

/* cffi: begin */
/*
 * Bytes of scratch that a CONV2D_S8 or DEPTHWISE_S8 record needs, from its
 * op.kernel and its numbers alone (its refs are not read); UINT64_MAX for numbers
 * that make no sense. The formula stands in cloister_format.h.
 */
uint64_t cl_conv2d_s8_scratch(const struct cl_conv2d_s8 *conv);
/* cffi: end */

/* What CONV2D_S8 and DEPTHWISE_S8 check alike: every number and run but weights and channels. */
enum cl_status cl_conv_s8_check_common(const struct cl_conv2d_s8 *conv,
				       const struct cl_memory *memory);

#endif
