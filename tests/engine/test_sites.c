/* SPDX-License-Identifier: BSD-2-Clause */
/* Sites: what the check refuses, and that a password changes its channels and nothing else. */
#include <string.h>

#include "harness.h"

#define WEIGHTS 8192

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
		.first = 100,
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

struct sample_password {
	struct cl_password head;
	struct cl_lock lock;
	struct cl_lock_entry entries[3];
};

static struct sample_password one_channel(uint32_t channel, float scale, float value)
{
	/* Channels around the site's are another slice's. */
	return (struct sample_password){
		.head = {CL_MAGIC_PASSWORD,
			 CL_FORMAT_VERSION,
			 sizeof(struct cl_password),
			 sizeof(struct sample_password),
			 1,
			 3,
			 0,
			 {0}},
		.lock = {"layer 1", 3, 0},
		.entries = {{99, 0, 5, 0}, {channel, scale, value, 0}, {60000, 0, 5, 0}},
	};
}

/* Where weight `at` of channel c lies, in elements. */
static uint32_t weight_at(const struct cl_site *site, uint32_t c, uint32_t at)
{
	const uint32_t each = site->channels / site->groups;
	const uint32_t group = c / each;
	const uint32_t rest = c % each;

	switch (site->packing) {
	case CL_PACKING_PANELS:
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

static void expect_unlocked(uint32_t packing, uint32_t channels, uint32_t groups, uint32_t depth,
			    float scale, float value)
{
	const uint32_t c = random_range(0, channels - 1);
	const struct sample_password password = one_channel(100 + c, scale, value);
	static struct sample sample;
	static struct sample expected;
	const uint32_t each = channels / groups;
	uint32_t i = 0;

	make(&sample, packing, channels, groups, depth);
	if (is_s8(packing)) {
		const uint32_t panel = c / each * up(each, 4) + c % each / 4;
		uint8_t *bias = sample.weights + sample.site.bias.offset +
				4 * (packing == CL_PACKING_ROWS_S8 ? c : panel * 8 + c % each % 4);
		uint8_t *factor = bias + 4 * (packing == CL_PACKING_ROWS_S8 ? channels : 4);
		const float multiplier = 0.125f;
		const int32_t old = 1000;
		/* A step is 0.125 * 0.25. */
		const int32_t fresh =
			scale != 0 ? old + (int32_t)(value * 32 / scale) : (int32_t)(value * 32);
		const float product = scale != 0 ? multiplier * scale : multiplier;

		memcpy(bias, &old, 4);
		memcpy(factor, &multiplier, 4);
		expected = sample;
		memcpy(expected.weights + (bias - sample.weights), &fresh, 4);
		memcpy(expected.weights + (factor - sample.weights), &product, 4);
		for (i = 0; i < (scale != 0 ? 0 : up(depth, 16) * 16); i++)
			if (packing == CL_PACKING_PANELS_S8 || i < depth)
				expected.weights[64 + weight_at(&sample.site, c, i)] = 0;
	} else {
		float *weights = (float *)(void *)(expected.weights + 64);
		float *bias = NULL;

		expected = sample;
		bias = (float *)(void *)(expected.weights + sample.site.bias.offset);
		for (i = 0; i < depth; i++)
			weights[weight_at(&sample.site, c, i)] *= scale;
		bias[c] = bias[c] * scale + value;
	}
	EXPECT(cl_password_check(&password, sizeof(password)) == CL_OK, "password");
	EXPECT(cl_partition_unlock(&sample, sizeof(sample), &password) == CL_OK, "unlock");
	EXPECT(!memcmp(&sample, &expected, sizeof(sample)), "packing %u, channel %u of %u", packing,
	       c, channels);
	EXPECT(cl_partition_check(&sample, sizeof(sample), 0, NULL) == CL_OK, "check");
}

TEST(password_changes_its_channels_alone)
{
	static const float scales[] = {0, -1, 0.5f, 4};
	uint32_t round = 0;

	for (round = 0; round < 400; round++) {
		const uint32_t packing = round % 4 + 1;
		const bool panels = packing == CL_PACKING_PANELS || packing == CL_PACKING_PANELS_S8;
		const uint32_t groups = panels ? random_range(1, 3) : 1;

		expect_unlocked(packing, groups * random_range(1, 13), groups, random_range(1, 30),
				scales[random_range(0, 3)], (float)random_range(0, 40) - 20);
	}
}

TEST(password_for_other_layers_changes_nothing)
{
	struct sample_password password = one_channel(100, 0, 1);
	static struct sample sample;
	static struct sample before;

	make(&sample, CL_PACKING_PANELS, 8, 1, 4);
	before = sample;
	password.lock.layer[0] = 'x';
	EXPECT(cl_partition_unlock(&sample, sizeof(sample), &password) == CL_OK, "another layer");
	EXPECT(!memcmp(&sample, &before, sizeof(sample)), "unchanged");
	password = one_channel(108, 0, 1);
	EXPECT(cl_partition_unlock(&sample, sizeof(sample), &password) == CL_OK, "another slice");
	EXPECT(!memcmp(&sample, &before, sizeof(sample)), "unchanged");
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
	const struct sample_password password = one_channel(100, 0, 1);
	static struct sample sample;

	REFUSE(site.first, 100, CL_OK);
	REFUSE(site.packing, 0, CL_BAD_FORMAT);
	REFUSE(site.packing, CL_PACKING_ROWS_S8 + 1, CL_BAD_FORMAT);
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
	REFUSE(padding[3], 1, CL_BAD_FORMAT);
}
