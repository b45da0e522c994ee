/* SPDX-License-Identifier: BSD-2-Clause */
/* Functions of one value, alone (kernel UNARY) and fused into other kernels. */
#ifndef CLOISTER_ACTIVATION_H
#define CLOISTER_ACTIVATION_H

#include "kernel.h"

/* The function is known, its parameters are finite and its padding is zero. */
bool cl_activation_valid(const struct cl_activation *activation);

/* out[i] = function(in[i]) for i < count; out may be in. */
void cl_activate(const struct cl_activation *activation, const float *in, float *out, size_t count);

#endif
