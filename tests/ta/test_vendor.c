/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"
#include "vendor.h"

/* Built without a key, as here, the TA knows no vendor; LOAD then refuses everything. */
void test_vendor(void)
{
	int i = 0;

	CHECK(!cl_vendor_known());
	for (i = 0; i < CL_KEY_SIZE; i++)
		CHECK_EQ(cl_vendor_key[i], 0);
}
