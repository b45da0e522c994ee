/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "check.h"
#include "licence.h"
#include "result.h"

struct sample_licence {
	struct cl_licence licence;
	uint8_t signature[CL_SIGNATURE_SIZE];
};

static struct sample_licence valid(void)
{
	return (struct sample_licence){
		.licence =
			{
				.magic = CL_MAGIC_LICENCE,
				.version = CL_FORMAT_VERSION,
				.header_size = sizeof(struct cl_licence),
				.total_size = CL_LICENCE_SIZE,
				.sealed_size = 80,
			},
	};
}

#define REFUSED(field, value, result)                                                              \
	do {                                                                                       \
		struct sample_licence s = valid();                                                 \
		s.licence.field = (value);                                                         \
		CHECK_EQ(cl_licence_parse(&s, sizeof(s)), result);                                 \
	} while (0)

static void parses(void)
{
	struct sample_licence s = valid();
	size_t size = 0;

	CHECK_EQ(cl_licence_parse(&s, sizeof(s)), CL_SUCCESS);
	for (size = 0; size < sizeof(s); size++) {
		void *copy = malloc(size ? size : 1);

		CHECK(copy);
		memcpy(copy, &s, size);
		CHECK_EQ(cl_licence_parse(copy, size), CL_ERROR_BAD_FORMAT);
		free(copy);
	}
	CHECK_EQ(cl_licence_parse(&s, sizeof(s) + 1), CL_ERROR_BAD_FORMAT);
	REFUSED(magic, CL_MAGIC_MANIFEST, CL_ERROR_BAD_FORMAT);
	REFUSED(version, CL_FORMAT_VERSION + 1, CL_ERROR_VERSION);
	REFUSED(header_size, 200, CL_ERROR_BAD_FORMAT);
	REFUSED(total_size, 1, CL_ERROR_BAD_FORMAT);
	REFUSED(sealed_size, 81, CL_ERROR_BAD_FORMAT);
}

static uint32_t secret(uint32_t output, uint32_t top_k, uint32_t low, uint32_t high, uint32_t rest)
{
	const struct cl_licence_secret s = {
		.output = output,
		.top_k = top_k,
		.min_model_version = low,
		.max_model_version = high,
		.password_size = rest,
	};

	return cl_licence_check_secret(&s, CL_LICENCE_SIZE);
}

static void checks_secrets(void)
{
	CHECK_EQ(secret(CL_OUTPUT_LABEL, 0, 1, 1, 0), CL_SUCCESS);
	CHECK_EQ(secret(CL_OUTPUT_TOP_K, 5, 1, 9, 0), CL_SUCCESS);
	CHECK_EQ(secret(CL_OUTPUT_FULL, 0, 0, UINT32_MAX, 0), CL_SUCCESS);
	CHECK_EQ(secret(0, 0, 1, 1, 0), CL_ERROR_BAD_FORMAT);
	CHECK_EQ(secret(4, 0, 1, 1, 0), CL_ERROR_BAD_FORMAT);
	CHECK_EQ(secret(CL_OUTPUT_TOP_K, 0, 1, 1, 0), CL_ERROR_BAD_FORMAT);
	CHECK_EQ(secret(CL_OUTPUT_LABEL, 1, 1, 1, 0), CL_ERROR_BAD_FORMAT);
	CHECK_EQ(secret(CL_OUTPUT_LABEL, 0, 2, 1, 0), CL_ERROR_BAD_FORMAT);
	CHECK_EQ(secret(CL_OUTPUT_LABEL, 0, 1, 1, 1), CL_ERROR_BAD_FORMAT);
}

static void limits_answers(void)
{
	const struct cl_licence_secret label = {.output = CL_OUTPUT_LABEL};
	const struct cl_licence_secret top = {.output = CL_OUTPUT_TOP_K, .top_k = 3};
	const struct cl_licence_secret full = {.output = CL_OUTPUT_FULL};

	CHECK_EQ(cl_licence_allows(&label, CL_OUTPUT_LABEL, 0), CL_SUCCESS);
	CHECK_EQ(cl_licence_allows(&label, CL_OUTPUT_TOP_K, 1), CL_ERROR_OUTPUT_LIMIT);
	CHECK_EQ(cl_licence_allows(&label, CL_OUTPUT_FULL, 0), CL_ERROR_OUTPUT_LIMIT);
	CHECK_EQ(cl_licence_allows(&top, CL_OUTPUT_LABEL, 0), CL_SUCCESS);
	CHECK_EQ(cl_licence_allows(&top, CL_OUTPUT_TOP_K, 3), CL_SUCCESS);
	CHECK_EQ(cl_licence_allows(&top, CL_OUTPUT_TOP_K, 4), CL_ERROR_OUTPUT_LIMIT);
	CHECK_EQ(cl_licence_allows(&top, CL_OUTPUT_FULL, 0), CL_ERROR_OUTPUT_LIMIT);
	CHECK_EQ(cl_licence_allows(&full, CL_OUTPUT_FULL, 0), CL_SUCCESS);
	CHECK_EQ(cl_licence_allows(&full, CL_OUTPUT_TOP_K, CL_MAX_TOP_K), CL_SUCCESS);
	CHECK_EQ(cl_licence_allows(&full, CL_OUTPUT_TOP_K, CL_MAX_TOP_K + 1),
		 CL_ERROR_BAD_PARAMETERS);
	CHECK_EQ(cl_licence_allows(&full, CL_OUTPUT_TOP_K, 0), CL_ERROR_BAD_PARAMETERS);
	CHECK_EQ(cl_licence_allows(&full, 0, 0), CL_ERROR_BAD_PARAMETERS);
	CHECK_EQ(cl_licence_allows(&full, 4, 0), CL_ERROR_BAD_PARAMETERS);
}

void test_licence(void)
{
	parses();
	checks_secrets();
	limits_answers();
}
