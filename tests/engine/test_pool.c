/* SPDX-License-Identifier: BSD-2-Clause */
/* POOL against the definition, in double precision. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "harness.h"

static size_t cell_count(const struct cl_pool *pool, const uint32_t *dims)
{
	return (size_t)pool->batch * pool->channels * dims[0] * dims[1] * dims[2];
}

static void build(struct stage *stage, struct cl_pool *pool)
{
	pool->op.kernel = CL_KERNEL_POOL;
	pool->op.size = sizeof(*pool);
	pool->in = stage_arena(stage, cell_count(pool, pool->in_dims) * sizeof(float));
	pool->out = stage_arena(stage, cell_count(pool, pool->out_dims) * sizeof(float));
	stage_build(stage);
	random_floats(stage_at(stage, &pool->in), pool->in.size / sizeof(float), -4, 4);
}

/* One output element; *magnitude is what a rounding error is relative to. */
static double reference(const struct stage *stage, const struct cl_pool *pool, uint32_t n,
			const uint32_t *at, uint32_t c, double *magnitude)
{
	const float *in = stage_at(stage, &pool->in);
	const uint32_t *kernel = pool->kernel;
	const uint32_t cells = kernel[0] * kernel[1] * kernel[2];
	double largest = -INFINITY;
	double sum = 0;
	double divisor = 0;
	uint32_t tap = 0;

	*magnitude = 0;
	for (tap = 0; tap < cells; tap++) {
		const uint32_t taps[3] = {tap / kernel[2] / kernel[1], tap / kernel[2] % kernel[1],
					  tap % kernel[2]};
		bool inside = true;
		bool padded = true;
		size_t place = n;
		double value = 0;
		int i = 0;

		for (i = 0; i < 3; i++) {
			const long p = (long)at[i] * pool->stride[i] - pool->pad_begin[i] +
				       (long)taps[i] * pool->dilation[i];

			inside = inside && p >= 0 && p < pool->in_dims[i];
			padded = padded && p < (long)pool->in_dims[i] + pool->pad_end[i];
			place = place * pool->in_dims[i] + (size_t)p;
		}
		if (pool->kind == CL_POOL_AVERAGE ? inside : padded)
			divisor++;
		if (!inside)
			continue;
		value = in[place * pool->channels + c];
		largest = value > largest ? value : largest;
		sum += value;
		*magnitude += fabs(value);
	}
	if (pool->kind == CL_POOL_MAX)
		return largest;
	return divisor > 0 ? sum / divisor : 0;
}

TEST(pool_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 600; round++) {
		struct stage stage = {0};
		struct cl_pool pool = {.kind = round % 3,
				       .batch = random_range(1, 2),
				       .channels = random_range(1, 23)};
		const float *out = NULL;
		uint32_t at[3] = {0};
		uint32_t n = 0;
		uint32_t c = 0;
		int i = 0;

		for (i = 0; i < 3; i++) {
			const bool used = i || random_range(0, 1);

			pool.in_dims[i] = used ? random_range(1, 9) : 1;
			pool.kernel[i] = used ? random_range(1, 4) : 1;
			pool.stride[i] = used ? random_range(1, 3) : 1;
			pool.dilation[i] = used ? random_range(1, 3) : 1;
			pool.pad_begin[i] = used ? random_range(0, 2) : 0;
			pool.pad_end[i] = used ? random_range(0, 2) : 0;
			/* Windows may hang over the end, wholly as well. */
			pool.out_dims[i] = used ? random_range(1, 7) : 1;
		}
		if (random_range(0, 1))
			pool.activation.function = CL_UNARY_RELU;
		build(&stage, &pool);
		stage_run(&stage, &cl_pool_kernel, &pool, &pool.out);
		out = stage_at(&stage, &pool.out);
		for (n = 0; n < pool.batch; n++)
			for (at[0] = 0; at[0] < pool.out_dims[0]; at[0]++)
				for (at[1] = 0; at[1] < pool.out_dims[1]; at[1]++)
					for (at[2] = 0; at[2] < pool.out_dims[2]; at[2]++)
						for (c = 0; c < pool.channels; c++, out++) {
							double magnitude = 0;
							double want = reference(&stage, &pool, n,
										at, c, &magnitude);

							if (pool.activation.function && want < 0)
								want = 0;
							EXPECT(*out == want ||
								       fabs(*out - want) <=
									       1e-6 * magnitude,
							       "kind %u at (%u, %u, %u, %u): %g, "
							       "not %g",
							       pool.kind, at[0], at[1], at[2], c,
							       (double)*out, want);
						}
		stage_free(&stage);
	}
}

TEST(max_pool_keeps_nan)
{
	uint32_t channels = 0;

	for (channels = 1; channels <= 21; channels++) {
		struct stage stage = {0};
		struct cl_pool pool = {.kind = CL_POOL_MAX,
				       .batch = 1,
				       .channels = channels,
				       .in_dims = {1, 1, 4},
				       .out_dims = {1, 1, 2},
				       .kernel = {1, 1, 2},
				       .stride = {1, 1, 2},
				       .dilation = {1, 1, 1}};
		const float *out = NULL;
		uint32_t c = 0;

		build(&stage, &pool);
		for (c = 0; c < channels; c++)
			((float *)stage_at(&stage, &pool.in))[(2 + c % 2) * channels + c] = NAN;
		stage_run(&stage, &cl_pool_kernel, &pool, &pool.out);
		out = stage_at(&stage, &pool.out);
		for (c = 0; c < channels; c++)
			EXPECT(!isnan(out[c]) && isnan(out[channels + c]), "channel %u: %g, %g", c,
			       (double)out[c], (double)out[channels + c]);
		stage_free(&stage);
	}
}

#define REFUSE(field, value, status)                                                               \
	do {                                                                                       \
		struct cl_pool bad = pool;                                                         \
                                                                                                   \
		bad.field = value;                                                                 \
		expect_check(&stage, &cl_pool_kernel, &bad, status, #field);                       \
	} while (0)

TEST(pool_check_refuses_each_bad_field)
{
	struct stage stage = {0};
	struct cl_pool pool = {.kind = CL_POOL_AVERAGE_INCLUDE_PAD,
			       .batch = 2,
			       .channels = 5,
			       .in_dims = {2, 3, 4},
			       .out_dims = {2, 3, 4},
			       .kernel = {2, 3, 3},
			       .stride = {1, 1, 1},
			       .dilation = {1, 1, 1},
			       .pad_begin = {0, 1, 1},
			       .pad_end = {1, 1, 1}};
	int i = 0;

	build(&stage, &pool);
	expect_check(&stage, &cl_pool_kernel, &pool, CL_OK, "unchanged record");
	REFUSE(kind, 3, CL_BAD_KERNEL);
	REFUSE(batch, 0, CL_BAD_FORMAT);
	REFUSE(batch, 3, CL_OUT_OF_BOUNDS);
	REFUSE(channels, 0, CL_BAD_FORMAT);
	REFUSE(channels, 6, CL_OUT_OF_BOUNDS);
	REFUSE(reserved, 1, CL_BAD_FORMAT);
	REFUSE(reserved2, 1, CL_BAD_FORMAT);
	for (i = 0; i < 3; i++) {
		REFUSE(in_dims[i], 0, CL_BAD_FORMAT);
		REFUSE(in_dims[i], pool.in_dims[i] + 1, CL_OUT_OF_BOUNDS);
		REFUSE(out_dims[i], 0, CL_BAD_FORMAT);
		REFUSE(out_dims[i], pool.out_dims[i] + 1, CL_OUT_OF_BOUNDS);
		REFUSE(kernel[i], 0, CL_BAD_FORMAT);
		REFUSE(kernel[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(stride[i], 0, CL_BAD_FORMAT);
		REFUSE(stride[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(dilation[i], 0, CL_BAD_FORMAT);
		REFUSE(dilation[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(pad_begin[i], UINT32_MAX, CL_BAD_FORMAT);
		REFUSE(pad_end[i], UINT32_MAX, CL_BAD_FORMAT);
	}
	REFUSE(in.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSE(in.size, pool.in.size - 1, CL_OUT_OF_BOUNDS);
	REFUSE(in.offset, pool.in.offset + 4, CL_OUT_OF_BOUNDS);
	REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE(out.size, pool.out.size - 1, CL_OUT_OF_BOUNDS);
	REFUSE(out.offset, pool.in.offset, CL_BAD_FORMAT);
	REFUSE(activation.function, CL_UNARY_COUNT, CL_BAD_KERNEL);
	expect_mutants_harmless(&stage, &cl_pool_kernel, &pool);
	stage_free(&stage);
}
