# SPDX-License-Identifier: BSD-2-Clause
"""MirrorNet: a backbone that may be seen, and a Companion Partial Monitor in the TA that answers; docs/mirrornet.md."""

from cloister.protect.mirror.backbone import Backbone, Crossing
from cloister.protect.mirror.cpm import Cpm
from cloister.protect.mirror.export import export_pair
from cloister.protect.mirror.exposed import ExposedBackbone, LeakedPair
from cloister.protect.mirror.lock import LockedPair, lock_pair
from cloister.protect.mirror.mirror import Mirrored, mirror_model
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.mirror.pair import Pair, build_pair, taps_of
from cloister.protect.mirror.settings import MirrorSettings, settings_with

__all__ = [
    "Backbone",
    "Cpm",
    "Crossing",
    "ExposedBackbone",
    "LeakedPair",
    "LockedPair",
    "MirrorSettings",
    "Mirrored",
    "OnnxPair",
    "Pair",
    "build_pair",
    "export_pair",
    "lock_pair",
    "mirror_model",
    "settings_with",
    "taps_of",
]
