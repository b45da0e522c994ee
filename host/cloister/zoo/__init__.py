# SPDX-License-Identifier: BSD-2-Clause
"""Networks that every ONNX user has, made runnable; ``python -m cloister.zoo`` runs them against onnxruntime.

>>> from cloister.zoo import NETWORKS, light_model
>>> "vgg19" in NETWORKS
True
>>> model = light_model("squeezenet")                                        # doctest: +SKIP
"""

from __future__ import annotations

from cloister.zoo.models import NETWORKS, light_model, light_path, random_input

__all__ = ["NETWORKS", "light_model", "light_path", "random_input"]
