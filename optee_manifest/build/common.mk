# SPDX-License-Identifier: BSD-2-Clause
#
# What Cloister adds to the public OP-TEE build, whatever the platform; the platform's makefile was included before.
#
# CLOISTER_VENDOR_KEY    the vendor's Ed25519 public key, 64 hexadecimal digits (`cloister keys show`)
# CLOISTER_TA_SIGN_KEY   RSA key (PEM) that signs all TAs and that OP-TEE OS trusts; never the public default key

CLOISTER_PATH ?= $(ROOT)/cloister
CLOISTER_VENDOR_KEY ?=
# y: the TA may use AES instructions; only where the platform's CPU has them
CLOISTER_CPU_AES ?= n
CLOISTER_TA_SIGN_KEY ?=

# OP-TEE OS, its test suite and the examples all read TA_SIGN_KEY: one key for the whole device.
export TA_SIGN_KEY := $(abspath $(CLOISTER_TA_SIGN_KEY))

OPTEE_OS_COMMON_EXTRA_FLAGS += TA_SIGN_KEY=$(TA_SIGN_KEY) CFG_ATTESTATION_PTA=y
# the engine is compiled with -mno-strict-align
OPTEE_OS_COMMON_EXTRA_FLAGS += CFG_SCTLR_ALIGNMENT_CHECK=n

BR2_PACKAGE_CLOISTER = y
BR2_PACKAGE_CLOISTER_SITE = $(CLOISTER_PATH)
BR2_PACKAGE_CLOISTER_SDK = $(OPTEE_OS_TA_DEV_KIT_DIR)
BR2_PACKAGE_CLOISTER_CROSS_COMPILE = $(AARCH64_CROSS_COMPILE)
BR2_PACKAGE_CLOISTER_VENDOR_KEY = $(CLOISTER_VENDOR_KEY)
BR2_PACKAGE_CLOISTER_CPU_AES = $(CLOISTER_CPU_AES)
BR2_PACKAGE_CLOISTER_TA_SIGN_KEY = $(TA_SIGN_KEY)
BR2_PACKAGE_PYTHON3 = y
BR2_PACKAGE_PYTHON_NUMPY = y
BR2_PACKAGE_PYTHON_CFFI = y
BR2_PACKAGE_DROPBEAR ?= y

.PHONY: cloister-check cloister-register
cloister-check:
	@test -n '$(CLOISTER_VENDOR_KEY)' || { echo 'error: give CLOISTER_VENDOR_KEY=<64 hex digits>' >&2; false; }
	@test -f '$(CLOISTER_TA_SIGN_KEY)' || { echo 'error: give CLOISTER_TA_SIGN_KEY=<RSA key, PEM>' >&2; false; }

# The external Buildroot tree finds every package's makefile by itself, but names each Config.in.
cloister-register: cloister-check
	@grep -qF package/cloister/Config.in br-ext/Config.in || \
		echo 'source "$$BR2_EXTERNAL_OPTEE_PATH/package/cloister/Config.in"' >>br-ext/Config.in

optee-os: cloister-check
buildroot: cloister-register
