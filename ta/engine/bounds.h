/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Overflow-checked arithmetic for numbers that come from outside, and the test
 * that a run of bytes lies inside its memory.
 */
#ifndef CLOISTER_BOUNDS_H
#define CLOISTER_BOUNDS_H

#include "kernel.h"

/* *result = a * b; false when it does not fit. */
static inline bool cl_mul(uint64_t a, uint64_t b, uint64_t *result)
{
	return !__builtin_mul_overflow(a, b, result);
}

/* *result = a + b; false when it does not fit. */
static inline bool cl_add(uint64_t a, uint64_t b, uint64_t *result)
{
	return !__builtin_add_overflow(a, b, result);
}

/* The product of `count` 32-bit factors; false when it does not fit or a factor is zero. */
static inline bool cl_product(const uint32_t *factors, unsigned int count, uint64_t *result)
{
	uint64_t product = 1;
	unsigned int i = 0;

	for (i = 0; i < count; i++)
		if (!factors[i] || !cl_mul(product, factors[i], &product))
			return false;
	*result = product;
	return true;
}

/* The run lies inside its space; an absent run passes only if it is truly empty. */
static inline bool cl_ref_inside(const struct cl_ref *ref, const struct cl_memory *memory)
{
	uint64_t size = 0;

	if (ref->reserved || ref->offset % 8)
		return false;
	switch (ref->space) {
	case CL_SPACE_NONE:
		return !ref->offset && !ref->size;
	case CL_SPACE_ARENA:
		size = memory->arena_size;
		break;
	case CL_SPACE_WEIGHTS:
		size = memory->weights_size;
		break;
	default:
		return false;
	}
	return (uint64_t)ref->offset + ref->size <= size;
}

/* The run exists, lies inside and holds `count` elements of `elem_size` bytes. */
static inline bool cl_can_read(const struct cl_ref *ref, const struct cl_memory *memory,
			       uint64_t count, uint32_t elem_size)
{
	uint64_t bytes = 0;

	return ref->space != CL_SPACE_NONE && cl_ref_inside(ref, memory) &&
	       cl_mul(count, elem_size, &bytes) && bytes <= ref->size;
}

/* As cl_can_read; only the arena can be written. */
static inline bool cl_can_write(const struct cl_ref *ref, const struct cl_memory *memory,
				uint64_t count, uint32_t elem_size)
{
	return ref->space == CL_SPACE_ARENA && cl_can_read(ref, memory, count, elem_size);
}

/* As cl_can_read, or absent. */
static inline bool cl_can_read_optional(const struct cl_ref *ref, const struct cl_memory *memory,
					uint64_t count, uint32_t elem_size)
{
	return ref->space == CL_SPACE_NONE ? cl_ref_inside(ref, memory)
					   : cl_can_read(ref, memory, count, elem_size);
}

/* The two runs share at least one byte. */
static inline bool cl_refs_overlap(const struct cl_ref *a, const struct cl_ref *b)
{
	return a->space == b->space && a->space != CL_SPACE_NONE &&
	       (uint64_t)a->offset < (uint64_t)b->offset + b->size &&
	       (uint64_t)b->offset < (uint64_t)a->offset + a->size;
}

/* Address of a run for reading; NULL for an absent one. */
static inline const void *cl_source(const struct cl_ref *ref, const struct cl_memory *memory)
{
	if (ref->space == CL_SPACE_NONE)
		return NULL;
	return (ref->space == CL_SPACE_ARENA ? memory->arena : memory->weights) + ref->offset;
}

/* Address of a run for writing. */
static inline void *cl_target(const struct cl_ref *ref, const struct cl_memory *memory)
{
	return memory->arena + ref->offset;
}

#endif
