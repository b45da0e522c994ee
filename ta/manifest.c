/* SPDX-License-Identifier: BSD-2-Clause */
#include "manifest.h"

#include <stdbool.h>

#include "engine/bounds.h"
#include "result.h"
#include "suite.h"

uint32_t cl_dtype_size(uint32_t dtype)
{
	switch (dtype) {
	case CL_DTYPE_F32:
	case CL_DTYPE_I32:
		return 4;
	case CL_DTYPE_I64:
		return 8;
	case CL_DTYPE_U8:
	case CL_DTYPE_I8:
	case CL_DTYPE_BOOL:
		return 1;
	default:
		return 0;
	}
}

/* A name ends with a zero byte, and only zeros follow its first one. */
static bool name_valid(const char name[CL_NAME_SIZE])
{
	bool ended = false;
	size_t i = 0;

	for (i = 0; i < CL_NAME_SIZE; i++) {
		if (ended && name[i])
			return false;
		ended = ended || !name[i];
	}
	return ended;
}

static bool io_valid(const struct cl_io *io, uint32_t arena_size)
{
	uint64_t bytes = 0;
	uint32_t i = 0;

	if (!name_valid(io->name) || !cl_dtype_size(io->dtype) || io->rank > CL_MAX_RANK)
		return false;
	for (i = io->rank; i < CL_MAX_RANK; i++)
		if (io->dims[i])
			return false;
	if (!cl_product(io->dims, io->rank, &bytes) ||
	    !cl_mul(bytes, cl_dtype_size(io->dtype), &bytes))
		return false;
	return bytes == io->size && io->offset % 8 == 0 &&
	       (uint64_t)io->offset + io->size <= arena_size;
}

static bool ios_overlap(const struct cl_io *a, const struct cl_io *b)
{
	return (uint64_t)a->offset < (uint64_t)b->offset + b->size &&
	       (uint64_t)b->offset < (uint64_t)a->offset + a->size;
}

/* All inputs are written before the first operator runs, so no two may share a byte. */
static bool inputs_disjoint(const struct cl_io *inputs, uint32_t count)
{
	uint32_t i = 0;
	uint32_t j = 0;

	for (i = 0; i < count; i++)
		for (j = 0; j < i; j++)
			if (ios_overlap(&inputs[i], &inputs[j]))
				return false;
	return true;
}

static bool ios_valid(const struct cl_io *io, uint32_t count, uint32_t arena_size, uint32_t *size)
{
	uint32_t total = 0;
	uint32_t i = 0;

	for (i = 0; i < count; i++) {
		if (!io_valid(&io[i], arena_size) ||
		    __builtin_add_overflow(total, io[i].size, &total))
			return false;
	}
	*size = total;
	return true;
}

/* The suite's nonce, and zeros behind it. */
static bool nonce_valid(const uint8_t nonce[CL_MAX_NONCE_SIZE], uint32_t suite)
{
	size_t i = 0;

	for (i = cl_suite_nonce_size(suite); i < CL_MAX_NONCE_SIZE; i++)
		if (nonce[i])
			return false;
	return true;
}

static bool partitions_valid(const struct cl_partition_desc *desc, const struct cl_manifest *header)
{
	uint32_t largest = 0;
	uint64_t end = 0;
	uint32_t i = 0;

	for (i = 0; i < header->partition_count; i++) {
		uint64_t sealed_size = (uint64_t)desc[i].plain_size +
				       sizeof(struct cl_sealed_header) + CL_TAG_SIZE;

		if (!nonce_valid(desc[i].nonce, header->suite) ||
		    desc[i].plain_size < sizeof(struct cl_partition) ||
		    desc[i].sealed_size != sealed_size || desc[i].offset % CL_ALIGN ||
		    desc[i].offset < end || !cl_add(desc[i].offset, sealed_size, &end) ||
		    end > header->payload_size)
			return false;
		if (desc[i].plain_size > largest)
			largest = desc[i].plain_size;
	}
	return largest == header->largest_partition;
}

static bool pair_valid(const struct cl_pair *pair, const struct cl_manifest *header)
{
	uint32_t least = 0;
	uint32_t i = 0;

	for (i = 0; i < CL_MAX_IO; i++) {
		if (i >= header->input_count) {
			if (pair->first_use[i])
				return false;
			continue;
		}
		if (pair->first_use[i] < least || pair->first_use[i] >= header->partition_count)
			return false;
		least = pair->first_use[i];
	}
	return true;
}

/* The sealed layers are what is left between descriptors and signature: none, or some whole ones.
 */
static bool layers_valid(uint64_t size, uint32_t *count)
{
	const uint64_t frame = sizeof(struct cl_layers_head) + CL_TAG_SIZE;

	*count = 0;
	if (!size)
		return true;
	if (size <= frame || (size - frame) % sizeof(struct cl_layer) ||
	    (size - frame) / sizeof(struct cl_layer) > CL_MAX_LAYERS)
		return false;
	*count = (uint32_t)((size - frame) / sizeof(struct cl_layer));
	return true;
}

static uint32_t check_header(const struct cl_manifest *header, size_t size, uint32_t *layer_count)
{
	uint64_t expected = 0;

	if (header->magic != CL_MAGIC_MANIFEST)
		return CL_ERROR_BAD_FORMAT;
	if (header->version != CL_FORMAT_VERSION)
		return CL_ERROR_VERSION;
	if ((header->header_size != sizeof(*header) &&
	     header->header_size != sizeof(*header) + sizeof(struct cl_pair)) ||
	    header->total_size != size || header->input_count > CL_MAX_IO ||
	    !header->output_count || header->output_count > CL_MAX_IO || !header->partition_count ||
	    header->partition_count > CL_MAX_PARTITIONS)
		return CL_ERROR_BAD_FORMAT;
	if (!cl_suite_nonce_size(header->suite))
		return CL_ERROR_CIPHER;

	/* The counts are small by now: nothing here can overflow. */
	expected = header->header_size +
		   ((uint64_t)header->input_count + header->output_count) * sizeof(struct cl_io) +
		   (uint64_t)header->partition_count * sizeof(struct cl_partition_desc) +
		   CL_SIGNATURE_SIZE;
	return expected <= size && layers_valid(size - expected, layer_count) &&
			       name_valid(header->name)
		       ? CL_SUCCESS
		       : CL_ERROR_BAD_FORMAT;
}

uint32_t cl_manifest_parse(const void *data, size_t size, struct cl_manifest_view *view)
{
	const struct cl_manifest *header = data;
	struct cl_manifest_view found = {0};
	uint32_t res = CL_SUCCESS;

	if (size < sizeof(*header) || size > CL_MANIFEST_MAX_SIZE)
		return CL_ERROR_BAD_FORMAT;
	res = check_header(header, size, &found.layer_count);
	if (res)
		return res;

	found.header = header;
	if (header->header_size != sizeof(*header))
		found.pair = (const void *)(header + 1);
	found.inputs = (const void *)((const uint8_t *)data + header->header_size);
	found.outputs = found.inputs + header->input_count;
	found.partitions = (const void *)(found.outputs + header->output_count);
	if (found.layer_count)
		found.layers = (const void *)(found.partitions + header->partition_count);
	found.signed_size = size - CL_SIGNATURE_SIZE;
	found.signature = (const uint8_t *)data + found.signed_size;

	if (!ios_valid(found.inputs, header->input_count, header->arena_size, &found.input_size) ||
	    !ios_valid(found.outputs, header->output_count, header->arena_size,
		       &found.output_size) ||
	    !inputs_disjoint(found.inputs, header->input_count) ||
	    !partitions_valid(found.partitions, header) ||
	    (found.pair && !pair_valid(found.pair, header)) ||
	    (found.layers && !nonce_valid(found.layers->nonce, header->suite)))
		return CL_ERROR_BAD_FORMAT;

	*view = found;
	return CL_SUCCESS;
}
