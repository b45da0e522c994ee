/* SPDX-License-Identifier: BSD-2-Clause */
#include "embed.h"

const uint8_t cl_embedded_manifest[1];
const uint32_t cl_embedded_manifest_size;
const uint8_t cl_embedded_payload[1];
const uint64_t cl_embedded_payload_size;
