/* SPDX-License-Identifier: BSD-2-Clause */
/* Whole partitions: what the check refuses, how a run goes through and stops. */
#include <string.h>

#include "harness.h"

#define OP_COUNT 3

/* A partition whose operators fill three floats of the arena, one after another. */
struct sample {
	_Alignas(CL_ALIGN) struct cl_partition header;
	struct cl_fill ops[OP_COUNT];
	uint8_t padding[32];
	uint8_t weights[64];
	uint8_t end[64]; /* in total_size, used by nothing */
};

_Static_assert(offsetof(struct sample, weights) % CL_ALIGN == 0, "weights are aligned");

static const uint32_t values[OP_COUNT] = {0x3f800000, 0x40000000, 0x40400000};

static void make(struct sample *sample)
{
	uint32_t i = 0;

	memset(sample, 0, sizeof(*sample));
	memset(sample->weights, 0xa5, sizeof(sample->weights));
	sample->header.magic = CL_MAGIC_PARTITION;
	sample->header.version = CL_FORMAT_VERSION;
	sample->header.header_size = sizeof(struct cl_partition);
	sample->header.total_size = sizeof(*sample);
	sample->header.op_count = OP_COUNT;
	sample->header.ops_offset = offsetof(struct sample, ops);
	sample->header.ops_size = sizeof(sample->ops);
	sample->header.weights_offset = offsetof(struct sample, weights);
	sample->header.weights_size = sizeof(sample->weights);
	sample->header.arena_size = 8 * OP_COUNT;
	for (i = 0; i < OP_COUNT; i++) {
		sample->ops[i].op.kernel = CL_KERNEL_FILL;
		sample->ops[i].op.size = sizeof(struct cl_fill);
		sample->ops[i].out.space = CL_SPACE_ARENA;
		sample->ops[i].out.offset = 8 * i;
		sample->ops[i].out.size = 4;
		sample->ops[i].value = values[i];
		sample->ops[i].elem_size = 4;
	}
}

static void expect_status(const struct sample *sample, enum cl_status status, uint32_t failed_op,
			  const char *what)
{
	uint32_t at = 0;
	enum cl_status got =
		cl_partition_check(sample, sizeof(*sample), sample->header.arena_size, &at);

	EXPECT(got == status && at == failed_op, "%s: %d at %u, not %d at %u", what, got, at,
	       status, failed_op);
}

#define TABLE 64  /* elements */
#define MANY  300 /* operators */

/* Gathers that all read one table. */
struct gathers {
	_Alignas(CL_ALIGN) struct cl_partition header;
	struct cl_resample ops[MANY];
	uint8_t padding[CL_ALIGN];
	_Alignas(CL_ALIGN) int32_t table[TABLE];
};

static enum cl_status check_gathers(uint32_t count)
{
	static struct gathers many;
	const size_t behind = offsetof(struct gathers, table);
	uint32_t i = 0;

	memset(&many, 0, sizeof(many));
	many.header = (struct cl_partition){
		.magic = CL_MAGIC_PARTITION,
		.version = CL_FORMAT_VERSION,
		.header_size = sizeof(struct cl_partition),
		.total_size = sizeof(many),
		.op_count = count,
		.ops_offset = offsetof(struct gathers, ops),
		.ops_size = count * (uint32_t)sizeof(struct cl_resample),
		.weights_offset = (uint32_t)behind,
		.weights_size = sizeof(many.table),
		.arena_size = 16 + 4 * TABLE,
	};
	for (i = 0; i < count; i++)
		many.ops[i] = (struct cl_resample){
			.op = {CL_KERNEL_RESAMPLE, sizeof(struct cl_resample), 0},
			.in = {CL_SPACE_ARENA, 0, 4, 0},
			.out = {CL_SPACE_ARENA, 16, 4 * TABLE, 0},
			.index = {CL_SPACE_WEIGHTS, 0, 4 * TABLE, 0},
			.outer = 1,
			.in_n = 1,
			.out_n = TABLE,
			.inner = 1,
			.taps = 1,
		};
	return cl_partition_check(&many, sizeof(many), many.header.arena_size, NULL);
}

TEST(partition_whose_check_would_read_one_table_for_ever_is_refused)
{
	EXPECT(check_gathers(1) == CL_OK && check_gathers(256) == CL_OK, "tables may be shared");
	EXPECT(check_gathers(258) == CL_BAD_FORMAT, "by so many");
}

TEST(partition_runs_its_operators_in_order)
{
	struct sample sample = {0};
	_Alignas(CL_ALIGN) uint32_t arena[2 * OP_COUNT] = {0};
	uint32_t i = 0;

	make(&sample);
	expect_status(&sample, CL_OK, UINT32_MAX, "valid partition");
	EXPECT(cl_partition_check(&sample, sizeof(sample), sizeof(arena), NULL) == CL_OK,
	       "nobody asks for the operator");
	EXPECT(cl_partition_run(&sample, arena, NULL, NULL) == CL_OK, "run");
	for (i = 0; i < OP_COUNT; i++)
		EXPECT(arena[2 * i] == values[i] && !arena[2 * i + 1], "operator %u", i);
}

static int stop_at_zero(void *cookie)
{
	unsigned int *left = cookie;

	return (*left)-- == 0;
}

TEST(partition_stops_when_asked)
{
	struct sample sample = {0};
	_Alignas(CL_ALIGN) uint32_t arena[2 * OP_COUNT] = {0};
	unsigned int left = 2;

	make(&sample);
	EXPECT(cl_partition_run(&sample, arena, stop_at_zero, &left) == CL_STOPPED, "stop");
	EXPECT(arena[2] == values[1] && !arena[4], "two operators ran");
	left = OP_COUNT;
	EXPECT(cl_partition_run(&sample, arena, stop_at_zero, &left) == CL_OK, "no stop");
	EXPECT(arena[4] == values[2], "three operators ran");
}

#define REFUSE(field, value, status, failed_op)                                                    \
	do {                                                                                       \
		make(&sample);                                                                     \
		sample.field = value;                                                              \
		expect_status(&sample, status, failed_op, #field " = " #value);                    \
	} while (0)

TEST(partition_check_refuses_each_bad_field)
{
	struct sample sample = {0};

	REFUSE(header.magic, CL_MAGIC_SEALED, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.version, 2, CL_BAD_VERSION, UINT32_MAX);
	REFUSE(header.header_size, 48, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.total_size, sizeof(sample) + 1, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.total_size, sizeof(sample) - 1, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.op_count, OP_COUNT - 1, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.op_count, OP_COUNT + 1, CL_BAD_FORMAT, OP_COUNT);
	REFUSE(header.op_count, UINT32_MAX, CL_BAD_FORMAT, OP_COUNT);
	REFUSE(header.ops_offset, 32, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.ops_offset, 41, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.ops_offset, UINT32_MAX - 7, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.ops_size, UINT32_MAX, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.weights_offset, 128, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.weights_offset, offsetof(struct sample, weights) + 8, CL_BAD_FORMAT,
	       UINT32_MAX);
	REFUSE(header.weights_size, sizeof(sample.weights) + sizeof(sample.end) + 1, CL_BAD_FORMAT,
	       UINT32_MAX);
	REFUSE(header.weights_size, UINT32_MAX, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.weights_size, sizeof(sample.weights) - 1, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.site_count, 1, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.site_count, UINT32_MAX, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(padding[31], 1, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(end[63], 1, CL_BAD_FORMAT, UINT32_MAX);
	REFUSE(header.arena_size, 16, CL_OUT_OF_BOUNDS, 2);
	REFUSE(ops[1].op.kernel, 0, CL_BAD_KERNEL, 1);
	REFUSE(ops[1].op.kernel, CL_KERNEL_COUNT, CL_BAD_KERNEL, 1);
	REFUSE(ops[1].op.kernel, UINT16_MAX, CL_BAD_KERNEL, 1);
	REFUSE(ops[2].op.kernel, CL_KERNEL_CONV2D, CL_BAD_FORMAT, 2);
	REFUSE(ops[0].op.size, 0, CL_BAD_FORMAT, 0);
	REFUSE(ops[0].op.size, 48, CL_BAD_FORMAT, 0);
	REFUSE(ops[2].op.size, UINT16_MAX, CL_BAD_FORMAT, 2);
	REFUSE(ops[2].out.offset, 24, CL_OUT_OF_BOUNDS, 2);
}

TEST(partition_check_refuses_bad_memory)
{
	struct sample sample = {0};
	uint32_t failed_op = 0;

	make(&sample);
	EXPECT(cl_partition_check(NULL, 0, 0, NULL) == CL_BAD_FORMAT, "nothing");
	EXPECT(cl_partition_check(&sample, sizeof(sample), 23, &failed_op) == CL_OUT_OF_BOUNDS &&
		       failed_op == UINT32_MAX,
	       "small arena");
	EXPECT(cl_partition_check(&sample, 39, 24, NULL) == CL_BAD_FORMAT, "cut header");
	EXPECT(cl_partition_check(&sample, sizeof(sample) - 64, 24, NULL) == CL_BAD_FORMAT,
	       "cut partition");
	EXPECT(cl_partition_check((const uint8_t *)&sample + 8, sizeof(sample) - 8, 24, NULL) ==
		       CL_BAD_FORMAT,
	       "badly aligned");
}
