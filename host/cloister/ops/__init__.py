# SPDX-License-Identifier: BSD-2-Clause
"""One module per ONNX operator or family of operators: what is supported, the lowering, the cost."""
