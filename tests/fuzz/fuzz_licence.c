/* SPDX-License-Identifier: BSD-2-Clause */
/* libFuzzer: the licence's parser, its secret's check, passwords, and quotas under any limits and
 * clock. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "licence.h"
#include "quota.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

/* Limits, a stored record, then a clock: whatever they are, no answer beyond the limit. */
static void use_quota(const uint8_t *data, size_t size)
{
	struct cl_licence_secret limits;
	struct cl_record record;
	struct cl_grant grant = {0};
	uint64_t answers = 0;

	if (size < sizeof(limits) + sizeof(record))
		return;
	memcpy(&limits, data, sizeof(limits));
	memcpy(&record, data + sizeof(limits), sizeof(record));
	data += sizeof(limits) + sizeof(record);
	size -= sizeof(limits) + sizeof(record);
	limits.password_size = 0;
	(void)cl_licence_check_secret(&limits, CL_LICENCE_SIZE);
	(void)cl_licence_allows(&limits, limits.output, limits.top_k);
	if (!limits.query_limit && !limits.rate_per_minute)
		return;
	record.queries = 0;

	for (; size >= 4; data += 4, size -= 4) {
		uint32_t now = 0;

		memcpy(&now, data, sizeof(now));
		if (now & 1)
			grant.left = 0; /* a crash */
		if (!cl_quota_covers(&limits, &grant, now) &&
		    cl_quota_take(&limits, &record, &grant, now))
			continue;
		require(grant.left > 0);
		grant.left--;
		answers++;
		require(!limits.query_limit || answers <= limits.query_limit);
		require(record.queries >= answers);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct cl_layer layer = {"nothing", 1, 0};
	uint8_t *copy = malloc(size ? size : 1);

	require(copy != NULL);
	if (size)
		memcpy(copy, data, size);
	(void)cl_licence_parse(copy, size);
	if (cl_password_check(copy, size) == CL_OK)
		(void)cl_password_fits((const struct cl_password *)copy, &layer, 1);
	use_quota(copy, size);
	free(copy);
	return 0;
}
