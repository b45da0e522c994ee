/* SPDX-License-Identifier: BSD-2-Clause */
/* FILL: the whole of out becomes copies of one element. */
#include <string.h>

#include "bounds.h"
#include "element.h"

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_fill *fill = (const struct cl_fill *)op;

	if (fill->reserved)
		return CL_BAD_FORMAT;
	if (!cl_element_size_valid(fill->elem_size))
		return CL_BAD_KERNEL;
	if (!fill->out.size || fill->out.size % fill->elem_size)
		return CL_BAD_FORMAT;
	if (!cl_can_write(&fill->out, memory, fill->out.size / fill->elem_size, fill->elem_size))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_fill *fill = (const struct cl_fill *)op;
	uint8_t *out = cl_target(&fill->out, memory);
	uint64_t pattern = fill->value;
	uint32_t i = 0;

	/* The low bytes of value, repeated up to eight: out starts on a multiple of eight. */
	if (fill->elem_size < 8)
		pattern &= (UINT64_C(1) << (8 * fill->elem_size)) - 1;
	for (i = fill->elem_size; i < 8; i *= 2)
		pattern |= pattern << (8 * i);
	for (i = 0; fill->out.size - i >= sizeof(pattern); i += sizeof(pattern))
		memcpy(out + i, &pattern, sizeof(pattern));
	memcpy(out + i, &pattern, fill->out.size - i);
}

const struct cl_kernel_ops cl_fill_kernel = {
	.record_size = sizeof(struct cl_fill),
	.check = check,
	.run = run,
};
