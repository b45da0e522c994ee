/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SOFTMAX and LogSoftmax along the middle of (outer, n, inner), in place if
 * wanted. The largest value is subtracted first, the sum is taken in double. A
 * NaN, or an infinity as the largest value, makes all n results NaN, as in numpy
 * (for LogSoftmax too).
 */
#include "bounds.h"
#include "vmath.h"

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_softmax *softmax = (const struct cl_softmax *)op;
	const uint32_t dims[3] = {softmax->outer, softmax->n, softmax->inner};
	uint64_t count = 0;

	if (!cl_product(dims, 3, &count) || softmax->log > 1)
		return CL_BAD_FORMAT;
	if (!cl_can_read(&softmax->in, memory, count, sizeof(float)) ||
	    !cl_can_write(&softmax->out, memory, count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	if (cl_refs_overlap(&softmax->in, &softmax->out) &&
	    softmax->in.offset != softmax->out.offset)
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

/* log(sum) for sums of exponentials, the largest of which was 1. */
static float32x4_t log_of_sum4(const double *sums)
{
	float rest[CL_LANES] = {0};
	unsigned int i = 0;

	/* Close to one, the sum's distance from it says more than the sum in float. */
	for (i = 0; i < CL_LANES; i++)
		rest[i] = (float)(sums[i] - 1.0);
	return cl_log1p4(vld1q_f32(rest));
}

static inline float32x4_t max_lane4(float32x4_t x)
{
	x = cl_max4(x, vextq_f32(x, x, 2));
	return cl_max4(x, vextq_f32(x, x, 1));
}

/* The largest of n values that lie together, in all lanes. */
static float32x4_t max_of_row(const float *in, size_t n)
{
	const size_t whole = n / CL_LANES * CL_LANES;
	float32x4_t max = vdupq_n_f32(-__builtin_inff());
	size_t i = 0;

	for (i = 0; i < whole; i += CL_LANES)
		max = cl_max4(max, vld1q_f32(in + i));
	if (whole < n)
		max = cl_max4(max, cl_load_some(in + whole, n - whole, -__builtin_inff()));
	return max_lane4(max);
}

/* Adds four values to a sum of pairs. */
static inline float64x2_t add_to_sum(float64x2_t sum, float32x4_t values)
{
	sum = vaddq_f64(sum, vcvt_f64_f32(vget_low_f32(values)));
	return vaddq_f64(sum, vcvt_f64_f32(vget_high_f32(values)));
}

/* n values that lie together. */
static void softmax_row(const float *in, float *out, size_t n)
{
	const size_t whole = n / CL_LANES * CL_LANES;
	const float32x4_t max = max_of_row(in, n);
	float32x4_t factor = vdupq_n_f32(0);
	float64x2_t sum = vdupq_n_f64(0);
	size_t i = 0;

	for (i = 0; i < whole; i += CL_LANES) {
		float32x4_t e = cl_exp4(vsubq_f32(vld1q_f32(in + i), max));

		sum = add_to_sum(sum, e);
		vst1q_f32(out + i, e);
	}
	if (whole < n) {
		float32x4_t x = cl_load_some(in + whole, n - whole, -__builtin_inff());
		float32x4_t e = cl_exp4(vsubq_f32(x, max));

		sum = add_to_sum(sum, e);
		cl_store_some(out + whole, e, n - whole);
	}
	factor = vdupq_n_f32((float)(1.0 / (vgetq_lane_f64(sum, 0) + vgetq_lane_f64(sum, 1))));
	for (i = 0; i < whole; i += CL_LANES)
		vst1q_f32(out + i, vmulq_f32(vld1q_f32(out + i), factor));
	if (whole < n)
		cl_store_some(out + whole,
			      vmulq_f32(cl_load_some(out + whole, n - whole, 0), factor),
			      n - whole);
}

static void log_softmax_row(const float *in, float *out, size_t n)
{
	const size_t whole = n / CL_LANES * CL_LANES;
	const float32x4_t max = max_of_row(in, n);
	float32x4_t log_sum = vdupq_n_f32(0);
	float64x2_t sum = vdupq_n_f64(0);
	double sums[CL_LANES] = {0};
	size_t i = 0;

	for (i = 0; i < whole; i += CL_LANES)
		sum = add_to_sum(sum, cl_exp4(vsubq_f32(vld1q_f32(in + i), max)));
	if (whole < n)
		sum = add_to_sum(
			sum, cl_exp4(vsubq_f32(
				     cl_load_some(in + whole, n - whole, -__builtin_inff()), max)));
	for (i = 0; i < CL_LANES; i++)
		sums[i] = vgetq_lane_f64(sum, 0) + vgetq_lane_f64(sum, 1);
	log_sum = log_of_sum4(sums);
	for (i = 0; i < n; i += CL_LANES) {
		size_t some = n - i < CL_LANES ? n - i : CL_LANES;
		float32x4_t x = vsubq_f32(cl_load_some(in + i, some, 0), max);

		cl_store_some(out + i, vsubq_f32(x, log_sum), some);
	}
}

/* `some` <= 4 neighbouring columns of n values that are `inner` apart. */
static void softmax_columns(const float *in, float *out, size_t n, size_t inner, size_t some,
			    bool log)
{
	float32x4_t max = vdupq_n_f32(-__builtin_inff());
	float32x4_t factor = vdupq_n_f32(0);
	float64x2_t low = vdupq_n_f64(0);
	float64x2_t high = vdupq_n_f64(0);
	double sums[CL_LANES] = {0};
	float inverse[CL_LANES] = {0};
	size_t i = 0;

	for (i = 0; i < n; i++)
		max = cl_max4(max, cl_load_some(in + i * inner, some, 0));
	for (i = 0; i < n; i++) {
		float32x4_t x = vsubq_f32(cl_load_some(in + i * inner, some, 0), max);
		float32x4_t e = cl_exp4(x);

		low = vaddq_f64(low, vcvt_f64_f32(vget_low_f32(e)));
		high = vaddq_f64(high, vcvt_f64_f32(vget_high_f32(e)));
		cl_store_some(out + i * inner, log ? x : e, some);
	}
	vst1q_f64(sums, low);
	vst1q_f64(sums + 2, high);
	if (log) {
		factor = log_of_sum4(sums);
	} else {
		for (i = 0; i < CL_LANES; i++)
			inverse[i] = (float)(1.0 / sums[i]);
		factor = vld1q_f32(inverse);
	}
	for (i = 0; i < n; i++) {
		float32x4_t x = cl_load_some(out + i * inner, some, 0);

		cl_store_some(out + i * inner, log ? vsubq_f32(x, factor) : vmulq_f32(x, factor),
			      some);
	}
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_softmax *softmax = (const struct cl_softmax *)op;
	const float *in = cl_source(&softmax->in, memory);
	float *out = cl_target(&softmax->out, memory);
	const size_t inner = softmax->inner;
	const size_t block = inner * softmax->n;
	size_t o = 0;
	size_t i = 0;

	for (o = 0; o < softmax->outer; o++, in += block, out += block) {
		if (inner == 1 && softmax->log) {
			log_softmax_row(in, out, softmax->n);
			continue;
		}
		if (inner == 1) {
			softmax_row(in, out, softmax->n);
			continue;
		}
		for (i = 0; i + CL_LANES <= inner; i += CL_LANES)
			softmax_columns(in + i, out + i, softmax->n, inner, CL_LANES, softmax->log);
		if (i < inner)
			softmax_columns(in + i, out + i, softmax->n, inner, inner - i,
					softmax->log);
	}
}

const struct cl_kernel_ops cl_softmax_kernel = {
	.record_size = sizeof(struct cl_softmax),
	.check = check,
	.run = run,
};
