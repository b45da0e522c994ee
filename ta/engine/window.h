/* SPDX-License-Identifier: BSD-2-Clause */
/* Which taps of a sliding window lie inside the input, along one dimension. */
#ifndef CLOISTER_WINDOW_H
#define CLOISTER_WINDOW_H

#include <stdint.h>

struct cl_window {
	int64_t position; /* of the first tap inside, in the input; 0 when none is */
	uint32_t begin;   /* taps begin..end-1 are inside; begin == end: none */
	uint32_t end;
};

/*
 * The window of output `index`. All numbers are below the limits in extent.h,
 * so that nothing overflows; kernel, stride, dilation and extent are not zero.
 */
static inline struct cl_window cl_window_at(uint32_t index, uint32_t kernel, uint32_t stride,
					    uint32_t dilation, uint32_t pad, uint32_t extent)
{
	const int64_t start = (int64_t)index * stride - pad;
	struct cl_window window = {0};

	if (start >= extent)
		return window;
	if (start < 0) {
		const int64_t skipped = (-start + dilation - 1) / dilation;

		if (skipped >= kernel)
			return window;
		window.begin = (uint32_t)skipped;
	}
	window.position = start + (int64_t)window.begin * dilation;
	if (window.position >= extent) {
		window.begin = 0;
		window.position = 0;
		return window;
	}
	window.end = kernel;
	if (start + (int64_t)(kernel - 1) * dilation >= extent)
		window.end = (uint32_t)((extent - start + dilation - 1) / dilation);
	return window;
}

#endif
