/* SPDX-License-Identifier: BSD-2-Clause */
/* One function a command; cloister_ta.h says what each takes, gives and returns. */
#ifndef CLOISTER_COMMANDS_H
#define CLOISTER_COMMANDS_H

#include "model.h"

TEE_Result cl_command_info(const struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_device_key(uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_load(struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_run(struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_begin(struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_feed(struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_step(struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_finish(struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_unload(struct cl_session *session, uint32_t types, TEE_Param params[4]);
TEE_Result cl_command_usage(const struct cl_session *session, uint32_t types, TEE_Param params[4]);

#endif
