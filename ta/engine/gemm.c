/* SPDX-License-Identifier: BSD-2-Clause */
#include "extent.h"
#include "scaled.h"
#include "tile.h"

static enum cl_status gemm_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_gemm *gemm = (const struct cl_gemm *)op;
	const uint32_t panels = gemm->n / CL_TILE_COLUMNS + !!(gemm->n % CL_TILE_COLUMNS);
	const uint32_t in_factors[] = {gemm->m, gemm->k};
	const uint32_t weight_factors[] = {panels, gemm->k, CL_TILE_COLUMNS};
	const uint32_t out_factors[] = {gemm->m, gemm->n};
	uint64_t in_count = 0;
	uint64_t weight_count = 0;
	uint64_t out_count = 0;

	if (gemm->reserved)
		return CL_BAD_FORMAT;
	if (!cl_activation_valid(&gemm->activation))
		return CL_BAD_KERNEL;
	if (!cl_product(in_factors, 2, &in_count) || !cl_product(out_factors, 2, &out_count) ||
	    !cl_product(weight_factors, 3, &weight_count) || !cl_work_valid(out_count, gemm->k))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&gemm->in, memory, in_count, sizeof(float)) ||
	    !cl_can_read(&gemm->weights, memory, weight_count, sizeof(float)) ||
	    !cl_can_read_optional(&gemm->bias, memory, gemm->n, sizeof(float)) ||
	    !cl_can_write(&gemm->out, memory, out_count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	if (!cl_scales_suffice(memory, &gemm->bias, gemm->n))
		return CL_BAD_FORMAT;
	if (cl_refs_overlap(&gemm->out, &gemm->in) || cl_refs_overlap(&gemm->out, &gemm->weights) ||
	    cl_refs_overlap(&gemm->out, &gemm->bias))
		return CL_BAD_FORMAT;
	return CL_OK;
}

static void gemm_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_gemm *gemm = (const struct cl_gemm *)op;
	struct cl_fusion fusion = {0};
	struct cl_tile tile = {0};

	cl_fusion_init(&fusion, &gemm->activation);
	tile.taps = 1;
	tile.depth = gemm->k;
	tile.weights = cl_source(&gemm->weights, memory);
	tile.bias = cl_source(&gemm->bias, memory);
	tile.scales = cl_scales_at(memory, &gemm->bias);
	tile.columns = gemm->n;
	tile.out = cl_target(&gemm->out, memory);
	tile.out_stride = gemm->n;
	tile.fusion = &fusion;
	cl_tile_run_rows(&tile, cl_source(&gemm->in, memory), gemm->m);
}

const struct cl_kernel_ops cl_gemm_kernel = {
	.record_size = sizeof(struct cl_gemm),
	.check = gemm_check,
	.run = gemm_run,
};
