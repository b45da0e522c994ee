/* SPDX-License-Identifier: BSD-2-Clause */
/* The parts of a password. */
#ifndef CLOISTER_PASSWORD_H
#define CLOISTER_PASSWORD_H

#include <stdbool.h>

#include "engine.h"

static inline const struct cl_lock *cl_locks_of(const struct cl_password *password)
{
	return (const struct cl_lock *)(password + 1);
}

static inline const struct cl_lock_entry *cl_entries_of(const struct cl_password *password)
{
	return (const struct cl_lock_entry *)(cl_locks_of(password) + password->lock_count);
}

static inline bool cl_is_finite(float value)
{
	return value - value == 0;
}

#endif
