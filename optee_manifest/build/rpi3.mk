# SPDX-License-Identifier: BSD-2-Clause
# Linked as build/cloister.mk into the public OP-TEE build for the Raspberry Pi 3: make -f cloister.mk
#
# The board's CPU has no crypto instructions, and the board has no memory protection and no hardware key: it shows the
# mechanism and protects nothing against its owner.
include rpi3.mk
# Python and numpy do not fit into the 128 MiB of the public build
BR2_TARGET_ROOTFS_EXT2_SIZE = 512M
include $(ROOT)/cloister/optee_manifest/build/common.mk
