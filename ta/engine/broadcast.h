/* SPDX-License-Identifier: BSD-2-Clause */
/* What BINARY and BINARY_S8 share: two operands with broadcasting, and how they are walked. */
#ifndef CLOISTER_BROADCAST_H
#define CLOISTER_BROADCAST_H

#include "walk.h"

/* The fields of a record that say where its operands lie. */
struct cl_broadcast {
	uint32_t rank;
	const uint32_t *dims; /* of the output */
	const struct cl_ref *a;
	const struct cl_ref *b;
	const struct cl_ref *out;
	const uint32_t *a_strides; /* over the output's shape */
	const uint32_t *b_strides;
};

/* `record` is a struct cl_binary_op or a struct cl_binary_s8. */
#define CL_BROADCAST(record)                                                                       \
	((struct cl_broadcast){                                                                    \
		.rank = (record)->rank,                                                            \
		.dims = (record)->dims,                                                            \
		.a = &(record)->a,                                                                 \
		.b = &(record)->b,                                                                 \
		.out = &(record)->out,                                                             \
		.a_strides = (record)->a_strides,                                                  \
		.b_strides = (record)->b_strides,                                                  \
	})

/* Elements of so many bytes; the output may replace an operand that lies exactly as it does. */
enum cl_status cl_broadcast_check(const struct cl_broadcast *operands,
				  const struct cl_memory *memory, uint32_t element_size);

/* Starts a walk over the rows of both operands, and takes the row out of it. */
struct cl_run cl_broadcast_rows(const struct cl_broadcast *operands, struct cl_walk *walk);

#endif
