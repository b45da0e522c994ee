/* SPDX-License-Identifier: BSD-2-Clause */
/* QUANTIZE: float to int8. DEQUANTIZE: int8 to float. */
#include "quant.h"
#include "vmath.h"

static enum cl_status quantize_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_quantize *quantize = (const struct cl_quantize *)op;

	if (!quantize->count || !cl_scale_valid(quantize->scale) ||
	    !cl_finish_s8_valid(&quantize->finish))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&quantize->in, memory, quantize->count, sizeof(float)) ||
	    !cl_can_write(&quantize->out, memory, quantize->count, 1))
		return CL_OUT_OF_BOUNDS;
	return cl_refs_overlap(&quantize->in, &quantize->out) ? CL_BAD_FORMAT : CL_OK;
}

static inline int32x4_t quantize4(float32x4_t value, float32x4_t scale)
{
	return cl_round4(cl_div4(value, scale));
}

static void quantize_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_quantize *quantize = (const struct cl_quantize *)op;
	const struct cl_finish finish = cl_finish_of(&quantize->finish);
	const float32x4_t scale = vdupq_n_f32(quantize->scale);
	const float *in = cl_source(&quantize->in, memory);
	int8_t *out = cl_target(&quantize->out, memory);
	const size_t count = quantize->count;
	size_t i = 0;

	for (; i + 16 <= count; i += 16)
		vst1q_s8(out + i, cl_finish16(&finish, quantize4(vld1q_f32(in + i), scale),
					      quantize4(vld1q_f32(in + i + 4), scale),
					      quantize4(vld1q_f32(in + i + 8), scale),
					      quantize4(vld1q_f32(in + i + 12), scale)));
	for (; i < count; i++)
		out[i] = cl_finish1(&finish, in[i] / quantize->scale);
}

const struct cl_kernel_ops cl_quantize_kernel = {
	.record_size = sizeof(struct cl_quantize),
	.check = quantize_check,
	.run = quantize_run,
};

static enum cl_status dequantize_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_dequantize *dequantize = (const struct cl_dequantize *)op;

	if (!dequantize->count || dequantize->reserved || !cl_zero_valid(dequantize->zero) ||
	    !cl_scale_valid(dequantize->scale))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&dequantize->in, memory, dequantize->count, 1) ||
	    !cl_can_write(&dequantize->out, memory, dequantize->count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	return cl_refs_overlap(&dequantize->in, &dequantize->out) ? CL_BAD_FORMAT : CL_OK;
}

static void dequantize_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_dequantize *dequantize = (const struct cl_dequantize *)op;
	const int32x4_t zero = vdupq_n_s32(dequantize->zero);
	const float scale = dequantize->scale;
	const int8_t *in = cl_source(&dequantize->in, memory);
	float *out = cl_target(&dequantize->out, memory);
	const size_t count = dequantize->count;
	size_t i = 0;
	unsigned int part = 0;

	for (; i + 16 <= count; i += 16) {
		const int32x4x4_t wide = cl_widen16(vld1q_s8(in + i));

		for (part = 0; part < 4; part++)
			vst1q_f32(
				out + i + 4 * part,
				vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(wide.val[part], zero)), scale));
	}
	for (; i < count; i++)
		out[i] = (float)(in[i] - dequantize->zero) * scale;
}

const struct cl_kernel_ops cl_dequantize_kernel = {
	.record_size = sizeof(struct cl_dequantize),
	.check = dequantize_check,
	.run = dequantize_run,
};
