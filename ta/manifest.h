/* SPDX-License-Identifier: BSD-2-Clause */
/* Parsing a manifest. Portable: no OP-TEE header. */
#ifndef CLOISTER_MANIFEST_H
#define CLOISTER_MANIFEST_H

#include <stddef.h>

#include "cloister_format.h"

/* Of the largest manifest that the format allows. */
#define CL_MANIFEST_MAX_SIZE                                                                       \
	(sizeof(struct cl_manifest) + sizeof(struct cl_pair) +                                     \
	 2 * CL_MAX_IO * sizeof(struct cl_io) +                                                    \
	 CL_MAX_PARTITIONS * sizeof(struct cl_partition_desc) + sizeof(struct cl_layers_head) +    \
	 CL_MAX_LAYERS * sizeof(struct cl_layer) + CL_TAG_SIZE + CL_SIGNATURE_SIZE)

/* A manifest whose every number was checked; all pointers lead into its bytes. */
struct cl_manifest_view {
	const struct cl_manifest *header;
	const struct cl_pair *pair; /* NULL: all inputs come at once */
	const struct cl_io *inputs;
	const struct cl_io *outputs;
	const struct cl_partition_desc *partitions;
	const struct cl_layers_head *layers; /* sealed behind it; NULL: none */
	uint32_t layer_count;
	const uint8_t *signature; /* not verified here */
	size_t signed_size;       /* bytes before the signature */
	uint32_t input_size;      /* bytes of all inputs */
	uint32_t output_size;     /* bytes of all outputs */
};

/*
 * Checks `size` bytes at the 8-byte aligned address `data`, which nobody else can
 * write. Afterwards every tensor lies inside the arena, inputs do not overlap each
 * other, partitions lie in order inside the payload without overlap, and a pair's first
 * uses ascend and are partitions.
 *
 * CL_ERROR_BAD_FORMAT: a field contradicts another, or padding is not zero.
 * CL_ERROR_VERSION: a format version this TA does not know.
 * CL_ERROR_CIPHER: a cipher suite that is not defined here.
 */
uint32_t cl_manifest_parse(const void *data, size_t size, struct cl_manifest_view *view);

/* Bytes of one element of enum cl_dtype; 0: unknown. */
uint32_t cl_dtype_size(uint32_t dtype);

#endif
