/* SPDX-License-Identifier: BSD-2-Clause */
#include "extent.h"
#include "neon.h"
#include "tile.h"

#define MAX_BATCH_RANK 6

/* How far into an operand the last matrix of the batch ends, in elements. */
static bool operand_count(const struct cl_matmul *matmul, const uint32_t *strides,
			  uint64_t matrix_count, uint64_t *count)
{
	uint64_t sum = matrix_count;
	uint32_t i = 0;

	for (i = 0; i < matmul->batch_rank; i++) {
		uint64_t step = 0;

		if (!cl_mul(matmul->batch_dims[i] - 1, strides[i], &step) ||
		    !cl_add(sum, step, &sum))
			return false;
	}
	*count = sum;
	return true;
}

static enum cl_status matmul_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_matmul *matmul = (const struct cl_matmul *)op;
	const uint32_t a_factors[] = {matmul->m, matmul->k};
	const uint32_t b_factors[] = {matmul->k, matmul->n};
	const uint32_t out_factors[] = {matmul->m, matmul->n};
	uint64_t batch = 0;
	uint64_t a_count = 0;
	uint64_t b_count = 0;
	uint64_t out_count = 0;
	uint32_t i = 0;

	if (matmul->batch_rank > MAX_BATCH_RANK)
		return CL_BAD_FORMAT;
	for (i = matmul->batch_rank; i < MAX_BATCH_RANK; i++)
		if (matmul->batch_dims[i] || matmul->a_strides[i] || matmul->b_strides[i])
			return CL_BAD_FORMAT;
	if (!cl_product(matmul->batch_dims, matmul->batch_rank, &batch) ||
	    !cl_product(a_factors, 2, &a_count) || !cl_product(b_factors, 2, &b_count) ||
	    !cl_product(out_factors, 2, &out_count) || !cl_mul(out_count, batch, &out_count) ||
	    !cl_work_valid(out_count, matmul->k) ||
	    !operand_count(matmul, matmul->a_strides, a_count, &a_count) ||
	    !operand_count(matmul, matmul->b_strides, b_count, &b_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&matmul->a, memory, a_count, sizeof(float)) ||
	    !cl_can_read(&matmul->b, memory, b_count, sizeof(float)) ||
	    !cl_can_write(&matmul->out, memory, out_count, sizeof(float)) ||
	    !cl_can_write(&matmul->scratch, memory, (uint64_t)matmul->k * CL_TILE_COLUMNS,
			  sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	if (cl_refs_overlap(&matmul->out, &matmul->a) ||
	    cl_refs_overlap(&matmul->out, &matmul->b) ||
	    cl_refs_overlap(&matmul->out, &matmul->scratch) ||
	    cl_refs_overlap(&matmul->scratch, &matmul->a) ||
	    cl_refs_overlap(&matmul->scratch, &matmul->b))
		return CL_BAD_FORMAT;
	return CL_OK;
}

/* panel is [k][8]: `columns` columns of b (k, n), the rest zero. */
static void pack_panel(float *panel, const float *b, size_t k, size_t n, size_t columns)
{
	size_t i = 0;
	size_t j = 0;

	for (i = 0; i < k; i++, b += n, panel += CL_TILE_COLUMNS) {
		if (columns == CL_TILE_COLUMNS) {
			vst1q_f32(panel, vld1q_f32(b));
			vst1q_f32(panel + 4, vld1q_f32(b + 4));
			continue;
		}
		for (j = 0; j < columns; j++)
			panel[j] = b[j];
		for (; j < CL_TILE_COLUMNS; j++)
			panel[j] = 0;
	}
}

/* out (m, n) = a (m, k) * b (k, n) */
static void multiply(const struct cl_matmul *matmul, const float *a, const float *b, float *out,
		     float *panel)
{
	static const struct cl_fusion no_fusion = {.kind = CL_FUSED_NONE};
	struct cl_tile tile = {0};
	size_t column = 0;

	tile.taps = 1;
	tile.depth = matmul->k;
	tile.weights = panel;
	tile.out_stride = matmul->n;
	tile.fusion = &no_fusion;
	for (column = 0; column < matmul->n; column += CL_TILE_COLUMNS) {
		const size_t left = matmul->n - column;
		const size_t columns = left < CL_TILE_COLUMNS ? left : CL_TILE_COLUMNS;

		pack_panel(panel, b + column, matmul->k, matmul->n, columns);
		tile.out = out + column;
		tile.columns = columns;
		cl_tile_run_rows(&tile, a, matmul->m);
	}
}

static void matmul_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_matmul *matmul = (const struct cl_matmul *)op;
	const float *a = cl_source(&matmul->a, memory);
	const float *b = cl_source(&matmul->b, memory);
	float *out = cl_target(&matmul->out, memory);
	float *panel = cl_target(&matmul->scratch, memory);
	uint32_t position[MAX_BATCH_RANK] = {0};
	size_t a_at = 0;
	size_t b_at = 0;
	uint32_t i = 0;

	do {
		multiply(matmul, a + a_at, b + b_at, out, panel);
		out += (size_t)matmul->m * matmul->n;

		/* The next place of the batch, the last dimension first. */
		for (i = matmul->batch_rank; i > 0; i--) {
			a_at += matmul->a_strides[i - 1];
			b_at += matmul->b_strides[i - 1];
			if (++position[i - 1] < matmul->batch_dims[i - 1])
				break;
			a_at -= (size_t)matmul->a_strides[i - 1] * matmul->batch_dims[i - 1];
			b_at -= (size_t)matmul->b_strides[i - 1] * matmul->batch_dims[i - 1];
			position[i - 1] = 0;
		}
	} while (i > 0);
}

const struct cl_kernel_ops cl_matmul_kernel = {
	.record_size = sizeof(struct cl_matmul),
	.check = matmul_check,
	.run = matmul_run,
};
