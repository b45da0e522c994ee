/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a kernel is to the executor: a check and a run function over one operator
 * record. check proves that run stays inside the memory; run checks nothing.
 */
#ifndef CLOISTER_KERNEL_H
#define CLOISTER_KERNEL_H

#include <stdbool.h>

#include "engine.h"

struct cl_memory {
	uint8_t *arena; /* NULL while checking */
	size_t arena_size;
	const uint8_t *weights; /* valid while checking as well: tables are checked there */
	size_t weights_size;
	const struct cl_scaled *scaled; /* NULL: nothing is */
	uint64_t *scanned; /* elements of tables that checks have read; NULL: nobody counts */
};

struct cl_kernel_ops {
	size_t record_size; /* sizeof the record's structure */
	enum cl_status (*check)(const struct cl_op *op, const struct cl_memory *memory);
	void (*run)(const struct cl_op *op, const struct cl_memory *memory);
};

extern const struct cl_kernel_ops cl_conv2d_kernel;
extern const struct cl_kernel_ops cl_depthwise_kernel;
extern const struct cl_kernel_ops cl_gemm_kernel;
extern const struct cl_kernel_ops cl_matmul_kernel;
extern const struct cl_kernel_ops cl_unary_kernel;
extern const struct cl_kernel_ops cl_binary_kernel;
extern const struct cl_kernel_ops cl_copy_kernel;
extern const struct cl_kernel_ops cl_fill_kernel;
extern const struct cl_kernel_ops cl_pool_kernel;
extern const struct cl_kernel_ops cl_reduce_kernel;
extern const struct cl_kernel_ops cl_softmax_kernel;
extern const struct cl_kernel_ops cl_lrn_kernel;
extern const struct cl_kernel_ops cl_resample_kernel;
extern const struct cl_kernel_ops cl_argmax_kernel;
extern const struct cl_kernel_ops cl_winograd_kernel;
extern const struct cl_kernel_ops cl_conv2d_s8_kernel;
extern const struct cl_kernel_ops cl_depthwise_s8_kernel;
extern const struct cl_kernel_ops cl_gemm_s8_kernel;
extern const struct cl_kernel_ops cl_binary_s8_kernel;
extern const struct cl_kernel_ops cl_pool_s8_kernel;
extern const struct cl_kernel_ops cl_unary_s8_kernel;
extern const struct cl_kernel_ops cl_quantize_kernel;
extern const struct cl_kernel_ops cl_dequantize_kernel;

#endif
