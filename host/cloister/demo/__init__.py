# SPDX-License-Identifier: BSD-2-Clause
"""The demo: a small real model, from ONNX to answers computed inside the TA, and four attempts that are refused."""
