/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many answers a licence still allows. Portable: no OP-TEE header; device.c
 * keeps the records in secure storage.
 *
 * Queries are taken from the record in blocks, and the record is written before the
 * first query of a block is answered: a crash can lose queries and never gives any
 * back, and not every query costs a write.
 */
#ifndef CLOISTER_QUOTA_H
#define CLOISTER_QUOTA_H

#include <stdbool.h>

#include "cloister_format.h"

#define CL_QUOTA_WINDOW 60 /* seconds */

enum cl_record_kind {
	CL_RECORD_MODEL = 1,
	CL_RECORD_LICENCE = 2,
};

/* What the device remembers of a model or a licence. */
struct cl_record {
	uint32_t kind;
	uint32_t version; /* MODEL: highest seen */
	uint8_t id[CL_ID_SIZE];
	uint64_t queries;      /* LICENCE: answered or set aside in its life */
	uint32_t window_start; /* LICENCE: seconds since boot when the current minute began */
	uint32_t window_count; /* LICENCE: answered or set aside in it */
};

_Static_assert(sizeof(struct cl_record) == 40, "layout of a stored record");

/* Queries that a session has set aside for itself. */
struct cl_grant {
	uint32_t left;
	uint32_t window_start; /* of the minute that they were set aside in */
};

/* The next query can be answered from the grant. */
bool cl_quota_covers(const struct cl_licence_secret *limits, const struct cl_grant *grant,
		     uint32_t now);

/*
 * Gives what is left of the grant back to the record and sets a new block aside.
 * `now` is in seconds since boot. The caller stores the record before it uses the
 * grant, and drops the grant if it cannot.
 *
 * CL_ERROR_QUERY_LIMIT, CL_ERROR_RATE_LIMIT: there is none now. Nothing has changed then: the
 * caller stores no record, and what is left of the grant must not be lost with it.
 */
uint32_t cl_quota_take(const struct cl_licence_secret *limits, struct cl_record *record,
		       struct cl_grant *grant, uint32_t now);

/* Gives what is left of the grant back to the record. */
void cl_quota_return(struct cl_record *record, struct cl_grant *grant);

/* Answers left in the licence's life; UINT64_MAX: no limit. */
uint64_t cl_quota_left(const struct cl_licence_secret *limits, const struct cl_record *record,
		       const struct cl_grant *grant);

#endif
