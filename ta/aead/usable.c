/* SPDX-License-Identifier: BSD-2-Clause */
/* What a program of the normal world can ask; a TA cannot. */
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "aead.h"

#define HWCAP_AES_BIT (1UL << 3) /* of Linux's AArch64 ABI */

int cl_aegis128l_usable(void)
{
#if defined(__aarch64__)
	return (getauxval(AT_HWCAP) & HWCAP_AES_BIT) != 0;
#elif defined(__x86_64__)
	__builtin_cpu_init();
	return __builtin_cpu_supports("aes") != 0;
#else
	return 0;
#endif
}
