/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "check.h"
#include "result.h"
#include "sample.h"
#include "sealed.h"

static uint32_t check(const struct cl_sealed_header *header, uint32_t index)
{
	struct cl_manifest_view view = {0};
	struct sample sample;

	sample_fill(&sample);
	sample.header.content_key_id[0] = 7;
	CHECK_EQ(cl_manifest_parse(&sample, sizeof(sample), &view), CL_SUCCESS);
	return cl_sealed_check(header, &view, index);
}

void test_sealed(void)
{
	const struct cl_sealed_header valid = {CL_MAGIC_SEALED, CL_FORMAT_VERSION, 0, 1, 3, {7}};
	struct cl_sealed_header header = valid;

	CHECK_EQ(check(&header, 1), CL_SUCCESS);
	CHECK_EQ(check(&header, 0), CL_ERROR_WRONG_PARTITION);
	CHECK_EQ(check(&header, 2), CL_ERROR_WRONG_PARTITION);
	header.count = 4;
	CHECK_EQ(check(&header, 1), CL_ERROR_WRONG_PARTITION);
	header = valid;
	header.content_key_id[15] = 1;
	CHECK_EQ(check(&header, 1), CL_ERROR_WRONG_KEY);
	header = valid;
	header.version++;
	CHECK_EQ(check(&header, 1), CL_ERROR_VERSION);
	header = valid;
	header.reserved = 1;
	CHECK_EQ(check(&header, 1), CL_ERROR_BAD_FORMAT);
	header = valid;
	header.magic = CL_MAGIC_PARTITION;
	CHECK_EQ(check(&header, 1), CL_ERROR_BAD_FORMAT);
}
