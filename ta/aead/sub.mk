# SPDX-License-Identifier: BSD-2-Clause
# Sources of the ciphers: read by OP-TEE's TA dev kit and by the Makefile beside it.
srcs-y += chacha20.c
srcs-y += chacha20poly1305.c
srcs-y += poly1305.c

# CLOISTER_CPU_AES=y: the device's CPU has the AES instructions (see the TA's Makefile).
srcs-$(CLOISTER_CPU_AES) += aegis128l.c
# Merging the exclusive ors of one step with the next one's keeps blocks alive that are about to be overwritten.
cflags-aegis128l.c-y += -fno-tree-reassoc
