/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NEON intrinsics: the compiler's own on AArch64, SIMDe's portable ones (Debian
 * libsimde-dev) elsewhere. Both propagate a NaN operand through vmaxq/vminq.
 */
#ifndef CLOISTER_NEON_H
#define CLOISTER_NEON_H

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#if defined(__clang__)
/* SIMDe asks for loops to be vectorised that clang refuses at low optimisation levels. */
#pragma clang diagnostic ignored "-Wpass-failed"
#endif
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>
#endif

#endif
