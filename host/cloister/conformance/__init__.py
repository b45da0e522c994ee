# SPDX-License-Identifier: BSD-2-Clause
"""The official ONNX node test cases, held against any place where a compiled model can run."""
