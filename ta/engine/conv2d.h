/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLOISTER_CONV2D_H
#define CLOISTER_CONV2D_H

#include "kernel.h"

/* cffi: begin */
/*
 * Bytes of scratch that a CONV2D or DEPTHWISE record needs, from its op.kernel
 * and its numbers alone (its refs are not read); UINT64_MAX for numbers that
 * make no sense. The formula stands in cloister_format.h.
 */
uint64_t cl_conv2d_scratch(const struct cl_conv2d *conv);
/* cffi: end */

/* What CONV2D and DEPTHWISE check alike: every number and every run but weights and scratch. */
enum cl_status cl_conv_check_common(const struct cl_conv2d *conv, const struct cl_memory *memory);

#endif
