/* SPDX-License-Identifier: BSD-2-Clause */
#if defined(__GNUC__) && !defined(__clang__)
/* As in tile.c. */
#pragma GCC optimize("no-schedule-insns")
#endif

#include "neon.h"
#include "tile.h"

/* The sums of row r are s##r##0 to s##r##3; names need the row as a literal. */
#define FOR_ROWS(DO, ...)                                                                          \
	DO(0, __VA_ARGS__)                                                                         \
	DO(1, __VA_ARGS__)                                                                         \
	DO(2, __VA_ARGS__)                                                                         \
	DO(3, __VA_ARGS__)

/* The empty assembly makes the increment a part of the load. */
#define NEXT(pointer, floats)                                                                      \
	do {                                                                                       \
		(pointer) += (floats);                                                             \
		__asm__("" : "+r"(pointer));                                                       \
	} while (0)

/* Every row loads the bias once more: a load of two registers is cheaper than two copies. */
#define START(r, ...)                                                                              \
	float32x4_t s##r##0;                                                                       \
	float32x4_t s##r##1;                                                                       \
	float32x4_t s##r##2;                                                                       \
	float32x4_t s##r##3;                                                                       \
                                                                                                   \
	__asm__("" : "+r"(bias));                                                                  \
	s##r##0 = vld1q_f32(bias);                                                                 \
	s##r##1 = vld1q_f32(bias + 4);                                                             \
	s##r##2 = vld1q_f32(bias + 8);                                                             \
	s##r##3 = vld1q_f32(bias + 12);

#define ROW_POINTER(r, ...) const float *row##r = row_count > (r) ? rows[r] + start : NULL;

#define LOAD_8(r, ...)                                                                             \
	float32x4_t a##r = vdupq_n_f32(0);                                                         \
	float32x4_t c##r = a##r;                                                                   \
                                                                                                   \
	if (row_count > (r))                                                                       \
		LOAD_PAIR(row##r, a##r, c##r);

#define LOAD_4(r, ...)                                                                             \
	float32x4_t a##r = vdupq_n_f32(0);                                                         \
                                                                                                   \
	if (row_count > (r)) {                                                                     \
		a##r = vld1q_f32(row##r);                                                          \
		NEXT(row##r, 4);                                                                   \
	}

/* Of four floats the first ones have been used: `step` of them are new. */
#define LOAD_LAST(r, step)                                                                         \
	const float32x4_t a##r = row_count > (r) ? vld1q_f32(row##r + (step)-4) : vdupq_n_f32(0);

#define MULTIPLY_ADD(r, first, second, b, vector, lane)                                            \
	if (row_count > (r)) {                                                                     \
		s##r##first = vfmaq_laneq_f32(s##r##first, b.val[0], vector(r), lane);             \
		s##r##second = vfmaq_laneq_f32(s##r##second, b.val[1], vector(r), lane);           \
	}

#define MULTIPLY_ADD_NEXT(r, first, second, b, vector, lane)                                       \
	if (row_count > (r)) {                                                                     \
		s##r##first = vfmaq_laneq_f32(s##r##first, b.val[2], vector(r), lane);             \
		s##r##second = vfmaq_laneq_f32(s##r##second, b.val[3], vector(r), lane);           \
	}

#define FIRST(r)  a##r
#define SECOND(r) c##r

#if defined(__aarch64__)
#define IN_ASSEMBLY true

#define LOAD_PAIR(pointer, first, second)                                                          \
	__asm__("ldp %q0, %q1, [%2], #32" : "=w"(first), "=w"(second), "+r"(pointer) : : "memory")

/*
 * Two steps of depth of four rows and one panel. GCC 12 finds no place for 16 sums, 8 registers
 * of input and 4 neighbouring ones of weights, though there are 32; told where the weights go, it
 * does.
 */
#define PANEL_STEPS(pointer, first, second, vector, lane0, lane1)                                  \
	__asm__("ld1 {v28.4s - v31.4s}, [%[p]], #64\n\t"                                           \
		"fmla %[s0].4s, v28.4s, %[a0].s[" #lane0 "]\n\t"                                   \
		"fmla %[t0].4s, v29.4s, %[a0].s[" #lane0 "]\n\t"                                   \
		"fmla %[s1].4s, v28.4s, %[a1].s[" #lane0 "]\n\t"                                   \
		"fmla %[t1].4s, v29.4s, %[a1].s[" #lane0 "]\n\t"                                   \
		"fmla %[s2].4s, v28.4s, %[a2].s[" #lane0 "]\n\t"                                   \
		"fmla %[t2].4s, v29.4s, %[a2].s[" #lane0 "]\n\t"                                   \
		"fmla %[s3].4s, v28.4s, %[a3].s[" #lane0 "]\n\t"                                   \
		"fmla %[t3].4s, v29.4s, %[a3].s[" #lane0 "]\n\t"                                   \
		"fmla %[s0].4s, v30.4s, %[a0].s[" #lane1 "]\n\t"                                   \
		"fmla %[t0].4s, v31.4s, %[a0].s[" #lane1 "]\n\t"                                   \
		"fmla %[s1].4s, v30.4s, %[a1].s[" #lane1 "]\n\t"                                   \
		"fmla %[t1].4s, v31.4s, %[a1].s[" #lane1 "]\n\t"                                   \
		"fmla %[s2].4s, v30.4s, %[a2].s[" #lane1 "]\n\t"                                   \
		"fmla %[t2].4s, v31.4s, %[a2].s[" #lane1 "]\n\t"                                   \
		"fmla %[s3].4s, v30.4s, %[a3].s[" #lane1 "]\n\t"                                   \
		"fmla %[t3].4s, v31.4s, %[a3].s[" #lane1 "]"                                       \
		: [p] "+r"(pointer), [s0] "+w"(s0##first), [t0] "+w"(s0##second),                  \
		  [s1] "+w"(s1##first), [t1] "+w"(s1##second), [s2] "+w"(s2##first),               \
		  [t2] "+w"(s2##second), [s3] "+w"(s3##first), [t3] "+w"(s3##second)               \
		:                                                                                  \
		[a0] "w"(vector(0)), [a1] "w"(vector(1)), [a2] "w"(vector(2)), [a3] "w"(vector(3)) \
		: "v28", "v29", "v30", "v31", "memory")

/* One step of the same. */
#define PANEL_STEP(pointer, first, second, vector, lane)                                           \
	__asm__("ld1 {v28.4s - v29.4s}, [%[p]], #32\n\t"                                           \
		"fmla %[s0].4s, v28.4s, %[a0].s[" #lane "]\n\t"                                    \
		"fmla %[t0].4s, v29.4s, %[a0].s[" #lane "]\n\t"                                    \
		"fmla %[s1].4s, v28.4s, %[a1].s[" #lane "]\n\t"                                    \
		"fmla %[t1].4s, v29.4s, %[a1].s[" #lane "]\n\t"                                    \
		"fmla %[s2].4s, v28.4s, %[a2].s[" #lane "]\n\t"                                    \
		"fmla %[t2].4s, v29.4s, %[a2].s[" #lane "]\n\t"                                    \
		"fmla %[s3].4s, v28.4s, %[a3].s[" #lane "]\n\t"                                    \
		"fmla %[t3].4s, v29.4s, %[a3].s[" #lane "]"                                        \
		: [p] "+r"(pointer), [s0] "+w"(s0##first), [t0] "+w"(s0##second),                  \
		  [s1] "+w"(s1##first), [t1] "+w"(s1##second), [s2] "+w"(s2##first),               \
		  [t2] "+w"(s2##second), [s3] "+w"(s3##first), [t3] "+w"(s3##second)               \
		:                                                                                  \
		[a0] "w"(vector(0)), [a1] "w"(vector(1)), [a2] "w"(vector(2)), [a3] "w"(vector(3)) \
		: "v28", "v29", "memory")
#else
#define IN_ASSEMBLY false
#define LOAD_PAIR(pointer, first, second)                                                          \
	do {                                                                                       \
		(first) = vld1q_f32(pointer);                                                      \
		(second) = vld1q_f32((pointer) + 4);                                               \
		(pointer) += 8;                                                                    \
	} while (0)
#define PANEL_STEPS(pointer, first, second, vector, lane0, lane1) (void)0
#define PANEL_STEP(pointer, first, second, vector, lane)          (void)0
#endif

/* Two steps of depth. */
#define TWO_STEPS(vector, lane0, lane1)                                                            \
	if (IN_ASSEMBLY && row_count == 4) {                                                       \
		PANEL_STEPS(near, 0, 1, vector, lane0, lane1);                                     \
		PANEL_STEPS(far, 2, 3, vector, lane0, lane1);                                      \
	} else {                                                                                   \
		TWO_PORTABLE_STEPS(vector, lane0)                                                  \
	}

#define TWO_PORTABLE_STEPS(vector, lane)                                                           \
	{                                                                                          \
		const float32x4x4_t b = vld1q_f32_x4(near);                                        \
                                                                                                   \
		NEXT(near, 16);                                                                    \
		FOR_ROWS(MULTIPLY_ADD, 0, 1, b, vector, lane)                                      \
		FOR_ROWS(MULTIPLY_ADD_NEXT, 0, 1, b, vector, (lane) + 1)                           \
	}                                                                                          \
	{                                                                                          \
		const float32x4x4_t b = vld1q_f32_x4(far);                                         \
                                                                                                   \
		NEXT(far, 16);                                                                     \
		FOR_ROWS(MULTIPLY_ADD, 2, 3, b, vector, lane)                                      \
		FOR_ROWS(MULTIPLY_ADD_NEXT, 2, 3, b, vector, (lane) + 1)                           \
	}

#define ONE_STEP(vector, lane)                                                                     \
	if (IN_ASSEMBLY && row_count == 4) {                                                       \
		PANEL_STEP(near, 0, 1, vector, lane);                                              \
		PANEL_STEP(far, 2, 3, vector, lane);                                               \
	} else {                                                                                   \
		ONE_PORTABLE_STEP(vector, lane)                                                    \
	}

#define ONE_PORTABLE_STEP(vector, lane)                                                            \
	{                                                                                          \
		const float32x4x2_t b = vld1q_f32_x2(near);                                        \
                                                                                                   \
		NEXT(near, 8);                                                                     \
		FOR_ROWS(MULTIPLY_ADD, 0, 1, b, vector, lane)                                      \
	}                                                                                          \
	{                                                                                          \
		const float32x4x2_t b = vld1q_f32_x2(far);                                         \
                                                                                                   \
		NEXT(far, 8);                                                                      \
		FOR_ROWS(MULTIPLY_ADD, 2, 3, b, vector, lane)                                      \
	}

#define LOAD_1(r, ...)                                                                             \
	float32x4_t a##r = vdupq_n_f32(0);                                                         \
                                                                                                   \
	if (row_count > (r)) {                                                                     \
		a##r = vld1q_dup_f32(row##r);                                                      \
		NEXT(row##r, 1);                                                                   \
	}

#define SCALE(r, ...)                                                                              \
	s##r##0 = vmulq_f32(s##r##0, b.val[0]);                                                    \
	s##r##1 = vmulq_f32(s##r##1, b.val[1]);                                                    \
	s##r##2 = vmulq_f32(s##r##2, b.val[2]);                                                    \
	s##r##3 = vmulq_f32(s##r##3, b.val[3]);

#define RELU(r, ...)                                                                               \
	s##r##0 = vmaxq_f32(s##r##0, least);                                                       \
	s##r##1 = vmaxq_f32(s##r##1, least);                                                       \
	s##r##2 = vmaxq_f32(s##r##2, least);                                                       \
	s##r##3 = vmaxq_f32(s##r##3, least);

#define CAP(r, ...)                                                                                \
	s##r##0 = vminq_f32(s##r##0, most);                                                        \
	s##r##1 = vminq_f32(s##r##1, most);                                                        \
	s##r##2 = vminq_f32(s##r##2, most);                                                        \
	s##r##3 = vminq_f32(s##r##3, most);

#define STORE(r, ...)                                                                              \
	if (row_count > (r)) {                                                                     \
		vst1q_f32(to##r, s##r##0);                                                         \
		vst1q_f32(to##r + 4, s##r##1);                                                     \
		vst1q_f32(to##r + 8, s##r##2);                                                     \
		vst1q_f32(to##r + 12, s##r##3);                                                    \
	}

/* What stays the same from tile to tile; the compiler may not see that tile->... does. */
struct shape {
	size_t taps;
	size_t start;
	size_t eights; /* floats behind each pointer: 8 * eights + 4 * fours + rest + singles */
	size_t uneven;
	size_t fours;
	size_t rest;    /* 1 to 3 behind at least four */
	size_t singles; /* all, if there are fewer than four */
	size_t panel;   /* floats of a panel of weights */
	size_t stride;
	enum cl_fused fused;
	const struct cl_fusion *fusion;
	uintptr_t to_scales; /* from a column's bias to its scale, in bytes; 0: there are none */
};

/*
 * row_count is a literal in each instance, so that the rows which are not there vanish. 16
 * accumulators, 8 registers of input and 4 of weights are as many as there are in use: 8
 * steps of depth are 128 multiply-adds and 12 loads.
 */
static inline __attribute__((always_inline)) void run_rows(const struct shape shape,
							   const float *const *rows,
							   const float *near, const float *bias,
							   float *to0, const unsigned int row_count)
{
	const size_t start = shape.start;
	const float *far = near + shape.panel;
	size_t tap = shape.taps;
	FOR_ROWS(START)

	do {
		size_t eights = shape.eights;

		FOR_ROWS(ROW_POINTER)
		for (; eights; eights--) {
			FOR_ROWS(LOAD_8)
			TWO_STEPS(FIRST, 0, 1)
			TWO_STEPS(FIRST, 2, 3)
			TWO_STEPS(SECOND, 0, 1)
			TWO_STEPS(SECOND, 2, 3)
		}
		if (shape.uneven) {
			if (shape.fours) {
				FOR_ROWS(LOAD_4)
				TWO_STEPS(FIRST, 0, 1)
				TWO_STEPS(FIRST, 2, 3)
			}
			if (shape.rest == 1) {
				FOR_ROWS(LOAD_LAST, 1)
				ONE_STEP(FIRST, 3)
			} else if (shape.rest == 2) {
				FOR_ROWS(LOAD_LAST, 2)
				ONE_STEP(FIRST, 2)
				ONE_STEP(FIRST, 3)
			} else if (shape.rest == 3) {
				FOR_ROWS(LOAD_LAST, 3)
				ONE_STEP(FIRST, 1)
				ONE_STEP(FIRST, 2)
				ONE_STEP(FIRST, 3)
			} else {
				size_t single = shape.singles;

				for (; single; single--) {
					FOR_ROWS(LOAD_1)
					ONE_STEP(FIRST, 0)
				}
			}
		}
		rows += CL_TILE_ROWS;
	} while (--tap);

	if (shape.to_scales) {
		const float32x4x4_t b =
			vld1q_f32_x4((const float *)((uintptr_t)bias + shape.to_scales));

		FOR_ROWS(SCALE)
	}
	if (shape.fused == CL_FUSED_RELU || shape.fused == CL_FUSED_CLIP) {
		const struct cl_fusion *fusion = shape.fusion;

		/* The bounds are loaded here: there is no register to keep them in. */
		__asm__("" : "+r"(fusion));
		const float32x4_t least = vld1q_dup_f32(&fusion->low);

		FOR_ROWS(RELU)
		if (shape.fused == CL_FUSED_CLIP) {
			const float32x4_t most = vld1q_dup_f32(&fusion->high);

			FOR_ROWS(CAP)
		}
	}
	float *const to1 = to0 + shape.stride;
	float *to2 = to1;

	/* Not hoisted out of the loop over columns, where it would cost a register. */
	__asm__("" : "+r"(to2));
	to2 += shape.stride;
	float *const to3 = to2 + shape.stride;

	FOR_ROWS(STORE)
}

size_t cl_tile_run_wide(const struct cl_tile *tile, unsigned int row_count)
{
	static const float no_bias[CL_TILE_WIDE] = {0};
	const struct shape shape = {
		.taps = tile->taps,
		.start = tile->start,
		.eights = tile->depth / 8,
		.uneven = tile->depth % 8,
		.fours = tile->depth / 4 % 2,
		.rest = tile->depth >= 4 ? tile->depth % 4 : 0,
		.singles = tile->depth >= 4 ? 0 : tile->depth,
		.panel = tile->taps * tile->depth * CL_TILE_COLUMNS,
		.stride = tile->out_stride,
		.fused = tile->fusion->kind,
		.fusion = tile->fusion,
		.to_scales = tile->scales ? (uintptr_t)tile->scales - (uintptr_t)tile->bias : 0,
	};
	const float *const *const rows = tile->rows;
	const size_t bias_step = tile->bias ? CL_TILE_WIDE : 0;
	const size_t columns = tile->columns / CL_TILE_WIDE * CL_TILE_WIDE;
	const float *bias = tile->bias ? tile->bias : no_bias;
	const float *weights = tile->weights;
	float *out = tile->out;
	size_t column = 0;

	for (column = 0; column < columns; column += CL_TILE_WIDE) {
		unsigned int row = 0;

		for (; row + 4 <= row_count; row += 4)
			run_rows(shape, rows + row, weights, bias, out + row * shape.stride, 4);
		if (row_count - row == 3)
			run_rows(shape, rows + row, weights, bias, out + row * shape.stride, 3);
		else if (row_count - row == 2)
			run_rows(shape, rows + row, weights, bias, out + row * shape.stride, 2);
		else if (row_count - row == 1)
			run_rows(shape, rows + row, weights, bias, out + row * shape.stride, 1);
		weights += 2 * shape.panel;
		bias += bias_step;
		out += CL_TILE_WIDE;
	}
	return columns;
}
