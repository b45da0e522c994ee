/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ARGMAX: where along the middle of (outer, n, inner) the extreme value is. A NaN
 * counts as the extreme one, for ArgMin as well, as in numpy.
 */
#include "bounds.h"
#include "vmath.h"

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_argmax *argmax = (const struct cl_argmax *)op;
	const uint32_t in_dims[3] = {argmax->outer, argmax->n, argmax->inner};
	uint64_t in_count = 0;
	uint64_t out_count = 0;

	if (argmax->reserved || !cl_product(in_dims, 3, &in_count) || argmax->select_last > 1 ||
	    argmax->minimum > 1)
		return CL_BAD_FORMAT;
	out_count = in_count / argmax->n;
	if (!cl_can_read(&argmax->in, memory, in_count, sizeof(float)) ||
	    !cl_can_write(&argmax->out, memory, out_count, sizeof(int64_t)) ||
	    cl_refs_overlap(&argmax->in, &argmax->out))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

static inline float32x4_t better4(const struct cl_argmax *argmax, float32x4_t a, float32x4_t b)
{
	return argmax->minimum ? cl_min4(a, b) : cl_max4(a, b);
}

/* n values that lie together. */
static int64_t find_in_row(const struct cl_argmax *argmax, const float *in)
{
	float32x4_t best4 = vdupq_n_f32(*in);
	size_t n = argmax->n;
	size_t some = 0;
	float best = 0;
	size_t i = 0;

	for (i = 0; i < n; i += some) {
		some = n - i < CL_LANES ? n - i : CL_LANES;
		best4 = better4(argmax, best4, cl_load_some(in + i, some, *in));
	}
	best4 = better4(argmax, best4, vextq_f32(best4, best4, 2));
	best4 = better4(argmax, best4, vextq_f32(best4, best4, 1));
	best = vgetq_lane_f32(best4, 0);
	for (i = 0; i < n; i++) {
		size_t at = argmax->select_last ? n - 1 - i : i;

		if (in[at] == best || (best != best && in[at] != in[at]))
			return (int64_t)at;
	}
	return 0; /* not reached: one of the values is the best */
}

/* `some` <= 4 neighbouring columns of n values that are `inner` apart. */
static void find_in_columns(const struct cl_argmax *argmax, const float *in, int64_t *out,
			    size_t some)
{
	const size_t inner = argmax->inner;
	float32x4_t best = cl_load_some(in, some, 0);
	uint32x4_t best_is_nan = vdupq_n_u32(0);
	uint32x4_t found = vdupq_n_u32(0);
	uint32_t lanes[CL_LANES] = {0};
	size_t i = 0;

	for (i = 1; i < argmax->n; i++)
		best = better4(argmax, best, cl_load_some(in + i * inner, some, 0));
	best_is_nan = vmvnq_u32(vceqq_f32(best, best));
	/* The wanted one of several is the last that this loop meets. */
	for (i = 0; i < argmax->n; i++) {
		size_t at = argmax->select_last ? i : argmax->n - 1 - i;
		float32x4_t x = cl_load_some(in + at * inner, some, 0);
		uint32x4_t nan = vandq_u32(best_is_nan, vmvnq_u32(vceqq_f32(x, x)));

		found = vbslq_u32(vorrq_u32(vceqq_f32(x, best), nan), vdupq_n_u32((uint32_t)at),
				  found);
	}
	vst1q_u32(lanes, found);
	for (i = 0; i < some; i++)
		out[i] = lanes[i];
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_argmax *argmax = (const struct cl_argmax *)op;
	const float *in = cl_source(&argmax->in, memory);
	int64_t *out = cl_target(&argmax->out, memory);
	const size_t inner = argmax->inner;
	size_t some = 0;
	size_t o = 0;
	size_t i = 0;

	for (o = 0; o < argmax->outer; o++, in += inner * argmax->n, out += inner) {
		if (inner == 1) {
			*out = find_in_row(argmax, in);
			continue;
		}
		for (i = 0; i < inner; i += some) {
			some = inner - i < CL_LANES ? inner - i : CL_LANES;
			find_in_columns(argmax, in + i, out + i, some);
		}
	}
}

const struct cl_kernel_ops cl_argmax_kernel = {
	.record_size = sizeof(struct cl_argmax),
	.check = check,
	.run = run,
};
