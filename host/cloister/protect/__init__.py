# SPDX-License-Identifier: BSD-2-Clause
"""Protections that are trained into a network. Needs the extra ``train`` (torch); what they make is plain ONNX.

The package is also the function ``cloister.protect(...)``: :func:`cloister.protect.api.protect`.
"""

from cloister.callable_package import make_callable

make_callable(__name__)
