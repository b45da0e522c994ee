/* SPDX-License-Identifier: BSD-2-Clause */
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "result.h"
#include "sample.h"

/* Parses a heap copy of exactly `size` bytes, so that the sanitizer sees any step outside. */
static uint32_t parse(const struct sample *sample, size_t size)
{
	struct cl_manifest_view view = {0};
	void *copy = malloc(size ? size : 1);
	uint32_t res = 0;

	CHECK(copy);
	memcpy(copy, sample, size);
	res = cl_manifest_parse(copy, size, &view);
	free(copy);
	return res;
}

/* With `field` of a valid manifest set to `value`, parsing gives `result`. */
#define REFUSED_WITH(field, value, result)                                                         \
	do {                                                                                       \
		struct sample s;                                                                   \
		sample_fill(&s);                                                                   \
		s.field = (value);                                                                 \
		CHECK_EQ(parse(&s, sizeof(s)), result);                                            \
	} while (0)
#define REFUSED(field, value) REFUSED_WITH(field, value, CL_ERROR_BAD_FORMAT)

static void refuses_headers(void)
{
	REFUSED(header.magic, CL_MAGIC_LICENCE);
	REFUSED_WITH(header.version, CL_FORMAT_VERSION + 1, CL_ERROR_VERSION);
	REFUSED_WITH(header.suite, 0, CL_ERROR_CIPHER);
	REFUSED_WITH(header.suite, CL_SUITE_COUNT, CL_ERROR_CIPHER);
	REFUSED_WITH(header.suite, UINT32_MAX, CL_ERROR_CIPHER);
	REFUSED(header.header_size, sizeof(struct cl_manifest) + 8);
	REFUSED(header.total_size, sizeof(struct sample) - 8);
	REFUSED(header.input_count, 3);
	REFUSED(header.input_count, CL_MAX_IO + 1);
	REFUSED(header.input_count, UINT32_MAX);
	REFUSED(header.output_count, 0);
	REFUSED(header.output_count, UINT32_MAX);
	REFUSED(header.partition_count, 0);
	REFUSED(header.partition_count, 2);
	REFUSED(header.partition_count, CL_MAX_PARTITIONS + 1);
	REFUSED(header.partition_count, UINT32_MAX);
	REFUSED(header.name[63], 'x');
	REFUSED(header.name[8], 'x');
	REFUSED(header.largest_partition, 4999);
	REFUSED(header.largest_partition, 5001);
	REFUSED(header.payload_size, 6000);
	REFUSED(header.payload_size, 0);
	REFUSED(header.arena_size, 64);
	REFUSED(header.arena_size, 0);
}

static void refuses_tensors(void)
{
	REFUSED(io[0].name[63], 'x');
	REFUSED(io[0].dtype, 0);
	REFUSED(io[0].dtype, 99);
	REFUSED(io[0].rank, CL_MAX_RANK + 1);
	REFUSED(io[0].rank, UINT32_MAX);
	REFUSED(io[0].rank, 3);
	REFUSED(io[0].dims[0], 0);
	REFUSED(io[0].dims[1], 4);
	REFUSED(io[0].dims[7], 1);
	REFUSED(io[0].size, 44);
	REFUSED(io[0].size, 0);
	REFUSED(io[0].offset, 4);
	REFUSED(io[0].offset, 88);
	REFUSED(io[0].offset, UINT32_MAX - 7);
	REFUSED(io[0].offset, 24); /* over the second input */
	REFUSED(io[1].offset, 40);
}

static void refuses_partitions(void)
{
	REFUSED(desc[0].nonce[12], 1); /* behind the nonce of 12 bytes */
	REFUSED(desc[2].nonce[15], 1);
	REFUSED(desc[0].offset, 8);
	REFUSED(desc[0].offset, 64);
	REFUSED(desc[1].offset, 0);
	REFUSED(desc[1].offset, UINT64_MAX - 63);
	REFUSED(desc[2].offset, UINT64_C(1) << 40);
	REFUSED(desc[0].sealed_size, 1000);
	REFUSED(desc[0].plain_size, 1001);
	REFUSED(desc[0].plain_size, UINT32_MAX);
	REFUSED(desc[2].plain_size, 0);
}

/* Products of dimensions and sums of sizes that wrap around a 32 or 64-bit number. */
static void refuses_overflow(void)
{
	struct sample s;

	sample_fill(&s);
	s.io[0].dims[0] = s.io[0].dims[1] = UINT32_C(1) << 31;
	s.io[0].dims[2] = 4;
	s.io[0].dims[3] = 1;
	s.io[0].size = 0;
	CHECK_EQ(parse(&s, sizeof(s)), CL_ERROR_BAD_FORMAT);

	sample_fill(&s);
	s.header.arena_size = UINT32_MAX;
	s.io[2] = (struct cl_io){"y", CL_DTYPE_U8, 1, {UINT32_MAX - 7}, 0, UINT32_MAX - 7};
	CHECK_EQ(parse(&s, sizeof(s)), CL_ERROR_BAD_FORMAT);

	sample_fill(&s);
	s.desc[0].plain_size = UINT32_MAX - 15;
	s.desc[0].sealed_size = 32;
	s.header.largest_partition = UINT32_MAX - 15;
	CHECK_EQ(parse(&s, sizeof(s)), CL_ERROR_BAD_FORMAT);
}

static void refuses_every_length(void)
{
	struct sample s;
	size_t size = 0;

	sample_fill(&s);
	for (size = 0; size < sizeof(s); size++)
		CHECK_EQ(parse(&s, size), CL_ERROR_BAD_FORMAT);
	for (size = 0; size < sizeof(s); size += 8) {
		s.header.total_size = (uint32_t)size;
		CHECK_EQ(parse(&s, size), CL_ERROR_BAD_FORMAT);
	}
}

static void accepts_the_sample(void)
{
	struct cl_manifest_view view = {0};
	struct sample s;

	sample_fill(&s);
	CHECK_EQ(cl_manifest_parse(&s, sizeof(s), &view), CL_SUCCESS);
	CHECK(view.header == &s.header);
	CHECK(view.inputs == &s.io[0] && view.outputs == &s.io[2]);
	CHECK(view.partitions == s.desc && view.signature == s.signature);
	CHECK_EQ(view.signed_size, sizeof(s) - CL_SIGNATURE_SIZE);
	CHECK_EQ(view.input_size, 49);
	CHECK_EQ(view.output_size, 56);
}

/* Between descriptors and signature: a nonce, whole layers, a tag. */
static void finds_sealed_layers(void)
{
	static const struct {
		size_t size;
		uint32_t count; /* 0: refused */
	} cases[] = {{16, 0},
		     {32, 0},
		     {40, 0},
		     {48, 1},
		     {56, 0},
		     {64, 2},
		     {32 + 16 * 4096, 4096},
		     {32 + 16 * 4097, 0}};
	size_t i = 0;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const size_t size = sizeof(struct sample) + cases[i].size;
		struct cl_manifest_view view = {0};
		struct sample *s = calloc(1, size);

		CHECK(s);
		sample_fill(s);
		s->header.total_size = (uint32_t)size;
		CHECK_EQ(cl_manifest_parse(s, size, &view),
			 cases[i].count ? CL_SUCCESS : CL_ERROR_BAD_FORMAT);
		if (cases[i].count) {
			CHECK((const void *)view.layers == s->signature);
			CHECK_EQ(view.layer_count, cases[i].count);
			CHECK(view.signature == (const uint8_t *)s + size - CL_SIGNATURE_SIZE);
			CHECK_EQ(view.signed_size, size - CL_SIGNATURE_SIZE);
			s->signature[12] = 1; /* behind the nonce of 12 bytes */
			CHECK_EQ(cl_manifest_parse(s, size, &view), CL_ERROR_BAD_FORMAT);
		}
		free(s);
	}
}

/* The sample as a pair's manifest: the same with cl_pair behind its header. */
struct pair_sample {
	struct cl_manifest header;
	struct cl_pair pair;
	struct cl_io io[SAMPLE_IOS];
	struct cl_partition_desc desc[SAMPLE_PARTITIONS];
	uint8_t signature[CL_SIGNATURE_SIZE];
};

static uint32_t parse_pair(const struct cl_pair *pair, uint32_t header_size, uint32_t missing)
{
	struct cl_manifest_view view = {0};
	struct pair_sample *s = malloc(sizeof(*s));
	struct sample plain;
	uint32_t res = 0;

	CHECK(s);
	sample_fill(&plain);
	s->header = plain.header;
	s->pair = *pair;
	memcpy(s->io, plain.io, sizeof(*s) - offsetof(struct pair_sample, io));
	s->header.header_size = (uint16_t)header_size;
	s->header.total_size = (uint32_t)sizeof(*s) - missing;
	res = cl_manifest_parse(s, sizeof(*s) - missing, &view);
	if (!res) {
		CHECK(view.pair == &s->pair);
		CHECK(view.inputs == s->io && view.outputs == &s->io[2]);
		CHECK(view.partitions == s->desc && view.signature == s->signature);
	}
	free(s);
	return res;
}

static void reads_pairs(void)
{
	static const struct {
		uint32_t first_use[3];
		uint32_t result;
	} cases[] = {
		{{0, 0, 0}, CL_SUCCESS},
		{{0, 2, 0}, CL_SUCCESS},
		{{2, 2, 0}, CL_SUCCESS},
		{{2, 1, 0}, CL_ERROR_BAD_FORMAT}, /* descends */
		{{0, 3, 0},
		 CL_ERROR_BAD_FORMAT}, /* no such partition: it would never be asked for */
		{{UINT32_MAX, UINT32_MAX, 0}, CL_ERROR_BAD_FORMAT},
		{{0, 1, 1}, CL_ERROR_BAD_FORMAT}, /* there are two inputs */
	};
	const uint32_t size = sizeof(struct cl_manifest) + sizeof(struct cl_pair);
	struct cl_pair pair = {{0}, {0}};
	uint32_t missing = 0;
	size_t i = 0;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(pair.first_use, cases[i].first_use, sizeof(cases[i].first_use));
		CHECK_EQ(parse_pair(&pair, size, 0), cases[i].result);
	}
	memset(&pair, 0, sizeof(pair));
	pair.first_use[15] = 1;
	CHECK_EQ(parse_pair(&pair, size, 0), CL_ERROR_BAD_FORMAT);
	memset(&pair, 0, sizeof(pair));
	CHECK_EQ(parse_pair(&pair, size - 8, 0), CL_ERROR_BAD_FORMAT);
	CHECK_EQ(parse_pair(&pair, size + 8, 0), CL_ERROR_BAD_FORMAT);
	CHECK_EQ(parse_pair(&pair, 0, 0), CL_ERROR_BAD_FORMAT);
	for (missing = 8; missing <= sizeof(struct pair_sample); missing += 8)
		CHECK_EQ(parse_pair(&pair, size, missing), CL_ERROR_BAD_FORMAT);
}

void test_manifest(void)
{
	reads_pairs();
	finds_sealed_layers();
	accepts_the_sample();
	refuses_headers();
	refuses_tensors();
	refuses_partitions();
	refuses_overflow();
	refuses_every_length();
}
