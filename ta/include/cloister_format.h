/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every structure that crosses a world or a file. Single source of truth: the
 * TA, the engine and the compiler (which parses the part between the two cffi
 * marks) all read this file; no layout is written twice.
 *
 * All fields are little-endian, naturally aligned, with explicit padding; every
 * structure is a multiple of eight bytes. Padding and reserved fields are zero,
 * and a reader refuses anything else, so that they can be given a meaning later.
 */
#ifndef CLOISTER_FORMAT_H
#define CLOISTER_FORMAT_H

#include <stdint.h>

/* cffi: begin */
#define CL_FORMAT_VERSION 1
#define CL_MAX_RANK       8
#define CL_MAX_IO         16
#define CL_MAX_PARTITIONS 4096
#define CL_NAME_SIZE      64
#define CL_DIGEST_SIZE    32
#define CL_KEY_SIZE       32
#define CL_ID_SIZE        16
#define CL_NONCE_SIZE     12 /* of AES-GCM, in licences too */
#define CL_MAX_NONCE_SIZE 16
#define CL_TAG_SIZE       16
#define CL_SIGNATURE_SIZE 64
#define CL_ALIGN          64
#define CL_LAYER_ID_SIZE  8
#define CL_MAX_LAYERS     4096
#define CL_MAX_CHANNELS   65536 /* of a layer that can be locked */
#define CL_MAX_PASSWORD   65536 /* bytes of a password in a licence */

#define CL_PASSWORD_VERSION 2

/* Four characters each, as they read in a hex dump: CLMF, CLPT, CLSP, CLLC, CLBD, CLPW, CLBB. */
#define CL_MAGIC_MANIFEST  0x464d4c43
#define CL_MAGIC_PARTITION 0x54504c43
#define CL_MAGIC_SEALED    0x50534c43
#define CL_MAGIC_LICENCE   0x434c4c43
#define CL_MAGIC_BUNDLE    0x44424c43
#define CL_MAGIC_PASSWORD  0x57504c43
#define CL_MAGIC_BACKBONE  0x42424c43

/*
 * How partitions are sealed. Keys are derived from the content key as below; each
 * partition has a random nonce of its own.
 *
 *   AES_256_GCM        NIST SP 800-38D, 12-byte nonce; the key is the content key itself
 *   CHACHA20_POLY1305  RFC 8439, 12-byte nonce, 32-byte key
 *   AEGIS_128L         draft-irtf-cfrg-aegis-aead, 16-byte nonce, 16-byte key, 16-byte tag;
 *                      only for devices whose CPU has AES instructions
 *
 * The key of the last two is the beginning of HKDF-SHA256 (RFC 5869) of the content key,
 * without salt, with info = "cloister suite v1" (17 bytes, no terminator) and the suite's
 * number as uint32_t.
 */
enum cl_suite {
	CL_SUITE_AES_256_GCM = 1,
	CL_SUITE_CHACHA20_POLY1305 = 2,
	CL_SUITE_AEGIS_128L = 3,
	CL_SUITE_COUNT = 4,
};

enum cl_dtype {
	CL_DTYPE_F32 = 1,
	CL_DTYPE_I32 = 2,
	CL_DTYPE_I64 = 3,
	CL_DTYPE_U8 = 4,
	CL_DTYPE_I8 = 5,
	CL_DTYPE_BOOL = 6,
};

/* What an answer may reveal; each level allows those before it. */
enum cl_output {
	CL_OUTPUT_LABEL = 1,
	CL_OUTPUT_TOP_K = 2,
	CL_OUTPUT_FULL = 3,
};

/*
 * ---- Bundle file ---------------------------------------------------------
 * cl_bundle_header, the manifest, then the payload (all sealed partitions, each
 * on a CL_ALIGN boundary of the payload). The TA never sees this header: the
 * normal world hands it manifest and payload apart. In the bundle of a pair header_size
 * counts cl_bundle_backbone too, which follows, and the backbone lies behind the payload.
 */
struct cl_bundle_header {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint64_t manifest_offset;
	uint64_t manifest_size;
	uint64_t payload_offset;
	uint64_t payload_size;
};

struct cl_bundle_backbone {
	uint64_t offset; /* a multiple of CL_ALIGN */
	uint64_t size;
};

/*
 * ---- Manifest ------------------------------------------------------------
 * cl_manifest (and cl_pair, see there), input_count + output_count cl_io, partition_count
 * cl_partition_desc, the sealed layers, then an Ed25519 signature by the vendor over
 * "cloister manifest v1" (20 bytes, no terminator) and the manifest digest, which
 * is the SHA-256 of all bytes before the signature. total_size counts the
 * signature. (The digest and not the bytes, because OP-TEE copies a signed message
 * into the core's own small heap and panics the TA where it does not fit.)
 */
struct cl_manifest {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint32_t total_size;
	uint32_t suite; /* enum cl_suite */
	uint8_t model_id[16];
	uint8_t content_key_id[16]; /* first bytes of SHA-256(content key) */
	char name[64];              /* UTF-8, zero padded, last byte zero */
	uint32_t model_version;
	uint32_t input_count;
	uint32_t output_count;
	uint32_t partition_count;
	uint32_t arena_size;        /* activations and scratch, whole model */
	uint32_t largest_partition; /* largest plain_size */
	uint64_t payload_size;
};

/*
 * Behind cl_manifest, and counted by its header_size, in the manifest of a pair: the model is a
 * CPM, and its inputs are taps of a backbone that runs in the normal world. They stand in the
 * order in which they become ready, so that an inference can begin with the first.
 */
struct cl_pair {
	uint8_t backbone_digest[32]; /* SHA-256 of struct cl_backbone and all that follows it */
	uint32_t first_use[16];      /* of each input: partitions before this one do not read it;
				      * ascending, zeros behind the last input */
};

/* A tensor that enters or leaves the model, in ONNX's own dense row-major order. */
struct cl_io {
	char name[64];
	uint32_t dtype;
	uint32_t rank;
	uint32_t dims[8];
	uint32_t offset; /* in the arena */
	uint32_t size;   /* bytes */
};

/*
 * The sealed layers say which layers a password may name. Either absent, or this nonce,
 * one cl_layer for each layer encrypted as a partition is, and the tag; the associated data
 * are "cloister layers v1" (18 bytes, no terminator). Their number follows from total_size.
 */
struct cl_layers_head {
	uint8_t nonce[16]; /* the suite's, then zeros */
};

struct cl_layer {
	uint8_t id[8]; /* first bytes of SHA-256 of the ONNX tensor's name */
	uint32_t channels;
	uint32_t reserved;
};

struct cl_partition_desc {
	uint64_t offset;      /* of its cl_sealed_header in the payload */
	uint32_t sealed_size; /* cl_sealed_header, ciphertext, tag */
	uint32_t plain_size;
	uint8_t nonce[16]; /* the suite's, then zeros */
};

/*
 * ---- Sealed partition ----------------------------------------------------
 * cl_sealed_header, ciphertext (plain_size bytes), tag (CL_TAG_SIZE).
 * The header lies in clear and only serves to name an honest mistake; what
 * binds the bytes is the associated data.
 */
struct cl_sealed_header {
	uint32_t magic;
	uint16_t version;
	uint16_t reserved;
	uint32_t index;
	uint32_t count;
	uint8_t content_key_id[16];
};

struct cl_partition_aad {
	uint32_t magic; /* CL_MAGIC_SEALED */
	uint16_t version;
	uint16_t reserved;
	uint32_t index;
	uint32_t count;
	uint8_t manifest_digest[32];
};

/*
 * ---- Backbone ------------------------------------------------------------
 * What runs in the normal world of a pair, in clear: cl_backbone, input_count cl_io,
 * tap_count cl_tap, partition_count cl_backbone_part, then plain partitions on CL_ALIGN
 * boundaries. Offsets count from the structure's first byte. The TA never sees it.
 */
struct cl_backbone {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint64_t total_size;
	uint32_t input_count;
	uint32_t tap_count; /* the manifest's input_count */
	uint32_t partition_count;
	uint32_t arena_size;
};

/* An input of the CPM: where it lies when the first `ready` partitions have run. */
struct cl_tap {
	uint32_t input; /* it is this input of the backbone; UINT32_MAX: it lies in the arena */
	uint32_t ready;
	uint32_t offset; /* in the arena, whatever runs after; else 0 */
	uint32_t size;   /* bytes */
};

struct cl_backbone_part {
	uint64_t offset;
	uint64_t size;
};

/*
 * ---- Licence -------------------------------------------------------------
 * cl_licence, then an Ed25519 signature by the vendor over
 * "cloister licence v1" (19 bytes) and all bytes before it. With a password `sealed` is
 * longer than the structure shows, and the signature is over "cloister licence v2" (19
 * bytes) and the SHA-256 of all bytes before it.
 * `sealed` is HPKE (RFC 9180) base mode, single shot, suite
 * DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, empty associated data,
 * info = "cloister licence v1" followed by the bytes of cl_licence before `enc`,
 * so that the clear fields are bound as well. Sealed are cl_licence_secret and, behind it,
 * the password.
 */
struct cl_licence_secret {
	uint8_t content_key[32];
	uint64_t query_limit;       /* answers in the licence's life; 0: no limit */
	uint32_t rate_per_minute;   /* 0: no limit */
	uint32_t output;            /* enum cl_output */
	uint32_t top_k;             /* with CL_OUTPUT_TOP_K: largest k */
	uint32_t min_model_version; /* lowest and highest version it opens */
	uint32_t max_model_version;
	uint32_t password_size; /* 0: none */
};

struct cl_licence {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint32_t total_size;
	uint32_t sealed_size; /* sizeof(struct cl_licence_secret) + password_size + CL_TAG_SIZE */
	uint8_t licence_id[16];
	uint8_t model_id[16];
	uint8_t device_id[32]; /* SHA-256 of the device's X25519 public key */
	uint8_t enc[32];       /* HPKE encapsulated key */
	uint8_t sealed[80];    /* more with a password */
};

/*
 * ---- Password ------------------------------------------------------------
 * What the channels of locked layers are set to: cl_password, lock_count cl_lock in
 * ascending order of their layers' ids and channels, float scales[channel_count] and float
 * values[channel_count], each lock's behind the one's before it; then zeros up to
 * total_size, a multiple of 8, so that a licence's length does not tell how many there are.
 * A lock is a run of channels; those in it that are not locked have scale 1 and value 0.
 *
 * With it a layer computes scale * z + value where its weights and bias say z, before its
 * activation (struct cl_site). Numbers are finite, and a scale is at least 2^-64
 * in magnitude: that stands for 0, and can be divided by.
 */
struct cl_password {
	uint32_t magic;
	uint16_t version; /* CL_PASSWORD_VERSION */
	uint16_t header_size;
	uint32_t total_size;
	uint32_t lock_count;
	uint32_t channel_count;
	uint32_t reserved;
	uint8_t id[16]; /* of the password file, for people */
};

struct cl_lock {
	uint8_t layer[8];
	uint16_t first; /* of its channels */
	uint16_t last;
	uint32_t at; /* of its numbers among all: channels of the locks before it */
};

/*
 * ---- Partition (plain) ---------------------------------------------------
 * cl_partition, operator records, site_count cl_site right behind them, weights. Offsets
 * count from the partition's first byte. All of it is loaded at a CL_ALIGN aligned address.
 */
struct cl_partition {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint32_t total_size;
	uint32_t op_count;
	uint32_t ops_offset;
	uint32_t ops_size;
	uint32_t weights_offset; /* CL_ALIGN aligned */
	uint32_t weights_size;
	uint32_t arena_size; /* bytes of arena that the operators may touch */
	uint32_t site_count;
};

/* Instructions beyond Armv8.0 that kernels have a faster path for; results are the same. */
enum cl_cpu {
	CL_CPU_DOTPROD = 1, /* FEAT_DotProd (Linux: asimddp) */
	CL_CPU_ALL = 1,
};

enum cl_space {
	CL_SPACE_NONE = 0, /* absent: offset and size are zero */
	CL_SPACE_ARENA = 1,
	CL_SPACE_WEIGHTS = 2,
};

/* A run of bytes in the arena or in the partition's weights; offset is a multiple of 8. */
struct cl_ref {
	uint32_t space;
	uint32_t offset;
	uint32_t size;
	uint32_t reserved;
};

enum cl_kernel {
	CL_KERNEL_CONV2D = 1,
	CL_KERNEL_DEPTHWISE = 2,
	CL_KERNEL_GEMM = 3,
	CL_KERNEL_MATMUL = 4,
	CL_KERNEL_UNARY = 5,
	CL_KERNEL_BINARY = 6,
	CL_KERNEL_COPY = 7,
	CL_KERNEL_FILL = 8,
	CL_KERNEL_POOL = 9,
	CL_KERNEL_REDUCE = 10,
	CL_KERNEL_SOFTMAX = 11,
	CL_KERNEL_LRN = 12,
	CL_KERNEL_RESAMPLE = 13,
	CL_KERNEL_ARGMAX = 14,
	CL_KERNEL_CONV2D_S8 = 15,
	CL_KERNEL_DEPTHWISE_S8 = 16,
	CL_KERNEL_GEMM_S8 = 17,
	CL_KERNEL_BINARY_S8 = 18,
	CL_KERNEL_POOL_S8 = 19,
	CL_KERNEL_UNARY_S8 = 20,
	CL_KERNEL_QUANTIZE = 21,
	CL_KERNEL_DEQUANTIZE = 22,
	CL_KERNEL_WINOGRAD = 23,
	CL_KERNEL_COUNT = 24,
};

/* Functions of one value x with parameters a and b, as ONNX defines them. */
enum cl_unary {
	CL_UNARY_IDENTITY = 0,
	CL_UNARY_RELU = 1,
	CL_UNARY_CLIP = 2,       /* min(max(x, a), b) */
	CL_UNARY_LEAKY_RELU = 3, /* x < 0 ? a * x : x */
	CL_UNARY_SIGMOID = 4,
	CL_UNARY_TANH = 5,
	CL_UNARY_HARD_SIGMOID = 6, /* clip(a * x + b, 0, 1) */
	CL_UNARY_HARD_SWISH = 7,   /* x * clip(x / 6 + 0.5, 0, 1) */
	CL_UNARY_ELU = 8,          /* x < 0 ? a * (exp(x) - 1) : x */
	CL_UNARY_EXP = 9,
	CL_UNARY_LOG = 10,
	CL_UNARY_SQRT = 11,
	CL_UNARY_ABS = 12,
	CL_UNARY_NEG = 13,
	CL_UNARY_RECIPROCAL = 14,
	CL_UNARY_ERF = 15,
	CL_UNARY_SOFTPLUS = 16,
	CL_UNARY_COUNT = 17,
};

/* How the weights of a site lie; p = ceil(channels / groups / n) panels of n channels. */
enum cl_packing {
	CL_PACKING_PANELS = 1,    /* float [groups][p][depth][8], as in CONV2D and GEMM */
	CL_PACKING_ROWS = 2,      /* float [depth][channels], as in DEPTHWISE */
	CL_PACKING_PANELS_S8 = 3, /* int8 [groups][p][ceil(depth / 16)][4][16], as in CONV2D_S8 */
	CL_PACKING_ROWS_S8 = 4,   /* int8 [depth][channels], as in DEPTHWISE_S8 */
	/*
	 * As PANELS, with a bias. All that reads it are CONV2D, WINOGRAD and GEMM, and it is less
	 * work for them to scale their results than to scale the weights.
	 */
	CL_PACKING_PANELS_SCALED = 5,
};

/*
 * Weights and bias of some channels of a layer, as far as they lie in this partition: where
 * a password is folded in. Every convolution and product with constant weights has sites,
 * locked or not; operators that share weights (bands of rows) share a site.
 * Floats: weights and bias (float [channels]) are scaled, then value is added to the bias;
 *   either may be absent. Factors of 8-bit weights are a site of depth 1. With
 *   PANELS_SCALED, in a partition that is opened for one inference: value / scale is added
 *   to the bias, and what is summed up from there is scaled before the activation.
 * 8-bit: bias is the operator's `channels`. The multiplier is scaled, and the bias grows by
 *   round(value / (multiplier * out_scale)), saturated to 32 bits, modulo 2^32. Where
 *   the scale is below 2^-40 in magnitude the weights are cleared, the bias becomes that
 *   alone, and the multiplier is not scaled.
 * What all sites of a partition cover is together no longer than its weights.
 */
struct cl_site {
	uint8_t layer[8];
	uint32_t packing; /* enum cl_packing */
	uint32_t first;   /* of its channels among the layer's */
	uint32_t channels;
	uint32_t groups;
	uint32_t depth;  /* weights of a channel */
	float out_scale; /* 8-bit: of the layer's result; else 0 */
	struct cl_ref weights;
	struct cl_ref bias;
};

struct cl_activation {
	uint32_t function; /* enum cl_unary; kernels with a fused activation take any of them */
	float a;
	float b;
	uint32_t reserved;
};

/* First member of every operator record. Records follow each other without gaps. */
struct cl_op {
	uint16_t kernel;
	uint16_t size; /* of the record, header included; a multiple of 8 */
	uint32_t node; /* position of the ONNX node it came from, for diagnostics */
};

/*
 * Convolution, NHWC. Pads at the end follow from the output's size; what is
 * read outside the input counts as zero.
 * CONV2D weights: for each group, ceil(out_c_per_group / 8) panels, each
 *   [kernel_h][kernel_w][in_c_per_group][8] floats, missing channels zero.
 * DEPTHWISE (group == in_c == out_c) weights: [kernel_h][kernel_w][in_c].
 * bias: [out_c] or absent.
 * Bytes of scratch (cl_conv2d_scratch() in the engine), t = kernel_h * kernel_w:
 *   DEPTHWISE: 0
 *   CONV2D with t = 1, strides 1, pads 0 and out_h, out_w = in_h, in_w: 0
 *   CONV2D else, with in_c <= 16, group = 1, dilations 1 and stride_w <= kernel_w:
 *     64 * kernel_h + 4 * kernel_h * ((out_w - 1) * stride_w + kernel_w) * in_c
 *   CONV2D else: 64 * t + 4 * in_c
 *
 * WINOGRAD computes a CONV2D with a 3x3 kernel, strides, dilations and group 1, from
 * the same weights, by tiles of 4x4 results (the last of a row or column may stick
 * out). It rounds otherwise; a value that is not finite makes the tiles that read it
 * NaN. Its scratch is 3072 + 48 * (8 + n) * (in_c rounded up to a multiple of 4)
 * bytes, n >= 1: weights are transformed once for every n tiles (where n > 8 and not
 * enough for all, for every 8 * floor(n / 8)), so that more scratch means less work.
 */
struct cl_conv2d {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref weights;
	struct cl_ref bias;
	struct cl_ref out;
	struct cl_ref scratch;
	uint32_t batch;
	uint32_t in_h;
	uint32_t in_w;
	uint32_t in_c;
	uint32_t out_h;
	uint32_t out_w;
	uint32_t out_c;
	uint32_t kernel_h;
	uint32_t kernel_w;
	uint32_t stride_h;
	uint32_t stride_w;
	uint32_t dilation_h;
	uint32_t dilation_w;
	uint32_t pad_top;
	uint32_t pad_left;
	uint32_t group;
	struct cl_activation activation;
};

/*
 * out[m][n] = activation(a[m][k] * b[k][n] + bias[n]); b is constant, in
 * ceil(n / 8) panels of [k][8] floats, missing columns zero.
 */
struct cl_gemm {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref weights;
	struct cl_ref bias;
	struct cl_ref out;
	uint32_t m;
	uint32_t k;
	uint32_t n;
	uint32_t reserved;
	struct cl_activation activation;
};

/*
 * Batched product of two run-time matrices, out[...][m][n] dense. The strides
 * are in elements, one for each of the batch_rank outer dimensions (0: broadcast);
 * the matrices themselves are dense. scratch: 8 * k floats, one panel of b.
 */
struct cl_matmul {
	struct cl_op op;
	struct cl_ref a;
	struct cl_ref b;
	struct cl_ref out;
	struct cl_ref scratch;
	uint32_t m;
	uint32_t k;
	uint32_t n;
	uint32_t batch_rank;
	uint32_t batch_dims[6];
	uint32_t a_strides[6];
	uint32_t b_strides[6];
};

/* out may be the same run as in. */
struct cl_unary_op {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t count;
	uint32_t reserved;
	struct cl_activation function;
};

enum cl_binary {
	CL_BINARY_ADD = 0,
	CL_BINARY_SUB = 1,
	CL_BINARY_MUL = 2,
	CL_BINARY_DIV = 3,
	CL_BINARY_MAX = 4,
	CL_BINARY_MIN = 5,
	CL_BINARY_PRELU = 6, /* a < 0 ? a * b : a */
	CL_BINARY_POW = 7,
	CL_BINARY_COUNT = 8,
};

/*
 * out is dense in dims; the operands' strides are in elements (0: broadcast).
 * out may be the same run as an operand that is dense as well.
 */
struct cl_binary_op {
	struct cl_op op;
	struct cl_ref a;
	struct cl_ref b;
	struct cl_ref out;
	uint32_t function;
	uint32_t rank;
	uint32_t dims[8];
	uint32_t a_strides[8];
	uint32_t b_strides[8];
	struct cl_activation activation;
};

/*
 * Strided copy of elements of elem_size (1, 2, 4 or 8) bytes: the one primitive
 * behind Transpose, Slice, Split, Concat, Pad, Tile and Expand. Strides and
 * starts are in elements and count from the run's first byte; strides may be
 * negative. in and out do not overlap.
 */
struct cl_copy {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t elem_size;
	uint32_t rank;
	uint32_t dims[8];
	int32_t in_strides[8];
	int32_t out_strides[8];
	uint32_t in_start;
	uint32_t out_start;
};

/* Fills the whole of out with elements of elem_size bytes, low bytes of value. */
struct cl_fill {
	struct cl_op op;
	struct cl_ref out;
	uint64_t value;
	uint32_t elem_size;
	uint32_t reserved;
};

enum cl_pool_kind {
	CL_POOL_MAX = 0,
	CL_POOL_AVERAGE = 1,             /* divides by the cells inside the input */
	CL_POOL_AVERAGE_INCLUDE_PAD = 2, /* divides by the cells inside the padded input */
};

/* Pooling over up to three spatial dimensions, (N, D, H, W, C); unused ones are 1. */
struct cl_pool {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t kind;
	uint32_t batch;
	uint32_t channels;
	uint32_t reserved;
	uint32_t in_dims[3];
	uint32_t out_dims[3];
	uint32_t kernel[3];
	uint32_t stride[3];
	uint32_t dilation[3];
	uint32_t pad_begin[3];
	uint32_t pad_end[3];
	uint32_t reserved2;
	struct cl_activation activation;
};

enum cl_reduce_kind {
	CL_REDUCE_MEAN = 0,
	CL_REDUCE_SUM = 1,
	CL_REDUCE_MAX = 2,
	CL_REDUCE_MIN = 3,
};

/* in is dense in dims; bit i of axes says that dimension i is reduced. out is dense. */
struct cl_reduce {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t kind;
	uint32_t rank;
	uint32_t dims[8];
	uint32_t axes;
	uint32_t reserved;
};

/* in and out are (outer, n, inner), normalised over n; out may be in. */
struct cl_softmax {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t outer;
	uint32_t n;
	uint32_t inner;
	uint32_t log; /* 1: LogSoftmax */
};

/* Across channels; in and out are (outer, channels, inner). */
struct cl_lrn {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t outer;
	uint32_t channels;
	uint32_t inner;
	uint32_t window;
	float alpha; /* already divided by the window */
	float beta;
	float bias;
	uint32_t reserved;
};

/*
 * Weighted gather along one axis, the primitive behind Resize and the edge,
 * reflect and wrap modes of Pad: in is (outer, in_n, inner), out is
 * (outer, out_n, inner); out[o][i] is the sum over taps t of
 * factor[i][t] * in[o][index[i][t]], an index of -1 standing for outside_value.
 * index: int32 [out_n][taps]; factor: float [out_n][taps], both in the weights.
 * factor may be absent: taps is 1 and elements are copied unchanged.
 */
struct cl_resample {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	struct cl_ref index;
	struct cl_ref factor;
	uint32_t outer;
	uint32_t in_n;
	uint32_t out_n;
	uint32_t inner;
	uint32_t taps;
	float outside_value;
};

/* in is (outer, n, inner) floats; out is (outer, inner), int64. */
struct cl_argmax {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t outer;
	uint32_t n;
	uint32_t inner;
	uint32_t select_last; /* 1: the last of equal values */
	uint32_t minimum;     /* 1: ArgMin */
	uint32_t reserved;
};

/*
 * ---- 8-bit integers ------------------------------------------------------
 * A quantised tensor holds int8 elements q that stand for (q - zero) * scale. An
 * unsigned model is shifted by the compiler: q and zero less 128, same values.
 *
 * round() is to the nearest integer, ties to even. float() of an int32 and every
 * product, sum and quotient of floats rounds once, in the order written, so that
 * all builds give the same bits. Integer sums are taken modulo 2^32; the compiler
 * sees to it that what it means does not overflow.
 *
 * How a kernel ends: it stores min(max(round(value) + zero, low), high), where
 * value is a float. low and high carry a fused Relu or Clip, else they are -128
 * and 127. -128 <= zero <= 127, -128 <= low <= high <= 127.
 */
struct cl_finish_s8 {
	int32_t zero;
	int32_t low;
	int32_t high;
	uint32_t reserved;
};

/* Which weights a kernel with 8-bit weights may rely on. */
enum cl_weights_s8 {
	CL_WEIGHTS_S8_SYMMETRIC = 0, /* none is -128: two products fit into 16 bits; faster */
	CL_WEIGHTS_S8_ANY = 1,
	/*
	 * CONV2D_S8 and GEMM_S8 only. With their weights' steps of 16 taken in pairs from the
	 * last one on (an odd first step stands alone and is SYMMETRIC): in each pair, for each
	 * channel and each j < 8, the magnitudes of the four weights with k % 8 = j add up to
	 * at most 255, so that four products fit into 16 bits; faster still.
	 */
	CL_WEIGHTS_S8_FOURS = 2,
	/* CONV2D_S8 and GEMM_S8 only: one byte for each panel, 0 to 2, follows `channels`. */
	CL_WEIGHTS_S8_PANELS = 3,
	CL_WEIGHTS_S8_COUNT = 4,
};

/*
 * Convolution, NHWC, geometry as in cl_conv2d; what is read outside the input
 * counts as in_zero. For output channel o:
 *   value = float(bias[o] + sum of q * weight) * multiplier[o]
 * The compiler folds the input's zero point into the bias: bias[o] is the model's
 * bias less in_zero * (sum of all weights of o); multiplier[o] is
 * float32(in_scale * weight_scale[o] / out_scale).
 *
 * CONV2D_S8, with k = kernel_h * kernel_w * in_c_per_group, the index over
 * [kernel_h][kernel_w][in_c_per_group] in this order, s(n) = ceil(n / 16), and for each
 * group p = ceil(out_c_per_group / 4) panels of 4 output channels:
 *   weights: by rows where group and both dilations are 1 and kernel_h * s(k / kernel_h)
 *     = s(k): int8 [p][kernel_h][s(k / kernel_h)][4][16], the last two axes being
 *     (channel of the panel, place in a step), and every row of the kernel begins a step;
 *     else [group][p][s(k)][4][16]. What is missing is zero. Steps are paired
 *     (CL_WEIGHTS_S8_FOURS) within each row of the kernel, else over all.
 *   channels: [group][p] times { int32 bias[4]; float multiplier[4]; }, missing
 *     ones zero; with CL_WEIGHTS_S8_PANELS then [group][p] bytes.
 *   scratch: 0 bytes where the kernel is 1x1, k a multiple of 16, pads are 0 and all that is
 *     read lies inside; else the sum of
 *     - where group and dilations are 1: 256 * kernel_h + 16 + r * w * in_c with
 *       w = (out_w - 1) * stride_w + kernel_w, r = (n - 1) * stride_h + kernel_h and
 *       n = 1 unless the weights lie by rows, else, with m = 32 if k < 512, else 8: the smaller
 *       of out_h and n' = m / out_w if out_w divides m, 1 if m divides out_w, otherwise
 *       floor((m - 2) / out_w) + 2, and
 *     - unless the weights lie by rows: 16 * m * s(k) + 16.
 * DEPTHWISE_S8 (group == in_c == out_c), with t = kernel_h * kernel_w:
 *   weights: int8 [kernel_h][kernel_w][in_c].
 *   channels: int32 bias[in_c], then float multiplier[in_c].
 *   scratch: 8 * t + in_c bytes.
 * cl_conv2d_s8_scratch() in the engine computes the same.
 */
struct cl_conv2d_s8 {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref weights;
	struct cl_ref channels;
	struct cl_ref out;
	struct cl_ref scratch; /* absent where no bytes are needed */
	uint32_t batch;
	uint32_t in_h;
	uint32_t in_w;
	uint32_t in_c;
	uint32_t out_h;
	uint32_t out_w;
	uint32_t out_c;
	uint32_t kernel_h;
	uint32_t kernel_w;
	uint32_t stride_h;
	uint32_t stride_w;
	uint32_t dilation_h;
	uint32_t dilation_w;
	uint32_t pad_top;
	uint32_t pad_left;
	uint32_t group;
	int32_t in_zero;
	uint32_t weights_kind; /* enum cl_weights_s8 */
	struct cl_finish_s8 finish;
};

/*
 * out[m][n] from value = float(bias[n] + sum over k of a[m][k] * b[k][n]) * multiplier[n];
 * b is constant. weights and channels as in CONV2D_S8 with group 1, k and out_c = n;
 * scratch: 0 bytes where k is a multiple of 16, else 8 * 16 * ceil(k / 16).
 */
struct cl_gemm_s8 {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref weights;
	struct cl_ref channels;
	struct cl_ref out;
	struct cl_ref scratch;
	uint32_t m;
	uint32_t k;
	uint32_t n;
	uint32_t weights_kind; /* enum cl_weights_s8 */
	struct cl_finish_s8 finish;
};

/*
 * function is CL_BINARY_ADD, value = float(a - a_zero) * a_multiplier + float(b - b_zero) *
 * b_multiplier (operand's scale / out_scale; SUB is ADD with -b_multiplier), or CL_BINARY_MUL,
 * value = float((a - a_zero) * (b - b_zero)) * a_multiplier, b_multiplier being 0. Shapes and
 * strides as in cl_binary_op; out may be the same run as an operand that is dense as well.
 */
struct cl_binary_s8 {
	struct cl_op op;
	struct cl_ref a;
	struct cl_ref b;
	struct cl_ref out;
	uint32_t function;
	uint32_t rank;
	uint32_t dims[8];
	uint32_t a_strides[8];
	uint32_t b_strides[8];
	int32_t a_zero;
	int32_t b_zero;
	float a_multiplier;
	float b_multiplier;
	struct cl_finish_s8 finish;
};

/*
 * As cl_pool. CL_POOL_MAX: value = float(largest cell - in_zero) * multiplier; a window without
 * any cell inside counts as a cell of -128. Both averages: value = float(sum of (cell - in_zero))
 * * (multiplier / float(divisor)); without any cell value = 0. multiplier = in_scale / out_scale.
 * A kernel has at most 2^23 cells.
 */
struct cl_pool_s8 {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t kind;
	uint32_t batch;
	uint32_t channels;
	int32_t in_zero;
	uint32_t in_dims[3];
	uint32_t out_dims[3];
	uint32_t kernel[3];
	uint32_t stride[3];
	uint32_t dilation[3];
	uint32_t pad_begin[3];
	uint32_t pad_end[3];
	float multiplier;
	struct cl_finish_s8 finish;
};

/*
 * out[i] = table[(uint8_t)in[i]] over `count` bytes: any function of one quantised tensor,
 * a change of scale or of sign included. The table is 256 bytes in the weights; entries 0 to
 * 127 are for 0 to 127, entries 128 to 255 for -128 to -1. out may be the same run as in.
 */
struct cl_unary_s8 {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref table;
	struct cl_ref out;
	uint32_t count;
	uint32_t reserved;
};

/* float to int8: value = in[i] / scale, NaN counting as 0. scale is positive and finite. */
struct cl_quantize {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t count;
	float scale;
	struct cl_finish_s8 finish;
};

/* int8 to float: out[i] = float(in[i] - zero) * scale. -128 <= zero <= 127. */
struct cl_dequantize {
	struct cl_op op;
	struct cl_ref in;
	struct cl_ref out;
	uint32_t count;
	int32_t zero;
	float scale;
	uint32_t reserved;
};
/* cffi: end */

#define CL_SIZE_IS(type, bytes)                                                                    \
	_Static_assert(sizeof(struct type) == (bytes) && (bytes) % 8 == 0, "layout of " #type)

CL_SIZE_IS(cl_bundle_header, 40);
CL_SIZE_IS(cl_bundle_backbone, 16);
CL_SIZE_IS(cl_manifest, 144);
CL_SIZE_IS(cl_pair, 96);
CL_SIZE_IS(cl_io, 112);
CL_SIZE_IS(cl_layers_head, 16);
CL_SIZE_IS(cl_layer, 16);
CL_SIZE_IS(cl_partition_desc, 32);
CL_SIZE_IS(cl_sealed_header, 32);
CL_SIZE_IS(cl_partition_aad, 48);
CL_SIZE_IS(cl_backbone, 32);
CL_SIZE_IS(cl_tap, 16);
CL_SIZE_IS(cl_backbone_part, 16);
CL_SIZE_IS(cl_licence_secret, 64);
CL_SIZE_IS(cl_licence, 192);
CL_SIZE_IS(cl_password, 40);
CL_SIZE_IS(cl_lock, 16);
CL_SIZE_IS(cl_partition, 40);
CL_SIZE_IS(cl_ref, 16);
CL_SIZE_IS(cl_site, 64);
CL_SIZE_IS(cl_activation, 16);
CL_SIZE_IS(cl_op, 8);
CL_SIZE_IS(cl_conv2d, 168);
CL_SIZE_IS(cl_gemm, 104);
CL_SIZE_IS(cl_matmul, 160);
CL_SIZE_IS(cl_unary_op, 64);
CL_SIZE_IS(cl_binary_op, 176);
CL_SIZE_IS(cl_copy, 152);
CL_SIZE_IS(cl_fill, 40);
CL_SIZE_IS(cl_pool, 160);
CL_SIZE_IS(cl_reduce, 88);
CL_SIZE_IS(cl_softmax, 56);
CL_SIZE_IS(cl_lrn, 72);
CL_SIZE_IS(cl_resample, 96);
CL_SIZE_IS(cl_argmax, 64);
CL_SIZE_IS(cl_finish_s8, 16);
CL_SIZE_IS(cl_conv2d_s8, 176);
CL_SIZE_IS(cl_gemm_s8, 120);
CL_SIZE_IS(cl_binary_s8, 192);
CL_SIZE_IS(cl_pool_s8, 160);
CL_SIZE_IS(cl_unary_s8, 64);
CL_SIZE_IS(cl_quantize, 64);
CL_SIZE_IS(cl_dequantize, 56);

#endif
