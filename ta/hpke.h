/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * HPKE (RFC 9180), base mode, single shot, receiver's side:
 * DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, empty associated data.
 * Portable.
 */
#ifndef CLOISTER_HPKE_H
#define CLOISTER_HPKE_H

#include "crypto.h"

/*
 * Opens `sealed` for the device's key pair, whose public half is given. `plain`
 * holds sealed_size - CL_TAG_SIZE bytes.
 *
 * CL_ERROR_MAC_INVALID: not sealed to this device, or altered.
 */
uint32_t cl_hpke_open(const uint8_t enc[CL_KEY_SIZE], const uint8_t public_key[CL_KEY_SIZE],
		      const void *info, size_t info_size, const uint8_t *sealed, size_t sealed_size,
		      uint8_t *plain);

#endif
