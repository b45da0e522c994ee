################################################################################
#
# cloister
#
################################################################################
# SPDX-License-Identifier: BSD-2-Clause

CLOISTER_VERSION = 0.1.0
CLOISTER_SITE = $(call qstrip,$(BR2_PACKAGE_CLOISTER_SITE))
CLOISTER_SITE_METHOD = local
CLOISTER_LICENSE = BSD-2-Clause
CLOISTER_LICENSE_FILES = LICENSE
CLOISTER_DEPENDENCIES = python3 python-numpy python-cffi optee_client_ext \
	host-python3 host-python-cffi host-python-cryptography

CLOISTER_PREFIX = $(call qstrip,$(BR2_PACKAGE_CLOISTER_CROSS_COMPILE))
CLOISTER_SDK = $(call qstrip,$(BR2_PACKAGE_CLOISTER_SDK))
CLOISTER_PYTHON = PYTHONPATH=$(@D)/host $(HOST_DIR)/bin/python3

# The first command is the one that builds the TA with any TA dev kit.
define CLOISTER_BUILD_CMDS
	$(MAKE) -C $(@D)/ta \
		CROSS_COMPILE=$(CLOISTER_PREFIX) \
		TA_DEV_KIT_DIR=$(CLOISTER_SDK) \
		O=$(@D)/out/ta \
		CLOISTER_VENDOR_KEY=$(call qstrip,$(BR2_PACKAGE_CLOISTER_VENDOR_KEY)) \
		CLOISTER_CPU_AES=$(if $(BR2_PACKAGE_CLOISTER_CPU_AES),y,n) \
		TA_SIGN_KEY=$(call qstrip,$(BR2_PACKAGE_CLOISTER_TA_SIGN_KEY)) \
		PYTHON3=$(HOST_DIR)/bin/python3
	$(MAKE) -C $(@D)/ta/engine CROSS_COMPILE=$(CLOISTER_PREFIX) O=$(@D)/out/engine aarch64
	$(CLOISTER_PYTHON) -m cloister.teec.build_teec --cc "$(TARGET_CC)" \
		--sysroot $(STAGING_DIR) --out $(@D)/out/teec
	$(CLOISTER_PYTHON) $(@D)/optee_manifest/stage.py \
		--engine $(@D)/out/engine/aarch64/libcloister_engine.so \
		--teec $(@D)/out/teec --out $(@D)/out/device
endef

define CLOISTER_INSTALL_TARGET_CMDS
	mkdir -p $(TARGET_DIR)/lib/optee_armtz $(TARGET_DIR)/usr/lib/python$(PYTHON3_VERSION_MAJOR)/site-packages
	$(INSTALL) -m 444 $(@D)/out/ta/*.ta $(TARGET_DIR)/lib/optee_armtz
	cp -R $(@D)/out/device/python/. $(TARGET_DIR)/usr/lib/python$(PYTHON3_VERSION_MAJOR)/site-packages
	$(INSTALL) -D -m 755 $(@D)/out/device/lib/libcloister_engine.so $(TARGET_DIR)/usr/lib/libcloister_engine.so
endef

$(eval $(generic-package))
