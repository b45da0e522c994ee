/* SPDX-License-Identifier: BSD-2-Clause */
/* A valid manifest to start from: two inputs, two outputs, three partitions. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include "manifest.h"

#define SAMPLE_IOS        4
#define SAMPLE_PARTITIONS 3

struct sample {
	struct cl_manifest header;
	struct cl_io io[SAMPLE_IOS];
	struct cl_partition_desc desc[SAMPLE_PARTITIONS];
	uint8_t signature[CL_SIGNATURE_SIZE];
};

static inline void sample_fill(struct sample *sample)
{
	static const struct cl_io ios[SAMPLE_IOS] = {
		{"x", CL_DTYPE_F32, 4, {1, 3, 2, 2}, 0, 48},
		{"flag", CL_DTYPE_BOOL, 0, {0}, 64, 1},
		{"y", CL_DTYPE_F32, 2, {2, 5}, 0, 40},
		{"z", CL_DTYPE_I64, 1, {2}, 48, 16},
	};
	static const uint32_t sizes[SAMPLE_PARTITIONS] = {1000, 5000, 64};
	uint64_t offset = 0;
	uint32_t i = 0;

	*sample = (struct sample){
		.header =
			{
				.magic = CL_MAGIC_MANIFEST,
				.version = CL_FORMAT_VERSION,
				.header_size = sizeof(struct cl_manifest),
				.total_size = sizeof(*sample),
				.suite = CL_SUITE_AES_256_GCM,
				.name = "sample",
				.model_version = 3,
				.input_count = 2,
				.output_count = 2,
				.partition_count = SAMPLE_PARTITIONS,
				.arena_size = 128,
				.largest_partition = 5000,
			},
	};
	for (i = 0; i < SAMPLE_IOS; i++)
		sample->io[i] = ios[i];
	for (i = 0; i < SAMPLE_PARTITIONS; i++) {
		sample->desc[i].offset = offset;
		sample->desc[i].plain_size = sizes[i];
		sample->desc[i].sealed_size =
			sizes[i] + (uint32_t)sizeof(struct cl_sealed_header) + CL_TAG_SIZE;
		offset =
			(offset + sample->desc[i].sealed_size + CL_ALIGN - 1) / CL_ALIGN * CL_ALIGN;
	}
	sample->header.payload_size = offset;
}

#endif
