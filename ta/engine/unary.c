/* SPDX-License-Identifier: BSD-2-Clause */
/* UNARY: out[i] = function(in[i]) over `count` floats, in place if wanted. */
#include "activation.h"
#include "bounds.h"

static enum cl_status check(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_unary_op *unary = (const struct cl_unary_op *)op;

	if (!unary->count || unary->reserved)
		return CL_BAD_FORMAT;
	if (!cl_activation_valid(&unary->function))
		return CL_BAD_KERNEL;
	if (!cl_can_read(&unary->in, memory, unary->count, sizeof(float)) ||
	    !cl_can_write(&unary->out, memory, unary->count, sizeof(float)))
		return CL_OUT_OF_BOUNDS;
	if (cl_refs_overlap(&unary->in, &unary->out) && unary->in.offset != unary->out.offset)
		return CL_OUT_OF_BOUNDS;
	return CL_OK;
}

static void run(const struct cl_op *op, const struct cl_memory *memory)
{
	const struct cl_unary_op *unary = (const struct cl_unary_op *)op;

	cl_activate(&unary->function, cl_source(&unary->in, memory), cl_target(&unary->out, memory),
		    unary->count);
}

const struct cl_kernel_ops cl_unary_kernel = {
	.record_size = sizeof(struct cl_unary_op),
	.check = check,
	.run = run,
};
