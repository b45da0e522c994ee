/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command interface of the Cloister trusted application: what each command
 * takes, gives and returns. Parameter types are those of the GlobalPlatform TEE
 * Client API; a command called with any other types returns BAD_PARAMETERS.
 */
#ifndef CLOISTER_TA_H
#define CLOISTER_TA_H

#include "cloister_format.h"

#define CL_TA_UUID                                                                                 \
	{                                                                                          \
		0xdbe59725, 0xa3e1, 0x4a5c,                                                        \
		{                                                                                  \
			0xb8, 0xa0, 0x85, 0x19, 0x67, 0x6a, 0x26, 0xb3                             \
		}                                                                                  \
	}

/* cffi: begin */
#define CL_TA_INTERFACE_VERSION 3
#define CL_MAX_TOP_K            64 /* largest k of CL_OUTPUT_TOP_K, whatever the licence says */

/* Session states: OPEN -> (LOAD) -> READY -> (BEGIN) -> RUNNING -> (last STEP) -> READY. */
enum cl_state {
	CL_STATE_OPEN = 0,
	CL_STATE_READY = 1,
	CL_STATE_RUNNING = 2,
};

enum cl_command {
	/*
	 * out memref[0]: struct cl_info. Any state.
	 */
	CL_CMD_INFO = 0,
	/*
	 * out memref[0]: the device's X25519 public key, CL_KEY_SIZE bytes; the pair is made
	 * on first use and never leaves secure storage. Any state.
	 */
	CL_CMD_DEVICE_KEY = 1,
	/*
	 * in memref[0]: manifest (zero bytes: the one embedded in the TA). in memref[1]: licence.
	 * out memref[2]: struct cl_loaded. inout value[3]: a = most bytes of secure memory that
	 * may be used (0: as much as there is), b = enum cl_cpu: what the normal world says the CPU
	 * has, which a TA cannot read itself; out a = bytes taken. A claim that is not true makes
	 * the CPU refuse the first such instruction: this session's instance dies, and no other.
	 * State OPEN or READY (the earlier model is dropped first, whatever the outcome).
	 */
	CL_CMD_LOAD = 2,
	/*
	 * One whole inference. in memref[0]: all inputs, one after the other, as the manifest
	 * orders them. in memref[1]: the whole payload (zero bytes: embedded, or every
	 * partition is resident). out memref[2]: the answer. inout value[3]: in a = enum cl_output
	 * wanted, b = k for CL_OUTPUT_TOP_K; out a = bytes of the answer, b = partitions decrypted.
	 * State READY; or RUNNING with inputs missing (FEED), whose rest it takes: any refusal then
	 * ends the inference.
	 */
	CL_CMD_RUN = 3,
	/*
	 * The same in steps, for a payload larger than what can be shared at once.
	 * BEGIN: in memref[0]: all inputs. out value[1]: a = index of the partition wanted next
	 * (partition_count: none, call FINISH), b = its sealed size (0: it wants an input first,
	 * call FEED or RUN). State READY.
	 */
	CL_CMD_BEGIN = 4,
	/*
	 * in memref[0]: the sealed partition that was asked for. out value[1]: as BEGIN.
	 * Any refusal ends the inference: back to READY. State RUNNING with no input wanted first.
	 */
	CL_CMD_STEP = 5,
	/*
	 * out memref[0]: the answer. inout value[1]: as value[3] of RUN. State RUNNING with
	 * no partition left.
	 */
	CL_CMD_FINISH = 6,
	/*
	 * Drops the model and gives its memory back. No parameters. Any state; afterwards OPEN.
	 */
	CL_CMD_UNLOAD = 7,
	/*
	 * out memref[0]: struct cl_usage, what the loaded model really took. State READY.
	 */
	CL_CMD_USAGE = 8,
	/*
	 * Inputs as they become ready. in memref[0]: one or more whole inputs, those that come next
	 * in the manifest's order. out value[1]: as BEGIN. Partitions that need no later input and
	 * are resident run at once. Begins an inference in state READY; or RUNNING with inputs
	 * missing, where any refusal ends it, so that no bytes at all give it up.
	 */
	CL_CMD_FEED = 9,
};

/*
 * Return codes of this TA. Where GlobalPlatform has a code of the same meaning,
 * that one is used: BAD_FORMAT (0xFFFF0005) a structure is malformed, BAD_STATE
 * (0xFFFF0007) the command does not fit the state, OUT_OF_MEMORY (0xFFFF000C),
 * SHORT_BUFFER (0xFFFF0010; the size needed is in the parameter), BAD_PARAMETERS
 * (0xFFFF0006), CANCEL (0xFFFF0002), BUSY (0xFFFF000D) another session holds the
 * licence's counters, MAC_INVALID (0xFFFF3071) a partition's or licence's tag is
 * wrong, SIGNATURE_INVALID (0xFFFF3072) manifest or licence was not signed by
 * the vendor this TA trusts, NOT_SUPPORTED (0xFFFF000A) a feature this TA lacks.
 */
#define CL_ERROR_WRONG_KEY       0x80c10001 /* sealed under another content key */
#define CL_ERROR_WRONG_DEVICE    0x80c10002 /* the licence is for another device */
#define CL_ERROR_WRONG_MODEL     0x80c10003 /* the licence is for another model */
#define CL_ERROR_WRONG_PARTITION 0x80c10004 /* not the partition that belongs here */
#define CL_ERROR_VERSION         0x80c10005 /* format version this TA does not know */
#define CL_ERROR_ROLLBACK        0x80c10006 /* model version: older than one seen, or not licensed */
#define CL_ERROR_QUERY_LIMIT     0x80c10007 /* the licence's queries are used up */
#define CL_ERROR_RATE_LIMIT      0x80c10008 /* too many queries in this minute */
#define CL_ERROR_OUTPUT_LIMIT    0x80c10009 /* the licence does not allow this kind of answer */
#define CL_ERROR_NO_VENDOR       0x80c1000a /* this TA was built without a vendor's key */
#define CL_ERROR_NO_LICENCE      0x80c1000b /* no licence was given */
#define CL_ERROR_CIPHER          0x80c1000c /* sealed with a cipher suite this device has not */
#define CL_ERROR_PASSWORD        0x80c1000d /* the licence's password is not for this model */

struct cl_info {
	uint32_t interface_version;
	uint32_t format_version;
	uint32_t state;         /* enum cl_state */
	uint32_t embedded;      /* 1: a model is linked into this TA */
	uint8_t vendor_key[32]; /* zeros: none */
	char build[64];
	uint32_t suites; /* bit 1 << enum cl_suite for each that it opens */
	uint32_t reserved;
};

struct cl_loaded {
	uint32_t partition_count;
	uint32_t resident_count; /* partitions that stay decrypted once loaded */
	uint32_t arena_size;
	uint32_t output; /* enum cl_output: most that the licence allows */
	uint32_t top_k;
	uint32_t reserved;
	uint64_t queries_left; /* UINT64_MAX: no limit */
	uint32_t input_size;   /* bytes of all inputs */
	uint32_t output_size;  /* bytes of the full answer */
};

struct cl_usage {
	uint64_t peak_bytes;     /* most secure memory held at once for the model */
	uint64_t resident_bytes; /* held now */
	uint64_t bytes_decrypted;
	uint64_t queries;
};

/* One entry of the answer for CL_OUTPUT_LABEL (k = 1) and CL_OUTPUT_TOP_K: k entries
 * for each row of the first output, best first; equal scores in the order of their index.
 * LABEL leaves score zero. CL_OUTPUT_FULL answers with all outputs, one after the other. */
struct cl_answer {
	uint32_t label;
	float score;
};
/* cffi: end */

CL_SIZE_IS(cl_info, 120);
CL_SIZE_IS(cl_loaded, 40);
CL_SIZE_IS(cl_usage, 32);
CL_SIZE_IS(cl_answer, 8);

#endif
