/* SPDX-License-Identifier: BSD-2-Clause */
/* CONV2D_S8, DEPTHWISE_S8 and GEMM_S8 against the definition, bit by bit. */
#include <stdlib.h>
#include <string.h>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "conv2d_s8.h"
#include "conv_taps.h"
#include "engine.h"
#include "quant_reference.h"

/* An operator on its stage; weights in ONNX's order (out_c, in_c / group, kh, kw). */
struct conv_case {
	struct stage stage;
	struct cl_conv2d_s8 conv;
	int8_t *weights;
	int32_t *bias;
	float *multiplier;
	uint8_t *kinds;         /* of each panel */
	size_t product_scratch; /* bytes for GEMM_S8, */
	struct cl_ref product;  /* and where they are */
};

static bool is_depthwise(const struct cl_conv2d_s8 *conv)
{
	return conv->op.kernel == CL_KERNEL_DEPTHWISE_S8;
}

static size_t depth_of(const struct cl_conv2d_s8 *conv)
{
	return (size_t)conv->kernel_h * conv->kernel_w * (conv->in_c / conv->group);
}

static size_t panels_of(const struct cl_conv2d_s8 *conv)
{
	return conv->group * ((conv->out_c / conv->group + 3) / 4);
}

/* Every row of the kernel begins a step, as cloister_format.h says. */
static bool by_rows(const struct cl_conv2d_s8 *conv)
{
	const size_t row = depth_of(conv) / conv->kernel_h;

	return conv->group == 1 && conv->dilation_h == 1 && conv->dilation_w == 1 &&
	       conv->kernel_h * ((row + 15) / 16) == (depth_of(conv) + 15) / 16;
}

/* Depth of what begins a step: a row of the kernel, or all. */
static size_t piece_of(const struct cl_conv2d_s8 *conv)
{
	return by_rows(conv) ? depth_of(conv) / conv->kernel_h : depth_of(conv);
}

static size_t packed_size(const struct cl_conv2d_s8 *conv)
{
	if (is_depthwise(conv))
		return depth_of(conv) * conv->in_c;
	return panels_of(conv) * ((depth_of(conv) + 15) / 16) * 64;
}

static size_t panel_of(const struct cl_conv2d_s8 *conv, uint32_t o)
{
	const uint32_t group_out = conv->out_c / conv->group;

	return o / group_out * (panels_of(conv) / conv->group) + o % group_out / 4;
}

/* Weights as wild as the panel's kind allows, of output channel o. */
static void random_weights(struct conv_case *test, uint32_t o)
{
	const struct cl_conv2d_s8 *conv = &test->conv;
	const uint32_t kind =
		is_depthwise(conv) ? conv->weights_kind : test->kinds[panel_of(conv, o)];
	const size_t depth = depth_of(conv);
	const size_t group_in = conv->in_c / conv->group;
	const size_t piece = piece_of(conv);
	const size_t odd = (piece + 15) / 16 % 2;
	int8_t *weights = test->weights + o * depth;
	uint32_t left[8] = {0};
	size_t k = 0;

	random_bytes(weights, depth, kind == CL_WEIGHTS_S8_ANY ? INT8_MIN : -INT8_MAX);
	if (kind != CL_WEIGHTS_S8_FOURS)
		return;
	for (k = 0; k < depth; k++) {
		int8_t *weight = weights + k % group_in * (depth / group_in) + k / group_in;
		const size_t place = k % piece;
		uint32_t most = 0;

		if (place < odd * 16)
			continue;
		if ((place - odd * 16) % 32 < 8)
			left[place % 8] = 255;
		most = left[place % 8] < 128 ? left[place % 8] : 128;
		if (random_range(0, 1))
			most = random_range(0, most);
		left[place % 8] -= most;
		if (random_range(0, 1) && most < 128)
			*weight = (int8_t)most;
		else
			*weight = (int8_t) - (int)most;
	}
}

/* As cloister_format.h describes it, index by index. */
static void pack(struct conv_case *test)
{
	const struct cl_conv2d_s8 *conv = &test->conv;
	const uint32_t group_in = conv->in_c / conv->group;
	const uint32_t group_out = conv->out_c / conv->group;
	const uint32_t taps = conv->kernel_h * conv->kernel_w;
	const size_t steps = (depth_of(conv) + 15) / 16;
	int8_t *packed = stage_at(&test->stage, &conv->weights);
	int32_t *bias = stage_at(&test->stage, &conv->channels);
	float *multiplier = (float *)bias;
	uint32_t o = 0;
	uint32_t i = 0;
	uint32_t tap = 0;

	memset(packed, 0, conv->weights.size);
	memset(bias, 0, conv->channels.size);
	if (conv->weights_kind == CL_WEIGHTS_S8_PANELS)
		memcpy(bias + 8 * panels_of(conv), test->kinds, panels_of(conv));
	for (o = 0; o < conv->out_c; o++) {
		const size_t panel = panel_of(conv, o);
		const size_t lane = o % group_out % 4;

		if (is_depthwise(conv)) {
			bias[o] = test->bias[o];
			multiplier[conv->out_c + o] = test->multiplier[o];
		} else {
			bias[panel * 8 + lane] = test->bias[o];
			multiplier[panel * 8 + 4 + lane] = test->multiplier[o];
		}
		for (i = 0; i < group_in; i++) {
			for (tap = 0; tap < taps; tap++) {
				const size_t depth = (size_t)tap * group_in + i;
				/* Rows of the kernel follow each other in whole steps. */
				const size_t k =
					depth / piece_of(conv) * ((piece_of(conv) + 15) / 16) * 16 +
					depth % piece_of(conv);
				const size_t to =
					is_depthwise(conv)
						? (size_t)tap * conv->in_c + o
						: ((panel * steps + k / 16) * 4 + lane) * 16 +
							  k % 16;

				packed[to] = test->weights[((size_t)o * group_in + i) * taps + tap];
			}
		}
	}
}

static void *allocate(size_t size)
{
	void *memory = malloc(size);

	if (!memory)
		abort();
	return memory;
}

static void build(struct conv_case *test)
{
	struct cl_conv2d_s8 *conv = &test->conv;
	const size_t weight_count = depth_of(conv) * conv->out_c;
	const float spread = 200.0f / (4000.0f * (float)depth_of(conv));
	size_t scratch = 0;
	size_t i = 0;
	uint32_t o = 0;

	conv->op.size = sizeof(*conv);
	conv->finish = random_finish();
	conv->in_zero = random_s8();
	scratch = cl_conv2d_s8_scratch(conv);
	conv->in = stage_arena(&test->stage,
			       (size_t)conv->batch * conv->in_h * conv->in_w * conv->in_c);
	conv->out = stage_arena(&test->stage,
				(size_t)conv->batch * conv->out_h * conv->out_w * conv->out_c);
	if (scratch)
		conv->scratch = stage_arena(&test->stage, scratch);
	if (test->product_scratch)
		test->product = stage_arena(&test->stage, test->product_scratch);
	conv->weights = stage_weights(&test->stage, packed_size(conv));
	conv->channels = stage_weights(
		&test->stage,
		is_depthwise(conv)
			? 8 * (size_t)conv->out_c
			: panels_of(conv) * (conv->weights_kind == CL_WEIGHTS_S8_PANELS ? 33 : 32));
	stage_build(&test->stage);
	random_bytes(stage_at(&test->stage, &conv->in), conv->in.size, INT8_MIN);
	test->weights = allocate(weight_count);
	test->bias = allocate(conv->out_c * sizeof(int32_t));
	test->multiplier = allocate(conv->out_c * sizeof(float));
	test->kinds = allocate(panels_of(conv));
	for (i = 0; i < panels_of(conv); i++)
		test->kinds[i] =
			(uint8_t)(conv->weights_kind == CL_WEIGHTS_S8_PANELS ? random_range(0, 2)
									     : conv->weights_kind);
	for (o = 0; o < conv->out_c; o++) {
		random_weights(test, o);
		test->bias[o] = (int32_t)random_range(0, 20000) - 10000;
		test->multiplier[o] = random_float(0, spread);
	}
	/* Ties, and values far beyond what can be stored. */
	test->multiplier[0] = random_range(0, 1) ? 0.5f : random_float(-9, 9);
	pack(test);
}

static void finish(struct conv_case *test)
{
	free(test->weights);
	free(test->bias);
	free(test->multiplier);
	free(test->kinds);
	stage_free(&test->stage);
}

static int64_t reference(const struct conv_case *test, uint32_t n, uint32_t y, uint32_t x,
			 uint32_t o)
{
	const struct cl_conv2d_s8 *conv = &test->conv;
	const struct conv_shape shape = CONV_SHAPE(conv);
	const struct conv_place place = {n, y, x, o};
	const int8_t *in = stage_at(&test->stage, &conv->in);
	int64_t sum = test->bias[o];
	uint32_t k = 0;

	for (k = 0; k < conv_products(&shape); k++) {
		const struct conv_product product = conv_product(&shape, &place, k);
		const int64_t q = product.inside ? in[product.in] : conv->in_zero;

		sum += q * test->weights[product.weight];
	}
	return sum;
}

/* SIMDe computes dot products on any machine. */
static bool has_dot_products(void)
{
#if defined(__aarch64__)
	return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
	return true;
#endif
}

/* With dot products the record, which has run, gives the same bytes. */
static void expect_same_with_dot_products(const struct stage *stage,
					  const struct cl_kernel_ops *kernel, const void *op,
					  const struct cl_ref *out)
{
	void *before = NULL;

	if (!has_dot_products())
		return;
	before = malloc(out->size);
	if (!before)
		abort();
	memcpy(before, stage_at(stage, out), out->size);
	memset(stage_at(stage, out), 0x55, out->size);
	cl_engine_use(CL_CPU_DOTPROD);
	kernel->run(op, &stage->memory);
	cl_engine_use(0);
	EXPECT(!memcmp(before, stage_at(stage, out), out->size), "dot products differ");
	free(before);
}

static void run_and_compare(struct conv_case *test, const struct cl_kernel_ops *kernel)
{
	const struct cl_conv2d_s8 *conv = &test->conv;
	const int8_t *out = NULL;
	uint32_t n = 0;
	uint32_t y = 0;
	uint32_t x = 0;
	uint32_t o = 0;

	cl_engine_use(0);
	stage_run_scratch(&test->stage, kernel, conv, &conv->out, &conv->scratch);
	expect_same_with_dot_products(&test->stage, kernel, conv, &conv->out);
	out = stage_at(&test->stage, &conv->out);
	for (n = 0; n < conv->batch; n++) {
		for (y = 0; y < conv->out_h; y++) {
			for (x = 0; x < conv->out_w; x++) {
				for (o = 0; o < conv->out_c; o++, out++) {
					const int64_t sum = reference(test, n, y, x, o);
					const int want = reference_finish(
						&conv->finish, (float)sum * test->multiplier[o]);

					EXPECT(*out == want,
					       "(%u, %u, %u, %u) is %d, not %d; kernel %u x %u, "
					       "channels %u to %u, group %u",
					       n, y, x, o, *out, want, conv->kernel_h,
					       conv->kernel_w, conv->in_c, conv->out_c,
					       conv->group);
				}
			}
		}
	}
}

static void random_geometry(struct cl_conv2d_s8 *conv)
{
	conv->batch = random_range(1, 2);
	conv->in_h = random_range(1, 9);
	conv->in_w = random_range(1, 12);
	conv->kernel_h = random_range(1, 4);
	conv->kernel_w = random_range(1, 4);
	conv->stride_h = random_range(1, 3);
	conv->stride_w = random_range(1, 3);
	conv->dilation_h = random_range(1, 2);
	conv->dilation_w = random_range(1, 2);
	conv->pad_top = random_range(0, 3);
	conv->pad_left = random_range(0, 3);
	conv->out_h = out_extent(conv->in_h, conv->kernel_h, conv->stride_h, conv->dilation_h,
				 conv->pad_top + random_range(0, 3));
	conv->out_w = out_extent(conv->in_w, conv->kernel_w, conv->stride_w, conv->dilation_w,
				 conv->pad_left + random_range(0, 3));
	conv->weights_kind = random_range(0, is_depthwise(conv) ? 1 : 3);
}

TEST(conv2d_s8_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 400; round++) {
		struct conv_case test = {0};

		test.conv.op.kernel = CL_KERNEL_CONV2D_S8;
		random_geometry(&test.conv);
		test.conv.group = random_range(0, 2) ? 1 : random_range(2, 4);
		test.conv.in_c = test.conv.group * random_range(1, random_range(0, 1) ? 5 : 35);
		test.conv.out_c = test.conv.group * random_range(1, 19);
		build(&test);
		run_and_compare(&test, &cl_conv2d_s8_kernel);
		finish(&test);
	}
}

/* Images of a network that was pruned: rows that more and fewer pixels than one tile fill. */
TEST(conv2d_s8_narrow_matches_the_definition)
{
	static const uint32_t widths[] = {4, 8, 14, 16, 31, 32, 33, 64, 70};
	unsigned int round = 0;

	for (round = 0; round < 90; round++) {
		struct conv_case test = {0};
		struct cl_conv2d_s8 *conv = &test.conv;

		conv->op.kernel = CL_KERNEL_CONV2D_S8;
		random_geometry(conv);
		conv->in_w = widths[round % 9];
		conv->kernel_h = conv->kernel_w = random_range(0, 3) ? 3 : 5;
		conv->stride_h = conv->stride_w = random_range(0, 3) ? 1 : 2;
		conv->dilation_h = conv->dilation_w = 1;
		conv->pad_top = conv->pad_left = conv->kernel_w / 2;
		conv->out_h = (conv->in_h - 1) / conv->stride_h + 1;
		conv->out_w = (conv->in_w - 1) / conv->stride_w + 1;
		conv->group = 1;
		conv->in_c = random_range(1, 20);
		conv->out_c = random_range(1, 16);
		build(&test);
		run_and_compare(&test, &cl_conv2d_s8_kernel);
		finish(&test);
	}
}

TEST(conv2d_s8_1x1_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 80; round++) {
		struct conv_case test = {0};
		struct cl_conv2d_s8 *conv = &test.conv;
		const bool direct = round % 2;

		conv->op.kernel = CL_KERNEL_CONV2D_S8;
		random_geometry(conv);
		conv->kernel_h = conv->kernel_w = 1;
		conv->pad_top = conv->pad_left = 0;
		conv->out_h = (conv->in_h - 1) / conv->stride_h + 1;
		conv->out_w = (conv->in_w - 1) / conv->stride_w + 1;
		conv->group = random_range(1, 3);
		conv->in_c = conv->group *
			     (direct ? 16 * random_range(1, 5) : 16 * random_range(0, 4) + 7);
		conv->out_c = conv->group * random_range(1, 20);
		EXPECT((cl_conv2d_s8_scratch(conv) == 0) == direct, "scratch of 1x1");
		build(&test);
		run_and_compare(&test, &cl_conv2d_s8_kernel);
		finish(&test);
	}
}

TEST(depthwise_s8_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 500; round++) {
		struct conv_case test = {0};

		test.conv.op.kernel = CL_KERNEL_DEPTHWISE_S8;
		random_geometry(&test.conv);
		if (random_range(0, 2)) {
			test.conv.kernel_h = test.conv.kernel_w = 3;
			test.conv.dilation_h = test.conv.dilation_w = 1;
			test.conv.stride_h = test.conv.stride_w = random_range(1, 2);
		}
		test.conv.in_c = random_range(1, 50);
		test.conv.group = test.conv.out_c = test.conv.in_c;
		build(&test);
		run_and_compare(&test, &cl_depthwise_s8_kernel);
		finish(&test);
	}
}

TEST(the_largest_sums_of_products_are_exact)
{
	uint32_t kind = 0;
	size_t i = 0;

	for (kind = 0; kind < 3; kind++) {
		struct conv_case test = {0};
		struct cl_conv2d_s8 *conv = &test.conv;

		conv->op.kernel = CL_KERNEL_CONV2D_S8;
		conv->batch = conv->stride_h = conv->stride_w = conv->dilation_h =
			conv->dilation_w = conv->group = 1;
		conv->in_h = conv->in_w = conv->out_h = conv->out_w = 5;
		conv->kernel_h = conv->kernel_w = 3;
		conv->pad_top = conv->pad_left = 1;
		conv->in_c = 33;
		conv->out_c = 8;
		conv->weights_kind = kind;
		build(&test);
		memset(stage_at(&test.stage, &conv->in), INT8_MIN, conv->in.size);
		conv->in_zero = INT8_MIN;
		if (kind != CL_WEIGHTS_S8_FOURS) {
			memset(test.weights, kind ? INT8_MIN : -INT8_MAX,
			       depth_of(conv) * conv->out_c);
			memset(test.weights, INT8_MAX, depth_of(conv));
		} else {
			for (i = 0; i < depth_of(conv) * conv->out_c; i++)
				test.weights[i] = -63;
		}
		pack(&test);
		run_and_compare(&test, &cl_conv2d_s8_kernel);
		finish(&test);
	}
}

static void small_case(struct conv_case *test, uint16_t kernel)
{
	struct cl_conv2d_s8 *conv = &test->conv;

	conv->op.kernel = kernel;
	conv->batch = 1;
	conv->in_h = conv->in_w = conv->out_h = conv->out_w = 4;
	conv->in_c = conv->out_c = 24;
	conv->group = kernel == CL_KERNEL_DEPTHWISE_S8 ? 24 : 1;
	conv->kernel_h = conv->kernel_w = 3;
	conv->stride_h = conv->stride_w = conv->dilation_h = conv->dilation_w = 1;
	conv->pad_top = conv->pad_left = 1;
	build(test);
}

/* Few products, but rows of 2^22 pixels, nearly all between two steps of the stride. */
TEST(conv2d_s8_refuses_to_copy_long_rows_for_few_products)
{
	struct conv_case test = {0};
	struct cl_conv2d_s8 *conv = &test.conv;

	conv->op.kernel = CL_KERNEL_CONV2D_S8;
	conv->batch = conv->in_h = conv->in_w = conv->in_c = conv->out_c = conv->group = 1;
	conv->kernel_h = conv->kernel_w = conv->dilation_h = conv->dilation_w = 1;
	conv->out_h = 1 << 22;
	conv->out_w = 2;
	conv->stride_h = 1;
	conv->stride_w = 1 << 22;
	build(&test);
	expect_check(&test.stage, &cl_conv2d_s8_kernel, conv, CL_BAD_FORMAT, "2^44 bytes to copy");
	conv->out_h = 1 << 12;
	conv->out.size = 2 << 12;
	expect_check(&test.stage, &cl_conv2d_s8_kernel, conv, CL_OK, "2^34 bytes to copy");
	finish(&test);
}

TEST(conv2d_s8_scratch_follows_the_documented_formula)
{
	struct cl_conv2d_s8 conv = {0};

	conv.op.kernel = CL_KERNEL_CONV2D_S8;
	conv.in_h = conv.in_w = conv.out_h = conv.out_w = 8;
	conv.kernel_h = 3;
	conv.kernel_w = 5;
	conv.stride_h = conv.stride_w = conv.dilation_h = conv.dilation_w = conv.group = 1;
	conv.in_c = 3;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 256 * 3 + 16 + 6 * 12 * 3, "rows of 15 bytes");
	conv.in_c = 2;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 256 * 3 + 16 + 3 * 12 * 2 + 512 * 2 + 16,
	       "rows of 10 bytes");
	conv.in_c = 32;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 256 * 3 + 16 + 6 * 12 * 32, "rows of 160 bytes");
	conv.out_w = 7;
	conv.stride_h = 2;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 256 * 3 + 16 + 13 * 11 * 32, "six rows of 7 pixels");
	conv.in_c = 48;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 256 * 3 + 16 + 5 * 11 * 48, "two rows of 7 pixels");
	conv.in_c = 32;
	conv.out_w = 8;
	conv.stride_h = 1;
	conv.dilation_h = 2;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 512 * 30 + 16, "dilated");
	conv.dilation_h = 1;
	conv.group = 2;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 512 * 15 + 16, "two groups");
	conv.kernel_h = conv.kernel_w = 1;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 0, "1x1");
	conv.out_h = conv.out_w = 4;
	conv.stride_h = conv.stride_w = 2;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 0, "1x1 with a stride");
	conv.out_w = 5;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 512 + 16, "1x1 with a border, two groups");
	conv.out_h = conv.out_w = 8;
	conv.stride_h = conv.stride_w = 1;
	conv.in_c = 34;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 512 * 2 + 16, "1x1 with an odd number of channels");
	conv.group = 1;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 256 + 16 + 4 * 8 * 34, "the same without groups");
	conv.op.kernel = CL_KERNEL_DEPTHWISE_S8;
	conv.kernel_h = 3;
	conv.kernel_w = 5;
	EXPECT(cl_conv2d_s8_scratch(&conv) == 8 * 15 + 34, "depthwise");
	conv.op.kernel = CL_KERNEL_CONV2D_S8;
	conv.kernel_h = 0;
	EXPECT(cl_conv2d_s8_scratch(&conv) == UINT64_MAX, "no kernel");
	conv.kernel_h = 1;
	conv.group = 0;
	EXPECT(cl_conv2d_s8_scratch(&conv) == UINT64_MAX, "no group");
	conv.group = 1;
	conv.kernel_h = conv.kernel_w = conv.in_c = UINT32_MAX;
	EXPECT(cl_conv2d_s8_scratch(&conv) == UINT64_MAX, "overflow");
}

/* One field of a record, set to `value`, must be refused. */
struct refusal {
	const char *field;
	size_t offset;
	uint32_t value;
	enum cl_status status;
};

#define REFUSE_IN(type, field, value, status)                                                      \
	{                                                                                          \
#field, offsetof(struct type, field), value, status                                \
	}
#define REFUSE(field, value, status)      REFUSE_IN(cl_conv2d_s8, field, value, status)
#define REFUSE_GEMM(field, value, status) REFUSE_IN(cl_gemm_s8, field, value, status)

static void expect_refusals(const struct stage *stage, const void *record, size_t size,
			    const struct cl_kernel_ops *kernel, const struct refusal *refusals,
			    size_t count)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		uint64_t bad[sizeof(struct cl_conv2d_s8) / 8] = {0};

		memcpy(bad, record, size);
		memcpy((uint8_t *)bad + refusals[i].offset, &refusals[i].value, sizeof(uint32_t));
		expect_check(stage, kernel, bad, refusals[i].status, refusals[i].field);
	}
}

TEST(conv_s8_checks_refuse_each_bad_field)
{
	static const struct refusal refusals[] = {
		REFUSE(in.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE(in.offset, 4, CL_OUT_OF_BOUNDS),
		REFUSE(in.offset, 0xfffffff8, CL_OUT_OF_BOUNDS),
		REFUSE(in.size, 4 * 4 * 24 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(in.size, UINT32_MAX, CL_OUT_OF_BOUNDS),
		REFUSE(in.reserved, 1, CL_OUT_OF_BOUNDS),
		REFUSE(weights.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE(weights.size, 9 * 24 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(channels.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE(channels.size, 24 * 8 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS),
		REFUSE(out.size, 4 * 4 * 24 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(scratch.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE(scratch.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS),
		REFUSE(scratch.size, 9 * 8 + 24 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(batch, 0, CL_BAD_FORMAT),
		REFUSE(batch, 2, CL_OUT_OF_BOUNDS),
		REFUSE(in_h, 0, CL_BAD_FORMAT),
		REFUSE(in_h, 5, CL_OUT_OF_BOUNDS),
		REFUSE(in_w, 5, CL_OUT_OF_BOUNDS),
		REFUSE(in_c, 0, CL_BAD_FORMAT),
		REFUSE(out_h, 5, CL_OUT_OF_BOUNDS),
		REFUSE(out_w, 0, CL_BAD_FORMAT),
		REFUSE(out_w, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(out_c, 0, CL_BAD_FORMAT),
		REFUSE(kernel_h, 0, CL_BAD_FORMAT),
		REFUSE(kernel_h, 4, CL_OUT_OF_BOUNDS),
		REFUSE(kernel_w, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(stride_h, 0, CL_BAD_FORMAT),
		REFUSE(stride_w, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(dilation_h, 0, CL_BAD_FORMAT),
		REFUSE(dilation_w, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(pad_top, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(pad_left, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(group, 0, CL_BAD_FORMAT),
		REFUSE(group, 5, CL_BAD_FORMAT),
		REFUSE(in_zero, 128, CL_BAD_FORMAT),
		REFUSE(in_zero, (uint32_t)-129, CL_BAD_FORMAT),
		REFUSE(weights_kind, 4, CL_BAD_KERNEL),
		REFUSE(finish.zero, 128, CL_BAD_FORMAT),
		REFUSE(finish.low, 128, CL_BAD_FORMAT),
		REFUSE(finish.high, (uint32_t)-129, CL_BAD_FORMAT),
		REFUSE(finish.reserved, 1, CL_BAD_FORMAT),
	};
	struct conv_case conv = {0};
	struct conv_case depthwise = {0};
	struct cl_conv2d_s8 bad = {0};

	small_case(&conv, CL_KERNEL_CONV2D_S8);
	expect_check(&conv.stage, &cl_conv2d_s8_kernel, &conv.conv, CL_OK, "unchanged record");
	expect_refusals(&conv.stage, &conv.conv, sizeof(conv.conv), &cl_conv2d_s8_kernel, refusals,
			sizeof(refusals) / sizeof(refusals[0]));
	bad = conv.conv;
	bad.finish.low = 3;
	bad.finish.high = 2;
	expect_check(&conv.stage, &cl_conv2d_s8_kernel, &bad, CL_BAD_FORMAT, "low above high");
	bad = conv.conv;
	bad.out = bad.in;
	expect_check(&conv.stage, &cl_conv2d_s8_kernel, &bad, CL_BAD_FORMAT, "out over in");
	bad = conv.conv;
	bad.scratch.size--;
	expect_check(&conv.stage, &cl_conv2d_s8_kernel, &bad, CL_OUT_OF_BOUNDS, "small scratch");
	bad = conv.conv;
	bad.weights_kind = CL_WEIGHTS_S8_PANELS;
	expect_check(&conv.stage, &cl_conv2d_s8_kernel, &bad, CL_OUT_OF_BOUNDS, "no kinds");
	bad = conv.conv;
	bad.weights.size--;
	expect_check(&conv.stage, &cl_conv2d_s8_kernel, &bad, CL_OUT_OF_BOUNDS, "small weights");
	bad = conv.conv;
	bad.scratch.offset = bad.in.offset;
	expect_check(&conv.stage, &cl_conv2d_s8_kernel, &bad, CL_BAD_FORMAT, "scratch over in");
	finish(&conv);

	small_case(&depthwise, CL_KERNEL_DEPTHWISE_S8);
	expect_check(&depthwise.stage, &cl_depthwise_s8_kernel, &depthwise.conv, CL_OK,
		     "unchanged record");
	expect_refusals(&depthwise.stage, &depthwise.conv, sizeof(depthwise.conv),
			&cl_depthwise_s8_kernel, refusals, sizeof(refusals) / sizeof(refusals[0]));
	bad = depthwise.conv;
	bad.group = 12;
	expect_check(&depthwise.stage, &cl_depthwise_s8_kernel, &bad, CL_BAD_FORMAT, "12 groups");
	bad = depthwise.conv;
	bad.weights_kind = CL_WEIGHTS_S8_FOURS;
	expect_check(&depthwise.stage, &cl_depthwise_s8_kernel, &bad, CL_BAD_KERNEL, "fours");
	finish(&depthwise);
}

TEST(conv_s8_mutants_are_harmless)
{
	struct conv_case conv = {0};
	struct conv_case depthwise = {0};

	small_case(&conv, CL_KERNEL_CONV2D_S8);
	expect_mutants_harmless(&conv.stage, &cl_conv2d_s8_kernel, &conv.conv);
	finish(&conv);
	small_case(&depthwise, CL_KERNEL_DEPTHWISE_S8);
	expect_mutants_harmless(&depthwise.stage, &cl_depthwise_s8_kernel, &depthwise.conv);
	finish(&depthwise);
}

/* A product as the 1x1 convolution that it is; the convolution supplies weights and reference. */
static void build_gemm(struct conv_case *test, struct cl_gemm_s8 *gemm, uint32_t m, uint32_t k,
		       uint32_t n)
{
	struct cl_conv2d_s8 *conv = &test->conv;

	test->product_scratch = k % 16 ? (k + 15) / 16 * 16 * 8 : 0;
	conv->op.kernel = CL_KERNEL_CONV2D_S8;
	conv->batch = conv->in_h = conv->out_h = conv->kernel_h = conv->kernel_w = 1;
	conv->stride_h = conv->stride_w = conv->dilation_h = conv->dilation_w = conv->group = 1;
	conv->in_w = conv->out_w = m;
	conv->in_c = k;
	conv->out_c = n;
	conv->weights_kind = random_range(0, 3);
	build(test);
	gemm->op.kernel = CL_KERNEL_GEMM_S8;
	gemm->op.size = sizeof(*gemm);
	gemm->in = conv->in;
	gemm->weights = conv->weights;
	gemm->channels = conv->channels;
	gemm->out = conv->out;
	gemm->scratch = test->product;
	gemm->m = m;
	gemm->k = k;
	gemm->n = n;
	gemm->weights_kind = conv->weights_kind;
	gemm->finish = conv->finish;
}

TEST(gemm_s8_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 200; round++) {
		struct conv_case test = {0};
		struct cl_gemm_s8 gemm = {0};
		const uint32_t k =
			random_range(0, 1) ? 16 * random_range(1, 9) : random_range(1, 130);
		const int8_t *out = NULL;
		uint32_t i = 0;
		uint32_t j = 0;

		build_gemm(&test, &gemm, random_range(0, 1) ? 1 : random_range(1, 21), k,
			   random_range(1, 21));
		cl_engine_use(0);
		stage_run_scratch(&test.stage, &cl_gemm_s8_kernel, &gemm, &gemm.out, &gemm.scratch);
		expect_same_with_dot_products(&test.stage, &cl_gemm_s8_kernel, &gemm, &gemm.out);
		out = stage_at(&test.stage, &gemm.out);
		for (i = 0; i < gemm.m; i++) {
			for (j = 0; j < gemm.n; j++, out++) {
				const int64_t sum = reference(&test, 0, 0, i, j);
				const int want = reference_finish(&gemm.finish,
								  (float)sum * test.multiplier[j]);

				EXPECT(*out == want, "(%u, %u) is %d, not %d; m %u k %u n %u", i, j,
				       *out, want, gemm.m, gemm.k, gemm.n);
			}
		}
		finish(&test);
	}
}

TEST(gemm_s8_check_refuses_each_bad_field)
{
	static const struct refusal refusals[] = {
		REFUSE_GEMM(in.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(in.size, 5 * 40 - 1, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(weights.size, 3 * 3 * 64 - 1, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(channels.size, 3 * 32 - 1, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(out.size, 5 * 9 - 1, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(scratch.size, 48 * 8 - 1, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(scratch.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(m, 0, CL_BAD_FORMAT),
		REFUSE_GEMM(m, 6, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(m, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE_GEMM(k, 0, CL_BAD_FORMAT),
		REFUSE_GEMM(k, 49, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(k, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE_GEMM(n, 0, CL_BAD_FORMAT),
		REFUSE_GEMM(n, 13, CL_OUT_OF_BOUNDS),
		REFUSE_GEMM(n, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE_GEMM(weights_kind, 4, CL_BAD_KERNEL),
		REFUSE_GEMM(finish.zero, 128, CL_BAD_FORMAT),
		REFUSE_GEMM(finish.reserved, 1, CL_BAD_FORMAT),
	};
	struct conv_case test = {0};
	struct cl_gemm_s8 gemm = {0};
	struct cl_gemm_s8 bad = {0};

	build_gemm(&test, &gemm, 5, 40, 9);
	expect_check(&test.stage, &cl_gemm_s8_kernel, &gemm, CL_OK, "unchanged record");
	expect_refusals(&test.stage, &gemm, sizeof(gemm), &cl_gemm_s8_kernel, refusals,
			sizeof(refusals) / sizeof(refusals[0]));
	bad = gemm;
	bad.out.offset = bad.in.offset;
	expect_check(&test.stage, &cl_gemm_s8_kernel, &bad, CL_BAD_FORMAT, "out over in");
	bad = gemm;
	bad.scratch.offset = bad.in.offset;
	expect_check(&test.stage, &cl_gemm_s8_kernel, &bad, CL_BAD_FORMAT, "scratch over in");
	expect_mutants_harmless(&test.stage, &cl_gemm_s8_kernel, &gemm);
	finish(&test);
}
