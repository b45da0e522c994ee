# SPDX-License-Identifier: BSD-2-Clause
"""ONNX in; one graph form; passes over it; the reference executor."""
