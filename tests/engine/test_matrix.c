/* SPDX-License-Identifier: BSD-2-Clause */
/* GEMM and MATMUL against the definition, in double precision. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "harness.h"

static void fill(struct stage *stage)
{
	unsigned int run = 0;

	stage_build(stage);
	for (run = 0; run < stage->run_count; run++)
		random_floats(stage_at(stage, &stage->runs[run]),
			      stage->runs[run].size / sizeof(float), -1, 1);
}

static void build_gemm(struct stage *stage, struct cl_gemm *gemm, bool with_bias)
{
	const size_t panels = (gemm->n + 7) / 8;
	float *weights = NULL;
	size_t i = 0;
	size_t j = 0;

	gemm->op.kernel = CL_KERNEL_GEMM;
	gemm->op.size = sizeof(*gemm);
	gemm->in = stage_arena(stage, (size_t)gemm->m * gemm->k * sizeof(float));
	gemm->out = stage_arena(stage, (size_t)gemm->m * gemm->n * sizeof(float));
	gemm->weights = stage_weights(stage, panels * gemm->k * 8 * sizeof(float));
	if (with_bias)
		gemm->bias = stage_weights(stage, gemm->n * sizeof(float));
	fill(stage);
	weights = stage_at(stage, &gemm->weights);
	for (i = 0; i < gemm->k; i++)
		for (j = gemm->n; j < panels * 8; j++)
			weights[(j / 8 * gemm->k + i) * 8 + j % 8] = 0;
}

TEST(gemm_matches_the_definition)
{
	unsigned int round = 0;
	size_t i = 0;
	size_t j = 0;
	size_t k = 0;

	for (round = 0; round < 300; round++) {
		struct stage stage = {0};
		struct cl_gemm gemm = {.m = random_range(1, random_range(0, 3) ? 20 : 70),
				       .k = random_range(1, 40),
				       .n = random_range(1, 50)};
		const bool with_bias = random_range(0, 1);

		if (random_range(0, 1))
			gemm.activation.function = CL_UNARY_RELU;
		build_gemm(&stage, &gemm, with_bias);
		stage_run(&stage, &cl_gemm_kernel, &gemm, &gemm.out);

		const float *in = stage_at(&stage, &gemm.in);
		const float *weights = stage_at(&stage, &gemm.weights);
		const float *bias = with_bias ? stage_at(&stage, &gemm.bias) : NULL;
		const float *out = stage_at(&stage, &gemm.out);

		for (i = 0; i < gemm.m; i++) {
			for (j = 0; j < gemm.n; j++) {
				double sum = bias ? bias[j] : 0;
				double magnitude = fabs(sum);

				for (k = 0; k < gemm.k; k++) {
					const double product =
						(double)in[i * gemm.k + k] *
						weights[(j / 8 * gemm.k + k) * 8 + j % 8];

					sum += product;
					magnitude += fabs(product);
				}
				if (gemm.activation.function == CL_UNARY_RELU && sum < 0)
					sum = 0;
				EXPECT(fabs(out[i * gemm.n + j] - sum) <= 1e-6 * magnitude,
				       "%u x %u x %u at (%zu, %zu): %g, not %g", gemm.m, gemm.k,
				       gemm.n, i, j, (double)out[i * gemm.n + j], sum);
			}
		}
		stage_free(&stage);
	}
}

TEST(gemm_propagates_nan)
{
	struct stage stage = {0};
	struct cl_gemm gemm = {.m = 9, .k = 5, .n = 8};
	const float *out = NULL;
	size_t i = 0;

	gemm.activation.function = CL_UNARY_RELU;
	build_gemm(&stage, &gemm, true);
	((float *)stage_at(&stage, &gemm.in))[3 * 5 + 4] = NAN;
	stage_run(&stage, &cl_gemm_kernel, &gemm, &gemm.out);
	out = stage_at(&stage, &gemm.out);
	for (i = 0; i < 72; i++)
		EXPECT(isnan(out[i]) == (i / 8 == 3), "element %zu is %g", i, (double)out[i]);
	stage_free(&stage);
}

/* The record with one word changed is refused. */
static void expect_refused(const struct stage *stage, const struct cl_kernel_ops *kernel,
			   const void *op, size_t offset, uint32_t value, enum cl_status status,
			   const char *field)
{
	uint64_t record[32] = {0};

	memcpy(record, op, kernel->record_size);
	memcpy((uint8_t *)record + offset, &value, sizeof(value));
	expect_check(stage, kernel, record, status, field);
}

#define REFUSE_GEMM(field, value, status)                                                          \
	expect_refused(&stage, &cl_gemm_kernel, &gemm, offsetof(struct cl_gemm, field), value,     \
		       status, #field)

TEST(gemm_check_refuses_each_bad_field)
{
	struct stage stage = {0};
	struct cl_gemm gemm = {.m = 9, .k = 5, .n = 11};

	build_gemm(&stage, &gemm, true);
	REFUSE_GEMM(m, 0, CL_BAD_FORMAT);
	REFUSE_GEMM(m, 10, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(m, UINT32_MAX, CL_BAD_FORMAT);
	REFUSE_GEMM(k, 0, CL_BAD_FORMAT);
	REFUSE_GEMM(k, 6, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(k, UINT32_MAX, CL_BAD_FORMAT);
	REFUSE_GEMM(n, 0, CL_BAD_FORMAT);
	REFUSE_GEMM(n, 12, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(n, UINT32_MAX, CL_BAD_FORMAT);
	REFUSE_GEMM(reserved, 1, CL_BAD_FORMAT);
	REFUSE_GEMM(in.offset, 1, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(in.size, 9 * 5 * 4 - 1, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(in.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(weights.size, 2 * 5 * 8 * 4 - 1, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(weights.space, 7, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(bias.size, 11 * 4 - 1, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(bias.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(out.size, 9 * 11 * 4 - 1, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE_GEMM(out.offset, gemm.in.offset, CL_BAD_FORMAT);
	REFUSE_GEMM(activation.function, CL_UNARY_COUNT, CL_BAD_KERNEL);
	expect_mutants_harmless(&stage, &cl_gemm_kernel, &gemm);
	stage_free(&stage);
}

static void build_matmul(struct stage *stage, struct cl_matmul *matmul, size_t a_count,
			 size_t b_count, size_t batch)
{
	matmul->op.kernel = CL_KERNEL_MATMUL;
	matmul->op.size = sizeof(*matmul);
	matmul->a = stage_arena(stage, a_count * sizeof(float));
	matmul->b = stage_arena(stage, b_count * sizeof(float));
	matmul->out = stage_arena(stage, batch * matmul->m * matmul->n * sizeof(float));
	matmul->scratch = stage_arena(stage, matmul->k * 8 * sizeof(float));
	fill(stage);
}

TEST(matmul_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 200; round++) {
		struct stage stage = {0};
		struct cl_matmul matmul = {.m = random_range(1, 12),
					   .k = random_range(1, 20),
					   .n = random_range(1, 20),
					   .batch_rank = random_range(0, 4)};
		size_t a_count = (size_t)matmul.m * matmul.k;
		size_t b_count = (size_t)matmul.k * matmul.n;
		size_t batch = 1;
		size_t place = 0;
		size_t i = 0;
		size_t j = 0;
		size_t k = 0;
		uint32_t d = 0;

		for (d = matmul.batch_rank; d-- > 0;) {
			matmul.batch_dims[d] = random_range(1, 3);
			batch *= matmul.batch_dims[d];
			if (random_range(0, 2)) {
				matmul.a_strides[d] = (uint32_t)a_count;
				a_count *= matmul.batch_dims[d];
			}
			if (random_range(0, 2)) {
				matmul.b_strides[d] = (uint32_t)b_count;
				b_count *= matmul.batch_dims[d];
			}
		}
		build_matmul(&stage, &matmul, a_count, b_count, batch);
		stage_run_scratch(&stage, &cl_matmul_kernel, &matmul, &matmul.out, &matmul.scratch);

		const float *out = stage_at(&stage, &matmul.out);

		for (place = 0; place < batch; place++) {
			const float *a = stage_at(&stage, &matmul.a);
			const float *b = stage_at(&stage, &matmul.b);
			size_t rest = place;

			for (d = matmul.batch_rank; d-- > 0;) {
				const size_t at = rest % matmul.batch_dims[d];

				rest /= matmul.batch_dims[d];
				a += at * matmul.a_strides[d];
				b += at * matmul.b_strides[d];
			}
			for (i = 0; i < matmul.m; i++) {
				for (j = 0; j < matmul.n; j++, out++) {
					double sum = 0;
					double magnitude = 0;

					for (k = 0; k < matmul.k; k++) {
						const double product = (double)a[i * matmul.k + k] *
								       b[k * matmul.n + j];

						sum += product;
						magnitude += fabs(product);
					}
					EXPECT(fabs(*out - sum) <= 1e-6 * magnitude,
					       "place %zu at (%zu, %zu): %g, not %g", place, i, j,
					       (double)*out, sum);
				}
			}
		}
		stage_free(&stage);
	}
}

#define REFUSE_MATMUL(field, value, status)                                                        \
	expect_refused(&stage, &cl_matmul_kernel, &matmul, offsetof(struct cl_matmul, field),      \
		       value, status, #field)

TEST(matmul_check_refuses_each_bad_field)
{
	struct stage stage = {0};
	struct cl_matmul matmul = {.m = 3,
				   .k = 5,
				   .n = 9,
				   .batch_rank = 2,
				   .batch_dims = {2, 3},
				   .a_strides = {45, 15},
				   .b_strides = {0, 45}};

	build_matmul(&stage, &matmul, 90, 135, 6);
	expect_check(&stage, &cl_matmul_kernel, &matmul, CL_OK, "unchanged record");
	REFUSE_MATMUL(m, 0, CL_BAD_FORMAT);
	REFUSE_MATMUL(m, 4, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(k, 0, CL_BAD_FORMAT);
	REFUSE_MATMUL(k, 6, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(n, 0, CL_BAD_FORMAT);
	REFUSE_MATMUL(n, 10, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(n, UINT32_MAX, CL_BAD_FORMAT);
	REFUSE_MATMUL(batch_rank, 7, CL_BAD_FORMAT);
	REFUSE_MATMUL(batch_rank, 1, CL_BAD_FORMAT);
	REFUSE_MATMUL(batch_rank, 3, CL_BAD_FORMAT);
	REFUSE_MATMUL(batch_dims[0], 3, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(batch_dims[1], UINT32_MAX, CL_BAD_FORMAT);
	REFUSE_MATMUL(batch_dims[5], 1, CL_BAD_FORMAT);
	REFUSE_MATMUL(a_strides[0], 46, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(a_strides[1], UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(a_strides[2], 1, CL_BAD_FORMAT);
	REFUSE_MATMUL(b_strides[1], 46, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(b_strides[5], 1, CL_BAD_FORMAT);
	REFUSE_MATMUL(a.size, 359, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(b.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(out.size, 647, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(out.offset, matmul.a.offset, CL_BAD_FORMAT);
	REFUSE_MATMUL(scratch.size, 159, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(scratch.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
	REFUSE_MATMUL(scratch.offset, matmul.b.offset, CL_BAD_FORMAT);
	expect_mutants_harmless(&stage, &cl_matmul_kernel, &matmul);
	stage_free(&stage);
}
