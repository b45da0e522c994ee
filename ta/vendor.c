/* SPDX-License-Identifier: BSD-2-Clause */
#include "vendor.h"

#ifndef CL_VENDOR_KEY
#define CL_VENDOR_KEY 0
#endif

const uint8_t cl_vendor_key[CL_KEY_SIZE] = {CL_VENDOR_KEY};

bool cl_vendor_known(void)
{
	uint8_t bits = 0;
	unsigned int i = 0;

	for (i = 0; i < CL_KEY_SIZE; i++)
		bits |= cl_vendor_key[i];
	return bits != 0;
}
