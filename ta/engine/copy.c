/* SPDX-License-Identifier: BSD-2-Clause */
/* COPY: strided copy of elements, whose bits are never changed. */
#include <string.h>

#include "element.h"
#include "neon.h"
#include "walk.h"

#define LANES 4

/* Runs shorter than this are copied in line; memcpy's own checks cost more. */
#define SHORT_RUN 32

/* Columns of a transposition done together: one 64-byte line of 4-byte elements. */
#define TRANSPOSE_COLUMNS 16

/*
 * The elements that a side touches, from start over all dimensions, lie inside
 * the run: the lowest and the highest of them do. Eight dimensions of 2^32 with
 * strides of 2^31 would overflow int64_t, hence the checked sums.
 */
static bool side_inside(const struct cl_copy *copy, const struct cl_ref *ref,
			const int32_t *strides, uint32_t start, const struct cl_memory *memory)
{
	int64_t low = start;
	int64_t high = start;
	int64_t step = 0;
	uint32_t i = 0;

	for (i = 0; i < copy->rank; i++) {
		int64_t *end = strides[i] < 0 ? &low : &high;

		if (__builtin_mul_overflow((int64_t)copy->dims[i] - 1, (int64_t)strides[i],
					   &step) ||
		    __builtin_add_overflow(*end, step, end))
			return false;
	}
	return low >= 0 && high < INT64_MAX &&
	       cl_can_read(ref, memory, (uint64_t)high + 1, copy->elem_size);
}

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_copy *copy = (const struct cl_copy *)op;
	uint64_t count = 0;
	uint32_t i = 0;

	if (!cl_element_size_valid(copy->elem_size))
		return CL_BAD_KERNEL;
	if (copy->rank > CL_MAX_RANK || !cl_product(copy->dims, copy->rank, &count) ||
	    !cl_rest_is_zero(copy->dims, copy->rank))
		return CL_BAD_FORMAT;
	for (i = 0; i < CL_MAX_RANK; i++) {
		if (i >= copy->rank && (copy->in_strides[i] || copy->out_strides[i]))
			return CL_BAD_FORMAT;
		/* Writing one element again and again has no meaning. */
		if (i < copy->rank && copy->dims[i] > 1 && !copy->out_strides[i])
			return CL_BAD_FORMAT;
	}
	/* No more elements than out holds: overlapping strides must not make the loops long. */
	if (!cl_can_write(&copy->out, memory, count, copy->elem_size) ||
	    !side_inside(copy, &copy->out, copy->out_strides, copy->out_start, memory) ||
	    !side_inside(copy, &copy->in, copy->in_strides, copy->in_start, memory) ||
	    cl_refs_overlap(&copy->in, &copy->out))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* count elements of a constant size, strides in bytes. */
static inline __attribute__((always_inline)) void copy_elements(const uint8_t *in, int64_t in_step,
								uint8_t *out, int64_t out_step,
								size_t count, size_t size)
{
	size_t i = 0;

	for (i = 0; i < count; i++)
		memcpy(out + (int64_t)i * out_step, in + (int64_t)i * in_step, size);
}

static void copy_strided(const uint8_t *in, int64_t in_step, uint8_t *out, int64_t out_step,
			 size_t count, uint32_t size)
{
	switch (size) {
	case 1:
		copy_elements(in, in_step, out, out_step, count, 1);
		break;
	case 2:
		copy_elements(in, in_step, out, out_step, count, 2);
		break;
	case 4:
		copy_elements(in, in_step, out, out_step, count, 4);
		break;
	default:
		copy_elements(in, in_step, out, out_step, count, 8);
		break;
	}
}

/* Dense on both sides: whole words, which one element never exceeds, then the rest. */
static void copy_dense(const uint8_t *in, uint8_t *out, size_t bytes)
{
	if (bytes >= SHORT_RUN) {
		memcpy(out, in, bytes);
		return;
	}
	for (; bytes >= 4; bytes -= 4, in += 4, out += 4)
		memcpy(out, in, 4);
	for (; bytes; bytes--)
		*out++ = *in++;
}

/* Four by four 4-byte elements; steps in bytes from one row to the next. */
static inline void transpose_4x4(const uint8_t *in, int64_t in_step, uint8_t *out, int64_t out_step)
{
	uint32x4_t a = vld1q_u32((const uint32_t *)in);
	uint32x4_t b = vld1q_u32((const uint32_t *)(in + in_step));
	uint32x4_t c = vld1q_u32((const uint32_t *)(in + 2 * in_step));
	uint32x4_t d = vld1q_u32((const uint32_t *)(in + 3 * in_step));
	uint64x2_t ab_even = vreinterpretq_u64_u32(vtrn1q_u32(a, b));
	uint64x2_t ab_odd = vreinterpretq_u64_u32(vtrn2q_u32(a, b));
	uint64x2_t cd_even = vreinterpretq_u64_u32(vtrn1q_u32(c, d));
	uint64x2_t cd_odd = vreinterpretq_u64_u32(vtrn2q_u32(c, d));

	vst1q_u32((uint32_t *)out, vreinterpretq_u32_u64(vtrn1q_u64(ab_even, cd_even)));
	vst1q_u32((uint32_t *)(out + out_step), vreinterpretq_u32_u64(vtrn1q_u64(ab_odd, cd_odd)));
	vst1q_u32((uint32_t *)(out + 2 * out_step),
		  vreinterpretq_u32_u64(vtrn2q_u64(ab_even, cd_even)));
	vst1q_u32((uint32_t *)(out + 3 * out_step),
		  vreinterpretq_u32_u64(vtrn2q_u64(ab_odd, cd_odd)));
}

/*
 * Three or four rows side by side, as the channels of an image: whole vectors of columns, which
 * are dense in in and follow each other in out without gaps. Returns how many.
 */
static size_t interleave(const uint8_t *in, int64_t in_step, size_t rows, uint8_t *out,
			 size_t columns, uint32_t size)
{
	const uint8_t *fourth = in + (rows == 4 ? 3 * in_step : 0);
	const size_t each = 16 / size;
	size_t c = 0;

	for (c = 0; c + each <= columns; c += each, out += rows * 16) {
		const size_t at = c * size;
		const uint8x16x4_t bytes = {{vld1q_u8(in + at), vld1q_u8(in + in_step + at),
					     vld1q_u8(in + 2 * in_step + at),
					     vld1q_u8(fourth + at)}};
		const uint8x16x3_t three = {{bytes.val[0], bytes.val[1], bytes.val[2]}};
		const uint32x4x3_t three_words = {{vreinterpretq_u32_u8(bytes.val[0]),
						   vreinterpretq_u32_u8(bytes.val[1]),
						   vreinterpretq_u32_u8(bytes.val[2])}};
		const uint32x4x4_t words = {{three_words.val[0], three_words.val[1],
					     three_words.val[2],
					     vreinterpretq_u32_u8(bytes.val[3])}};

		if (size == 1 && rows == 3)
			vst3q_u8(out, three);
		else if (size == 1)
			vst4q_u8(out, bytes);
		else if (rows == 3)
			vst3q_u32((uint32_t *)out, three_words);
		else
			vst4q_u32((uint32_t *)out, words);
	}
	return c;
}

/*
 * `columns` are dense in in and in_step apart in out's order: element (r, c) goes
 * from in + r * in_step + c * size to out + c * out_step + r * size.
 */
static void transpose(const uint8_t *in, int64_t in_step, size_t rows, uint8_t *out,
		      int64_t out_step, size_t columns, uint32_t size)
{
	const bool image = (rows == 3 || rows == 4) && (size == 1 || size == 4) &&
			   out_step == (int64_t)(rows * size);
	size_t begin = image ? interleave(in, in_step, rows, out, columns, size) : 0;
	size_t r = 0;
	size_t c = 0;

	for (; begin < columns; begin += TRANSPOSE_COLUMNS) {
		size_t end =
			columns - begin < TRANSPOSE_COLUMNS ? columns : begin + TRANSPOSE_COLUMNS;
		size_t square_rows = size == 4 ? rows / LANES * LANES : 0;
		size_t square_end = begin + (end - begin) / LANES * LANES;

		for (r = 0; r < square_rows; r += LANES)
			for (c = begin; c < square_end; c += LANES)
				transpose_4x4(in + (int64_t)r * in_step + c * size, in_step,
					      out + (int64_t)c * out_step + r * size, out_step);
		/* Few rows are left: along the columns the loop is the longer one. */
		for (r = square_rows; rows - square_rows < LANES && r < rows; r++)
			copy_strided(in + (int64_t)r * in_step + begin * size, size,
				     out + (int64_t)begin * out_step + r * size, out_step,
				     square_end - begin, size);
		for (c = rows - square_rows < LANES ? square_end : begin; c < end; c++) {
			r = c < square_end ? square_rows : 0;
			copy_strided(in + (int64_t)r * in_step + c * size, in_step,
				     out + (int64_t)c * out_step + r * size, size, rows - r, size);
		}
	}
}

/* Fills walk with in's and out's strides in bytes, out's positive and descending. */
static void plan(const struct cl_copy *copy, struct cl_walk *walk, int64_t *in_start,
		 int64_t *out_start)
{
	struct cl_run runs[CL_MAX_RANK] = {0};
	uint32_t count = 0;
	uint32_t i = 0;
	uint32_t j = 0;

	*in_start = copy->in_start;
	*out_start = copy->out_start;
	for (i = 0; i < copy->rank; i++) {
		struct cl_run run = {copy->dims[i], {copy->in_strides[i], copy->out_strides[i]}};

		if (run.count == 1)
			continue;
		if (run.strides[1] < 0) { /* visit it from its other end */
			*in_start += run.strides[0] * (run.count - 1);
			*out_start += run.strides[1] * (run.count - 1);
			run.strides[0] = -run.strides[0];
			run.strides[1] = -run.strides[1];
		}
		for (j = count; j && runs[j - 1].strides[1] < run.strides[1]; j--)
			runs[j] = runs[j - 1];
		runs[j] = run;
		count++;
	}
	for (i = 0; i < count; i++)
		cl_walk_append(walk, runs[i].count, runs[i].strides[0] * copy->elem_size,
			       runs[i].strides[1] * copy->elem_size);
	*in_start *= copy->elem_size;
	*out_start *= copy->elem_size;
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_copy *copy = (const struct cl_copy *)op;
	const uint8_t *in = cl_source(&copy->in, memory);
	uint8_t *out = cl_target(&copy->out, memory);
	const uint32_t size = copy->elem_size;
	struct cl_walk walk = {0};
	struct cl_run row = {0};
	int64_t in_start = 0;
	int64_t out_start = 0;
	unsigned int i = 0;

	plan(copy, &walk, &in_start, &out_start);
	in += in_start;
	out += out_start;
	if (!walk.rank) {
		memcpy(out, in, size);
		return;
	}
	row = cl_walk_take_inner(&walk);
	if (row.strides[1] == size && row.strides[0] == size) {
		do
			copy_dense(in + walk.offset[0], out + walk.offset[1], row.count * size);
		while (cl_walk_next(&walk));
		return;
	}
	for (i = 0; i < walk.rank && row.strides[1] == size; i++) {
		struct cl_run column = {0};

		if (walk.strides[0][i] != size)
			continue;
		column = cl_walk_take(&walk, i);
		do
			transpose(in + walk.offset[0], row.strides[0], row.count,
				  out + walk.offset[1], column.strides[1], column.count, size);
		while (cl_walk_next(&walk));
		return;
	}
	do
		copy_strided(in + walk.offset[0], row.strides[0], out + walk.offset[1],
			     row.strides[1], row.count, size);
	while (cl_walk_next(&walk));
}

const struct cl_kernel_ops cl_copy_kernel = {
	.record_size = sizeof(struct cl_copy),
	.check = check,
	.run = run,
};
