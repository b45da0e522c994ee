/* SPDX-License-Identifier: BSD-2-Clause */
/* Matrix products whose both sides lie in the order in which they are read. */
#ifndef CLOISTER_PACKED_H
#define CLOISTER_PACKED_H

#include <stddef.h>

#define CL_PACKED_ROWS 8

/*
 * `products` products, one after another, of `row_count` rows (1 to CL_PACKED_ROWS) and 8
 * columns over `depth` (a multiple of 4, not zero):
 *   rows [products][depth / 4][row_count][4], columns [products][depth][8],
 *   out [products][CL_PACKED_ROWS][8], of which row_count rows are written.
 */
void cl_packed_tiles(const float *rows, const float *columns, size_t depth, size_t products,
		     unsigned int row_count, float *out);

#endif
