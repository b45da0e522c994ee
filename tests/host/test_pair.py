# SPDX-License-Identifier: BSD-2-Clause
"""Pairs as their interfaces promise: what fits is compiled and computes what both files say, what does not is named."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import call
from pair_models import IMAGE, backbone, build, cpm, expected, floats, node, quantised

from cloister.backbone import BackboneError, Tap, pack_backbone, parse, verified
from cloister.compile.pair import CompiledPair, PairError, arrange_pair, compile_pair
from cloister.device.pair_runner import Choice, stages
from cloister.errors import CloisterError
from cloister.ir.load import ModelError
from cloister.native import NativeEngine
from cloister.seal import Bundle, VendorKey, seal_bundle
from cloister.seal.errors import BundleError
from cloister.wire import ffi

VENDOR = VendorKey.generate()


@cache
def engine() -> NativeEngine:
    return NativeEngine()


@cache
def made() -> CompiledPair:
    return compile_pair(cpm(image=True), backbone(), secure_memory=0)


@cache
def sealed() -> Bundle:
    pair = made()
    return seal_bundle(pair.cpm, VENDOR, name="both", section=pair.section, first_uses=pair.first_use)[0]


def answer(pair: CompiledPair, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Both halves by the native engine; taps cross as bytes."""
    values: dict[str, Any] = {"image": image, **engine().run(pair.backbone, {"image": image})}
    return engine().run(pair.cpm, {info.name: values[info.name] for info in pair.cpm.inputs})["logits"]


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("stages", [False, True])
def test_a_pair_computes_what_both_files_say(image: bool, stages: bool) -> None:
    pair = compile_pair(cpm(image=image), backbone(), secure_memory=0, stages=stages)
    x = floats(*IMAGE, seed=1)
    np.testing.assert_allclose(answer(pair, x), expected(cpm(image=image), backbone(), x), atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_taps_cross_as_8_bit_integers_where_the_files_say_so(kind: str) -> None:
    inner, outer = quantised(kind)
    pair = compile_pair(inner, outer, secure_memory=0)
    assert [tap.size for tap in pair.taps] == [4 * 8 * 8, 6 * 4 * 4]
    x = floats(*IMAGE, seed=2)
    np.testing.assert_allclose(answer(pair, x), expected(inner, outer, x), atol=1e-4)


def test_taps_stand_in_the_order_in_which_they_become_ready() -> None:
    """Whatever the CPM's own order; each is ready after its part of the backbone, and needed by its part of the CPM."""
    assert [info.name for info in cpm(image=True).graph.input] == ["tap_1", "tap_0", "image"]
    pair = made()
    assert [info.name for info in pair.cpm.inputs] == ["image", "tap_0", "tap_1"]
    assert [(tap.input, tap.ready) for tap in pair.taps] == [(0, 0), (None, 1), (None, 2)]
    assert pair.first_use == [0, 1, 2]
    assert (len(pair.cpm.partitions), len(pair.backbone.partitions)) == (3, 2)


def test_without_stages_the_cpm_waits_for_all_taps() -> None:
    pair = compile_pair(cpm(), backbone(), secure_memory=0, stages=False)
    assert len(pair.cpm.partitions) == len(pair.backbone.partitions) == 1
    assert pair.first_use == [0, 0]
    assert {tap.ready for tap in pair.taps} == {1}


def test_what_the_cpm_does_not_read_does_not_run() -> None:
    """The backbone's own logits are left out, and with them all that only they need."""
    kernels = [row.kernel for row in made().backbone.report.rows]
    assert "GEMM" not in kernels
    one = compile_pair(simple([1, 4, 8, 8], "tap_0"), backbone(), secure_memory=0)
    assert [row.kernel for row in one.backbone.report.rows] == ["CONV2D", "POOL"]


def test_no_kernel_only_moves_a_tap() -> None:
    """Taps cross as they lie, channels-last: neither side reorders them."""
    rows = made().backbone.report.rows + made().cpm.report.rows
    assert "COPY" not in [row.kernel for row in rows]


def test_taps_that_one_kernel_makes_together_and_taps_that_only_rename() -> None:
    outer = build(
        [
            node("Conv", "image w", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Split", "c", "tap_0 tap_1", axis=1),
            node("Identity", "image", "tap_2"),
            node("Reshape", "tap_1 flat", "tap_3"),
        ],
        {"image": list(IMAGE)},
        [f"tap_{i}" for i in range(4)],
        {"w": floats(4, 1, 3, 3), "flat": np.array([1, 512], np.int64)},
    )
    inner = build(
        [
            node("ReduceMax", "tap_0", "m0", axes=[1, 2, 3], keepdims=0),
            node("ReduceMax", "tap_1", "m1", axes=[1, 2, 3], keepdims=0),
            node("ReduceMax", "tap_2", "m2", axes=[1, 2, 3], keepdims=0),
            node("Gemm", "tap_3 w", "m3"),
            node("Add", "m0 m1", "a"),
            node("Add", "a m2", "b"),
            node("Add", "m3 b", "logits"),
        ],
        {
            "tap_3": [1, 512],
            "tap_2": list(IMAGE),
            "tap_1": [1, 2, 16, 16],
            "tap_0": [1, 2, 16, 16],
        },
        ["logits"],
        {"w": floats(512, 3) / 20},
    )
    pair = compile_pair(inner, outer, secure_memory=0)
    x = floats(*IMAGE, seed=9)
    np.testing.assert_allclose(answer(pair, x), expected(inner, outer, x), atol=1e-4)
    readies = [tap.ready for tap in pair.taps]
    assert readies == sorted(readies)


def simple(shape: list[int | str], tap: str = "tap_0", kind: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    """A CPM that gives its tap back, flat."""
    nodes = [node("Cast", tap, "f", to=onnx.TensorProto.FLOAT), node("Flatten", "f", "logits")]
    return build(nodes, {tap: shape}, ["logits"], {}, {tap: kind})


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (simple([1, 4, 8, 8], "tap_9"), ["cpm.onnx reads 'tap_9'", "backbone.onnx does not give", "tap_0, tap_1"]),
        (
            simple([1, 6, 8, 8]),
            ["cpm.onnx reads 'tap_0' as float32 [1, 6, 8, 8]", "backbone.onnx gives", "[1, 4, 8, 8]"],
        ),
        (simple([1, 4, 8, 8], kind=onnx.TensorProto.INT32), ["int32 [1, 4, 8, 8]", "gives float32"]),
        (simple([1, 1, 16, 16], "image"), ["reads nothing that", "backbone.onnx computes"]),
    ],
    ids=["name", "shape", "type", "no tap"],
)
def test_files_that_do_not_fit_are_both_named(inner: onnx.ModelProto, words: list[str], tmp_path: Path) -> None:
    onnx.save(inner, tmp_path / "cpm.onnx")
    onnx.save(backbone(), tmp_path / "backbone.onnx")
    with pytest.raises(PairError) as caught:
        compile_pair(tmp_path / "cpm.onnx", tmp_path / "backbone.onnx")
    for word in words:
        assert word in caught.value.message
    assert caught.value.remedy


def test_too_many_taps_are_counted() -> None:
    names = [f"image_{i}" for i in range(17)]
    inner = build([node("Sum", " ".join(names), "logits")], {name: [1, 4] for name in names}, ["logits"], {})
    with pytest.raises(PairError, match="17 inputs"):
        compile_pair(inner, backbone())


def test_free_dimensions_of_either_file() -> None:
    pair = compile_pair(cpm(), backbone(batch="N"), dims={"N": 1}, secure_memory=0)
    assert pair.backbone.inputs[0].shape == IMAGE
    with pytest.raises(ModelError, match="neither CPM nor backbone has a free dimension 'M'"):
        compile_pair(cpm(), backbone(batch="N"), dims={"M": 1})
    with pytest.raises(PairError, match=r"\[2, 6, 4, 4\]"):
        compile_pair(cpm(), backbone(batch="N"), dims={"N": 2})


def test_a_budget_of_secure_memory_counts_the_cpm_alone() -> None:
    made_pair = arrange_pair(cpm(), backbone(), secure_memory=1 << 20)
    assert made_pair.cpm_arrangement.reside(1 << 20) is not None
    assert made_pair.tap_bytes == 1024 + 384
    with pytest.raises(CloisterError, match="does not fit into"):
        compile_pair(cpm(), backbone(), secure_memory=1000)


# ---- The bundle ----------------------------------------------------------------------------------


def test_the_bundle_of_a_pair_survives_its_file(tmp_path: Path) -> None:
    bundle, pair = sealed(), made()
    bundle.save(tmp_path / "pair.clb")
    again = Bundle.load(tmp_path / "pair.clb")
    assert again == bundle
    again.check_signature(VENDOR.public)
    assert again.is_pair and again.first_uses == [0, 1, 2]
    assert [info.name for info in again.inputs] == ["image", "tap_0", "tap_1"]
    assert [(info.name, info.shape) for info in again.user_inputs] == [("image", IMAGE)]
    found = again.backbone
    assert (found.taps, found.arena_size) == (pair.taps, pair.backbone.arena_size)
    parts = [again.section[offset : offset + size] for offset, size in found.partitions]
    assert parts == pair.backbone.partitions
    for part in parts:
        engine().check(part, found.arena_size)


def test_plain_bundles_are_as_they_were() -> None:
    bundle, _ = seal_bundle(made().cpm, VENDOR, name="alone")
    assert not bundle.is_pair and bundle.user_inputs == bundle.inputs
    assert bundle.header.header_size == ffi.sizeof("struct cl_manifest")
    assert Bundle.from_bytes(bundle.to_bytes()) == bundle
    with pytest.raises(BundleError, match="'alone' has no backbone"):
        bundle.backbone  # noqa: B018


def test_every_changed_byte_of_the_backbone_is_noticed() -> None:
    bundle = sealed()
    for position in range(0, len(bundle.section), 7):
        section = bytearray(bundle.section)
        section[position] ^= 0x80
        with pytest.raises(BackboneError, match="backbone section of 'both' is not the one that its signed manifest"):
            replace(bundle, section=bytes(section)).user_inputs  # noqa: B018


def test_another_versions_backbone_is_refused() -> None:
    other = made()
    size = other.backbone.arena_size + 64
    section = pack_backbone(other.backbone.inputs, other.taps, other.backbone.partitions, size)
    with pytest.raises(BackboneError, match="signed manifest"):
        replace(sealed(), section=section).backbone  # noqa: B018


def test_every_truncation_of_a_pairs_file_is_named() -> None:
    data = sealed().to_bytes()
    for length in [*range(0, 200), *range(200, len(data), 97), len(data) - 1]:
        with pytest.raises(BundleError, match=r"truncated|not a Cloister bundle|damaged"):
            Bundle.from_bytes(data[:length])


def test_a_backbone_without_a_pair_and_a_pair_without_one() -> None:
    with pytest.raises(BundleError, match="lacks its backbone"):
        replace(sealed(), section=b"")
    alone, _ = seal_bundle(made().cpm, VENDOR, name="alone")
    with pytest.raises(BundleError, match="without a pair"):
        replace(alone, section=b"x")


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("magic", 1, "CLBB"),
        ("version", 2, "version"),
        ("header_size", 40, "header"),
        ("total_size", 8, "bytes of"),
        ("input_count", 0, "inputs"),
        ("input_count", 1 << 20, "inputs"),
        ("tap_count", 2, "taps"),
        ("partition_count", 1 << 30, "partitions"),
        ("arena_size", 64, "arena"),
    ],
)
def test_a_backbone_is_parsed_with_care(field: str, value: int, what: str) -> None:
    """The digest binds it to the vendor; a vendor's mistake must not touch foreign memory either."""
    data = bytearray(sealed().section)
    at = ffi.offsetof("struct cl_backbone", field)
    size = ffi.sizeof(dict(ffi.typeof("struct cl_backbone").fields)[field].type)
    data[at : at + size] = value.to_bytes(size, "little")
    with pytest.raises(BackboneError, match=what):
        parse(bytes(data), [info.size for info in sealed().inputs], "both")


@pytest.mark.parametrize(
    ("taps", "what"),
    [
        ([Tap(None, 1, 0, 1024), Tap(None, 0, 0, 1024), Tap(None, 2, 0, 384)], "in no order"),
        ([Tap(0, 0, 0, 1024), Tap(None, 1, 0, 1024), Tap(None, 3, 0, 384)], "in no order"),
        ([Tap(0, 0, 0, 1024), Tap(None, 1, 1 << 20, 1024), Tap(None, 2, 0, 384)], "outside the arena"),
        ([Tap(1, 0, 0, 1024), Tap(None, 1, 0, 1024), Tap(None, 2, 0, 384)], "no input"),
        ([Tap(0, 0, 0, 1024), Tap(None, 1, 0, 512), Tap(None, 2, 0, 384)], "where the CPM takes 1024"),
    ],
)
def test_taps_that_make_no_sense_are_refused(taps: list[Tap], what: str) -> None:
    pair = made()
    section = pack_backbone(pair.backbone.inputs, taps, pair.backbone.partitions, pair.backbone.arena_size)
    with pytest.raises(BackboneError, match=what):
        parse(section, [1024, 1024, 384], "both")


def test_a_manifest_of_no_pair_names_no_backbone() -> None:
    alone, _ = seal_bundle(made().cpm, VENDOR, name="alone")
    with pytest.raises(BackboneError, match="'alone'"):
        verified(made().section, alone.manifest, "alone")


# ---- The commands --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    onnx.save(cpm(image=True), tmp_path / "cpm.onnx")
    onnx.save(backbone(), tmp_path / "backbone.onnx")
    return tmp_path


def test_a_pair_from_the_command_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = files / "pair.clb"
    assert call("keys", "new") == 0
    assert call("compile", files / "cpm.onnx", "--backbone", files / "backbone.onnx", "-o", pair) == 0
    shown = capsys.readouterr().out
    assert "in clear" in shown and "tap_1 384 B, in 3 stages" in shown
    assert call("inspect", pair, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [tap["name"] for tap in facts["taps"]] == ["image", "tap_0", "tap_1"]
    assert facts["inputs"] == [{"name": "image", "dtype": "float32", "shape": list(IMAGE)}]
    assert [(tap["ready_after"], tap["first_use"]) for tap in facts["backbone"]["taps"]] == [(0, 0), (1, 1), (2, 2)]
    assert call("inspect", pair) == 0
    assert "tap_0 1.0 KiB" in capsys.readouterr().out


def test_a_changed_pair_is_told_of_by_inspect(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(sealed().to_bytes())
    data[-70] ^= 1
    (files / "changed.clb").write_bytes(data)
    assert call("inspect", files / "changed.clb") == 1
    assert "the backbone section of 'both' is not the one that its signed manifest names" in capsys.readouterr().err


def test_a_plan_of_a_pair(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("plan", files / "cpm.onnx", "--backbone", files / "backbone.onnx", "--secure-memory")
    assert call(*command, "1MiB", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["backbone"]["taps"] == {"image": 1024, "tap_0": 1024, "tap_1": 384}
    assert facts["backbone"]["stages"] == 3
    # 16 x 16 x 4 x 9 and 8 x 8 x 6 x 36: its own classifier is not counted.
    assert facts["backbone"]["macs"] == 9216 + 13824
    assert call(*command, "1MiB") == 0
    assert "normal world" in capsys.readouterr().out
    assert call(*command, "1KiB") == 1


def test_a_pair_is_not_embedded(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compile", files / "cpm.onnx", "--backbone", files / "backbone.onnx", "-o", files / "p.clb")
    assert call(*command, "--embed", files / "embed") == 1
    assert "cannot be embedded" in capsys.readouterr().err


# ---- Side by side or in turn ---------------------------------------------------------------------


def test_the_faster_way_is_kept() -> None:
    for beside, expected_choice in ((2.0, True), (9.0, False)):
        choice = Choice(None)
        seen = []
        for _ in range(8):
            way = choice.next()
            seen.append(way)
            choice.took(way, beside if way else 5.0)
        assert choice.settled is expected_choice
        assert seen[:5] == [False, False, True, False, True] and set(seen[5:]) == {expected_choice}


def test_the_first_inference_which_decrypts_does_not_count() -> None:
    choice = Choice(None)
    for seconds in (0.001, 5.0, 4.0, 5.0, 4.0):
        choice.took(choice.next(), seconds)
    assert choice.settled is True


@pytest.mark.parametrize("asked", [True, False])
def test_what_was_asked_for_is_done(asked: bool) -> None:
    choice = Choice(asked)
    for _ in range(7):
        assert choice.next() is asked
        choice.took(asked, 1.0)


def test_taps_that_become_ready_together_cross_together() -> None:
    assert stages([0, 1, 1, 3]) == [(0, [0]), (1, [1, 2]), (3, [3])]
