/* SPDX-License-Identifier: BSD-2-Clause */
/* Sites: what the check refuses, and that a password changes its channels and nothing else. */
#include <string.h>

#include "harness.h"

#define WEIGHTS 8192
#define SITE    100 /* first channel of the site */

/* A partition without operators, whose one site lies in the middle of its weights. */
struct sample {
	_Alignas(CL_ALIGN) struct cl_partition header;
	struct cl_site site;
	uint8_t padding[24];
	uint8_t weights[WEIGHTS];
};

_Static_assert(offsetof(struct sample, weights) % CL_ALIGN == 0, "weights are aligned");

static bool is_s8(uint32_t packing)
{
	return packing == CL_PACKING_PANELS_S8 || packing == CL_PACKING_ROWS_S8;
}

static uint32_t up(uint32_t value, uint32_t to)
{
	return (value + to - 1) / to;
}

/* Bytes of the site's weights and biases, from the format's words. */
static void sizes(const struct cl_site *site, uint32_t *weights, uint32_t *bias)
{
	const uint32_t each = site->channels / site->groups;

	switch (site->packing) {
	case CL_PACKING_PANELS:
	case CL_PACKING_PANELS_SCALED:
		*weights = site->groups * up(each, 8) * site->depth * 8 * 4;
		*bias = site->channels * 4;
		break;
	case CL_PACKING_ROWS:
		*weights = site->depth * site->channels * 4;
		*bias = site->channels * 4;
		break;
	case CL_PACKING_PANELS_S8:
		*weights = site->groups * up(each, 4) * up(site->depth, 16) * 4 * 16;
		*bias = site->groups * up(each, 4) * 32;
		break;
	default:
		*weights = site->depth * site->channels;
		*bias = site->channels * 8;
		break;
	}
}

static void make(struct sample *sample, uint32_t packing, uint32_t channels, uint32_t groups,
		 uint32_t depth)
{
	struct cl_site *site = &sample->site;
	uint32_t weights = 0;
	uint32_t bias = 0;
	uint32_t i = 0;

	memset(sample, 0, sizeof(*sample));
	for (i = 0; i < WEIGHTS; i += 4) {
		const float value = random_float(-2, 2);

		memcpy(sample->weights + i, &value, sizeof(value));
	}
	*site = (struct cl_site){
		.layer = "layer 1",
		.packing = packing,
		.first = SITE,
		.channels = channels,
		.groups = groups,
		.depth = depth,
		.out_scale = is_s8(packing) ? 0.25f : 0,
	};
	sizes(site, &weights, &bias);
	site->weights = (struct cl_ref){CL_SPACE_WEIGHTS, 64, weights, 0};
	site->bias = (struct cl_ref){CL_SPACE_WEIGHTS, up(64 + weights, 8) * 8, bias, 0};
	sample->header = (struct cl_partition){
		.magic = CL_MAGIC_PARTITION,
		.version = CL_FORMAT_VERSION,
		.header_size = sizeof(struct cl_partition),
		.total_size = sizeof(*sample),
		.ops_offset = sizeof(struct cl_partition),
		.weights_offset = offsetof(struct sample, weights),
		.weights_size = WEIGHTS,
		.site_count = 1,
	};
}

/* Locks of another layer, and of the site's with one channel left out. */
#define OTHER  3
#define FIRST  96
#define LEFT   110
#define LAST   139
#define BEFORE (OTHER + LEFT - FIRST) /* numbers before those of what follows the gap */
#define COUNT  (OTHER + LAST - FIRST)

struct sample_password {
	struct cl_password head;
	struct cl_lock locks[3];
	float scales[COUNT];
	float values[COUNT];
};

static struct sample_password make_password(void)
{
	return (struct sample_password){
		.head = {CL_MAGIC_PASSWORD,
			 CL_PASSWORD_VERSION,
			 sizeof(struct cl_password),
			 sizeof(struct sample_password),
			 3,
			 COUNT,
			 0,
			 {0}},
		.locks = {{"layer 0", 0, OTHER - 1, 0},
			  {"layer 1", FIRST, LEFT - 1, OTHER},
			  {"layer 1", LEFT + 1, LAST, BEFORE}},
	};
}

/* Powers of two, so that every quotient is exact; whole values. */
static struct sample_password random_password(void)
{
	static const float scales[] = {0x1p-64f, -1, 0.5f, 4, 1, 1};
	struct sample_password password = make_password();
	uint32_t i = 0;

	for (i = 0; i < COUNT; i++) {
		const uint32_t kind = random_range(0, 5);

		password.scales[i] = scales[kind];
		if (kind < 5)
			password.values[i] = (float)random_range(0, 40) - 20;
	}
	return password;
}

/* The numbers for a channel of the site; false for the one left out. */
static bool numbers_of(const struct sample_password *password, uint32_t c, float *scale,
		       float *value)
{
	const uint32_t channel = SITE + c;
	const uint32_t at = channel < LEFT ? OTHER + channel - FIRST : BEFORE + channel - LEFT - 1;

	*scale = channel == LEFT ? 1 : password->scales[at];
	*value = channel == LEFT ? 0 : password->values[at];
	return channel != LEFT;
}

/* Where weight `at` of channel c lies, in elements. */
static uint32_t weight_at(const struct cl_site *site, uint32_t c, uint32_t at)
{
	const uint32_t each = site->channels / site->groups;
	const uint32_t group = c / each;
	const uint32_t rest = c % each;

	switch (site->packing) {
	case CL_PACKING_PANELS:
	case CL_PACKING_PANELS_SCALED:
		return ((group * up(each, 8) + rest / 8) * site->depth + at) * 8 + rest % 8;
	case CL_PACKING_PANELS_S8:
		return (((group * up(each, 4) + rest / 4) * up(site->depth, 16) + at / 16) * 4 +
			rest % 4) *
			       16 +
		       at % 16;
	default:
		return at * site->channels + c;
	}
}

/* Byte of the bias of channel c of 8-bit weights, and bytes from there to its multiplier. */
static uint32_t bias_at(const struct cl_site *site, uint32_t c, uint32_t *factor)
{
	const uint32_t each = site->channels / site->groups;
	const uint32_t place = c / each * up(each, 4) * 4 + c % each;

	*factor = 4 * (site->packing == CL_PACKING_ROWS_S8 ? site->channels : 4);
	return site->bias.offset +
	       4 * (site->packing == CL_PACKING_ROWS_S8 ? c : place / 4 * 8 + place % 4);
}

#define MULTIPLIER 0.125f
#define OLD_BIAS   1000

/* What a password makes of channel c. */
static void expect_channel(struct sample *expected, uint32_t c, float scale, float value,
			   bool scaled)
{
	const struct cl_site *site = &expected->site;
	uint8_t *weights = expected->weights + 64;
	const bool cleared = is_s8(site->packing) && scale == 0x1p-64f;
	uint32_t i = 0;

	if (is_s8(site->packing)) {
		/* A step is 0.125 * 0.25. */
		const int32_t bias =
			cleared ? (int32_t)(value * 32) : OLD_BIAS + (int32_t)(value * 32 / scale);
		const float product = cleared ? MULTIPLIER : MULTIPLIER * scale;
		uint32_t factor = 0;
		const uint32_t at = bias_at(site, c, &factor);

		memcpy(expected->weights + at, &bias, 4);
		memcpy(expected->weights + at + factor, &product, 4);
		for (i = 0; cleared && i < up(site->depth, 16) * 16; i++)
			if (site->packing == CL_PACKING_PANELS_S8 || i < site->depth)
				weights[weight_at(site, c, i)] = 0;
		return;
	}

	float *floats = (float *)(void *)weights;
	float *bias = (float *)(void *)(expected->weights + site->bias.offset);

	for (i = 0; !scaled && i < site->depth; i++)
		floats[weight_at(site, c, i)] *= scale;
	bias[c] = scaled ? bias[c] + value / scale : bias[c] * scale + value;
}

/* Resident or `streamed`: then results may be left to be scaled. */
static void expect_unlocked(uint32_t packing, uint32_t channels, uint32_t groups, uint32_t depth,
			    bool streamed)
{
	const struct sample_password password = random_password();
	const bool scaled =
		streamed && packing == CL_PACKING_PANELS_SCALED && channels <= LEFT - SITE;
	static struct sample sample;
	static struct sample expected;
	struct cl_scaled left = {.count = 9};
	uint32_t c = 0;

	make(&sample, packing, channels, groups, depth);
	for (c = 0; is_s8(packing) && c < channels; c++) {
		const float multiplier = MULTIPLIER;
		const int32_t old = OLD_BIAS;
		uint32_t factor = 0;
		const uint32_t at = bias_at(&sample.site, c, &factor);

		memcpy(sample.weights + at, &old, 4);
		memcpy(sample.weights + at + factor, &multiplier, 4);
	}
	expected = sample;
	for (c = 0; c < channels; c++) {
		float scale = 0;
		float value = 0;

		if (numbers_of(&password, c, &scale, &value))
			expect_channel(&expected, c, scale, value, scaled);
	}
	EXPECT(cl_password_check(&password, sizeof(password)) == CL_OK, "password");
	EXPECT(cl_partition_open(&sample, sizeof(sample), 0, &password, streamed ? &left : NULL,
				 NULL) == CL_OK,
	       "open");
	EXPECT(!memcmp(&sample, &expected, sizeof(sample)), "packing %u, %u channels, %u deep",
	       packing, channels, depth);
	if (streamed)
		EXPECT(left.count == scaled, "%u of %u", left.count, scaled);
	if (scaled) {
		EXPECT(left.sites[0].bias == sample.site.bias.offset, "bias");
		EXPECT(left.sites[0].channels == channels, "channels");
		EXPECT(left.sites[0].scales == password.scales + OTHER + SITE - FIRST, "scales");
	}
}

TEST(password_changes_its_channels_alone)
{
	uint32_t round = 0;

	for (round = 0; round < 500; round++) {
		const uint32_t packing = round % 5 + 1;
		const bool panels = packing != CL_PACKING_ROWS && packing != CL_PACKING_ROWS_S8;
		const uint32_t groups = panels ? random_range(1, 3) : 1;

		expect_unlocked(packing, groups * random_range(1, 13), groups, random_range(1, 20),
				random_range(0, 1));
	}
}

TEST(password_for_other_layers_changes_nothing)
{
	struct sample_password password = random_password();
	static struct sample sample;
	static struct sample before;

	make(&sample, CL_PACKING_PANELS, 8, 1, 4);
	before = sample;
	password.locks[1].layer[0] = 'k';
	password.locks[2].layer[0] = 'm';
	EXPECT(cl_partition_unlock(&sample, sizeof(sample), &password) == CL_OK, "another layer");
	EXPECT(!memcmp(&sample, &before, sizeof(sample)), "unchanged");
	sample.site.first = LAST + 1;
	before = sample;
	password = random_password();
	EXPECT(cl_partition_unlock(&sample, sizeof(sample), &password) == CL_OK, "another slice");
	EXPECT(!memcmp(&sample, &before, sizeof(sample)), "unchanged");
}

/* A GEMM whose bias is the site's, over the site's weights, without a password and scaled. */
struct product {
	_Alignas(CL_ALIGN) struct cl_partition header;
	struct cl_gemm gemm;
	struct cl_site site;
	uint8_t padding[48];
	float weights[16 * 5];
	float bias[16];
};

_Static_assert(offsetof(struct product, weights) % CL_ALIGN == 0, "weights are aligned");

static void make_product(struct product *product, uint32_t n)
{
	memset(product, 0, sizeof(*product));
	random_floats(product->weights, 16 * 5, -1, 1);
	random_floats(product->bias, 16, -1, 1);
	product->header = (struct cl_partition){
		.magic = CL_MAGIC_PARTITION,
		.version = CL_FORMAT_VERSION,
		.header_size = sizeof(struct cl_partition),
		.total_size = sizeof(*product),
		.op_count = 1,
		.ops_offset = sizeof(struct cl_partition),
		.ops_size = sizeof(struct cl_gemm),
		.weights_offset = offsetof(struct product, weights),
		.weights_size = sizeof(product->weights) + sizeof(product->bias),
		.arena_size = 128,
		.site_count = 1,
	};
	product->gemm = (struct cl_gemm){
		.op = {CL_KERNEL_GEMM, sizeof(struct cl_gemm), 0},
		.in = {CL_SPACE_ARENA, 0, 20, 0},
		.weights = {CL_SPACE_WEIGHTS, 0, sizeof(product->weights), 0},
		.bias = {CL_SPACE_WEIGHTS, sizeof(product->weights), sizeof(product->bias), 0},
		.out = {CL_SPACE_ARENA, 64, 64, 0},
		.m = 1,
		.k = 5,
		.n = n,
	};
	product->site = (struct cl_site){
		.layer = "layer 1",
		.packing = CL_PACKING_PANELS_SCALED,
		.first = SITE,
		.channels = n,
		.groups = 1,
		.depth = 5,
		.weights = product->gemm.weights,
		.bias = product->gemm.bias,
	};
}

TEST(scales_are_as_many_as_the_results_that_they_scale)
{
	const struct sample_password password = random_password();
	struct cl_scaled scaled = {0};
	static struct product product;
	_Alignas(CL_ALIGN) float arena[32] = {0};
	uint32_t failed = 0;
	uint32_t n = 0;

	for (n = 1; n <= LEFT - SITE; n++) {
		make_product(&product, n);
		EXPECT(cl_partition_open(&product, sizeof(product), sizeof(arena), &password,
					 &scaled, &failed) == CL_OK,
		       "as many");
		EXPECT(scaled.count == 1, "%u", scaled.count);
		EXPECT(cl_partition_run_scaled(&product, arena, &scaled, NULL, NULL) == CL_OK,
		       "run");
		/* One site less than the operator has columns. */
		make_product(&product, n + 1);
		product.site.channels = n;
		EXPECT(cl_partition_open(&product, sizeof(product), sizeof(arena), &password,
					 &scaled, &failed) == CL_BAD_FORMAT,
		       "too few");
		EXPECT(failed == 0, "operator %u", failed);
	}
}

#define REFUSE(field, value, status)                                                               \
	do {                                                                                       \
		make(&sample, CL_PACKING_PANELS, 12, 2, 5);                                        \
		sample.field = value;                                                              \
		EXPECT(cl_partition_check(&sample, sizeof(sample), 0, NULL) == (status),           \
		       #field " = " #value);                                                       \
		EXPECT(cl_partition_unlock(&sample, sizeof(sample), &password) == (status),        \
		       "unlock with " #field " = " #value);                                        \
	} while (0)

TEST(site_check_refuses_each_bad_field)
{
	const struct sample_password password = random_password();
	static struct sample sample;

	REFUSE(site.first, 100, CL_OK);
	REFUSE(site.packing, CL_PACKING_PANELS_SCALED, CL_OK);
	REFUSE(site.packing, 0, CL_BAD_FORMAT);
	REFUSE(site.packing, CL_PACKING_PANELS_SCALED + 1, CL_BAD_FORMAT);
	REFUSE(site.packing, CL_PACKING_PANELS_S8, CL_BAD_FORMAT);
	REFUSE(site.channels, 0, CL_BAD_FORMAT);
	REFUSE(site.channels, 13, CL_BAD_FORMAT);
	REFUSE(site.channels, 40, CL_OUT_OF_BOUNDS);
	REFUSE(site.channels, UINT32_MAX - 1, CL_BAD_FORMAT);
	REFUSE(site.first, CL_MAX_CHANNELS - 11, CL_BAD_FORMAT);
	REFUSE(site.first, UINT32_MAX, CL_BAD_FORMAT);
	REFUSE(site.groups, 0, CL_BAD_FORMAT);
	REFUSE(site.groups, 5, CL_BAD_FORMAT);
	REFUSE(site.groups, UINT32_MAX, CL_BAD_FORMAT);
	REFUSE(site.depth, 0, CL_BAD_FORMAT);
	REFUSE(site.depth, 6, CL_OUT_OF_BOUNDS);
	REFUSE(site.depth, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSE(site.out_scale, 1, CL_BAD_FORMAT);
	REFUSE(site.weights.space, CL_SPACE_ARENA, CL_OUT_OF_BOUNDS);
	REFUSE(site.weights.space, 3, CL_OUT_OF_BOUNDS);
	REFUSE(site.weights.space, CL_SPACE_NONE, CL_OUT_OF_BOUNDS);
	REFUSE(site.weights.offset, WEIGHTS - 8, CL_OUT_OF_BOUNDS);
	REFUSE(site.weights.offset, 68, CL_OUT_OF_BOUNDS);
	REFUSE(site.weights.offset, UINT32_MAX - 7, CL_OUT_OF_BOUNDS);
	REFUSE(site.weights.size, UINT32_MAX, CL_OUT_OF_BOUNDS);
	REFUSE(site.bias.size, 40, CL_OUT_OF_BOUNDS);
	REFUSE(site.bias.reserved, 1, CL_OUT_OF_BOUNDS);
	REFUSE(header.site_count, 2, CL_BAD_FORMAT);
	make(&sample, CL_PACKING_PANELS, 12, 2, 5);
	memset(&sample.site.weights, 0, sizeof(sample.site.weights));
	EXPECT(cl_partition_check(&sample, sizeof(sample), 0, NULL) == CL_OK, "biases alone");
	memset(&sample.site.bias, 0, sizeof(sample.site.bias));
	EXPECT(cl_partition_check(&sample, sizeof(sample), 0, NULL) == CL_BAD_FORMAT, "nothing");
	make(&sample, CL_PACKING_PANELS, 12, 2, 5);
	REFUSE(padding[3], 1, CL_BAD_FORMAT);
}

TEST(sites_cover_no_more_than_the_weights)
{
	static struct {
		_Alignas(CL_ALIGN) struct cl_partition header;
		struct cl_site sites[16];
		uint8_t padding[24];
		uint8_t weights[WEIGHTS];
	} many;
	static const struct cl_site quarter = {
		.layer = "layer 1",
		.packing = CL_PACKING_PANELS,
		.first = SITE,
		.channels = 8,
		.groups = 1,
		.depth = WEIGHTS / 128,
		.weights = {CL_SPACE_WEIGHTS, 0, WEIGHTS / 4, 0},
	};
	uint32_t count = 0;

	many.header = (struct cl_partition){
		.magic = CL_MAGIC_PARTITION,
		.version = CL_FORMAT_VERSION,
		.header_size = sizeof(struct cl_partition),
		.total_size = sizeof(many),
		.ops_offset = sizeof(struct cl_partition),
		.weights_offset = (uint32_t)((uint8_t *)many.weights - (uint8_t *)&many),
		.weights_size = WEIGHTS,
	};
	for (count = 1; count <= 16; count++) {
		many.sites[count - 1] = quarter;
		many.header.site_count = count;
		EXPECT(cl_partition_check(&many, sizeof(many), 0, NULL) ==
			       (count <= 4 ? CL_OK : CL_BAD_FORMAT),
		       "%u sites of a quarter", count);
	}
}
