/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both operands lie with the depth innermost, so that a product of two vectors
 * is 16 products of one sum: two widening multiplies and one pairwise add. The four
 * partial sums of every output are added up at the end.
 */
#include "cpu.h"
#include "engine.h"
#include "panel_s8.h"

#define ROWS CL_S8_TILE_ROWS

#define STEP_SIZE ((size_t)CL_S8_COLUMNS * CL_S8_STEP) /* bytes of a panel's weights */

/* Adds 16 products to the partial sums of each of four columns, in an order that waits for none. */
static inline __attribute__((always_inline)) void
add_products(int32x4_t *sums, int8x16_t a, const int8_t *weights, const bool any)
{
	const int8x16_t b[CL_S8_COLUMNS] = {
		vld1q_s8(weights),
		vld1q_s8(weights + CL_S8_STEP),
		vld1q_s8(weights + 2 * CL_S8_STEP),
		vld1q_s8(weights + 3 * CL_S8_STEP),
	};
	int16x8_t products[CL_S8_COLUMNS];
	unsigned int c = 0;

	for (c = 0; c < CL_S8_COLUMNS; c++)
		products[c] = vmull_s8(vget_low_s8(a), vget_low_s8(b[c]));
	if (any) { /* -128 * -128 twice is beyond 16 bits */
		for (c = 0; c < CL_S8_COLUMNS; c++) {
			sums[c] = vpadalq_s16(sums[c], products[c]);
			products[c] = vmull_high_s8(a, b[c]);
		}
	} else {
		for (c = 0; c < CL_S8_COLUMNS; c++)
			products[c] = vmlal_high_s8(products[c], a, b[c]);
	}
	for (c = 0; c < CL_S8_COLUMNS; c++)
		sums[c] = vpadalq_s16(sums[c], products[c]);
}

#if defined(__aarch64__)
/*
 * Four rows in assembly: the inner loop takes all 32 registers, 16 of them for the
 * sums, and GCC 12 moves sums out of registers in every form that we tried (up to a
 * third more instructions). Two steps at a time, so that loads come in pairs.
 *
 * v0-v3 products; v4, v5 and v14, v15 the bytes of even and odd rows; v6-v9 and
 * v10-v13 the weights of the two steps; v20-v31 and one operand for each row the sums.
 * SUM is saddlp in the first turn, which begins the sums, and sadalp then.
 */
#define ASM_MULTIPLY(A, B0, B1, B2, B3)                                                            \
	"smull  v0.8h, " A ".8b, " B0 ".8b\n"                                                      \
	"smull  v1.8h, " A ".8b, " B1 ".8b\n"                                                      \
	"smull  v2.8h, " A ".8b, " B2 ".8b\n"                                                      \
	"smull  v3.8h, " A ".8b, " B3 ".8b\n"                                                      \
	"smlal2 v0.8h, " A ".16b, " B0 ".16b\n"                                                    \
	"smlal2 v1.8h, " A ".16b, " B1 ".16b\n"                                                    \
	"smlal2 v2.8h, " A ".16b, " B2 ".16b\n"                                                    \
	"smlal2 v3.8h, " A ".16b, " B3 ".16b\n"
#define ASM_FIRST(A)  ASM_MULTIPLY(A, "v6", "v7", "v8", "v9")
#define ASM_SECOND(A) ASM_MULTIPLY(A, "v10", "v11", "v12", "v13")

#define ASM_SUM_ROW(SUM, S0, S1, S2, S3)                                                           \
	SUM " " S0 ".4s, v0.8h\n" SUM " " S1 ".4s, v1.8h\n" SUM " " S2 ".4s, v2.8h\n" SUM " " S3   \
	    ".4s, v3.8h\n"
#define ASM_SUM_0(SUM) ASM_SUM_ROW(SUM, "%[sum0]", "v20", "v21", "v22")
#define ASM_SUM_1(SUM) ASM_SUM_ROW(SUM, "%[sum1]", "v23", "v24", "v25")
#define ASM_SUM_2(SUM) ASM_SUM_ROW(SUM, "%[sum2]", "v26", "v27", "v28")
#define ASM_SUM_3(SUM) ASM_SUM_ROW(SUM, "%[sum3]", "v29", "v30", "v31")

#define ASM_ONE_STEP(SUM)                                                                          \
	"ldr q4, [%[row0]], #16\n"                                                                 \
	"ldp q8, q9, [%[weights], #32]\n"                                                          \
	"ldp q6, q7, [%[weights]], #64\n"                                                          \
	"ldr q14, [%[row1]], #16\n" ASM_FIRST("v4") "ldr q5, [%[row2]], #16\n" ASM_SUM_0(SUM)      \
		ASM_FIRST("v14") "ldr q15, [%[row3]], #16\n" ASM_SUM_1(SUM) ASM_FIRST("v5")        \
			ASM_SUM_2(SUM) ASM_FIRST("v15") ASM_SUM_3(SUM)

#define ASM_TWO_STEPS(SUM)                                                                         \
	"ldp q4, q5, [%[row0]], #32\n"                                                             \
	"ldp q8, q9, [%[weights], #32]\n"                                                          \
	"ldp q10, q11, [%[weights], #64]\n"                                                        \
	"ldp q12, q13, [%[weights], #96]\n"                                                        \
	"ldp q6, q7, [%[weights]], #128\n" ASM_FIRST(                                              \
		"v4") "ldp q14, q15, [%[row1]], #32\n" ASM_SUM_0(SUM) ASM_SECOND("v5")             \
		ASM_SUM_0("sadalp") ASM_FIRST("v14") "ldp q4, q5, [%[row2]], #32\n" ASM_SUM_1(SUM) \
			ASM_SECOND("v15") ASM_SUM_1("sadalp")                                      \
				ASM_FIRST("v4") "ldp q14, q15, [%[row3]], #32\n" ASM_SUM_2(SUM)    \
					ASM_SECOND("v5") ASM_SUM_2("sadalp") ASM_FIRST("v14")      \
						ASM_SUM_3(SUM) ASM_SECOND("v15")                   \
							ASM_SUM_3("sadalp")

/* The partial sums of a row to its four sums. */
#define ASM_ADD_UP(S0, S1, S2, S3)                                                                 \
	"addp " S0 ".4s, " S0 ".4s, " S1 ".4s\n"                                                   \
	"addp " S2 ".4s, " S2 ".4s, " S3 ".4s\n"                                                   \
	"addp " S0 ".4s, " S0 ".4s, " S2 ".4s\n"

/* The same where the products of two steps can be added up before they are widened. */
#define ASM_FOURS_ROW(SUM_ROW, SUM, A0, A1, LOAD)                                                  \
	ASM_FIRST(A0)                                                                              \
	LOAD "smlal  v0.8h, " A1 ".8b, v10.8b\n"                                                   \
	     "smlal  v1.8h, " A1 ".8b, v11.8b\n"                                                   \
	     "smlal  v2.8h, " A1 ".8b, v12.8b\n"                                                   \
	     "smlal  v3.8h, " A1 ".8b, v13.8b\n"                                                   \
	     "smlal2 v0.8h, " A1 ".16b, v10.16b\n"                                                 \
	     "smlal2 v1.8h, " A1 ".16b, v11.16b\n"                                                 \
	     "smlal2 v2.8h, " A1 ".16b, v12.16b\n"                                                 \
	     "smlal2 v3.8h, " A1 ".16b, v13.16b\n" SUM_ROW(SUM)

#define ASM_TWO_STEPS_FOURS(SUM)                                                                   \
	"ldp q4, q5, [%[row0]], #32\n"                                                             \
	"ldp q8, q9, [%[weights], #32]\n"                                                          \
	"ldp q10, q11, [%[weights], #64]\n"                                                        \
	"ldp q12, q13, [%[weights], #96]\n"                                                        \
	"ldp q6, q7, [%[weights]], #128\n" ASM_FOURS_ROW(ASM_SUM_0, SUM, "v4", "v5",               \
							 "ldp q14, q15, [%[row1]], #32\n")         \
		ASM_FOURS_ROW(ASM_SUM_1, SUM, "v14", "v15", "ldp q4, q5, [%[row2]], #32\n")        \
			ASM_FOURS_ROW(ASM_SUM_2, SUM, "v4", "v5",                                  \
				      "ldp q14, q15, [%[row3]], #32\n")                            \
				ASM_FOURS_ROW(ASM_SUM_3, SUM, "v14", "v15", "")

_Static_assert(CL_S8_ROWS * sizeof(int8_t *) == 256, "the distance in ASM_NEXT_TAP");
/* The rows under the next tap: of the tap's CL_S8_ROWS pointers the first four. */
#define ASM_NEXT_TAP                                                                               \
	"ldp %[row2], %[row3], [%[rows], #16]\n"                                                   \
	"ldp %[row0], %[row1], [%[rows]], #256\n"                                                  \
	"lsr %[pairs], %[steps], #1\n"

/* An odd step comes first, as cloister_format.h says of CL_WEIGHTS_S8_FOURS. */
#define ASM_FOUR_ROWS(TWO_STEPS)                                                                                             \
	__asm__(ASM_NEXT_TAP "tbz %[steps], #0, 1f\n" ASM_ONE_STEP(                                                          \
			"saddlp") "cbnz %[pairs], 2f\n"                                                                      \
				  "b 3f\n"                                                                                   \
				  "1:\n" TWO_STEPS(                                                                          \
					  "saddlp") "subs %[pairs], %[pairs], #1\n"                                          \
						    "b.eq 3f\n"                                                              \
						    "2:\n" TWO_STEPS(                                                        \
							    "sadalp") "subs %[pairs], %[pairs], "                            \
								      "#1\n"                                                 \
								      "b.ne 2b\n"                                            \
								      "3:\n"                                                 \
								      "subs %[taps], %[taps], "                              \
								      "#1\n"                                                 \
								      "b.eq 4f\n" ASM_NEXT_TAP                               \
								      "tbz %[steps], #0, "                                   \
								      "2b\n" ASM_ONE_STEP(                                   \
									      "sadalp") "cbnz "                              \
											"%[pairs]"                           \
											", 2b\n"                             \
											"b 3b\n"                             \
											"4:"                                 \
											"\n" ASM_ADD_UP(                     \
												"%[sum0]",                   \
												"v20",                       \
												"v21",                       \
												"v22") ASM_ADD_UP("%[sum1]", \
														  "v23",     \
														  "v24",     \
														  "v25")     \
												ASM_ADD_UP(                  \
													"%[sum2]",           \
													"v26",               \
													"v27",               \
													"v28")               \
													ASM_ADD_UP(          \
														"%[sum3]",   \
														"v29",       \
														"v30",       \
														"v31")       \
		: [sum0] "=&w"(sums[0]), [sum1] "=&w"(sums[1]), [sum2] "=&w"(sums[2]),                                       \
		  [sum3] "=&w"(sums[3]), [row0] "=&r"(row0), [row1] "=&r"(row1),                                             \
		  [row2] "=&r"(row2), [row3] "=&r"(row3), [weights] "+r"(weights),                                           \
		  [pairs] "=&r"(pairs), [rows] "+r"(rows), [taps] "+r"(taps)                                                 \
		: [steps] "r"(tile->steps)                                                                                   \
		: "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12",                           \
		  "v13", "v14", "v15", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",                               \
		  "v28", "v29", "v30", "v31", "cc", "memory")

static inline __attribute__((always_inline)) void sum_four_rows(const struct cl_tile_s8 *tile,
								const int8_t *const *rows,
								const int8_t *weights,
								int32x4_t *sums, const bool fours)
{
	size_t taps = tile->taps;
	const int8_t *row0;
	const int8_t *row1;
	const int8_t *row2;
	const int8_t *row3;
	size_t pairs;

	if (fours)
		ASM_FOUR_ROWS(ASM_TWO_STEPS_FOURS);
	else
		ASM_FOUR_ROWS(ASM_TWO_STEPS);
}
#endif

/* The sums of four columns from their partial sums. */
static inline int32x4_t add_up(const int32x4_t *partial)
{
	return vpaddq_s32(vpaddq_s32(partial[0], partial[1]), vpaddq_s32(partial[2], partial[3]));
}

/* The sums of up to ROWS rows times a panel, by intrinsics. */
static inline __attribute__((always_inline)) void
sum_rows(const struct cl_tile_s8 *tile, const int8_t *const *rows, const int8_t *weights,
	 int32x4_t *sums, const unsigned int row_count, const bool any)
{
	int32x4_t partial[ROWS][CL_S8_COLUMNS];
	size_t tap = 0;
	size_t i = 0;
	unsigned int r = 0;
	unsigned int c = 0;

	for (r = 0; r < row_count; r++)
		for (c = 0; c < CL_S8_COLUMNS; c++)
			partial[r][c] = vdupq_n_s32(0);
	for (tap = 0; tap < tile->taps; tap++, rows += CL_S8_ROWS) {
		for (i = 0; i < tile->steps; i++, weights += STEP_SIZE)
			for (r = 0; r < row_count; r++)
				add_products(partial[r], vld1q_s8(rows[r] + i * CL_S8_STEP),
					     weights, any);
	}
	for (r = 0; r < row_count; r++)
		sums[r] = add_up(partial[r]);
}

/* One panel for 1 to ROWS rows; row_count and kind are literals. */
static inline __attribute__((always_inline)) void
run_panel(const struct cl_tile_s8 *tile, const int8_t *const *rows, const struct cl_panel_s8 *panel,
	  int8_t *out, const unsigned int row_count, const uint32_t kind)
{
	int32x4_t sums[ROWS];

#if defined(__aarch64__)
	if (row_count == ROWS && kind != CL_WEIGHTS_S8_ANY)
		sum_four_rows(tile, rows, panel->weights, sums, kind == CL_WEIGHTS_S8_FOURS);
	else
#endif
		sum_rows(tile, rows, panel->weights, sums, row_count, kind == CL_WEIGHTS_S8_ANY);
	cl_panel_s8_finish(tile, panel, sums, out, row_count);
}

/* One panel for up to CL_S8_ROWS rows; kind is a literal. */
static inline __attribute__((always_inline)) void
run_rows(const struct cl_tile_s8 *tile, size_t index, unsigned int row_count, const uint32_t kind)
{
	const struct cl_panel_s8 panel = cl_panel_s8_at(tile, index);
	const int8_t *const *rows = tile->rows;
	int8_t *out = tile->out + index * CL_S8_COLUMNS;

	for (; row_count >= ROWS; row_count -= ROWS) {
		run_panel(tile, rows, &panel, out, ROWS, kind);
		rows += ROWS;
		out += ROWS * tile->out_stride;
	}
	if (row_count == 3)
		run_panel(tile, rows, &panel, out, 3, kind);
	else if (row_count == 2)
		run_panel(tile, rows, &panel, out, 2, kind);
	else if (row_count == 1)
		run_panel(tile, rows, &panel, out, 1, kind);
}

void cl_tile_s8_run(const struct cl_tile_s8 *tile, unsigned int row_count)
{
	const size_t panels = (tile->columns + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS;
	size_t panel = 0;

	if (cl_cpu_features & CL_CPU_DOTPROD) {
		cl_tile_s8_run_dot(tile, row_count);
		return;
	}
	for (panel = 0; panel < panels; panel++) {
		switch (tile->kinds ? tile->kinds[panel] : tile->weights_kind) {
		case CL_WEIGHTS_S8_SYMMETRIC:
			run_rows(tile, panel, row_count, CL_WEIGHTS_S8_SYMMETRIC);
			break;
		case CL_WEIGHTS_S8_FOURS:
			run_rows(tile, panel, row_count, CL_WEIGHTS_S8_FOURS);
			break;
		default:
			run_rows(tile, panel, row_count, CL_WEIGHTS_S8_ANY);
			break;
		}
	}
}
