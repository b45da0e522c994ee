# SPDX-License-Identifier: BSD-2-Clause
# engine/ is no include directory on purpose: its limits.h would hide the C library's.
global-incdirs-y += include
global-incdirs-y += .

subdirs-y += engine
subdirs-y += aead

# Portable: no OP-TEE header, tested natively.
srcs-y += answer.c
srcs-y += hpke.c
srcs-y += licence.c
srcs-y += manifest.c
srcs-y += plan.c
srcs-y += quota.c
srcs-y += sealed.c
srcs-y += suite.c

# GlobalPlatform TEE Internal Core API.
srcs-y += cipher.c
srcs-y += crypto.c
srcs-y += device.c
srcs-y += entry.c
srcs-y += info.c
srcs-y += load.c
srcs-y += loader.c
srcs-y += model.c
srcs-y += params.c
srcs-y += run.c
srcs-y += secure_memory.c
srcs-y += usage.c
srcs-y += vendor.c

ifneq ($(CLOISTER_VENDOR_KEY),)
cppflags-vendor.c-y += -DCL_VENDOR_KEY='$(shell printf %s '$(CLOISTER_VENDOR_KEY)' | sed 's/../0x&,/g')'
endif

# cipher.c must not name what is not linked: the CPU's AES instructions are a fact of the platform.
cppflags-cipher.c-$(CLOISTER_CPU_AES) += -DCL_CPU_AES

ifneq ($(CLOISTER_EMBED),)
srcs-y += $(wildcard $(abspath $(CLOISTER_EMBED))/*.c)
else
srcs-y += embed_none.c
endif
