/* SPDX-License-Identifier: BSD-2-Clause */
#include "executor.h"

#include <string.h>

#include "sites.h"

/* Bytes between two sections are padding: zero. */
static bool is_zero(const uint8_t *bytes, size_t begin, size_t end)
{
	uint64_t word = 0;
	size_t i = begin;

	for (; i + sizeof(word) <= end; i += sizeof(word)) {
		memcpy(&word, bytes + i, sizeof(word));
		if (word)
			return false;
	}
	for (; i < end; i++)
		if (bytes[i])
			return false;
	return true;
}

enum cl_status cl_partition_check_header(const void *partition, size_t size)
{
	const struct cl_partition *header = partition;
	const uint8_t *bytes = partition;
	uint64_t ops_end = 0;
	uint64_t weights_end = 0;

	if (!partition || (uintptr_t)partition % CL_ALIGN || size < sizeof(*header) ||
	    header->magic != CL_MAGIC_PARTITION)
		return CL_BAD_FORMAT;
	if (header->version != CL_FORMAT_VERSION)
		return CL_BAD_VERSION;
	if (header->header_size != sizeof(*header) || header->total_size != size)
		return CL_BAD_FORMAT;

	ops_end = (uint64_t)header->ops_offset + header->ops_size +
		  (uint64_t)header->site_count * sizeof(struct cl_site);
	weights_end = (uint64_t)header->weights_offset + header->weights_size;
	if (header->ops_offset < sizeof(*header) || header->ops_offset % 8 ||
	    header->ops_size % 8 || ops_end > size || header->weights_offset < ops_end ||
	    header->weights_offset % CL_ALIGN || weights_end > size)
		return CL_BAD_FORMAT;
	if (!is_zero(bytes, sizeof(*header), header->ops_offset) ||
	    !is_zero(bytes, (size_t)ops_end, header->weights_offset) ||
	    !is_zero(bytes, (size_t)weights_end, size))
		return CL_BAD_FORMAT;
	return cl_sites_check(header);
}

/* Checks the record at `op`, of which `left` bytes are inside the operator section. */
static enum cl_status check_op(const struct cl_op *op, size_t left, const struct cl_memory *memory)
{
	const struct cl_kernel_ops *kernel = NULL;

	if (left < sizeof(*op))
		return CL_BAD_FORMAT;
	kernel = cl_kernel_find(op->kernel);
	if (!kernel)
		return CL_BAD_KERNEL;
	if (op->size != kernel->record_size || op->size > left)
		return CL_BAD_FORMAT;
	return kernel->check(op, memory);
}

/*
 * Elements of tables that a check may read for each byte of the weights. Operators may share a
 * table; without a limit, many with one large table would make a check take the square of the
 * partition's size.
 */
#define SCANS_PER_BYTE 64

/* The operators of a partition with a checked header. */
static enum cl_status check_ops(const struct cl_partition *header, size_t arena_size,
				const struct cl_scaled *scaled, uint32_t *failed_op)
{
	struct cl_memory memory = {0};
	size_t position = header->ops_offset;
	size_t left = header->ops_size;
	uint64_t scanned = 0;
	uint32_t i = 0;

	if (header->arena_size > arena_size)
		return CL_OUT_OF_BOUNDS;
	cl_partition_memory(header, NULL, &memory);
	memory.scaled = scaled;
	memory.scanned = &scanned;
	for (i = 0; i < header->op_count; i++) {
		const struct cl_op *op = (const struct cl_op *)((const uint8_t *)header + position);
		enum cl_status status = check_op(op, left, &memory);

		if (status == CL_OK && scanned / SCANS_PER_BYTE > header->weights_size)
			status = CL_BAD_FORMAT;
		if (status != CL_OK) {
			if (failed_op)
				*failed_op = i;
			return status;
		}
		position += op->size;
		left -= op->size;
	}
	return left ? CL_BAD_FORMAT : CL_OK;
}

enum cl_status cl_partition_check(const void *partition, size_t size, size_t arena_size,
				  uint32_t *failed_op)
{
	const enum cl_status status = cl_partition_check_header(partition, size);

	if (failed_op)
		*failed_op = UINT32_MAX;
	return status == CL_OK ? check_ops(partition, arena_size, NULL, failed_op) : status;
}

enum cl_status cl_partition_open(void *partition, size_t size, size_t arena_size,
				 const void *password, struct cl_scaled *scaled,
				 uint32_t *failed_op)
{
	const enum cl_status status = cl_partition_check_header(partition, size);

	if (failed_op)
		*failed_op = UINT32_MAX;
	if (scaled)
		scaled->count = 0;
	if (status != CL_OK)
		return status;
	/* Before the operators: they are held against what the weights then hold. */
	if (password)
		cl_sites_unlock(partition, password, scaled);
	return check_ops(partition, arena_size, scaled, failed_op);
}

enum cl_status cl_partition_unlock(void *partition, size_t size, const void *password)
{
	const enum cl_status status = cl_partition_check_header(partition, size);

	if (status == CL_OK)
		cl_sites_unlock(partition, password, NULL);
	return status;
}
