/* SPDX-License-Identifier: BSD-2-Clause */
/* GEMM_S8: rows of a times constant columns; rows that fill no whole step are copied. */
#include "extent.h"
#include "tile_s8.h"

#define ROWS 8 /* of a tile */

static enum cl_status gemm_s8_check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_gemm_s8 *gemm = (const struct cl_gemm_s8 *)op;
	const uint32_t in_factors[] = {gemm->m, gemm->k};
	const uint32_t out_factors[] = {gemm->m, gemm->n};
	const uint64_t panels = ((uint64_t)gemm->n + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS;
	const uint64_t row_size = cl_s8_steps(gemm->k) * CL_S8_STEP;
	uint64_t in_count = 0;
	uint64_t out_count = 0;
	uint64_t weight_count = 0;

	if (gemm->weights_kind >= CL_WEIGHTS_S8_COUNT)
		return CL_BAD_KERNEL;
	if (!cl_finish_s8_valid(&gemm->finish) || !cl_product(in_factors, 2, &in_count) ||
	    !cl_product(out_factors, 2, &out_count) || !cl_work_valid(out_count, gemm->k) ||
	    !cl_mul(panels * CL_S8_COLUMNS, row_size, &weight_count))
		return CL_BAD_FORMAT;
	if (!cl_can_read(&gemm->in, memory, in_count, 1) ||
	    !cl_can_read(&gemm->weights, memory, weight_count, 1) ||
	    !cl_can_read(&gemm->channels, memory, cl_s8_channels_size(panels, gemm->weights_kind),
			 1) ||
	    !cl_can_write(&gemm->out, memory, out_count, 1))
		return CL_OUT_OF_BOUNDS;
	if (gemm->k % CL_S8_STEP ? !cl_can_write(&gemm->scratch, memory, row_size * ROWS, 1)
				 : !cl_ref_inside(&gemm->scratch, memory))
		return CL_OUT_OF_BOUNDS;
	if (cl_refs_overlap(&gemm->out, &gemm->in) || cl_refs_overlap(&gemm->out, &gemm->weights) ||
	    cl_refs_overlap(&gemm->out, &gemm->channels) ||
	    cl_refs_overlap(&gemm->out, &gemm->scratch) ||
	    cl_refs_overlap(&gemm->scratch, &gemm->in) ||
	    cl_refs_overlap(&gemm->scratch, &gemm->weights) ||
	    cl_refs_overlap(&gemm->scratch, &gemm->channels))
		return CL_BAD_FORMAT;
	return CL_OK;
}

static void gemm_s8_run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_gemm_s8 *gemm = (const struct cl_gemm_s8 *)op;
	const bool whole = gemm->k % CL_S8_STEP == 0;
	const int8_t *in = cl_source(&gemm->in, memory);
	int8_t *scratch = cl_target(&gemm->scratch, memory);
	const int8_t *rows[ROWS] = {NULL};
	struct cl_tile_s8 tile = {
		.rows = rows,
		.taps = 1,
		.steps = cl_s8_steps(gemm->k),
		.weights = cl_source(&gemm->weights, memory),
		.channels = cl_source(&gemm->channels, memory),
		.columns = gemm->n,
		.out = cl_target(&gemm->out, memory),
		.out_stride = gemm->n,
		.finish = cl_finish_of(&gemm->finish),
		.weights_kind = gemm->weights_kind,
	};
	size_t done = 0;
	unsigned int i = 0;

	if (gemm->weights_kind == CL_WEIGHTS_S8_PANELS)
		tile.kinds = (const uint8_t *)(tile.channels +
					       (gemm->n + CL_S8_COLUMNS - 1) / CL_S8_COLUMNS);
	for (done = 0; done < gemm->m; done += ROWS) {
		const size_t left = gemm->m - done;
		const unsigned int count = left < ROWS ? (unsigned int)left : ROWS;

		for (i = 0; i < count; i++, in += gemm->k) {
			int8_t *copy = scratch + i * tile.steps * CL_S8_STEP;

			if (!whole)
				cl_copy_bytes(copy, in, gemm->k);
			rows[i] = whole ? in : copy;
		}
		cl_tile_s8_run(&tile, count);
		tile.out += (size_t)count * gemm->n;
	}
}

const struct cl_kernel_ops cl_gemm_s8_kernel = {
	.record_size = sizeof(struct cl_gemm_s8),
	.check = gemm_s8_check,
	.run = gemm_s8_run,
};
