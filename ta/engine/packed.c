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
		low##r = vmulq_laneq_f32(b_low, a[(r) / 4].val[(r) % 4], lane);                    \
		high##r = vmulq_laneq_f32(b_high, a[(r) / 4].val[(r) % 4], lane);                  \
	}

#define MULTIPLY_ADD(r, b_low, b_high, lane)                                                       \
	if (row_count > (r)) {                                                                     \
		low##r = vfmaq_laneq_f32(low##r, b_low, a[(r) / 4].val[(r) % 4], lane);            \
		high##r = vfmaq_laneq_f32(high##r, b_high, a[(r) / 4].val[(r) % 4], lane);         \
	}

/* The empty assembly makes the increment a part of the load. */
#define NEXT(pointer, floats)                                                                      \
	do {                                                                                       \
		(pointer) += (floats);                                                             \
		__asm__("" : "+r"(pointer));                                                       \
	} while (0)

/* Four steps of depth, the first one by FIRST. */
#define FOUR_STEPS(FIRST)                                                                          \
	{                                                                                          \
		const struct loaded loaded = load_rows(rows, row_count);                           \
		const float32x4x4_t *const a = loaded.a;                                           \
                                                                                                   \
		NEXT(rows, (size_t)row_count * 4);                                                 \
		{                                                                                  \
			const float32x4x4_t b = vld1q_f32_x4(columns);                             \
                                                                                                   \
			NEXT(columns, 16);                                                         \
			FOR_ROWS(FIRST, b.val[0], b.val[1], 0)                                     \
			FOR_ROWS(MULTIPLY_ADD, b.val[2], b.val[3], 1)                              \
		}                                                                                  \
		{                                                                                  \
			const float32x4x4_t b = vld1q_f32_x4(columns);                             \
                                                                                                   \
			NEXT(columns, 16);                                                         \
			FOR_ROWS(MULTIPLY_ADD, b.val[0], b.val[1], 2)                              \
			FOR_ROWS(MULTIPLY_ADD, b.val[2], b.val[3], 3)                              \
		}                                                                                  \
	}

#define STORE(r, ...)                                                                              \
	if (row_count > (r)) {                                                                     \
		vst1q_f32(out + (r)*8, low##r);                                                    \
		vst1q_f32(out + (r)*8 + 4, high##r);                                               \
	}

struct loaded {
	float32x4x4_t a[2];
};

/* Four floats of each row, nothing behind the last. */
static inline __attribute__((always_inline)) struct loaded load_rows(const float *rows,
								     const unsigned int row_count)
{
	struct loaded loaded;
	unsigned int r = 0;

	/* With all eight rows GCC 12 finds registers for one group of four only, and spills sums.
	 */
	if (row_count >= 4 && row_count < 8) {
		loaded.a[0] = vld1q_f32_x4(rows);
		r = 4;
	}
	for (; r < row_count; r++)
		loaded.a[r / 4].val[r % 4] = vld1q_f32(rows + (size_t)r * 4);
	return loaded;
}

static inline __attribute__((always_inline)) void run_rows(const float *rows, const float *columns,
							   size_t depth, size_t products,
							   float *out, const unsigned int row_count)
{
	for (; products; products--) {
		size_t left = depth - 4;
		FOR_ROWS(ACCUMULATORS)

		FOUR_STEPS(MULTIPLY)
		for (; left; left -= 4)
			FOUR_STEPS(MULTIPLY_ADD)
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
