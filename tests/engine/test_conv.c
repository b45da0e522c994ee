/* SPDX-License-Identifier: BSD-2-Clause */
/* CONV2D and DEPTHWISE against the definition, in double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conv2d.h"
#include "conv_taps.h"
#include "harness.h"
#include "winograd.h"

/* An operator on its stage, and its weights in ONNX's order (out_c, in_c / group, kh, kw). */
struct conv_case {
	struct stage stage;
	struct cl_conv2d conv;
	float *plain_weights;
	uint32_t tiles; /* WINOGRAD: room for so many */
};

static size_t plain_weight_count(const struct cl_conv2d *conv)
{
	return (size_t)conv->out_c * (conv->in_c / conv->group) * conv->kernel_h * conv->kernel_w;
}

static size_t packed_weight_count(const struct cl_conv2d *conv)
{
	const size_t taps = (size_t)conv->kernel_h * conv->kernel_w;

	if (conv->op.kernel == CL_KERNEL_DEPTHWISE)
		return taps * conv->in_c;
	return conv->group * ((conv->out_c / conv->group + 7) / 8) * taps *
	       (conv->in_c / conv->group) * 8;
}

/* As cloister_format.h describes it, index by index. */
static void pack_weights(const struct cl_conv2d *conv, const float *plain, float *packed)
{
	const uint32_t group_in = conv->in_c / conv->group;
	const uint32_t group_out = conv->out_c / conv->group;
	const uint32_t panels = (group_out + 7) / 8;
	const uint32_t taps = conv->kernel_h * conv->kernel_w;
	uint32_t o = 0;
	uint32_t i = 0;
	uint32_t tap = 0;

	memset(packed, 0, packed_weight_count(conv) * sizeof(float));
	for (o = 0; o < conv->out_c; o++) {
		for (i = 0; i < group_in; i++) {
			for (tap = 0; tap < taps; tap++) {
				const size_t panel =
					(size_t)(o / group_out) * panels + o % group_out / 8;
				const size_t to =
					conv->op.kernel == CL_KERNEL_DEPTHWISE
						? (size_t)tap * conv->in_c + o
						: ((panel * taps + tap) * group_in + i) * 8 +
							  o % group_out % 8;

				packed[to] = plain[((size_t)o * group_in + i) * taps + tap];
			}
		}
	}
}

static size_t bytes(size_t a, size_t b, size_t c, size_t d)
{
	return a * b * c * d * sizeof(float);
}

static void build(struct conv_case *test, bool with_bias)
{
	struct cl_conv2d *conv = &test->conv;
	const size_t weight_count = packed_weight_count(conv);
	size_t scratch = 0;
	unsigned int run = 0;

	conv->op.size = sizeof(*conv);
	scratch = conv->op.kernel == CL_KERNEL_WINOGRAD ? cl_winograd_scratch(conv, test->tiles)
							: cl_conv2d_scratch(conv);
	conv->in =
		stage_arena(&test->stage, bytes(conv->batch, conv->in_h, conv->in_w, conv->in_c));
	conv->out = stage_arena(&test->stage,
				bytes(conv->batch, conv->out_h, conv->out_w, conv->out_c));
	if (scratch)
		conv->scratch = stage_arena(&test->stage, scratch);
	conv->weights = stage_weights(&test->stage, weight_count * sizeof(float));
	if (with_bias)
		conv->bias = stage_weights(&test->stage, conv->out_c * sizeof(float));
	stage_build(&test->stage);
	for (run = 0; run < test->stage.run_count; run++)
		random_floats(stage_at(&test->stage, &test->stage.runs[run]),
			      test->stage.runs[run].size / sizeof(float), -1, 1);
	test->plain_weights = malloc(plain_weight_count(conv) * sizeof(float));
	if (!test->plain_weights)
		abort();
	random_floats(test->plain_weights, plain_weight_count(conv), -1, 1);
	pack_weights(conv, test->plain_weights, stage_at(&test->stage, &conv->weights));
}

static void finish(struct conv_case *test)
{
	free(test->plain_weights);
	stage_free(&test->stage);
}

/* The sum of one output element; *magnitude is the sum of the products' magnitudes. */
static double reference(const struct conv_case *test, uint32_t n, uint32_t y, uint32_t x,
			uint32_t o, double *magnitude)
{
	const struct cl_conv2d *conv = &test->conv;
	const struct conv_shape shape = CONV_SHAPE(conv);
	const struct conv_place place = {n, y, x, o};
	const float *in = stage_at(&test->stage, &conv->in);
	double sum = 0;
	uint32_t k = 0;

	if (conv->bias.space != CL_SPACE_NONE)
		sum = ((const float *)stage_at(&test->stage, &conv->bias))[o];
	*magnitude = fabs(sum);
	for (k = 0; k < conv_products(&shape); k++) {
		const struct conv_product product = conv_product(&shape, &place, k);
		const double w = test->plain_weights[product.weight];

		if (!product.inside)
			continue;
		sum += w * in[product.in];
		*magnitude += fabs(w * in[product.in]);
	}
	return sum;
}

static double activate(const struct cl_activation *activation, double x)
{
	switch (activation->function) {
	case CL_UNARY_RELU:
		return x > 0 ? x : 0;
	case CL_UNARY_CLIP:
		return fmin(fmax(x, activation->a), activation->b);
	case CL_UNARY_LEAKY_RELU:
		return x < 0 ? activation->a * x : x;
	default:
		return x;
	}
}

/*
 * What a result of WINOGRAD may be off by: its sums run over transformed values of the whole
 * window, so that the largest input (here 1) stands for each.
 */
static double winograd_bound(const struct conv_case *test, uint32_t o)
{
	const size_t each = (size_t)test->conv.in_c * 9;
	double sum = 1;
	size_t i = 0;

	for (i = 0; i < each; i++)
		sum += fabs((double)test->plain_weights[o * each + i]);
	return 1.5e-6 * sum;
}

static void run_and_compare(struct conv_case *test, const struct cl_kernel_ops *kernel)
{
	const struct cl_conv2d *conv = &test->conv;
	const bool winograd = conv->op.kernel == CL_KERNEL_WINOGRAD;
	const float *out = NULL;
	uint32_t n = 0;
	uint32_t y = 0;
	uint32_t x = 0;
	uint32_t o = 0;

	stage_run_scratch(&test->stage, kernel, conv, &conv->out, &conv->scratch);
	out = stage_at(&test->stage, &conv->out);
	for (n = 0; n < conv->batch; n++) {
		for (y = 0; y < conv->out_h; y++) {
			for (x = 0; x < conv->out_w; x++) {
				for (o = 0; o < conv->out_c; o++, out++) {
					double magnitude = 0;
					const double want =
						activate(&conv->activation,
							 reference(test, n, y, x, o, &magnitude));
					const double bound = winograd ? winograd_bound(test, o)
								      : 1e-6 * magnitude + 1e-30;

					EXPECT(fabs(*out - want) <= bound,
					       "(%u, %u, %u, %u) is %g, not %g; kernel %u x %u, "
					       "channels %u to %u, group %u",
					       n, y, x, o, (double)*out, want, conv->kernel_h,
					       conv->kernel_w, conv->in_c, conv->out_c,
					       conv->group);
				}
			}
		}
	}
}

static void random_geometry(struct cl_conv2d *conv)
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
	switch (random_range(0, 3)) {
	case 0:
		conv->activation.function = CL_UNARY_RELU;
		break;
	case 1:
		conv->activation.function = CL_UNARY_CLIP;
		conv->activation.a = -0.5f;
		conv->activation.b = 0.75f;
		break;
	case 2:
		conv->activation.function = CL_UNARY_LEAKY_RELU;
		conv->activation.a = 0.125f;
		break;
	default:
		break;
	}
}

TEST(conv2d_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 400; round++) {
		struct conv_case test = {0};

		test.conv.op.kernel = CL_KERNEL_CONV2D;
		random_geometry(&test.conv);
		test.conv.group = random_range(0, 2) ? 1 : random_range(2, 4);
		test.conv.in_c = test.conv.group * random_range(1, random_range(0, 1) ? 5 : 23);
		test.conv.out_c = test.conv.group * random_range(1, random_range(0, 3) ? 19 : 50);
		build(&test, random_range(0, 1));
		run_and_compare(&test, &cl_conv2d_kernel);
		finish(&test);
	}
}

TEST(conv2d_1x1_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 60; round++) {
		struct conv_case test = {0};
		struct cl_conv2d *conv = &test.conv;

		conv->op.kernel = CL_KERNEL_CONV2D;
		random_geometry(conv);
		conv->kernel_h = conv->kernel_w = conv->stride_h = conv->stride_w = 1;
		conv->pad_top = conv->pad_left = 0;
		conv->out_h = conv->in_h;
		conv->out_w = conv->in_w;
		conv->group = random_range(1, 3);
		conv->in_c = conv->group * random_range(1, 40);
		conv->out_c = conv->group * random_range(1, 20);
		EXPECT(cl_conv2d_scratch(conv) == 0, "1x1 needs no scratch");
		build(&test, random_range(0, 1));
		run_and_compare(&test, &cl_conv2d_kernel);
		finish(&test);
	}
}

TEST(depthwise_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 400; round++) {
		struct conv_case test = {0};

		test.conv.op.kernel = CL_KERNEL_DEPTHWISE;
		random_geometry(&test.conv);
		if (random_range(0, 1)) {
			test.conv.kernel_h = test.conv.kernel_w = 3;
			test.conv.dilation_h = test.conv.dilation_w = 1;
		}
		test.conv.in_c = random_range(1, 21);
		test.conv.group = test.conv.out_c = test.conv.in_c;
		build(&test, random_range(0, 1));
		run_and_compare(&test, &cl_depthwise_kernel);
		finish(&test);
	}
}

TEST(winograd_matches_the_definition)
{
	unsigned int round = 0;

	for (round = 0; round < 300; round++) {
		struct conv_case test = {0};
		struct cl_conv2d *conv = &test.conv;

		random_geometry(conv);
		conv->op.kernel = CL_KERNEL_WINOGRAD;
		conv->in_h = random_range(1, 20);
		conv->in_w = random_range(1, 40);
		conv->kernel_h = conv->kernel_w = 3;
		conv->stride_h = conv->stride_w = conv->dilation_h = conv->dilation_w = 1;
		conv->out_h = out_extent(conv->in_h, 3, 1, 1, conv->pad_top + random_range(0, 3));
		conv->out_w = out_extent(conv->in_w, 3, 1, 1, conv->pad_left + random_range(0, 3));
		conv->group = 1;
		conv->in_c = random_range(1, random_range(0, 1) ? 5 : 40);
		conv->out_c = random_range(1, 19);
		test.tiles = random_range(1, random_range(0, 1) ? 8 : 60);
		build(&test, random_range(0, 1));
		run_and_compare(&test, &cl_winograd_kernel);
		finish(&test);
	}
}

TEST(winograd_is_as_exact_over_many_channels)
{
	struct conv_case test = {0};
	struct cl_conv2d *conv = &test.conv;

	conv->op.kernel = CL_KERNEL_WINOGRAD;
	conv->batch = conv->group = 1;
	conv->in_h = conv->in_w = conv->out_h = conv->out_w = 8;
	conv->in_c = 512;
	conv->out_c = 8;
	conv->kernel_h = conv->kernel_w = 3;
	conv->stride_h = conv->stride_w = conv->dilation_h = conv->dilation_w = 1;
	conv->pad_top = conv->pad_left = 1;
	test.tiles = 8;
	build(&test, true);
	run_and_compare(&test, &cl_winograd_kernel);
	finish(&test);
}

TEST(winograd_keeps_nan_in_the_tiles_that_read_it)
{
	struct conv_case test = {0};
	struct cl_conv2d *conv = &test.conv;
	float *in = NULL;
	const float *out = NULL;
	unsigned int i = 0;

	conv->op.kernel = CL_KERNEL_WINOGRAD;
	conv->batch = conv->group = 1;
	conv->in_h = conv->in_w = conv->out_h = conv->out_w = 12;
	conv->in_c = 3;
	conv->out_c = 5;
	conv->kernel_h = conv->kernel_w = 3;
	conv->stride_h = conv->stride_w = conv->dilation_h = conv->dilation_w = 1;
	conv->pad_top = conv->pad_left = 1;
	conv->activation.function = CL_UNARY_RELU;
	test.tiles = 9;
	build(&test, true);
	in = stage_at(&test.stage, &conv->in);
	in[(size_t)(5 * 12 + 5) * 3 + 1] = NAN; /* read by the tile in the middle alone */
	stage_run_scratch(&test.stage, &cl_winograd_kernel, conv, &conv->out, &conv->scratch);
	out = stage_at(&test.stage, &conv->out);
	for (i = 0; i < 12 * 12 * 5; i++) {
		const unsigned int y = i / 60;
		const unsigned int x = i / 5 % 12;
		const bool middle = y >= 4 && y < 8 && x >= 4 && x < 8;

		EXPECT(!isnan(out[i]) || middle, "(%u, %u) outside of the tile", y, x);
		if (y >= 4 && y <= 6 && x >= 4 && x <= 6)
			EXPECT(isnan(out[i]), "(%u, %u) reads the NaN", y, x);
	}
	finish(&test);
}

TEST(winograd_scratch_follows_the_documented_formula)
{
	struct cl_conv2d conv = {0};

	conv.batch = 2;
	conv.out_h = 9;
	conv.out_w = 8;
	conv.in_c = 13;
	EXPECT(cl_winograd_scratch(&conv, 1) == 3072 + 48 * 9 * 16, "one tile");
	EXPECT(cl_winograd_scratch(&conv, 12) == 3072 + 48 * 20 * 16, "all tiles");
	EXPECT(cl_winograd_scratch(&conv, UINT32_MAX) == 3072 + 48 * 20 * 16, "no more than all");
	conv.in_c = 0;
	EXPECT(cl_winograd_scratch(&conv, 1) == UINT64_MAX, "no channels");
}

static void small_case(struct conv_case *test, uint16_t kernel)
{
	struct cl_conv2d *conv = &test->conv;

	conv->op.kernel = kernel;
	conv->batch = 1;
	conv->in_h = conv->in_w = conv->out_h = conv->out_w = 4;
	conv->in_c = conv->out_c = 24;
	conv->group = kernel == CL_KERNEL_DEPTHWISE ? 24 : 1;
	conv->kernel_h = conv->kernel_w = 3;
	conv->stride_h = conv->stride_w = conv->dilation_h = conv->dilation_w = 1;
	conv->pad_top = conv->pad_left = 1;
	test->tiles = 1;
	build(test, true);
}

TEST(conv2d_scratch_follows_the_documented_formula)
{
	struct cl_conv2d conv = {0};

	conv.op.kernel = CL_KERNEL_CONV2D;
	conv.in_h = conv.in_w = conv.out_h = conv.out_w = 8;
	conv.kernel_h = 3;
	conv.kernel_w = 5;
	conv.stride_h = conv.stride_w = conv.dilation_h = conv.dilation_w = conv.group = 1;
	conv.in_c = 16;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 3 + 4 * 3 * (7 + 5) * 16, "rows");
	conv.stride_w = 3;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 3 + 4 * 3 * (21 + 5) * 16, "rows and strides");
	conv.stride_w = 6;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 15 + 4 * 16, "pixels: too sparse");
	conv.stride_w = 1;
	conv.dilation_h = 2;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 15 + 4 * 16, "pixels: rows lie apart");
	conv.dilation_h = 1;
	conv.dilation_w = 2;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 15 + 4 * 16, "pixels: the rows have gaps");
	conv.dilation_w = 1;
	conv.group = 2;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 15 + 4 * 16, "pixels: the rows have both groups");
	conv.group = 1;
	conv.in_c = 17;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 15 + 4 * 17, "pixels");
	conv.in_c = 34;
	conv.group = 2;
	EXPECT(cl_conv2d_scratch(&conv) == 64 * 15 + 4 * 34, "pixels, two groups");
	conv.kernel_h = conv.kernel_w = 1;
	EXPECT(cl_conv2d_scratch(&conv) == 0, "1x1");
	conv.stride_w = 2;
	EXPECT(cl_conv2d_scratch(&conv) == 64 + 4 * 34, "1x1 with a stride");
	conv.op.kernel = CL_KERNEL_DEPTHWISE;
	EXPECT(cl_conv2d_scratch(&conv) == 0, "depthwise");
	conv.op.kernel = CL_KERNEL_CONV2D;
	conv.kernel_h = 0;
	EXPECT(cl_conv2d_scratch(&conv) == UINT64_MAX, "no kernel");
}

/* One field of a record, set to `value`, must be refused. */
struct refusal {
	const char *field;
	size_t offset;
	uint32_t value;
	enum cl_status status;
};

#define REFUSE(field, value, status)                                                               \
	{                                                                                          \
#field, offsetof(struct cl_conv2d, field), value, status                           \
	}

static void expect_refusals(const struct conv_case *test, const struct cl_kernel_ops *kernel,
			    const struct refusal *refusals, size_t count)
{
	size_t i = 0;

	for (i = 0; i < count; i++) {
		struct cl_conv2d conv = test->conv;

		memcpy((uint8_t *)&conv + refusals[i].offset, &refusals[i].value, sizeof(uint32_t));
		expect_check(&test->stage, kernel, &conv, refusals[i].status, refusals[i].field);
	}
}

TEST(conv_checks_refuse_each_bad_field)
{
	static const struct refusal refusals[] = {
		REFUSE(in.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE(in.space, 3, CL_OUT_OF_BOUNDS),
		REFUSE(in.offset, 4, CL_OUT_OF_BOUNDS),
		REFUSE(in.offset, 0xfffffff8, CL_OUT_OF_BOUNDS),
		REFUSE(in.size, 4 * 4 * 24 * 4 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(in.size, UINT32_MAX, CL_OUT_OF_BOUNDS),
		REFUSE(in.reserved, 1, CL_OUT_OF_BOUNDS),
		REFUSE(weights.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE(weights.size, 3 * 3 * 24 * 4 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(bias.size, 24 * 4 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(out.space, CL_SPACE_WEIGHTS, CL_OUT_OF_BOUNDS),
		REFUSE(out.size, 4 * 4 * 24 * 4 - 1, CL_OUT_OF_BOUNDS),
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
		REFUSE(kernel_w, 4, CL_OUT_OF_BOUNDS),
		REFUSE(kernel_w, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(stride_h, 0, CL_BAD_FORMAT),
		REFUSE(stride_w, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(dilation_h, 0, CL_BAD_FORMAT),
		REFUSE(dilation_w, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(pad_top, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(pad_left, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(group, 0, CL_BAD_FORMAT),
		REFUSE(group, 5, CL_BAD_FORMAT),
		REFUSE(activation.function, CL_UNARY_COUNT, CL_BAD_KERNEL),
		REFUSE(activation.reserved, 1, CL_BAD_KERNEL),
	};
	struct conv_case conv = {0};
	struct conv_case depthwise = {0};
	struct cl_conv2d bad = {0};

	small_case(&conv, CL_KERNEL_CONV2D);
	expect_check(&conv.stage, &cl_conv2d_kernel, &conv.conv, CL_OK, "unchanged record");
	expect_refusals(&conv, &cl_conv2d_kernel, refusals, sizeof(refusals) / sizeof(refusals[0]));
	bad = conv.conv;
	bad.out = bad.in;
	expect_check(&conv.stage, &cl_conv2d_kernel, &bad, CL_BAD_FORMAT, "out over in");
	bad = conv.conv;
	bad.scratch.size--;
	expect_check(&conv.stage, &cl_conv2d_kernel, &bad, CL_OUT_OF_BOUNDS, "small scratch");
	bad = conv.conv;
	bad.scratch.offset = bad.in.offset;
	expect_check(&conv.stage, &cl_conv2d_kernel, &bad, CL_BAD_FORMAT, "scratch over in");
	bad = conv.conv;
	memset(&bad.scratch, 0, sizeof(bad.scratch));
	expect_check(&conv.stage, &cl_conv2d_kernel, &bad, CL_OUT_OF_BOUNDS, "no scratch");
	finish(&conv);

	small_case(&depthwise, CL_KERNEL_DEPTHWISE);
	expect_refusals(&depthwise, &cl_depthwise_kernel, refusals,
			sizeof(refusals) / sizeof(refusals[0]));
	bad = depthwise.conv;
	bad.group = 12;
	expect_check(&depthwise.stage, &cl_depthwise_kernel, &bad, CL_BAD_FORMAT, "12 groups");
	finish(&depthwise);
}

TEST(winograd_check_refuses_each_bad_field)
{
	static const struct refusal refusals[] = {
		REFUSE(in.offset, 0xfffffff8, CL_OUT_OF_BOUNDS),
		REFUSE(weights.size, 3 * 3 * 24 * 24 * 4 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(out.size, 4 * 4 * 24 * 4 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(scratch.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS),
		REFUSE(scratch.size, 13056 + 144 * 9 * 24 - 1, CL_OUT_OF_BOUNDS),
		REFUSE(in_c, UINT32_MAX, CL_BAD_FORMAT),
		REFUSE(out_h, 5, CL_OUT_OF_BOUNDS),
		REFUSE(kernel_h, 2, CL_BAD_FORMAT),
		REFUSE(kernel_w, 2, CL_BAD_FORMAT),
		REFUSE(stride_h, 2, CL_BAD_FORMAT),
		REFUSE(stride_w, 2, CL_BAD_FORMAT),
		REFUSE(dilation_h, 2, CL_BAD_FORMAT),
		REFUSE(dilation_w, 2, CL_BAD_FORMAT),
		REFUSE(group, 2, CL_BAD_FORMAT),
		REFUSE(activation.function, CL_UNARY_COUNT, CL_BAD_KERNEL),
	};
	struct conv_case test = {0};
	struct cl_conv2d bad = {0};

	small_case(&test, CL_KERNEL_WINOGRAD);
	expect_check(&test.stage, &cl_winograd_kernel, &test.conv, CL_OK, "unchanged record");
	expect_refusals(&test, &cl_winograd_kernel, refusals,
			sizeof(refusals) / sizeof(refusals[0]));
	bad = test.conv;
	bad.scratch.offset = bad.out.offset;
	expect_check(&test.stage, &cl_winograd_kernel, &bad, CL_BAD_FORMAT, "scratch over out");
	finish(&test);
}

TEST(conv_mutants_are_harmless)
{
	struct conv_case conv = {0};
	struct conv_case depthwise = {0};
	struct conv_case winograd = {0};

	small_case(&conv, CL_KERNEL_CONV2D);
	expect_mutants_harmless(&conv.stage, &cl_conv2d_kernel, &conv.conv);
	finish(&conv);
	small_case(&depthwise, CL_KERNEL_DEPTHWISE);
	expect_mutants_harmless(&depthwise.stage, &cl_depthwise_kernel, &depthwise.conv);
	finish(&depthwise);
	small_case(&winograd, CL_KERNEL_WINOGRAD);
	expect_mutants_harmless(&winograd.stage, &cl_winograd_kernel, &winograd.conv);
	finish(&winograd);
}
