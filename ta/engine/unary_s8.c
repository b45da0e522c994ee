/* SPDX-License-Identifier: BSD-2-Clause */
/* UNARY_S8: a table of 256 bytes looked up, in place if wanted. */
#include "bounds.h"
#include "neon.h"

#define TABLE_SIZE 256

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_unary_s8 *unary = (const struct cl_unary_s8 *)op;

	if (!unary->count || unary->reserved)
		return CL_BAD_FORMAT;
	if (!cl_can_read(&unary->in, memory, unary->count, 1) ||
	    !cl_can_read(&unary->table, memory, TABLE_SIZE, 1) ||
	    !cl_can_write(&unary->out, memory, unary->count, 1))
		return CL_OUT_OF_BOUNDS;
	if (cl_refs_overlap(&unary->out, &unary->table) ||
	    (cl_refs_overlap(&unary->in, &unary->out) && unary->in.offset != unary->out.offset))
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_unary_s8 *unary = (const struct cl_unary_s8 *)op;
	const uint8_t *in = cl_source(&unary->in, memory);
	const uint8_t *table = cl_source(&unary->table, memory);
	uint8_t *out = cl_target(&unary->out, memory);
	const uint8x16x4_t table0 = vld1q_u8_x4(table);
	const uint8x16x4_t table1 = vld1q_u8_x4(table + 64);
	const uint8x16x4_t table2 = vld1q_u8_x4(table + 128);
	const uint8x16x4_t table3 = vld1q_u8_x4(table + 192);
	const uint8x16_t quarter = vdupq_n_u8(64);
	const size_t count = unary->count;
	size_t i = 0;

	for (; i + 16 <= count; i += 16) {
		/* An index outside of a quarter gives 0, or leaves what was found. */
		uint8x16_t index = vld1q_u8(in + i);
		uint8x16_t found = vqtbl4q_u8(table0, index);

		index = vsubq_u8(index, quarter);
		found = vqtbx4q_u8(found, table1, index);
		index = vsubq_u8(index, quarter);
		found = vqtbx4q_u8(found, table2, index);
		index = vsubq_u8(index, quarter);
		found = vqtbx4q_u8(found, table3, index);
		vst1q_u8(out + i, found);
	}
	for (; i < count; i++)
		out[i] = table[in[i]];
}

const struct cl_kernel_ops cl_unary_s8_kernel = {
	.record_size = sizeof(struct cl_unary_s8),
	.check = check,
	.run = run,
};
