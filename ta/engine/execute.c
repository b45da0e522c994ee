/* SPDX-License-Identifier: BSD-2-Clause */
#include "executor.h"

static const struct cl_kernel_ops *const kernels[CL_KERNEL_COUNT] = {
	[CL_KERNEL_CONV2D] = &cl_conv2d_kernel,
	[CL_KERNEL_DEPTHWISE] = &cl_depthwise_kernel,
	[CL_KERNEL_GEMM] = &cl_gemm_kernel,
	[CL_KERNEL_MATMUL] = &cl_matmul_kernel,
	[CL_KERNEL_UNARY] = &cl_unary_kernel,
	[CL_KERNEL_BINARY] = &cl_binary_kernel,
	[CL_KERNEL_COPY] = &cl_copy_kernel,
	[CL_KERNEL_FILL] = &cl_fill_kernel,
	[CL_KERNEL_POOL] = &cl_pool_kernel,
	[CL_KERNEL_REDUCE] = &cl_reduce_kernel,
	[CL_KERNEL_SOFTMAX] = &cl_softmax_kernel,
	[CL_KERNEL_LRN] = &cl_lrn_kernel,
	[CL_KERNEL_RESAMPLE] = &cl_resample_kernel,
	[CL_KERNEL_ARGMAX] = &cl_argmax_kernel,
	[CL_KERNEL_CONV2D_S8] = &cl_conv2d_s8_kernel,
	[CL_KERNEL_DEPTHWISE_S8] = &cl_depthwise_s8_kernel,
	[CL_KERNEL_GEMM_S8] = &cl_gemm_s8_kernel,
	[CL_KERNEL_BINARY_S8] = &cl_binary_s8_kernel,
	[CL_KERNEL_POOL_S8] = &cl_pool_s8_kernel,
	[CL_KERNEL_UNARY_S8] = &cl_unary_s8_kernel,
	[CL_KERNEL_QUANTIZE] = &cl_quantize_kernel,
	[CL_KERNEL_DEQUANTIZE] = &cl_dequantize_kernel,
	[CL_KERNEL_WINOGRAD] = &cl_winograd_kernel,
};

const struct cl_kernel_ops *cl_kernel_find(uint32_t kernel)
{
	return kernel < CL_KERNEL_COUNT ? kernels[kernel] : NULL;
}

enum cl_status cl_partition_run_scaled(const void *partition, void *arena,
				       const struct cl_scaled *scaled, int (*should_stop)(void *),
				       void *cookie)
{
	const struct cl_partition *header = partition;
	const uint8_t *next = (const uint8_t *)partition + header->ops_offset;
	struct cl_memory memory = {0};
	uint32_t i = 0;

	cl_partition_memory(header, arena, &memory);
	memory.scaled = scaled;
	for (i = 0; i < header->op_count; i++) {
		const struct cl_op *op = (const struct cl_op *)next;

		if (should_stop && should_stop(cookie))
			return CL_STOPPED;
		kernels[op->kernel]->run(op, &memory);
		next += op->size;
	}
	return CL_OK;
}

enum cl_status cl_partition_run(const void *partition, void *arena, int (*should_stop)(void *),
				void *cookie)
{
	return cl_partition_run_scaled(partition, arena, NULL, should_stop, cookie);
}
