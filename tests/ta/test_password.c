/* SPDX-License-Identifier: BSD-2-Clause */
/* Passwords as they come in licences: what is refused, and against which layers. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "engine/engine.h"
#include "licence.h"
#include "result.h"

#define LOCKS    3
#define CHANNELS 6

struct sample_password {
	struct cl_licence_secret secret;
	struct cl_password head;
	struct cl_lock locks[LOCKS];
	float scales[CHANNELS];
	float values[CHANNELS];
	uint8_t padding[24];
};

#define PASSWORD_SIZE (sizeof(struct sample_password) - offsetof(struct sample_password, head))

static struct sample_password valid(void)
{
	return (struct sample_password){
		.secret =
			{
				.output = CL_OUTPUT_LABEL,
				.max_model_version = 1,
				.password_size = PASSWORD_SIZE,
			},
		.head =
			{
				.magic = CL_MAGIC_PASSWORD,
				.version = CL_PASSWORD_VERSION,
				.header_size = sizeof(struct cl_password),
				.total_size = PASSWORD_SIZE,
				.lock_count = LOCKS,
				.channel_count = CHANNELS,
			},
		.locks = {{"aaaaaaa", 6, 7, 0}, {"aaaaaab", 0, 2, 2}, {"aaaaaab", 65535, 65535, 5}},
		.scales = {0x1p-64f, -1, -0x1p-64f, 2, 1, 1},
		.values = {2, 0.5f, 1, -1, 0, 0},
	};
}

static uint32_t check(const struct sample_password *s)
{
	return cl_licence_check_secret(&s->secret, CL_LICENCE_SIZE + PASSWORD_SIZE);
}

#define REFUSED_WITH(field, value, result)                                                         \
	do {                                                                                       \
		struct sample_password s = valid();                                                \
		s.field = (value);                                                                 \
		CHECK_EQ(check(&s), result);                                                       \
	} while (0)

#define REFUSED(field, value) REFUSED_WITH(field, value, CL_ERROR_BAD_FORMAT)

static void refuses_fields(void)
{
	struct sample_password s = valid();

	CHECK_EQ(check(&s), CL_SUCCESS);
	REFUSED(secret.password_size, 0);
	REFUSED(secret.password_size, PASSWORD_SIZE - 8);
	REFUSED(secret.password_size, UINT32_MAX);
	REFUSED(head.magic, CL_MAGIC_LICENCE);
	REFUSED_WITH(head.version, CL_PASSWORD_VERSION - 1, CL_ERROR_VERSION);
	REFUSED(head.header_size, 48);
	REFUSED(head.total_size, PASSWORD_SIZE - 8);
	REFUSED(head.lock_count, 0);
	REFUSED(head.lock_count, LOCKS - 1);
	REFUSED(head.lock_count, LOCKS + 1);
	REFUSED(head.lock_count, UINT32_MAX);
	REFUSED(head.channel_count, 0);
	REFUSED(head.channel_count, CHANNELS - 1);
	REFUSED(head.channel_count, CHANNELS + 1);
	REFUSED(head.channel_count, UINT32_MAX);
	REFUSED(head.reserved, 1);
	REFUSED(locks[0].layer[0], 'b');
	REFUSED(locks[1].layer[6], 'a');
	REFUSED(locks[0].first, 8);
	REFUSED(locks[0].last, 8);
	REFUSED(locks[1].last, 65535);
	REFUSED(locks[2].first, 2);
	REFUSED(locks[2].last, 65534);
	REFUSED(locks[0].at, 1);
	REFUSED(locks[1].at, 1);
	REFUSED(locks[2].at, UINT32_MAX);
	REFUSED(scales[0], 0);
	REFUSED(scales[1], -0x1p-65f);
	REFUSED(scales[2], NAN);
	REFUSED(scales[5], INFINITY);
	REFUSED(values[0], NAN);
	REFUSED(values[5], -INFINITY);
	REFUSED(padding[0], 1);
	REFUSED(padding[23], 1);
}

static void refuses_every_length(void)
{
	struct sample_password s = valid();
	size_t size = 0;

	for (size = 0; size < PASSWORD_SIZE; size++) {
		void *copy = malloc(size ? size : 1);

		CHECK(copy);
		memcpy(copy, &s.head, size);
		if (size >= 12)
			((struct cl_password *)copy)->total_size = (uint32_t)size;
		/* Padding alone may be cut. */
		CHECK_EQ(cl_password_check(copy, size) == CL_OK,
			 size % 8 == 0 && size >= PASSWORD_SIZE - sizeof(s.padding));
		free(copy);
	}
}

static void fits_its_layers_alone(void)
{
	static const struct cl_layer layers[] = {
		{"zzzzzzz", 1, 0}, {"aaaaaab", 65536, 0}, {"aaaaaaa", 8, 0}};
	struct cl_layer small[] = {{"aaaaaab", 65536, 0}, {"aaaaaaa", 7, 0}};
	const struct sample_password s = valid();

	CHECK(cl_password_fits(&s.head, layers, 3));
	CHECK(!cl_password_fits(&s.head, layers, 2));
	CHECK(!cl_password_fits(&s.head, layers, 0));
	CHECK(!cl_password_fits(&s.head, small, 2));
	small[1].channels = 8;
	CHECK(cl_password_fits(&s.head, small, 2));
	small[0].channels = 65535;
	CHECK(!cl_password_fits(&s.head, small, 2));
}

static void limits_the_licence(void)
{
	struct cl_licence licence = {
		.magic = CL_MAGIC_LICENCE,
		.version = CL_FORMAT_VERSION,
		.header_size = sizeof(struct cl_licence),
	};
	static const size_t sizes[] = {0, 8, 1024, CL_MAX_PASSWORD, CL_MAX_PASSWORD + 8, 12};
	size_t i = 0;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		licence.total_size = (uint32_t)(CL_LICENCE_SIZE + sizes[i]);
		licence.sealed_size = (uint32_t)(sizeof(licence.sealed) + sizes[i]);
		CHECK_EQ(cl_licence_parse(&licence, licence.total_size),
			 i < 4 ? CL_SUCCESS : CL_ERROR_BAD_FORMAT);
		licence.sealed_size -= 8;
		CHECK_EQ(cl_licence_parse(&licence, licence.total_size), CL_ERROR_BAD_FORMAT);
	}
}

void test_password(void)
{
	refuses_fields();
	refuses_every_length();
	fits_its_layers_alone();
	limits_the_licence();
}
