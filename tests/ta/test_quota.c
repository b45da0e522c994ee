/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"
#include "quota.h"
#include "result.h"

/* One query, as the TA takes it; counts the writes. */
static uint32_t query(const struct cl_licence_secret *limits, struct cl_record *record,
		      struct cl_grant *grant, uint32_t now, unsigned int *writes)
{
	uint32_t res = CL_SUCCESS;

	if (!cl_quota_covers(limits, grant, now)) {
		res = cl_quota_take(limits, record, grant, now);
		if (res)
			return res;
		(*writes)++;
	}
	grant->left--;
	return CL_SUCCESS;
}

static void counts_queries(void)
{
	const struct cl_licence_secret limits = {.query_limit = 1000};
	struct cl_record record = {0};
	struct cl_grant grant = {0};
	unsigned int writes = 0;
	int i = 0;

	for (i = 0; i < 1000; i++) {
		CHECK_EQ(cl_quota_left(&limits, &record, &grant), 1000 - i);
		CHECK_EQ(query(&limits, &record, &grant, 0, &writes), CL_SUCCESS);
	}
	CHECK_EQ(query(&limits, &record, &grant, 0, &writes), CL_ERROR_QUERY_LIMIT);
	CHECK_EQ(cl_quota_left(&limits, &record, &grant), 0);
	CHECK(writes < 100);
}

/* A crash loses the grant and keeps the record: never more answers than the limit. */
static void survives_crashes(void)
{
	const struct cl_licence_secret limits = {.query_limit = 500};
	struct cl_record record = {0};
	struct cl_grant grant = {0};
	unsigned int writes = 0;
	int answers = 0;

	while (!query(&limits, &record, &grant, 0, &writes)) {
		answers++;
		if (answers % 10 == 0)
			grant = (struct cl_grant){0};
	}
	CHECK(answers <= 500 && answers >= 350);
}

/* A session that ends well gives back what it did not use, and nothing else. */
static void gives_back(void)
{
	const struct cl_licence_secret limits = {.query_limit = 6400, .rate_per_minute = 100};
	struct cl_record record = {0};
	struct cl_grant grant = {0};
	unsigned int writes = 0;

	CHECK_EQ(query(&limits, &record, &grant, 100, &writes), CL_SUCCESS);
	CHECK(record.queries > 1 && record.window_count > 1);
	cl_quota_return(&record, &grant);
	CHECK_EQ(record.queries, 1);
	CHECK_EQ(record.window_count, 1);
	cl_quota_return(&record, &grant);
	CHECK_EQ(record.queries, 1);
}

static int answers_until_refused(const struct cl_licence_secret *limits, struct cl_record *record,
				 struct cl_grant *grant, uint32_t now)
{
	unsigned int writes = 0;
	int answers = 0;

	while (!query(limits, record, grant, now, &writes))
		answers++;
	return answers;
}

static void limits_rate(void)
{
	const struct cl_licence_secret limits = {.rate_per_minute = 30};
	struct cl_record record = {0};
	struct cl_grant grant = {0};

	/* The minute begins with its first answer. */
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 50), 30);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 109), 0);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 110), 30);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 1000), 30);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 1059), 0);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 1060), 30);
	/* A grant of a past minute is not good for the next. */
	cl_quota_take(&limits, &record, &grant, 1120);
	CHECK(grant.left && !cl_quota_covers(&limits, &grant, 1180));
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 1180), 30);
}

/* Seconds since boot begin again: no reboot gives the minute back before it is over. */
static void rate_survives_reboot(void)
{
	const struct cl_licence_secret limits = {.rate_per_minute = 30};
	struct cl_record record = {0};
	struct cl_grant grant = {0};

	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 1000), 30);
	grant = (struct cl_grant){0};
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 5), 0);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 59), 0);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 125), 30);

	/* At most `rate` answers to a boot that lasts less than a minute. */
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 3), 0);
	CHECK_EQ(answers_until_refused(&limits, &record, &grant, 2), 0);
}

/* Two sessions share one record. */
static void shares(void)
{
	const struct cl_licence_secret limits = {.query_limit = 640};
	struct cl_record record = {0};
	struct cl_grant grants[2] = {{0}, {0}};
	unsigned int writes = 0;
	int answers = 0;
	int i = 0;

	while (!query(&limits, &record, &grants[i], 0, &writes)) {
		answers++;
		i = !i;
	}
	cl_quota_return(&record, &grants[!i]);
	answers += answers_until_refused(&limits, &record, &grants[i], 0);
	CHECK_EQ(answers, 640);
}

/*
 * A session's block of a past minute outlives a minute that others used up: the
 * refused query is not stored, so what it would have given back must not be lost.
 */
static void refusal_keeps_the_grant(void)
{
	const struct cl_licence_secret limits = {.query_limit = 1000, .rate_per_minute = 40};
	struct cl_record record = {0};
	struct cl_grant mine = {0};
	struct cl_grant other = {0};
	unsigned int writes = 0;
	struct cl_record stored = {0};

	CHECK_EQ(query(&limits, &record, &mine, 100, &writes), CL_SUCCESS);
	CHECK(mine.left > 0);
	CHECK_EQ(answers_until_refused(&limits, &record, &other, 200), 40);
	stored = record;
	/* As the TA does: a record that was refused is read again, not stored. */
	CHECK_EQ(query(&limits, &record, &mine, 201, &writes), CL_ERROR_RATE_LIMIT);
	record = stored;
	CHECK_EQ(cl_quota_left(&limits, &record, &mine), 1000 - 41);
	cl_quota_return(&record, &mine);
	CHECK_EQ(record.queries, 41);
	CHECK_EQ(record.window_count, 40);
}

static void small_limits(void)
{
	const struct cl_licence_secret one = {.query_limit = 1, .rate_per_minute = 1};
	struct cl_record record = {0};
	struct cl_grant grant = {0};

	CHECK_EQ(answers_until_refused(&one, &record, &grant, 0), 1);
	CHECK_EQ(cl_quota_take(&one, &record, &grant, 1000), CL_ERROR_QUERY_LIMIT);
}

void test_quota(void)
{
	counts_queries();
	survives_crashes();
	gives_back();
	limits_rate();
	rate_survives_reboot();
	shares();
	refusal_keeps_the_grant();
	small_limits();
}
