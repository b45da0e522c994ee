/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "harness.h"

TEST(fill_repeats_the_low_bytes)
{
	unsigned int round = 0;

	for (round = 0; round < 200; round++) {
		struct stage stage = {0};
		struct cl_fill op = {.op = {CL_KERNEL_FILL, sizeof(op), 0}};
		const uint8_t *out = NULL;
		uint32_t i = 0;

		op.elem_size = 1U << random_range(0, 3);
		op.value = (uint64_t)random_u32() << 32 | random_u32();
		op.out = stage_arena(&stage, random_range(1, 40) * op.elem_size);
		stage_build(&stage);
		stage_run(&stage, &cl_fill_kernel, &op, &op.out);
		out = stage_at(&stage, &op.out);
		for (i = 0; i < op.out.size; i += op.elem_size)
			EXPECT(!memcmp(out + i, &op.value, op.elem_size), "byte %u", i);
		stage_free(&stage);
	}
}

TEST(fill_refuses_bad_records)
{
	struct stage stage = {0};
	struct cl_fill good = {.op = {CL_KERNEL_FILL, sizeof(good), 0}, .elem_size = 4};
	struct cl_fill bad = good;

	good.out = stage_arena(&stage, 44);
	stage_build(&stage);
	expect_check(&stage, &cl_fill_kernel, &good, CL_OK, "valid record");
#define REFUSED(field, value, status)                                                              \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.field = (value);                                                               \
		expect_check(&stage, &cl_fill_kernel, &bad, status, #field " = " #value);          \
	} while (0)
	REFUSED(elem_size, 0, CL_BAD_KERNEL);
	REFUSED(elem_size, 3, CL_BAD_KERNEL);
	REFUSED(elem_size, 16, CL_BAD_KERNEL);
	REFUSED(elem_size, 8, CL_BAD_FORMAT);
	REFUSED(reserved, 1, CL_BAD_FORMAT);
	REFUSED(out.size, 0, CL_BAD_FORMAT);
	REFUSED(out.size, 42, CL_BAD_FORMAT);
	REFUSED(out.size, 48, CL_OUT_OF_BOUNDS);
	REFUSED(out.offset, good.out.offset + 8, CL_OUT_OF_BOUNDS);
	REFUSED(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS);
#undef REFUSED
	expect_mutants_harmless(&stage, &cl_fill_kernel, &good);
	stage_free(&stage);
}
