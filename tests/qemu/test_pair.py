# SPDX-License-Identifier: BSD-2-Clause
"""Pairs on the device: the backbone in the normal world, the CPM in the TA, the answer that both files give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pair_models import IMAGE, Array, backbone, cpm, expected, floats, quantised

from cloister.api import compile as compile_model
from cloister.api import licence as issue
from cloister.backbone import BackboneError
from cloister.device import Device
from cloister.device.errors import AgentError
from cloister.device.ta import CLOISTER_TA
from cloister.errors import CloisterError
from cloister.seal import Bundle
from cloister.teec import SignatureInvalid, TaError
from cloister.tensors import InputError


@pytest.fixture(scope="module")
def images() -> Array:
    return floats(5, *IMAGE[1:], seed=3)


@pytest.fixture(scope="module")
def pair() -> Bundle:
    return compile_model(cpm(image=True), backbone=backbone(), name="pair")


@pytest.mark.parametrize("overlap", ["no", "yes"])
@pytest.mark.parametrize(("mode", "memory"), [("whole", 0), ("steps", 0), ("whole", 450_000)])
def test_a_pair_answers_as_both_files_do(
    device: Device, pair: Bundle, images: Array, overlap: str, mode: str, memory: int
) -> None:
    licence = issue(pair, device.public_key(), output="full", queries=50)
    with device.load(pair, licence, mode=mode, memory=memory, overlap=overlap) as session:
        assert session.overlaps == (overlap == "yes")
        first = session.run({"image": images}, "full")
        again = session.run(images, "full")
        labels = session.run(images[:2]).labels
        assert session.usage().queries == 12
    for answers in (first, again):
        assert answers.outputs is not None
        np.testing.assert_allclose(answers.outputs["logits"], expected(cpm(image=True), backbone(), images), atol=1e-4)
    np.testing.assert_array_equal(labels, first.labels[:2])


@pytest.mark.parametrize("overlap", ["no", "yes"])
def test_taps_of_8_bits_cross(device: Device, images: Array, overlap: str) -> None:
    inner, outer = quantised()
    bundle = compile_model(inner, backbone=outer, name="pair of 8 bits")
    assert [info.size for info in bundle.inputs] == [256, 96]
    with device.load(bundle, issue(bundle, device.public_key(), output="full"), overlap=overlap) as session:
        answers = session.run({"image": images}, "full")
    assert answers.outputs is not None
    np.testing.assert_allclose(answers.outputs["logits"], expected(inner, outer, images), atol=1e-4)


def test_a_model_of_several_inputs_takes_taps_of_any_other_runtime(device: Device) -> None:
    """The CPM alone, as a plain bundle: the taps come from anywhere."""
    import onnxruntime

    bundle = compile_model(cpm(), name="cpm alone")
    x = floats(1, *IMAGE[1:], seed=4)
    outside = onnxruntime.InferenceSession(backbone().SerializeToString())
    taps = dict(zip(["tap_0", "tap_1"], outside.run(["tap_0", "tap_1"], {"image": x}), strict=True))
    with device.load(bundle, issue(bundle, device.public_key(), output="full")) as session:
        answers = session.run(taps, "full")
        with pytest.raises(InputError, match="missing: tap_1"):
            session.run({"tap_0": taps["tap_0"]})
        with pytest.raises(InputError, match=r"tap_1.*shape"):
            session.run({**taps, "tap_1": taps["tap_1"][:, :3]})
    assert answers.outputs is not None
    np.testing.assert_allclose(answers.outputs["logits"], expected(cpm(), backbone(), x), atol=1e-4)


def test_a_backbone_that_was_changed_is_refused_by_name(device: Device, pair: Bundle) -> None:
    section = bytearray(pair.section)
    section[-100] ^= 1
    changed = replace(pair, section=bytes(section))
    licence = issue(pair, device.public_key()).data
    with pytest.raises(BackboneError, match="backbone section of 'pair'"):
        device.load(changed, licence)
    # The device looks for itself: this time nobody does before.
    with pytest.raises(AgentError, match="backbone section of 'pair' is not the one that its signed manifest names"):
        device.agent.call(
            "load",
            [pair.manifest, licence, pair.payload, changed.section],
            uuid=CLOISTER_TA,
            payload=None,
            partitions=[[offset, size] for offset, size, _ in pair.partitions],
            memory=0,
            mode="auto",
            backbone={"name": pair.name, "overlap": "auto", "section": None},
        )


def test_a_manifest_that_names_another_backbone_is_not_the_vendors(device: Device, pair: Bundle) -> None:
    import hashlib

    from cloister.wire import ffi

    section = bytearray(pair.section)
    section[-100] ^= 1
    at = ffi.sizeof("struct cl_manifest")
    digest = hashlib.sha256(section).digest()
    forged = pair.manifest[:at] + digest + pair.manifest[at + len(digest) :]
    with pytest.raises(SignatureInvalid):
        device.load(Bundle(forged, pair.payload, bytes(section)), issue(pair, device.public_key()))


@pytest.mark.parametrize(("overlap", "mode"), [("yes", "whole"), ("no", "whole"), ("no", "steps")])
def test_only_the_licensed_answer_leaves(device: Device, pair: Bundle, images: Array, overlap: str, mode: str) -> None:
    """What is refused leaves the session as it was, wherever in an inference it was refused."""
    licence = issue(pair, device.public_key(), queries=3)
    with device.load(pair, licence, overlap=overlap, mode=mode) as session:
        with pytest.raises(TaError) as caught:
            session.run(images, "full")
        assert caught.value.name == "OUTPUT_LIMIT"
        assert len(session.run(images[:3]).labels) == 3
        with pytest.raises(TaError) as caught:
            session.run(images)
        assert caught.value.name == "QUERY_LIMIT"


def test_a_pair_cannot_be_loaded_as_an_embedded_model(device: Device, pair: Bundle) -> None:
    with pytest.raises(CloisterError, match="is a pair"):
        device.load(pair, issue(pair, device.public_key()), embedded=True)
