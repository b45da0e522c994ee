/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLOISTER_WINOGRAD_H
#define CLOISTER_WINOGRAD_H

#include "conv2d.h"

/* cffi: begin */
/*
 * Bytes of scratch with which a WINOGRAD record transforms its weights once for every
 * `tiles` tiles of 4x4 results (all of them, where there are fewer); UINT64_MAX for numbers
 * that make no sense. The formula stands in cloister_format.h.
 */
uint64_t cl_winograd_scratch(const struct cl_conv2d *conv, uint32_t tiles);
/* cffi: end */

#endif
