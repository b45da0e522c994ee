/* SPDX-License-Identifier: BSD-2-Clause */
#if defined(__GNUC__) && !defined(__clang__)
/* As in tile.c. */
#pragma GCC optimize("no-schedule-insns")
#endif

#include "packed.h"
#include "neon.h"

/* The accumulators of row r are low##r and high##r; names need the row as a literal. */
#define FOR_ROWS(DO, ...)                                                                          \
	DO(0, __VA_ARGS__)                                                                         \
	DO(1, __VA_ARGS__)                                                                         \
	DO(2, __VA_ARGS__)                                                                         \
	DO(3, __VA_ARGS__)                                                                         \
	DO(4, __VA_ARGS__)                                                                         \
	DO(5, __VA_ARGS__)                                                                         \
	DO(6, __VA_ARGS__)                                                                         \
	DO(7, __VA_ARGS__)

#define ACCUMULATORS(r, ...)                                                                       \
	float32x4_t low##r;                                                                        \
	float32x4_t high##r;

#define MULTIPLY(r, b_low, b_high, lane)                                                           \
	if (row_count > (r)) {                                                                     \
		low##r = vmulq_laneq_f32(b_low, a##r, lane);                                       \
		high##r = vmulq_laneq_f32(b_high, a##r, lane);                                     \
	}

#define MULTIPLY_ADD(r, b_low, b_high, lane)                                                       \
	if (row_count > (r)) {                                                                     \
		low##r = vfmaq_laneq_f32(low##r, b_low, a##r, lane);                               \
		high##r = vfmaq_laneq_f32(high##r, b_high, a##r, lane);                            \
	}

/* The empty assembly makes the increment a part of the load. */
#define NEXT(pointer, floats)                                                                      \
	do {                                                                                       \
		(pointer) += (floats);                                                             \
		__asm__("" : "+r"(pointer));                                                       \
	} while (0)

/* Four floats of rows 0 to 3, of rows 4 to 7, or of one row. */
#define LOAD_FOUR(r0, r1, r2, r3)                                                                  \
	{                                                                                          \
		const float32x4x4_t four = vld1q_f32_x4(rows);                                     \
                                                                                                   \
		NEXT(rows, 16);                                                                    \
		r0 = four.val[0];                                                                  \
		r1 = four.val[1];                                                                  \
		r2 = four.val[2];                                                                  \
		r3 = four.val[3];                                                                  \
	}

#define LOAD_ONE(r)                                                                                \
	{                                                                                          \
		r = vld1q_f32(rows);                                                               \
		NEXT(rows, 4);                                                                     \
	}

#define ROW(r, ...) float32x4_t a##r = vdupq_n_f32(0);

/* Four floats of each row, nothing behind the last. */
#define LOAD_ROWS                                                                                  \
	FOR_ROWS(ROW)                                                                              \
	if (row_count >= 4)                                                                        \
		LOAD_FOUR(a0, a1, a2, a3)                                                          \
	if (row_count == 8)                                                                        \
		LOAD_FOUR(a4, a5, a6, a7)                                                          \
	if (row_count < 4)                                                                         \
		LOAD_ONE(a0)                                                                       \
	if (row_count == 2 || row_count == 3)                                                      \
		LOAD_ONE(a1)                                                                       \
	if (row_count == 3)                                                                        \
		LOAD_ONE(a2)                                                                       \
	if (row_count > 4 && row_count < 8)                                                        \
		LOAD_ONE(a4)                                                                       \
	if (row_count == 6 || row_count == 7)                                                      \
		LOAD_ONE(a5)                                                                       \
	if (row_count == 7)                                                                        \
	LOAD_ONE(a6)

#if defined(__aarch64__)
#define IN_ASSEMBLY 1
/*
 * Two steps of depth of eight rows. GCC 12 finds no place for 16 sums and three times four
 * neighbouring registers, though there are 32; told where the columns go, it does. `op` and `sum`
 * are "fmul" and "=&w" for the first step, else "fmla" and "+w".
 */
#define TWO_STEPS_OF_8(op, sum, lane0, lane1)                                                      \
	{                                                                                          \
		register float32x4_t b0 __asm__("v28");                                            \
		register float32x4_t b1 __asm__("v29");                                            \
		register float32x4_t b2 __asm__("v30");                                            \
		register float32x4_t b3 __asm__("v31");                                            \
                                                                                                   \
		__asm__("ld1 {v28.4s - v31.4s}, [%[p]], #64\n\t" FOUR_ROWS(op, lane0, lane1)       \
			: [p] "+r"(columns), [b0] "=&w"(b0), [b1] "=&w"(b1), [b2] "=&w"(b2),       \
			  [b3] "=&w"(b3), [s0] sum(low0), [t0] sum(high0), [s1] sum(low1),         \
			  [t1] sum(high1), [s2] sum(low2), [t2] sum(high2), [s3] sum(low3),        \
			  [t3] sum(high3)                                                          \
			: [a0] "w"(a0), [a1] "w"(a1), [a2] "w"(a2), [a3] "w"(a3)                   \
			: "memory");                                                               \
		__asm__(FOUR_ROWS(op, lane0, lane1)                                                \
			: [s0] sum(low4), [t0] sum(high4), [s1] sum(low5), [t1] sum(high5),        \
			  [s2] sum(low6), [t2] sum(high6), [s3] sum(low7), [t3] sum(high7)         \
			: [b0] "w"(b0), [b1] "w"(b1), [b2] "w"(b2), [b3] "w"(b3), [a0] "w"(a4),    \
			  [a1] "w"(a5), [a2] "w"(a6), [a3] "w"(a7));                               \
	}

#define FOUR_ROWS(op, lane0, lane1)                                                                \
	op " %[s0].4s, %[b0].4s, %[a0].s[" #lane0 "]\n\t" op                                       \
	   " %[t0].4s, %[b1].4s, %[a0].s[" #lane0 "]\n\t" op                                       \
	   " %[s1].4s, %[b0].4s, %[a1].s[" #lane0 "]\n\t" op                                       \
	   " %[t1].4s, %[b1].4s, %[a1].s[" #lane0 "]\n\t" op                                       \
	   " %[s2].4s, %[b0].4s, %[a2].s[" #lane0 "]\n\t" op                                       \
	   " %[t2].4s, %[b1].4s, %[a2].s[" #lane0 "]\n\t" op                                       \
	   " %[s3].4s, %[b0].4s, %[a3].s[" #lane0 "]\n\t" op                                       \
	   " %[t3].4s, %[b1].4s, %[a3].s[" #lane0 "]\n\t"                                          \
	   "fmla %[s0].4s, %[b2].4s, %[a0].s[" #lane1 "]\n\t"                                      \
	   "fmla %[t0].4s, %[b3].4s, %[a0].s[" #lane1 "]\n\t"                                      \
	   "fmla %[s1].4s, %[b2].4s, %[a1].s[" #lane1 "]\n\t"                                      \
	   "fmla %[t1].4s, %[b3].4s, %[a1].s[" #lane1 "]\n\t"                                      \
	   "fmla %[s2].4s, %[b2].4s, %[a2].s[" #lane1 "]\n\t"                                      \
	   "fmla %[t2].4s, %[b3].4s, %[a2].s[" #lane1 "]\n\t"                                      \
	   "fmla %[s3].4s, %[b2].4s, %[a3].s[" #lane1 "]\n\t"                                      \
	   "fmla %[t3].4s, %[b3].4s, %[a3].s[" #lane1 "]"
#else
#define IN_ASSEMBLY                           0
#define TWO_STEPS_OF_8(op, sum, lane0, lane1) (void)0;
#endif

/* Two steps of depth, the first one by FIRST or `op`. */
#define TWO_STEPS(FIRST, op, sum, lane0, lane1)                                                    \
	if (IN_ASSEMBLY && row_count == 8) {                                                       \
		TWO_STEPS_OF_8(op, sum, lane0, lane1)                                              \
	} else {                                                                                   \
		const float32x4x4_t b = vld1q_f32_x4(columns);                                     \
                                                                                                   \
		NEXT(columns, 16);                                                                 \
		FOR_ROWS(FIRST, b.val[0], b.val[1], lane0)                                         \
		FOR_ROWS(MULTIPLY_ADD, b.val[2], b.val[3], lane1)                                  \
	}

/* Four steps of depth. */
#define FOUR_STEPS(FIRST, op, sum)                                                                 \
	{                                                                                          \
		LOAD_ROWS                                                                          \
		TWO_STEPS(FIRST, op, sum, 0, 1)                                                    \
		TWO_STEPS(MULTIPLY_ADD, "fmla", "+w", 2, 3)                                        \
	}

#define STORE(r, ...)                                                                              \
	if (row_count > (r)) {                                                                     \
		vst1q_f32(out + (r)*8, low##r);                                                    \
		vst1q_f32(out + (r)*8 + 4, high##r);                                               \
	}

static inline __attribute__((always_inline)) void run_rows(const float *rows, const float *columns,
							   size_t depth, size_t products,
							   float *out, const unsigned int row_count)
{
	for (; products; products--) {
		size_t left = depth - 4;
		FOR_ROWS(ACCUMULATORS)

		FOUR_STEPS(MULTIPLY, "fmul", "=&w")
		for (; left; left -= 4)
			FOUR_STEPS(MULTIPLY_ADD, "fmla", "+w")
		FOR_ROWS(STORE)
		out += CL_PACKED_ROWS * 8;
	}
}

void cl_packed_tiles(const float *rows, const float *columns, size_t depth, size_t products,
		     unsigned int row_count, float *out)
{
	switch (row_count) {
	case 1:
		run_rows(rows, columns, depth, products, out, 1);
		break;
	case 2:
		run_rows(rows, columns, depth, products, out, 2);
		break;
	case 3:
		run_rows(rows, columns, depth, products, out, 3);
		break;
	case 4:
		run_rows(rows, columns, depth, products, out, 4);
		break;
	case 5:
		run_rows(rows, columns, depth, products, out, 5);
		break;
	case 6:
		run_rows(rows, columns, depth, products, out, 6);
		break;
	case 7:
		run_rows(rows, columns, depth, products, out, 7);
		break;
	default:
		run_rows(rows, columns, depth, products, out, 8);
		break;
	}
}
