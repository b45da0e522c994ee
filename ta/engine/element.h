/* SPDX-License-Identifier: BSD-2-Clause */
/* Elements of any type, known only by their size, and lists of dimensions. */
#ifndef CLOISTER_ELEMENT_H
#define CLOISTER_ELEMENT_H

#include "bounds.h"

static inline bool cl_element_size_valid(uint32_t size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

/* Entries of an array of dimensions or strides beyond the rank are zero, like padding. */
static inline bool cl_rest_is_zero(const uint32_t *values, uint32_t rank)
{
	uint32_t i = 0;

	for (i = rank; i < CL_MAX_RANK; i++)
		if (values[i])
			return false;
	return true;
}

#endif
