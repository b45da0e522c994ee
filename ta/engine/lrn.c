/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * LRN: x / (bias + alpha * sum of squares of `window` neighbouring channels)^beta
 * over (outer, channels, inner); floor((window - 1) / 2) neighbours before.
 */
#include "extent.h"
#include "vmath.h"

static bool is_finite(float value)
{
	return __builtin_fabsf(value) < __builtin_inff();
}

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_lrn *lrn = (const struct cl_lrn *)op;
	const uint32_t dims[3] = {lrn->outer, lrn->channels, lrn->inner};
	uint64_t count = 0;

	if (lrn->reserved || !cl_product(dims, 3, &count) || !lrn->window ||
	    !is_finite(lrn->alpha) || !is_finite(lrn->beta) || !is_finite(lrn->bias))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&lrn->in, memory, count, sizeof(float)) ||
	    !cl_can_write(&lrn->out, memory, count, sizeof(float)) ||
	    cl_refs_overlap(&lrn->in, &lrn->out))
		return CL_OUT_OF_BOUNDS;
	if (!cl_work_valid(count, lrn->window))
		return CL_BAD_FORMAT;
	return CL_OK;
}

/* x / (bias + alpha * squares)^beta */
static float32x4_t normalise4(const struct cl_lrn *lrn, float32x4_t x, float32x4_t squares)
{
	float32x4_t base = vfmaq_f32(vdupq_n_f32(lrn->bias), vdupq_n_f32(lrn->alpha), squares);
	float lanes[CL_LANES] = {0};
	unsigned int i = 0;

	if (lrn->beta == 1.0f)
		return cl_div4(x, base);
	if (lrn->beta == 0.5f)
		return cl_div4(x, cl_sqrt4(base));
	if (lrn->beta == 0.75f) { /* what networks use */
		base = cl_sqrt4(base);
		return cl_div4(x, vmulq_f32(base, cl_sqrt4(base)));
	}
	vst1q_f32(lanes, base);
	for (i = 0; i < CL_LANES; i++)
		lanes[i] = cl_pow(lanes[i], lrn->beta);
	return cl_div4(x, vld1q_f32(lanes));
}

/* First and last channel of the window around channel c. */
static inline size_t window_first(const struct cl_lrn *lrn, size_t c)
{
	size_t before = (lrn->window - 1) / 2;

	return c < before ? 0 : c - before;
}

static inline size_t window_last(const struct cl_lrn *lrn, size_t c)
{
	size_t after = lrn->window / 2;

	return lrn->channels - 1 - c < after ? lrn->channels - 1 : c + after;
}

/* Sums of squares of count <= 4 neighbouring values in rows first to last, `inner` apart. */
static inline float32x4_t squares4(const float *in, size_t first, size_t last, size_t inner,
				   size_t count)
{
	const float *from = in + first * inner;
	float32x4_t sum = vdupq_n_f32(0);
	size_t row = 0;

	for (row = first; row <= last; row++, from += inner) {
		float32x4_t x = cl_load_some(from, count, 0);

		sum = vfmaq_f32(sum, x, x);
	}
	return sum;
}

/* Channels lie together: count <= 4 of them from channel c on. */
static inline float32x4_t squares_of_neighbours(const struct cl_lrn *lrn, const float *in, size_t c,
						size_t count)
{
	float lanes[CL_LANES] = {0};
	size_t i = 0;

	/* Four whole windows: each is one channel further than the one before. */
	if (c >= (lrn->window - 1) / 2 && c + CL_LANES - 1 + lrn->window / 2 < lrn->channels)
		return squares4(in, window_first(lrn, c), window_last(lrn, c), 1, CL_LANES);
	for (i = 0; i < count; i++) {
		size_t last = window_last(lrn, c + i);
		size_t row = window_first(lrn, c + i);
		float32x4_t sum = vdupq_n_f32(0);

		for (; row <= last; row++)
			sum = vfmaq_f32(sum, vdupq_n_f32(in[row]), vdupq_n_f32(in[row]));
		lanes[i] = vgetq_lane_f32(sum, 0);
	}
	return vld1q_f32(lanes);
}

static void normalise_row(const struct cl_lrn *lrn, const float *in, float *out)
{
	size_t some = 0;
	size_t c = 0;

	for (c = 0; c < lrn->channels; c += some) {
		float32x4_t squares = vdupq_n_f32(0);

		some = lrn->channels - c < CL_LANES ? lrn->channels - c : CL_LANES;
		squares = squares_of_neighbours(lrn, in, c, some);
		cl_store_some(out + c, normalise4(lrn, cl_load_some(in + c, some, 0), squares),
			      some);
	}
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_lrn *lrn = (const struct cl_lrn *)op;
	const float *in = cl_source(&lrn->in, memory);
	float *out = cl_target(&lrn->out, memory);
	const size_t inner = lrn->inner;
	const size_t block = inner * lrn->channels;
	size_t some = 0;
	size_t o = 0;
	size_t c = 0;
	size_t i = 0;

	for (o = 0; o < lrn->outer; o++, in += block, out += block) {
		if (inner == 1) {
			normalise_row(lrn, in, out);
			continue;
		}
		for (c = 0; c < lrn->channels; c++) {
			for (i = 0; i < inner; i += some) {
				size_t here = c * inner + i;
				float32x4_t squares = vdupq_n_f32(0);

				some = inner - i < CL_LANES ? inner - i : CL_LANES;
				squares = squares4(in + i, window_first(lrn, c),
						   window_last(lrn, c), inner, some);
				cl_store_some(
					out + here,
					normalise4(lrn, cl_load_some(in + here, some, 0), squares),
					some);
			}
		}
	}
}

const struct cl_kernel_ops cl_lrn_kernel = {
	.record_size = sizeof(struct cl_lrn),
	.check = check,
	.run = run,
};
