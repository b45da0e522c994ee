/* SPDX-License-Identifier: BSD-2-Clause */
/* The parts of a password. */
#ifndef CLOISTER_PASSWORD_H
#define CLOISTER_PASSWORD_H

#include <stdbool.h>

#include "engine.h"

/* Least magnitude of a scale. */
#define CL_SMALLEST_SCALE 0x1p-64f

static inline const struct cl_lock *cl_locks_of(const struct cl_password *password)
{
	return (const struct cl_lock *)(password + 1);
}

static inline const float *cl_scales_of(const struct cl_password *password)
{
	return (const float *)(cl_locks_of(password) + password->lock_count);
}

static inline const float *cl_values_of(const struct cl_password *password)
{
	return cl_scales_of(password) + password->channel_count;
}

static inline bool cl_is_finite(float value)
{
	return value - value == 0;
}

#endif
