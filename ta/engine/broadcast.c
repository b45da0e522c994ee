/* SPDX-License-Identifier: BSD-2-Clause */
#include "broadcast.h"
#include "element.h"

/* The operand's last element is inside. */
static bool can_read_operand(const struct cl_broadcast *operands, const struct cl_ref *ref,
			     const uint32_t *strides, const struct cl_memory *memory,
			     uint32_t element_size)
{
	uint64_t last = 0;
	uint64_t step = 0;
	uint32_t i = 0;

	for (i = 0; i < operands->rank; i++)
		if (!cl_mul(operands->dims[i] - 1, strides[i], &step) || !cl_add(last, step, &last))
			return false;
	return cl_add(last, 1, &last) && cl_can_read(ref, memory, last, element_size);
}

/* The output may replace an operand that lies in memory exactly as it does. */
static bool may_share(const struct cl_broadcast *operands, const struct cl_ref *ref,
		      const uint32_t *strides)
{
	uint64_t dense = 1;
	uint32_t i = operands->rank;

	if (!cl_refs_overlap(ref, operands->out))
		return true;
	if (ref->offset != operands->out->offset)
		return false;
	while (i--) {
		if (operands->dims[i] > 1 && strides[i] != dense)
			return false;
		dense *= operands->dims[i];
	}
	return true;
}

enum cl_status cl_broadcast_check(const struct cl_broadcast *operands,
				  const struct cl_memory *memory, uint32_t element_size)
{
	const uint32_t rank = operands->rank;
	uint64_t count = 0;

	if (rank > CL_MAX_RANK || !cl_product(operands->dims, rank, &count) ||
	    !cl_rest_is_zero(operands->dims, rank) || !cl_rest_is_zero(operands->a_strides, rank) ||
	    !cl_rest_is_zero(operands->b_strides, rank))
		return CL_BAD_FORMAT;
	if (!cl_can_write(operands->out, memory, count, element_size) ||
	    !can_read_operand(operands, operands->a, operands->a_strides, memory, element_size) ||
	    !can_read_operand(operands, operands->b, operands->b_strides, memory, element_size) ||
	    !may_share(operands, operands->a, operands->a_strides) ||
	    !may_share(operands, operands->b, operands->b_strides))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

struct cl_run cl_broadcast_rows(const struct cl_broadcast *operands, struct cl_walk *walk)
{
	uint32_t i = 0;

	for (i = 0; i < operands->rank; i++)
		cl_walk_append(walk, operands->dims[i], operands->a_strides[i],
			       operands->b_strides[i]);
	return cl_walk_take_inner(walk);
}
