/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AEGIS-128L with the processor's AES instructions. Only this file is compiled for them:
 * the rest of a program runs where they are missing.
 */
#if defined(__aarch64__)
#pragma GCC target("+crypto")
#elif defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("aes"))), apply_to = function)
#else
#pragma GCC target("aes")
#endif
#endif

#if defined(__aarch64__)
#include <arm_neon.h>

typedef uint8x16_t block;

#define block_load(at)     vld1q_u8(at)
#define block_store(at, b) vst1q_u8(at, b)
#define block_xor(a, b)    veorq_u8(a, b)
#define block_and(a, b)    vandq_u8(a, b)

/* AESE overwrites its first operand; the compiler's intrinsic may take the wrong one for it. */
static inline block round_of(block half, block other)
{
	__asm__("aese %0.16b, %1.16b\n\taesmc %0.16b, %0.16b" : "+w"(half) : "w"(other));
	return half;
}

#define block_round(half, other, sum) round_of(half, other)

#elif defined(__x86_64__)
#include <wmmintrin.h>

typedef __m128i block;

#define block_load(at)     _mm_loadu_si128((const __m128i *)(const void *)(at))
#define block_store(at, b) _mm_storeu_si128((__m128i *)(void *)(at), b)
#define block_xor(a, b)    _mm_xor_si128(a, b)
#define block_and(a, b)    _mm_and_si128(a, b)

#define block_round(half, other, sum) _mm_aesenc_si128(sum, _mm_setzero_si128())
#endif

#include "aead.h"

#if defined(__aarch64__) || defined(__x86_64__)
#define CL_AEGIS(name) cl_aegis128l_##name

#include "aegis128l_body.h"
#endif

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#endif
