/* SPDX-License-Identifier: BSD-2-Clause */
#include "answer.h"

#include <stdbool.h>
#include <string.h>

#include "result.h"

static uint32_t row_length(const struct cl_io *io)
{
	return io->rank ? io->dims[io->rank - 1] : 1;
}

uint32_t cl_answer_size(const struct cl_manifest_view *manifest, uint32_t output, uint32_t k,
			size_t *size)
{
	const struct cl_io *io = manifest->outputs;

	if (output == CL_OUTPUT_FULL) {
		*size = manifest->output_size;
		return CL_SUCCESS;
	}
	if (io->dtype != CL_DTYPE_F32)
		return CL_ERROR_NOT_SUPPORTED;
	if (!k || k > row_length(io))
		return CL_ERROR_BAD_PARAMETERS;
	/* k <= row length: the product is at most twice the output's 32-bit size. */
	*size = (size_t)(io->size / sizeof(float) / row_length(io)) * k * sizeof(struct cl_answer);
	return CL_SUCCESS;
}

/* Entry (a, at i) ranks before entry (b, at j). */
static bool ranks_before(float a, uint32_t i, float b, uint32_t j)
{
	bool a_nan = __builtin_isnan(a);
	bool b_nan = __builtin_isnan(b);

	if (a_nan != b_nan)
		return b_nan;
	if (!a_nan && a > b)
		return true;
	if (!a_nan && a < b)
		return false;
	return i < j;
}

/*
 * k passes, each finding the best entry behind the last one found: k is at most
 * CL_MAX_TOP_K, and neither scratch memory nor a read of the answer is needed.
 */
static void write_row(const float *row, uint32_t length, uint32_t k, bool with_score,
		      uint8_t *answer)
{
	uint32_t last = 0;
	uint32_t rank = 0;
	uint32_t i = 0;

	for (rank = 0; rank < k; rank++) {
		struct cl_answer entry = {0};
		bool found = false;
		uint32_t best = 0;

		for (i = 0; i < length; i++) {
			if (rank && !ranks_before(row[last], last, row[i], i))
				continue;
			if (!found || ranks_before(row[i], i, row[best], best))
				best = i;
			found = true;
		}
		last = best;
		entry.label = best;
		if (with_score)
			entry.score = row[best];
		memcpy(answer + (size_t)rank * sizeof(entry), &entry, sizeof(entry));
	}
}

void cl_answer_write(const struct cl_manifest_view *manifest, const uint8_t *arena, uint32_t output,
		     uint32_t k, uint8_t *answer)
{
	const struct cl_io *io = manifest->outputs;
	uint32_t length = row_length(io);
	uint32_t rows = 0;
	uint32_t i = 0;

	if (output == CL_OUTPUT_FULL) {
		for (i = 0; i < manifest->header->output_count; i++) {
			memcpy(answer, arena + io[i].offset, io[i].size);
			answer += io[i].size;
		}
		return;
	}

	rows = io->size / sizeof(float) / length;
	for (i = 0; i < rows; i++) {
		/* The manifest's offsets are multiples of 8, the arena's address of CL_ALIGN. */
		const float *row =
			(const float *)(const void *)(arena + io->offset) + (size_t)i * length;

		write_row(row, length, k, output == CL_OUTPUT_TOP_K, answer);
		answer += (size_t)k * sizeof(struct cl_answer);
	}
}
