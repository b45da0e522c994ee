/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <string.h>

#include "answer.h"
#include "check.h"
#include "result.h"

#define LENGTH 6

static const float rows[2][LENGTH] = {
	{1, 3, -INFINITY, 3, NAN, 2},
	{NAN, NAN, NAN, NAN, NAN, NAN},
};

static struct cl_io output(uint32_t dtype, uint32_t rank, uint32_t d0, uint32_t d1, uint32_t size)
{
	return (struct cl_io){.dtype = dtype, .rank = rank, .dims = {d0, d1}, .size = size};
}

static void labels(void)
{
	const struct cl_manifest header = {.output_count = 1};
	const struct cl_io io = output(CL_DTYPE_F32, 2, 2, LENGTH, sizeof(rows));
	const struct cl_manifest_view view = {
		.header = &header, .outputs = &io, .output_size = sizeof(rows)};
	struct cl_answer answer[2 * LENGTH] = {0};
	static const uint32_t order[LENGTH] = {1, 3, 5, 0, 2, 4};
	size_t size = 0;
	int i = 0;

	CHECK_EQ(cl_answer_size(&view, CL_OUTPUT_LABEL, 1, &size), CL_SUCCESS);
	CHECK_EQ(size, 2 * sizeof(struct cl_answer));
	cl_answer_write(&view, (const uint8_t *)rows, CL_OUTPUT_LABEL, 1, (uint8_t *)answer);
	CHECK_EQ(answer[0].label, 1);
	CHECK(answer[0].score == 0);
	CHECK_EQ(answer[1].label, 0);

	CHECK_EQ(cl_answer_size(&view, CL_OUTPUT_TOP_K, LENGTH, &size), CL_SUCCESS);
	CHECK_EQ(size, sizeof(answer));
	cl_answer_write(&view, (const uint8_t *)rows, CL_OUTPUT_TOP_K, LENGTH, (uint8_t *)answer);
	for (i = 0; i < LENGTH; i++) {
		CHECK_EQ(answer[i].label, order[i]);
		CHECK(!memcmp(&answer[i].score, &rows[0][order[i]], sizeof(float)));
		CHECK_EQ(answer[LENGTH + i].label, i);
	}
	CHECK_EQ(cl_answer_size(&view, CL_OUTPUT_TOP_K, LENGTH + 1, &size),
		 CL_ERROR_BAD_PARAMETERS);
	CHECK_EQ(cl_answer_size(&view, CL_OUTPUT_TOP_K, 0, &size), CL_ERROR_BAD_PARAMETERS);
}

static void signed_zeros_tie(void)
{
	const struct cl_manifest header = {.output_count = 1};
	const struct cl_io io = output(CL_DTYPE_F32, 1, 3, 0, 12);
	const struct cl_manifest_view view = {.header = &header, .outputs = &io, .output_size = 12};
	static const float row[3] = {-0.0f, 0.0f, -1.0f};
	struct cl_answer answer = {9, 9};

	cl_answer_write(&view, (const uint8_t *)row, CL_OUTPUT_LABEL, 1, (uint8_t *)&answer);
	CHECK_EQ(answer.label, 0);
}

static void full_and_others(void)
{
	const struct cl_manifest header = {.output_count = 2};
	struct cl_io io[2] = {output(CL_DTYPE_I64, 1, 2, 0, 16), output(CL_DTYPE_U8, 1, 3, 0, 3)};
	const struct cl_manifest_view view = {.header = &header, .outputs = io, .output_size = 19};
	uint8_t arena[32];
	uint8_t answer[19];
	size_t size = 0;
	int i = 0;

	io[0].offset = 8;
	for (i = 0; i < 32; i++)
		arena[i] = (uint8_t)i;
	CHECK_EQ(cl_answer_size(&view, CL_OUTPUT_FULL, 0, &size), CL_SUCCESS);
	CHECK_EQ(size, 19);
	cl_answer_write(&view, arena, CL_OUTPUT_FULL, 0, answer);
	CHECK(answer[0] == 8 && answer[15] == 23 && answer[16] == 0 && answer[18] == 2);
	CHECK_EQ(cl_answer_size(&view, CL_OUTPUT_LABEL, 1, &size), CL_ERROR_NOT_SUPPORTED);
}

/* A scalar is one row of one. */
static void scalar(void)
{
	const struct cl_manifest header = {.output_count = 1};
	const struct cl_io io = output(CL_DTYPE_F32, 0, 0, 0, 4);
	const struct cl_manifest_view view = {.header = &header, .outputs = &io, .output_size = 4};
	const float value = 7;
	struct cl_answer answer = {9, 9};
	size_t size = 0;

	CHECK_EQ(cl_answer_size(&view, CL_OUTPUT_TOP_K, 1, &size), CL_SUCCESS);
	CHECK_EQ(size, sizeof(answer));
	cl_answer_write(&view, (const uint8_t *)&value, CL_OUTPUT_TOP_K, 1, (uint8_t *)&answer);
	CHECK(answer.label == 0 && answer.score == 7);
}

void test_answer(void)
{
	labels();
	signed_zeros_tie();
	full_and_others();
	scalar();
}
