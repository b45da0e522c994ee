# SPDX-License-Identifier: BSD-2-Clause
"""Protections that are trained into a network. Needs the extra ``train`` (torch); what they make is plain ONNX."""
