/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NaN gives NaN in every function, Relu and Clip included, as in numpy.
 * Relu gives +0 for -0. HardSwish of minus infinity is NaN (infinity times
 * zero), as ONNX's formula says.
 */
#include "activation.h"
#include "vmath.h"

static bool is_finite(float value)
{
	uint32_t bits = 0;

	memcpy(&bits, &value, sizeof(bits));
	return (bits & 0x7f800000) != 0x7f800000;
}

bool cl_activation_valid(const struct cl_activation *activation)
{
	return activation->function < CL_UNARY_COUNT && !activation->reserved &&
	       is_finite(activation->a) && is_finite(activation->b);
}

/* One function of four values with its two parameters in all lanes. */
typedef float32x4_t (*function4)(float32x4_t x, float32x4_t a, float32x4_t b);

static inline float32x4_t relu4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_max4(x, vdupq_n_f32(0));
}

static inline float32x4_t clip4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	return cl_min4(cl_max4(x, a), b);
}

static inline float32x4_t leaky_relu4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)b;
	return vbslq_f32(vcltq_f32(x, vdupq_n_f32(0)), vmulq_f32(x, a), x);
}

static inline float32x4_t sigmoid4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_sigmoid4(x);
}

static inline float32x4_t tanh4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_tanh4(x);
}

static inline float32x4_t clip01(float32x4_t x)
{
	return cl_min4(cl_max4(x, vdupq_n_f32(0)), vdupq_n_f32(1.0f));
}

static inline float32x4_t hard_sigmoid4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	return clip01(vfmaq_f32(b, x, a));
}

static inline float32x4_t hard_swish4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return vmulq_f32(x, clip01(vfmaq_f32(vdupq_n_f32(0.5f), x, vdupq_n_f32(1.0f / 6))));
}

static inline float32x4_t elu4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	const float32x4_t zero = vdupq_n_f32(0);

	(void)b;
	return vbslq_f32(vcltq_f32(x, zero), vmulq_f32(a, cl_expm14(cl_min4(x, zero))), x);
}

static inline float32x4_t exp4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_exp4(x);
}

static inline float32x4_t log4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_log4(x);
}

static inline float32x4_t sqrt4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_sqrt4(x);
}

static inline float32x4_t abs4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return vabsq_f32(x);
}

static inline float32x4_t neg4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return vnegq_f32(x);
}

static inline float32x4_t reciprocal4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_div4(vdupq_n_f32(1.0f), x);
}

static inline float32x4_t erf4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_erf4(x);
}

static inline float32x4_t softplus4(float32x4_t x, float32x4_t a, float32x4_t b)
{
	(void)a;
	(void)b;
	return cl_softplus4(x);
}

/* Inlined with a constant `function`, so that every function gets a loop of its own. */
static inline __attribute__((always_inline)) void map(function4 function,
						      const struct cl_activation *activation,
						      const float *in, float *out, size_t count)
{
	const float32x4_t a = vdupq_n_f32(activation->a);
	const float32x4_t b = vdupq_n_f32(activation->b);
	size_t i = 0;

	for (i = 0; i + 2 * CL_LANES <= count; i += 2 * CL_LANES) {
		float32x4_t first = vld1q_f32(in + i);
		float32x4_t second = vld1q_f32(in + i + CL_LANES);

		vst1q_f32(out + i, function(first, a, b));
		vst1q_f32(out + i + CL_LANES, function(second, a, b));
	}
	while (i < count) {
		size_t some = count - i < CL_LANES ? count - i : CL_LANES;

		cl_store_some(out + i, function(cl_load_some(in + i, some, 0), a, b), some);
		i += some;
	}
}

void cl_activate(const struct cl_activation *activation, const float *in, float *out, size_t count)
{
	switch (activation->function) {
	case CL_UNARY_RELU:
		map(relu4, activation, in, out, count);
		break;
	case CL_UNARY_CLIP:
		map(clip4, activation, in, out, count);
		break;
	case CL_UNARY_LEAKY_RELU:
		map(leaky_relu4, activation, in, out, count);
		break;
	case CL_UNARY_SIGMOID:
		map(sigmoid4, activation, in, out, count);
		break;
	case CL_UNARY_TANH:
		map(tanh4, activation, in, out, count);
		break;
	case CL_UNARY_HARD_SIGMOID:
		map(hard_sigmoid4, activation, in, out, count);
		break;
	case CL_UNARY_HARD_SWISH:
		map(hard_swish4, activation, in, out, count);
		break;
	case CL_UNARY_ELU:
		map(elu4, activation, in, out, count);
		break;
	case CL_UNARY_EXP:
		map(exp4, activation, in, out, count);
		break;
	case CL_UNARY_LOG:
		map(log4, activation, in, out, count);
		break;
	case CL_UNARY_SQRT:
		map(sqrt4, activation, in, out, count);
		break;
	case CL_UNARY_ABS:
		map(abs4, activation, in, out, count);
		break;
	case CL_UNARY_NEG:
		map(neg4, activation, in, out, count);
		break;
	case CL_UNARY_RECIPROCAL:
		map(reciprocal4, activation, in, out, count);
		break;
	case CL_UNARY_ERF:
		map(erf4, activation, in, out, count);
		break;
	case CL_UNARY_SOFTPLUS:
		map(softplus4, activation, in, out, count);
		break;
	default: /* CL_UNARY_IDENTITY */
		if (in != out)
			memcpy(out, in, count * sizeof(*out));
		break;
	}
}
