/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Secure pages taken from and given back to OP-TEE at run time (the system PTA), so
 * that the TA holds no more than its model needs: a heap (TA_DATA_SIZE) would be
 * charged in full to every session.
 */
#ifndef CLOISTER_SECURE_MEMORY_H
#define CLOISTER_SECURE_MEMORY_H

#include <tee_internal_api.h>

#define CL_PAGE_SIZE 4096

struct cl_pages {
	void *address; /* page aligned, zeroed; NULL: none */
	size_t size;
};

struct cl_secure_memory {
	TEE_TASessionHandle system;
	uint64_t held;
	uint64_t peak;
	uint64_t limit; /* 0: none */
};

/*
 * Maps at least `size` bytes.
 * TEE_ERROR_OUT_OF_MEMORY: more than the limit, or than OP-TEE can give now.
 */
TEE_Result cl_pages_map(struct cl_secure_memory *memory, uint64_t size, struct cl_pages *pages);

/* Wipes and unmaps; pages may be none. */
void cl_pages_unmap(struct cl_secure_memory *memory, struct cl_pages *pages);

/* Ends the session with the system PTA; all pages are unmapped. */
void cl_secure_memory_close(struct cl_secure_memory *memory);

#endif
