# SPDX-License-Identifier: BSD-2-Clause
"""Where compiled models run: the native engine, or the TA of a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cloister.compile import CompiledModel
from cloister.conformance.cases import Array
from cloister.conformance.results import Runner
from cloister.native import NativeEngine
from cloister.seal import VendorKey, issue_licence, seal_bundle
from cloister.seal.ciphers import AUTO, choose

if TYPE_CHECKING:
    from cloister.device import Device

#: One name for all cases: the device remembers the highest version of each model that it has seen, so that many
#: names would fill its secure storage.
MODEL_NAME = "onnx-node-cases"


def native_runner(engine: NativeEngine | None = None) -> Runner:
    """Runs plain partitions with the native build of the TA's engine.

    Raises:
        EngineError: there is none and it cannot be built.
    """
    return (engine or NativeEngine()).run


def device_runner(device: Device, vendor: VendorKey) -> Runner:
    """Seals each model, licenses it for the device with full output, loads it into the TA and runs it there."""
    record = device.record()
    cipher = choose(AUTO, [record.ciphers])

    def run(model: CompiledModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
        bundle, content_key = seal_bundle(model, vendor, name=MODEL_NAME, cipher=cipher)
        licence = issue_licence(bundle, content_key, record.public_key, vendor, output="full")
        with device.load(bundle, licence) as session:
            # Some cases hold infinities on purpose.
            outputs = session.run(dict(inputs), output="full", finite=False).outputs
        assert outputs is not None
        return outputs

    return run
