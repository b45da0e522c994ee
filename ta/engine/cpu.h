/* SPDX-License-Identifier: BSD-2-Clause */
/* Which instructions beyond Armv8.0 the kernels may use: what cl_engine_use was told. */
#ifndef CLOISTER_CPU_H
#define CLOISTER_CPU_H

#include <stdint.h>

extern uint32_t cl_cpu_features; /* enum cl_cpu */

#endif
