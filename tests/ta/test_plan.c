/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"
#include "plan.h"
#include "result.h"
#include "sample.h"

#define COUNT 3

/* Arena 128; partitions 1000, 5000, 64, which take 1024, 5056 and 64. */
static uint32_t plan(uint64_t budget, struct cl_slot slots[COUNT], struct cl_plan *plan)
{
	struct cl_manifest_view view = {0};
	struct sample sample;

	sample_fill(&sample);
	CHECK_EQ(cl_manifest_parse(&sample, sizeof(sample), &view), CL_SUCCESS);
	return cl_plan_make(&view, budget, slots, plan);
}

/* Whatever the budget: nothing overlaps that must not, all lies inside, in at most the budget. */
static void check_layout(uint64_t budget, const struct cl_slot slots[COUNT],
			 const struct cl_plan *made)
{
	static const uint32_t sizes[COUNT] = {1000, 5000, 64};
	uint32_t resident = 0;
	int i = 0;
	int j = 0;

	CHECK(made->total <= budget);
	for (i = 0; i < COUNT; i++) {
		CHECK(slots[i].offset >= 128 && slots[i].offset % CL_ALIGN == 0);
		CHECK(slots[i].offset + sizes[i] <= made->total);
		CHECK(!slots[i].loaded);
		resident += slots[i].resident;
		for (j = 0; j < COUNT; j++)
			if (j != i && slots[i].resident)
				CHECK(slots[j].offset + sizes[j] <= slots[i].offset ||
				      slots[i].offset + sizes[i] <= slots[j].offset);
	}
	CHECK_EQ(made->resident_count, resident);
}

void test_plan(void)
{
	struct cl_slot slots[COUNT];
	struct cl_plan made = {0};
	uint64_t budget = 0;

	for (budget = 0; budget < 128 + 5056; budget++)
		CHECK_EQ(plan(budget, slots, &made), CL_ERROR_OUT_OF_MEMORY);
	for (; budget < 8000; budget++) {
		CHECK_EQ(plan(budget, slots, &made), CL_SUCCESS);
		check_layout(budget, slots, &made);
	}

	CHECK_EQ(plan(128 + 5056, slots, &made), CL_SUCCESS);
	CHECK_EQ(made.resident_count, 0);
	CHECK_EQ(plan(128 + 5056 + 64, slots, &made), CL_SUCCESS);
	CHECK_EQ(made.resident_count, 1);
	CHECK(slots[2].resident);
	CHECK_EQ(plan(128 + 5056 + 1024, slots, &made), CL_SUCCESS);
	CHECK(slots[0].resident && !slots[1].resident && !slots[2].resident);
	CHECK_EQ(plan(128 + 1024 + 5056 + 64, slots, &made), CL_SUCCESS);
	CHECK_EQ(made.resident_count, 3);
	CHECK_EQ(made.total, 128 + 1024 + 5056 + 64);
	CHECK_EQ(plan(UINT64_MAX, slots, &made), CL_SUCCESS);
	CHECK_EQ(made.total, 128 + 1024 + 5056 + 64);
}
