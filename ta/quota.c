/* SPDX-License-Identifier: BSD-2-Clause */
#include "quota.h"

#include "result.h"

/* Most queries that one crash may lose, and so many answers for one write. */
#define MAX_BLOCK 64

/*
 * The minute is over. Seconds since boot start again at a reboot, so `start` may
 * belong to an earlier boot: at least `now` seconds have then passed since, which
 * is no less than now - start. Where `start` lies ahead of `now`, only `now` counts.
 */
static bool window_over(uint32_t start, uint32_t now)
{
	return (now >= start ? now - start : now) >= CL_QUOTA_WINDOW;
}

static uint32_t block(uint64_t limit, uint32_t share)
{
	uint64_t size = limit / share;

	if (size < 1)
		return 1;
	return size < MAX_BLOCK ? (uint32_t)size : MAX_BLOCK;
}

static uint32_t smaller(uint32_t size, uint64_t left)
{
	return left < size ? (uint32_t)left : size;
}

bool cl_quota_covers(const struct cl_licence_secret *limits, const struct cl_grant *grant,
		     uint32_t now)
{
	if (!grant->left)
		return false;
	return !limits->rate_per_minute ||
	       (now >= grant->window_start && !window_over(grant->window_start, now));
}

void cl_quota_return(struct cl_record *record, struct cl_grant *grant)
{
	uint32_t left = grant->left;

	grant->left = 0;
	record->queries -= left < record->queries ? left : record->queries;
	if (record->window_start == grant->window_start)
		record->window_count -= left < record->window_count ? left : record->window_count;
}

uint32_t cl_quota_take(const struct cl_licence_secret *limits, struct cl_record *record,
		       struct cl_grant *grant, uint32_t now)
{
	struct cl_record updated = *record;
	struct cl_grant unused = *grant;
	uint32_t size = MAX_BLOCK;

	cl_quota_return(&updated, &unused);

	if (limits->query_limit) {
		if (updated.queries >= limits->query_limit)
			return CL_ERROR_QUERY_LIMIT;
		size = smaller(block(limits->query_limit, 64),
			       limits->query_limit - updated.queries);
	}

	if (limits->rate_per_minute) {
		if (!updated.window_count || window_over(updated.window_start, now)) {
			updated.window_start = now;
			updated.window_count = 0;
		} else if (updated.window_start > now) {
			/* After a reboot: the minute is drawn out rather than begun anew. */
			updated.window_start = now;
		}
		if (updated.window_count >= limits->rate_per_minute)
			return CL_ERROR_RATE_LIMIT;
		size = smaller(size, block(limits->rate_per_minute, 8));
		size = smaller(size, limits->rate_per_minute - updated.window_count);
		updated.window_count += size;
	}

	updated.queries += size;
	*record = updated;
	grant->left = size;
	grant->window_start = updated.window_start;
	return CL_SUCCESS;
}

uint64_t cl_quota_left(const struct cl_licence_secret *limits, const struct cl_record *record,
		       const struct cl_grant *grant)
{
	uint64_t used =
		record->queries - (grant->left < record->queries ? grant->left : record->queries);

	if (!limits->query_limit)
		return UINT64_MAX;
	return used < limits->query_limit ? limits->query_limit - used : 0;
}
