/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libFuzzer target: any bytes are offered to the engine as a partition: a password is
 * folded into its sites, then it is checked, and what passes is run. AddressSanitizer and
 * UndefinedBehaviorSanitizer judge.
 *
 * Random bytes seldom pass the first comparison, so that inputs are mutated by
 * structure: a partition is built of operators with plausible numbers, then some
 * of its words are changed.
 */
#define _POSIX_C_SOURCE 200809L /* posix_memalign */

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define ARENA_SIZE   98304 /* a fifth holds the scratch of a WINOGRAD */
#define WEIGHTS_SIZE 2048
#define MAX_OPS      3
#define MAX_SIZE     4096

/* Operators of one input that are run at most. */
#define MAX_RUN 64

static const uint16_t record_sizes[CL_KERNEL_COUNT] = {
	[CL_KERNEL_CONV2D] = sizeof(struct cl_conv2d),
	[CL_KERNEL_DEPTHWISE] = sizeof(struct cl_conv2d),
	[CL_KERNEL_WINOGRAD] = sizeof(struct cl_conv2d),
	[CL_KERNEL_GEMM] = sizeof(struct cl_gemm),
	[CL_KERNEL_MATMUL] = sizeof(struct cl_matmul),
	[CL_KERNEL_UNARY] = sizeof(struct cl_unary_op),
	[CL_KERNEL_BINARY] = sizeof(struct cl_binary_op),
	[CL_KERNEL_COPY] = sizeof(struct cl_copy),
	[CL_KERNEL_FILL] = sizeof(struct cl_fill),
	[CL_KERNEL_POOL] = sizeof(struct cl_pool),
	[CL_KERNEL_REDUCE] = sizeof(struct cl_reduce),
	[CL_KERNEL_SOFTMAX] = sizeof(struct cl_softmax),
	[CL_KERNEL_LRN] = sizeof(struct cl_lrn),
	[CL_KERNEL_RESAMPLE] = sizeof(struct cl_resample),
	[CL_KERNEL_ARGMAX] = sizeof(struct cl_argmax),
	[CL_KERNEL_CONV2D_S8] = sizeof(struct cl_conv2d_s8),
	[CL_KERNEL_DEPTHWISE_S8] = sizeof(struct cl_conv2d_s8),
	[CL_KERNEL_GEMM_S8] = sizeof(struct cl_gemm_s8),
	[CL_KERNEL_BINARY_S8] = sizeof(struct cl_binary_s8),
	[CL_KERNEL_POOL_S8] = sizeof(struct cl_pool_s8),
	[CL_KERNEL_UNARY_S8] = sizeof(struct cl_unary_s8),
	[CL_KERNEL_QUANTIZE] = sizeof(struct cl_quantize),
	[CL_KERNEL_DEQUANTIZE] = sizeof(struct cl_dequantize),
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static int count_down(void *cookie)
{
	unsigned int *left = cookie;

	return (*left)-- == 0;
}

static void *copy_aligned(const uint8_t *data, size_t size)
{
	void *memory = NULL;

	/* Exactly sized, so that AddressSanitizer sees the byte behind the end. */
	if (posix_memalign(&memory, CL_ALIGN, size ? size : 1))
		abort();
	if (data)
		memcpy(memory, data, size);
	else
		memset(memory, 0x3e, size);
	return memory;
}

/* Every kind of scale and value for the channels of the sites that generate() makes. */
static const struct {
	struct cl_password head;
	struct cl_lock locks[4];
	float scales[16];
	float values[16];
} password = {
	.head = {CL_MAGIC_PASSWORD,
		 CL_PASSWORD_VERSION,
		 sizeof(struct cl_password),
		 sizeof(password),
		 4,
		 16,
		 0,
		 {0}},
	.locks = {{"fuzzing", 0, 11, 0},
		  {"fuzzing", 12, 13, 12},
		  {"fuzzing", 31, 31, 14},
		  {"fuzzing", 65535, 65535, 15}},
	.scales = {0x1p-64f, -1, 1e-15f, 3e38f, 1, -0x1p-64f, 1, 1, 0.5f, 1e-19f, -1, 2, 1, -3e38f,
		   1, 2},
	.values = {1, 2.5f, 3e38f, -3e38f, 0, -3e38f, 0, 1, 0, 1e-40f, 1, 0, 0, 3e38f, 1, 2},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *partition = copy_aligned(data, size);
	struct cl_scaled scaled = {0};
	struct cl_scaled *in_place = &scaled;

	if (cl_password_check(&password, sizeof(password)) != CL_OK)
		abort();
	/* Streamed or resident, by a bit that means nothing else. */
	if (size > sizeof(struct cl_partition) && data[size - 1] & 1)
		in_place = NULL;
	if (cl_partition_open(partition, size, ARENA_SIZE, &password, in_place, NULL) == CL_OK) {
		const struct cl_partition *header = (const struct cl_partition *)partition;
		uint8_t *arena = copy_aligned(NULL, header->arena_size);
		unsigned int left = MAX_RUN;

		cl_partition_run_scaled(partition, arena, in_place, count_down, &left);
		free(arena);
	}
	free(partition);
	return 0;
}

static unsigned int below(unsigned int *seed, unsigned int limit)
{
	*seed = *seed * 1664525 + 1013904223;
	return (unsigned int)((uint64_t)*seed * limit >> 32);
}

static struct cl_ref random_ref(unsigned int *seed, uint32_t space)
{
	const uint32_t limit = space == CL_SPACE_ARENA ? ARENA_SIZE : WEIGHTS_SIZE;
	struct cl_ref ref = {.space = space};

	ref.offset = below(seed, limit / 8) * 8;
	ref.size = below(seed, 2) ? limit - ref.offset : below(seed, limit - ref.offset + 1);
	return ref;
}

/* Every word of the record's numbers gets a small value: they then agree now and then. */
static void random_numbers(unsigned int *seed, uint8_t *record, size_t begin, size_t end)
{
	size_t at = 0;

	for (at = begin; at + 4 <= end; at += 4) {
		const uint32_t value = below(seed, 3) ? 1 + below(seed, 3) : below(seed, 9);

		memcpy(record + at, &value, sizeof(value));
	}
}

static void small_dims(unsigned int *seed, uint32_t *dims, uint32_t rank)
{
	uint32_t i = 0;

	for (i = 0; i < 8; i++)
		dims[i] = i < rank ? 1 + below(seed, 4) : 0;
}

static struct cl_finish_s8 random_finish(unsigned int *seed)
{
	struct cl_finish_s8 finish = {0};

	finish.zero = (int32_t)below(seed, 256) - 128;
	finish.low = (int32_t)below(seed, 256) - 128;
	finish.high = finish.low + (int32_t)below(seed, (unsigned int)(128 - finish.low));
	return finish;
}

/* A record with in the arena, out and scratch apart from it, and numbers that often agree. */
static void random_record(unsigned int *seed, uint16_t kernel, uint8_t *record)
{
	const uint16_t size = record_sizes[kernel];
	struct cl_op op = {.kernel = kernel, .size = size, .node = 0};
	struct cl_ref *refs = (struct cl_ref *)(record + sizeof(op));
	size_t ref_count = 2;
	size_t i = 0;

	memset(record, 0, size);
	memcpy(record, &op, sizeof(op));
	switch (kernel) {
	case CL_KERNEL_CONV2D:
	case CL_KERNEL_DEPTHWISE:
	case CL_KERNEL_WINOGRAD:
	case CL_KERNEL_CONV2D_S8:
	case CL_KERNEL_DEPTHWISE_S8:
	case CL_KERNEL_GEMM_S8:
		ref_count = 5;
		break;
	case CL_KERNEL_GEMM:
	case CL_KERNEL_MATMUL:
	case CL_KERNEL_RESAMPLE:
		ref_count = 4;
		break;
	case CL_KERNEL_BINARY:
	case CL_KERNEL_BINARY_S8:
	case CL_KERNEL_UNARY_S8:
		ref_count = 3;
		break;
	case CL_KERNEL_FILL:
		ref_count = 1;
		break;
	default:
		break;
	}
	random_numbers(seed, record, sizeof(op) + ref_count * sizeof(*refs), size);
	/* The arena in equal parts, one for each run: they do not overlap. */
	for (i = 0; i < ref_count; i++) {
		const uint32_t part = ARENA_SIZE / (uint32_t)ref_count / 8 * 8;

		refs[i].space = CL_SPACE_ARENA;
		refs[i].offset = (uint32_t)i * part;
		refs[i].size = part;
	}
	switch (kernel) {
	case CL_KERNEL_CONV2D:
	case CL_KERNEL_DEPTHWISE:
	case CL_KERNEL_WINOGRAD: {
		struct cl_conv2d *conv = (struct cl_conv2d *)record;

		conv->weights = random_ref(seed, CL_SPACE_WEIGHTS);
		conv->weights.size += conv->weights.offset;
		conv->weights.offset = 0;
		conv->bias =
			below(seed, 2) ? random_ref(seed, CL_SPACE_WEIGHTS) : (struct cl_ref){0};
		conv->group = 1 + below(seed, 3);
		conv->in_c = conv->group * (1 + below(seed, 20));
		conv->out_c = conv->group * (1 + below(seed, 4));
		if (kernel == CL_KERNEL_DEPTHWISE)
			conv->group = conv->out_c = conv->in_c;
		if (kernel == CL_KERNEL_WINOGRAD) {
			conv->kernel_h = conv->kernel_w = 3;
			conv->stride_h = conv->stride_w = 1;
			conv->dilation_h = conv->dilation_w = conv->group = 1;
			conv->in_c = 1 + below(seed, 7);
			conv->out_h = 1 + below(seed, 9);
			conv->out_w = 1 + below(seed, 9);
		}
		memset(&conv->activation, 0, sizeof(conv->activation));
		conv->activation.function = below(seed, CL_UNARY_COUNT);
		break;
	}
	case CL_KERNEL_GEMM: {
		struct cl_gemm *gemm = (struct cl_gemm *)record;

		gemm->weights = random_ref(seed, CL_SPACE_WEIGHTS);
		gemm->bias =
			below(seed, 2) ? random_ref(seed, CL_SPACE_WEIGHTS) : (struct cl_ref){0};
		gemm->m = 1 + below(seed, 18);
		gemm->k = 1 + below(seed, 18);
		gemm->n = 1 + below(seed, 18);
		gemm->reserved = 0;
		memset(&gemm->activation, 0, sizeof(gemm->activation));
		gemm->activation.function = below(seed, CL_UNARY_COUNT);
		break;
	}
	case CL_KERNEL_MATMUL: {
		struct cl_matmul *matmul = (struct cl_matmul *)record;
		uint32_t d = 0;

		matmul->batch_rank = below(seed, 4);
		for (d = 0; d < 6; d++) {
			const bool used = d < matmul->batch_rank;

			matmul->batch_dims[d] = used ? 1 + below(seed, 3) : 0;
			matmul->a_strides[d] = used ? below(seed, 30) : 0;
			matmul->b_strides[d] = used ? below(seed, 30) : 0;
		}
		break;
	}
	case CL_KERNEL_UNARY: {
		struct cl_unary_op *unary = (struct cl_unary_op *)record;

		unary->count = 1 + below(seed, ARENA_SIZE / 8);
		unary->reserved = 0;
		memset(&unary->function, 0, sizeof(unary->function));
		unary->function.function = below(seed, CL_UNARY_COUNT);
		break;
	}
	case CL_KERNEL_BINARY: {
		struct cl_binary_op *binary = (struct cl_binary_op *)record;

		binary->function = below(seed, CL_BINARY_COUNT);
		binary->rank = below(seed, 6);
		small_dims(seed, binary->dims, binary->rank);
		small_dims(seed, binary->a_strides, binary->rank);
		small_dims(seed, binary->b_strides, binary->rank);
		memset(&binary->activation, 0, sizeof(binary->activation));
		binary->activation.function = below(seed, CL_UNARY_COUNT);
		break;
	}
	case CL_KERNEL_COPY: {
		struct cl_copy *copy = (struct cl_copy *)record;
		uint32_t d = 0;

		copy->elem_size = 1U << below(seed, 4);
		copy->rank = below(seed, 6);
		small_dims(seed, copy->dims, copy->rank);
		for (d = 0; d < 8; d++) {
			const bool used = d < copy->rank;

			copy->in_strides[d] = used ? (int32_t)below(seed, 17) - 8 : 0;
			copy->out_strides[d] = used ? (int32_t)below(seed, 9) - 2 : 0;
		}
		copy->in_start = below(seed, 100);
		copy->out_start = below(seed, 100);
		break;
	}
	case CL_KERNEL_FILL: {
		struct cl_fill *fill = (struct cl_fill *)record;

		fill->elem_size = 1U << below(seed, 4);
		fill->reserved = 0;
		break;
	}
	case CL_KERNEL_POOL: {
		struct cl_pool *pool = (struct cl_pool *)record;

		pool->kind = below(seed, 3);
		pool->reserved = pool->reserved2 = 0;
		memset(&pool->activation, 0, sizeof(pool->activation));
		break;
	}
	case CL_KERNEL_REDUCE: {
		struct cl_reduce *reduce = (struct cl_reduce *)record;

		reduce->kind = below(seed, 4);
		reduce->rank = below(seed, 6);
		small_dims(seed, reduce->dims, reduce->rank);
		reduce->axes = below(seed, 1U << reduce->rank);
		reduce->reserved = 0;
		break;
	}
	case CL_KERNEL_SOFTMAX:
		((struct cl_softmax *)record)->log = below(seed, 2);
		break;
	case CL_KERNEL_LRN: {
		struct cl_lrn *lrn = (struct cl_lrn *)record;

		lrn->alpha = 0.5f;
		lrn->beta = 0.75f;
		lrn->bias = 1.0f;
		lrn->reserved = 0;
		break;
	}
	case CL_KERNEL_RESAMPLE: {
		struct cl_resample *resample = (struct cl_resample *)record;

		/* The weights hold zeros and small integers: mostly valid indices. */
		resample->index = random_ref(seed, CL_SPACE_WEIGHTS);
		resample->factor =
			below(seed, 2) ? random_ref(seed, CL_SPACE_WEIGHTS) : (struct cl_ref){0};
		resample->outside_value = 0;
		break;
	}
	case CL_KERNEL_ARGMAX: {
		struct cl_argmax *argmax = (struct cl_argmax *)record;

		argmax->select_last = below(seed, 2);
		argmax->minimum = below(seed, 2);
		argmax->reserved = 0;
		break;
	}
	case CL_KERNEL_CONV2D_S8:
	case CL_KERNEL_DEPTHWISE_S8: {
		struct cl_conv2d_s8 *conv = (struct cl_conv2d_s8 *)record;

		conv->weights = random_ref(seed, CL_SPACE_WEIGHTS);
		conv->weights.size += conv->weights.offset;
		conv->weights.offset = 0;
		conv->channels = random_ref(seed, CL_SPACE_WEIGHTS);
		conv->group = 1 + below(seed, 3);
		conv->in_c = conv->group * (1 + below(seed, 40));
		conv->out_c = conv->group * (1 + below(seed, 9));
		if (kernel == CL_KERNEL_DEPTHWISE_S8)
			conv->group = conv->out_c = conv->in_c;
		conv->in_zero = (int32_t)below(seed, 256) - 128;
		conv->weights_kind = below(seed, CL_WEIGHTS_S8_COUNT);
		conv->finish = random_finish(seed);
		break;
	}
	case CL_KERNEL_GEMM_S8: {
		struct cl_gemm_s8 *gemm = (struct cl_gemm_s8 *)record;

		gemm->weights = random_ref(seed, CL_SPACE_WEIGHTS);
		gemm->channels = random_ref(seed, CL_SPACE_WEIGHTS);
		gemm->m = 1 + below(seed, 18);
		gemm->k = 1 + below(seed, 40);
		gemm->n = 1 + below(seed, 18);
		gemm->weights_kind = below(seed, CL_WEIGHTS_S8_COUNT);
		gemm->finish = random_finish(seed);
		break;
	}
	case CL_KERNEL_BINARY_S8: {
		struct cl_binary_s8 *binary = (struct cl_binary_s8 *)record;

		binary->function = below(seed, 2) ? CL_BINARY_ADD : CL_BINARY_MUL;
		binary->rank = below(seed, 6);
		small_dims(seed, binary->dims, binary->rank);
		if (binary->rank)
			binary->dims[binary->rank - 1] += below(seed, 40);
		small_dims(seed, binary->a_strides, binary->rank);
		small_dims(seed, binary->b_strides, binary->rank);
		binary->finish = random_finish(seed);
		break;
	}
	case CL_KERNEL_POOL_S8: {
		struct cl_pool_s8 *pool = (struct cl_pool_s8 *)record;

		pool->kind = below(seed, 3);
		pool->channels = 1 + below(seed, 40);
		pool->finish = random_finish(seed);
		break;
	}
	case CL_KERNEL_UNARY_S8: {
		struct cl_unary_s8 *unary = (struct cl_unary_s8 *)record;

		unary->table = random_ref(seed, CL_SPACE_WEIGHTS);
		unary->count = 1 + below(seed, ARENA_SIZE / 2);
		unary->reserved = 0;
		break;
	}
	case CL_KERNEL_QUANTIZE: {
		struct cl_quantize *quantize = (struct cl_quantize *)record;

		quantize->count = 1 + below(seed, ARENA_SIZE / 8);
		quantize->scale = 0.5f;
		quantize->finish = random_finish(seed);
		break;
	}
	case CL_KERNEL_DEQUANTIZE: {
		struct cl_dequantize *dequantize = (struct cl_dequantize *)record;

		dequantize->count = 1 + below(seed, ARENA_SIZE / 8);
		dequantize->scale = 0.5f;
		dequantize->reserved = 0;
		break;
	}
	default:
		break;
	}
}

/* A whole partition of plausible operators. */
static struct cl_site random_site(unsigned int *seed)
{
	struct cl_site site = {
		.layer = "fuzzing",
		.packing = 1 + below(seed, 5),
		.first = below(seed, 4) ? below(seed, 6) : 65535,
		.groups = 1 + below(seed, 3),
		.depth = 1 + below(seed, 40),
	};

	site.channels = site.groups * (1 + below(seed, 12));
	site.out_scale = site.packing == CL_PACKING_PANELS_S8 || site.packing == CL_PACKING_ROWS_S8;
	site.weights = random_ref(seed, CL_SPACE_WEIGHTS);
	site.bias = random_ref(seed, below(seed, 8) ? CL_SPACE_WEIGHTS : CL_SPACE_NONE);
	if (site.bias.space == CL_SPACE_NONE)
		site.bias.offset = site.bias.size = 0;
	return site;
}

static size_t generate(uint8_t *data, unsigned int *seed)
{
	struct cl_partition header = {0};
	size_t at = sizeof(header);
	size_t i = 0;
	_Alignas(8) uint8_t record[256] = {0};

	header.op_count = 1 + below(seed, MAX_OPS);
	for (i = 0; i < header.op_count; i++) {
		const uint16_t kernel = (uint16_t)(1 + below(seed, CL_KERNEL_COUNT - 1));

		random_record(seed, kernel, record);
		memcpy(data + at, record, record_sizes[kernel]);
		at += record_sizes[kernel];
	}
	header.ops_size = (uint32_t)(at - sizeof(header));
	header.site_count = below(seed, 3);
	for (i = 0; i < header.site_count; i++) {
		const struct cl_site site = random_site(seed);

		memcpy(data + at, &site, sizeof(site));
		at += sizeof(site);
	}
	header.magic = CL_MAGIC_PARTITION;
	header.version = CL_FORMAT_VERSION;
	header.header_size = sizeof(header);
	header.ops_offset = sizeof(header);
	while (at % CL_ALIGN)
		data[at++] = 0;
	header.weights_offset = (uint32_t)at;
	header.weights_size = WEIGHTS_SIZE;
	for (i = 0; i < WEIGHTS_SIZE; i += 4) {
		const uint32_t value = below(seed, 8) ? below(seed, 3) : UINT32_MAX;

		memcpy(data + at + i, &value, sizeof(value));
	}
	at += WEIGHTS_SIZE;
	header.total_size = (uint32_t)at;
	header.arena_size = ARENA_SIZE;
	memcpy(data, &header, sizeof(header));
	return at;
}

/* Some words of the header and the operators get odd values. */
static void disturb(uint8_t *data, size_t size, unsigned int *seed)
{
	static const uint32_t odd[] = {0,          1,          8,          0xffff,
				       0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff};
	unsigned int changes = below(seed, 4);

	for (; changes && size >= 8; changes--) {
		const size_t limit = size < 640 ? size : 640;
		const size_t at = below(seed, (unsigned int)(limit / 4)) * 4;
		uint32_t word = 0;

		memcpy(&word, data + at, sizeof(word));
		switch (below(seed, 4)) {
		case 0:
			word = odd[below(seed, sizeof(odd) / sizeof(odd[0]))];
			break;
		case 1:
			word += 1 + below(seed, 16);
			break;
		case 2:
			word -= 1 + below(seed, 16);
			break;
		default:
			word = below(seed, 64);
			break;
		}
		memcpy(data + at, &word, sizeof(word));
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	if (max_size < MAX_SIZE)
		return LLVMFuzzerMutate(data, size, max_size);
	if (size < sizeof(struct cl_partition) || !below(&seed, 3))
		size = generate(data, &seed);
	if (!below(&seed, 16))
		size = LLVMFuzzerMutate(data, size, max_size);
	disturb(data, size, &seed);
	return size;
}
