/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * REDUCE: sums and means are accumulated in double and rounded once. Max and Min
 * give NaN where one of the values is NaN, as numpy does.
 */
#include "element.h"
#include "vmath.h"
#include "walk.h"

#define BLOCK 8 /* columns reduced together */

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_reduce *reduce = (const struct cl_reduce *)op;
	uint64_t in_count = 1;
	uint64_t out_count = 1;
	uint32_t i = 0;

	if (reduce->kind > CL_REDUCE_MIN)
		return CL_BAD_KERNEL;
	if (reduce->reserved || reduce->rank > CL_MAX_RANK || reduce->axes >> reduce->rank ||
	    !cl_product(reduce->dims, reduce->rank, &in_count) ||
	    !cl_rest_is_zero(reduce->dims, reduce->rank))
		return CL_BAD_FORMAT;
	for (i = 0; i < reduce->rank; i++)
		if (!(reduce->axes >> i & 1))
			out_count *= reduce->dims[i]; /* divides in_count */
	if (!cl_can_read(&reduce->in, memory, in_count, sizeof(float)) ||
	    !cl_can_write(&reduce->out, memory, out_count, sizeof(float)) ||
	    cl_refs_overlap(&reduce->in, &reduce->out))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* What four columns have come to so far. */
struct partial {
	float64x2_t low; /* sums */
	float64x2_t high;
	float32x4_t extreme; /* largest or smallest */
};

static inline void partial_init(struct partial *partial, float32x4_t extreme)
{
	partial->low = vdupq_n_f64(0);
	partial->high = vdupq_n_f64(0);
	partial->extreme = extreme;
}

/* Inlined with a constant kind. */
static inline __attribute__((always_inline)) void partial_take(struct partial *partial,
							       uint32_t kind, float32x4_t values)
{
	if (kind == CL_REDUCE_MAX) {
		partial->extreme = cl_max4(partial->extreme, values);
	} else if (kind == CL_REDUCE_MIN) {
		partial->extreme = cl_min4(partial->extreme, values);
	} else {
		partial->low = vaddq_f64(partial->low, vcvt_f64_f32(vget_low_f32(values)));
		partial->high = vaddq_f64(partial->high, vcvt_f64_f32(vget_high_f32(values)));
	}
}

/* The value that changes no result of that kind. */
static float neutral(uint32_t kind)
{
	if (kind == CL_REDUCE_MAX)
		return -__builtin_inff();
	return kind == CL_REDUCE_MIN ? __builtin_inff() : 0;
}

/* One result for each of the four columns: sums are divided by `count`. */
static inline float32x4_t partial_columns(const struct partial *partial, uint32_t kind,
					  double count)
{
	float64x2_t low = partial->low;
	float64x2_t high = partial->high;

	if (kind == CL_REDUCE_MAX || kind == CL_REDUCE_MIN)
		return partial->extreme;
	if (count > 1) { /* a mean */
		double lanes[CL_LANES] = {0};
		unsigned int i = 0;

		vst1q_f64(lanes, low);
		vst1q_f64(lanes + 2, high);
		for (i = 0; i < CL_LANES; i++)
			lanes[i] /= count;
		low = vld1q_f64(lanes);
		high = vld1q_f64(lanes + 2);
	}
	return vcombine_f32(vcvt_f32_f64(low), vcvt_f32_f64(high));
}

/* One result for the four columns together: a sum is divided by `count`. */
static float partial_all(const struct partial *partial, uint32_t kind, double count)
{
	float64x2_t pair = vaddq_f64(partial->low, partial->high);
	double sum = vgetq_lane_f64(pair, 0) + vgetq_lane_f64(pair, 1);
	float32x4_t extreme = partial->extreme;
	float32x4_t other = vextq_f32(extreme, extreme, 2);

	if (kind == CL_REDUCE_MAX || kind == CL_REDUCE_MIN) {
		bool max = kind == CL_REDUCE_MAX;

		extreme = max ? cl_max4(extreme, other) : cl_min4(extreme, other);
		other = vextq_f32(extreme, extreme, 1);
		extreme = max ? cl_max4(extreme, other) : cl_min4(extreme, other);
		return vgetq_lane_f32(extreme, 0);
	}
	return (float)(sum / count);
}

/* The innermost dimension is reduced: `row` elements lie together, `rows` says where. */
static inline __attribute__((always_inline)) float
reduce_rows(const float *in, uint32_t kind, struct cl_walk *rows, size_t row, double count)
{
	const float fill = neutral(kind);
	struct partial even = {0};
	struct partial odd = {0};

	partial_init(&even, vdupq_n_f32(fill));
	partial_init(&odd, vdupq_n_f32(fill));
	do {
		const float *from = in + rows->offset[0];
		size_t i = 0;

		for (; i + 2 * CL_LANES <= row; i += 2 * CL_LANES) {
			partial_take(&even, kind, vld1q_f32(from + i));
			partial_take(&odd, kind, vld1q_f32(from + i + CL_LANES));
		}
		while (i < row) {
			size_t some = row - i < CL_LANES ? row - i : CL_LANES;

			partial_take(&even, kind, cl_load_some(from + i, some, fill));
			i += some;
		}
	} while (cl_walk_next(rows));

	if (kind == CL_REDUCE_MAX)
		even.extreme = cl_max4(even.extreme, odd.extreme);
	if (kind == CL_REDUCE_MIN)
		even.extreme = cl_min4(even.extreme, odd.extreme);
	even.low = vaddq_f64(even.low, odd.low);
	even.high = vaddq_f64(even.high, odd.high);
	return partial_all(&even, kind, count);
}

/* The innermost dimension is kept: reduces `columns` neighbouring columns. */
static inline __attribute__((always_inline)) void
reduce_columns(const float *in, uint32_t kind, struct cl_walk *rows, const struct cl_run *inner,
	       float *out, size_t columns, double count)
{
	const float32x4_t fill = vdupq_n_f32(neutral(kind));
	size_t begin = 0;
	uint32_t i = 0;

	for (begin = 0; begin + BLOCK <= columns; begin += BLOCK) {
		struct partial first = {0};
		struct partial second = {0};

		partial_init(&first, fill);
		partial_init(&second, fill);
		do {
			const float *from = in + rows->offset[0] + begin;

			for (i = 0; i < inner->count; i++, from += inner->strides[0]) {
				partial_take(&first, kind, vld1q_f32(from));
				partial_take(&second, kind, vld1q_f32(from + CL_LANES));
			}
		} while (cl_walk_next(rows));
		vst1q_f32(out + begin, partial_columns(&first, kind, count));
		vst1q_f32(out + begin + CL_LANES, partial_columns(&second, kind, count));
	}
	while (begin < columns) {
		size_t some = columns - begin < CL_LANES ? columns - begin : CL_LANES;
		struct partial last = {0};

		partial_init(&last, fill);
		do {
			const float *from = in + rows->offset[0] + begin;

			for (i = 0; i < inner->count; i++)
				partial_take(&last, kind,
					     cl_load_some(from + i * inner->strides[0], some, 0));
		} while (cl_walk_next(rows));
		cl_store_some(out + begin, partial_columns(&last, kind, count), some);
		begin += some;
	}
}

/* Splits the shape into the dimensions kept and those reduced; returns the values per result. */
static uint64_t plan(const struct cl_reduce *reduce, struct cl_walk *kept, struct cl_walk *reduced)
{
	int64_t strides[CL_MAX_RANK] = {0};
	int64_t stride = 1;
	uint64_t count = 1;
	uint32_t i = reduce->rank;

	while (i--) {
		strides[i] = stride;
		stride *= reduce->dims[i];
	}
	for (i = 0; i < reduce->rank; i++) {
		if (reduce->axes >> i & 1) {
			cl_walk_append(reduced, reduce->dims[i], strides[i], 0);
			count *= reduce->dims[i];
		} else {
			cl_walk_append(kept, reduce->dims[i], strides[i], 0);
		}
	}
	return count;
}

static inline __attribute__((always_inline)) void
run_kind(const struct cl_reduce *reduce, uint32_t kind, const float *in, float *out)
{
	struct cl_walk kept = {0};
	struct cl_walk reduced = {0};
	double count = (double)plan(reduce, &kept, &reduced);

	if (reduce->kind != CL_REDUCE_MEAN)
		count = 1;

	if (kept.rank && kept.strides[0][kept.rank - 1] == 1) {
		struct cl_run columns = cl_walk_take_inner(&kept);
		struct cl_run inner = cl_walk_take_inner(&reduced);

		do {
			reduce_columns(in + kept.offset[0], kind, &reduced, &inner, out,
				       columns.count, count);
			out += columns.count;
		} while (cl_walk_next(&kept));
	} else {
		struct cl_run row = cl_walk_take_inner(&reduced);

		do
			*out++ = reduce_rows(in + kept.offset[0], kind, &reduced, row.count, count);
		while (cl_walk_next(&kept));
	}
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_reduce *reduce = (const struct cl_reduce *)op;
	const float *in = cl_source(&reduce->in, memory);
	float *out = cl_target(&reduce->out, memory);

	switch (reduce->kind) {
	case CL_REDUCE_MAX:
		run_kind(reduce, CL_REDUCE_MAX, in, out);
		break;
	case CL_REDUCE_MIN:
		run_kind(reduce, CL_REDUCE_MIN, in, out);
		break;
	default: /* CL_REDUCE_MEAN too: a sum that is divided at the end */
		run_kind(reduce, CL_REDUCE_SUM, in, out);
		break;
	}
}

const struct cl_kernel_ops cl_reduce_kernel = {
	.record_size = sizeof(struct cl_reduce),
	.check = check,
	.run = run,
};
