/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu.h"
#include "engine.h"

uint32_t cl_cpu_features = 0;

void cl_engine_use(uint32_t features)
{
	cl_cpu_features = features & CL_CPU_ALL;
}
