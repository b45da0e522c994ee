/* SPDX-License-Identifier: BSD-2-Clause */
/* RESAMPLE: weighted gather along the middle of (outer, in_n, inner). */
#include "extent.h"
#include "vmath.h"

#define BLOCK (4 * CL_LANES) /* columns blended together */

/* All indices of the table are -1 or below in_n. */
static bool indices_valid(const struct cl_resample *resample, const struct cl_memory *memory,
			  uint64_t count)
{
	const int32_t *index = cl_source(&resample->index, memory);
	uint64_t i = 0;

	for (i = 0; i < count; i++)
		if (index[i] < -1 || (int64_t)index[i] >= (int64_t)resample->in_n)
			return false;
	return true;
}

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_resample *resample = (const struct cl_resample *)op;
	const uint32_t in_dims[3] = {resample->outer, resample->in_n, resample->inner};
	const uint32_t out_dims[3] = {resample->outer, resample->out_n, resample->inner};
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t table = 0;
	bool plain = resample->factor.space == CL_SPACE_NONE;

	if (!cl_product(in_dims, 3, &in_count) || !cl_product(out_dims, 3, &out_count) ||
	    !resample->taps || !cl_mul(resample->out_n, resample->taps, &table) ||
	    (plain && resample->taps != 1))
		return CL_BAD_FORMAT;
	/* The tables must be what is checked here when they are used: not in the arena. */
	if (resample->index.space != CL_SPACE_WEIGHTS ||
	    (!plain && resample->factor.space != CL_SPACE_WEIGHTS))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&resample->in, memory, in_count, sizeof(float)) ||
	    !cl_can_write(&resample->out, memory, out_count, sizeof(float)) ||
	    !cl_can_read(&resample->index, memory, table, sizeof(int32_t)) ||
	    !cl_can_read_optional(&resample->factor, memory, table, sizeof(float)) ||
	    cl_refs_overlap(&resample->in, &resample->out))
		return CL_OUT_OF_BOUNDS;
	if (!cl_work_valid(out_count, resample->taps))
		return CL_BAD_FORMAT;
	if (memory->scanned)
		*memory->scanned += table;
	return indices_valid(resample, memory, table) ? CL_OK : CL_OUT_OF_BOUNDS;
}

/* Copies rows of `inner` elements, bits unchanged. */
static void gather_rows(const struct cl_resample *resample, const int32_t *index, const float *in,
			float *out)
{
	const size_t inner = resample->inner;
	size_t i = 0;
	size_t j = 0;

	for (i = 0; i < resample->out_n; i++, out += inner) {
		if (index[i] < 0)
			for (j = 0; j < inner; j++)
				out[j] = resample->outside_value;
		else if (inner == 1)
			*out = in[index[i]];
		else
			memcpy(out, in + (size_t)index[i] * inner, inner * sizeof(*out));
	}
}

/* Weighted sums of single elements. */
static void blend_elements(const struct cl_resample *resample, const int32_t *index,
			   const float *factor, const float *in, float *out)
{
	const float outside = resample->outside_value;
	const size_t entries = (size_t)resample->out_n * resample->taps;
	const size_t taps = resample->taps;
	size_t begin = 0;
	size_t i = 0;

	for (begin = 0; begin < entries; begin += taps) {
		float32x4_t sum = vdupq_n_f32(0);

		for (i = begin; i < begin + taps; i++)
			sum = vfmaq_f32(sum, vld1q_dup_f32(index[i] < 0 ? &outside : in + index[i]),
					vld1q_dup_f32(factor + i));
		*out++ = vgetq_lane_f32(sum, 0);
	}
}

/* The weighted sums of BLOCK neighbouring columns. */
static inline void blend_block(const struct cl_resample *resample, const int32_t *index,
			       const float *factor, const float *in, float *out)
{
	const size_t inner = resample->inner;
	const float32x4_t outside = vdupq_n_f32(resample->outside_value);
	float32x4_t a = vdupq_n_f32(0);
	float32x4_t b = a;
	float32x4_t c = a;
	float32x4_t d = a;
	size_t t = 0;

	for (t = 0; t < resample->taps; t++) {
		float32x4_t weight = vdupq_n_f32(factor[t]);
		const float *from = in;

		if (index[t] < 0) {
			a = vfmaq_f32(a, outside, weight);
			b = vfmaq_f32(b, outside, weight);
			c = vfmaq_f32(c, outside, weight);
			d = vfmaq_f32(d, outside, weight);
			continue;
		}
		from += (size_t)index[t] * inner;
		a = vfmaq_f32(a, vld1q_f32(from), weight);
		b = vfmaq_f32(b, vld1q_f32(from + CL_LANES), weight);
		c = vfmaq_f32(c, vld1q_f32(from + 2 * CL_LANES), weight);
		d = vfmaq_f32(d, vld1q_f32(from + 3 * CL_LANES), weight);
	}
	vst1q_f32(out, a);
	vst1q_f32(out + CL_LANES, b);
	vst1q_f32(out + 2 * CL_LANES, c);
	vst1q_f32(out + 3 * CL_LANES, d);
}

/* The same for count <= 4 columns. */
static inline void blend_some(const struct cl_resample *resample, const int32_t *index,
			      const float *factor, const float *in, float *out, size_t count)
{
	const size_t inner = resample->inner;
	float32x4_t sum = vdupq_n_f32(0);
	size_t t = 0;

	for (t = 0; t < resample->taps; t++) {
		float32x4_t x = vdupq_n_f32(resample->outside_value);

		if (index[t] >= 0)
			x = cl_load_some(in + (size_t)index[t] * inner, count, 0);
		sum = vfmaq_f32(sum, x, vdupq_n_f32(factor[t]));
	}
	cl_store_some(out, sum, count);
}

/* Weighted sums of rows of `inner` elements. */
static void blend_rows(const struct cl_resample *resample, const int32_t *index,
		       const float *factor, const float *in, float *out)
{
	const size_t inner = resample->inner;
	const size_t taps = resample->taps;
	size_t some = 0;
	size_t i = 0;
	size_t j = 0;

	for (i = 0; i < resample->out_n; i++, index += taps, factor += taps, out += inner) {
		for (j = 0; j + BLOCK <= inner; j += BLOCK)
			blend_block(resample, index, factor, in + j, out + j);
		for (; j < inner; j += some) {
			some = inner - j < CL_LANES ? inner - j : CL_LANES;
			blend_some(resample, index, factor, in + j, out + j, some);
		}
	}
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_resample *resample = (const struct cl_resample *)op;
	const int32_t *index = cl_source(&resample->index, memory);
	const float *factor = cl_source(&resample->factor, memory);
	const float *in = cl_source(&resample->in, memory);
	float *out = cl_target(&resample->out, memory);
	const size_t in_block = (size_t)resample->in_n * resample->inner;
	const size_t out_block = (size_t)resample->out_n * resample->inner;
	size_t o = 0;

	for (o = 0; o < resample->outer; o++, in += in_block, out += out_block) {
		if (!factor)
			gather_rows(resample, index, in, out);
		else if (resample->inner == 1)
			blend_elements(resample, index, factor, in, out);
		else
			blend_rows(resample, index, factor, in, out);
	}
}

const struct cl_kernel_ops cl_resample_kernel = {
	.record_size = sizeof(struct cl_resample),
	.check = check,
	.run = run,
};
