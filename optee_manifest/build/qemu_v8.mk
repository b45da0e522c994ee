# SPDX-License-Identifier: BSD-2-Clause
# Linked as build/cloister.mk into the public OP-TEE build for QEMU v8: make -f cloister.mk
include qemu_v8.mk
# QEMU's CPU has the Armv8 crypto instructions
OPTEE_OS_COMMON_EXTRA_FLAGS += CFG_CRYPTO_WITH_CE=y
CLOISTER_CPU_AES = y
include $(ROOT)/cloister/optee_manifest/build/common.mk
