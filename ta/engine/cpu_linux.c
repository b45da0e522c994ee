/* SPDX-License-Identifier: BSD-2-Clause */
/* The normal world's library on AArch64 asks Linux what the CPU has, when it is loaded. */
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "engine.h"

__attribute__((constructor)) static void find_features(void)
{
	cl_engine_use(getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? CL_CPU_DOTPROD : 0);
}
