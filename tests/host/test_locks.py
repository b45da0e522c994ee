# SPDX-License-Identifier: BSD-2-Clause
"""Passwords: with one folded into its sites, a compiled model computes what the authorised model does."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from lock_models import PASSWORD, WIDTHS, apply_s8, lock, network
from onnx import numpy_helper
from onnx_models import build, engine, floats, kernels, node

from cloister.compile import CompiledModel, compile_onnx
from cloister.compile.arrange import MemoryBudgetError
from cloister.layers import layer_id, layers_of, pack_password, partition_sites
from cloister.native import EngineError
from cloister.password import Lock, Password, PasswordError
from cloister.seal import VendorKey, issue_licence, seal_bundle
from cloister.wire import C, ffi, unpack

Session = Any


def unlocked(compiled: CompiledModel, password: Password) -> CompiledModel:
    """As the TA holds it with the password."""
    words = pack_password(password)
    return replace(compiled, partitions=[engine().unlock(part, words) for part in compiled.partitions])


def reference(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """onnxruntime's answers."""
    import onnxruntime

    session: Session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def assert_unlocks(
    model: onnx.ModelProto, password: Password, x: np.ndarray[Any, Any], tolerance: float = 1e-5, **options: Any
) -> CompiledModel:
    """With the password the applied model's answers, without it the locked model's own, which are others."""
    compiled = compile_onnx(model, password=password, **options)
    words = pack_password(password, compiled.layers)
    opened, owner = unlocked(compiled, password), password.apply(model)
    for made, key, source in ((compiled, None, model), (opened, None, owner), (compiled, words, owner)):
        results = list(engine().run(made, x, key).values())
        for got, wanted in zip(results, reference(source, x), strict=True):
            assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()
    return compiled


@pytest.mark.parametrize("tensor", WIDTHS)
def test_each_kind_of_layer(tensor: str) -> None:
    password = Password("test", [lock(tensor, WIDTHS[tensor])])
    assert_unlocks(network(), password, floats(1, 3, 8, 8, seed=9))


@pytest.mark.parametrize("limit", [None, 5000, 1500])
def test_layers_split_by_channels(limit: int | None) -> None:
    compiled = assert_unlocks(network(), PASSWORD, floats(1, 3, 8, 8, seed=9), max_partition=limit)
    sites = [site for part in compiled.partitions for site in partition_sites(part)]
    assert (len(sites) > len(layers_of(compiled.partitions))) == (limit is not None)
    assert compiled.layers == {layer_id(name): count for name, count in [*WIDTHS.items(), ("n4", 20)]}
    assert layers_of(compiled.partitions) == {**compiled.layers, layer_id("y"): 10}, "the answer has sites, and no lock"


def test_a_folded_normalisation_is_locked_behind_it() -> None:
    model = network()
    password = Password("test", [lock("n4", 20)])
    compiled = compile_onnx(model, password=password)
    locks = password.locks[0]
    scale, value = np.ones(20, np.float32), np.zeros(20, np.float32)
    scale[locks.channels], value[locks.channels] = locks.scales, locks.values
    for tensor in model.graph.initializer:
        old = numpy_helper.to_array(tensor)
        if tensor.name == "g":
            tensor.CopyFrom(numpy_helper.from_array(old * scale, "g"))
        if tensor.name == "s":
            tensor.CopyFrom(numpy_helper.from_array(old * scale + value, "s"))
    x = floats(1, 3, 8, 8, seed=9)
    got = engine().run(unlocked(compiled, password), x)["y"]
    np.testing.assert_allclose(got, reference(model, x)[0], rtol=1e-4, atol=1e-5)


def wide(height: int = 40) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", pads=[1, 1, 1, 1]),
        node("Relu", "c2", "r2"),
        node("MaxPool", "r2", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w3 b3", "c3", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "c3", "y"),
    ]
    constants = {
        "w1": floats(32, 8, 3, 3), "b1": floats(32), "w2": floats(32, 32, 3, 3), "b2": floats(32, seed=1),
        "w3": floats(12, 32, 3, 3), "b3": floats(12),
    }  # fmt: skip
    return build(nodes, {"x": [1, 8, height, height]}, ["y"], {k: v * np.float32(0.1) for k, v in constants.items()})


def test_winograd_and_bands() -> None:
    password = Password("wide", [lock("c1", 32, 1), lock("c2", 32, 2)])
    x = floats(1, 8, 40, 40, seed=9)
    whole = assert_unlocks(wide(), password, x, tolerance=1e-4)
    assert "WINOGRAD" in kernels(whole)
    bands = assert_unlocks(wide(), password, x, tolerance=1e-4, secure_memory=768 << 10)
    assert len(bands.report.rows) > len(whole.report.rows), "no bands were needed: ask for less memory"
    sites = [site for part in bands.partitions for site in partition_sites(part)]
    assert len(sites) < len(bands.report.rows)


@pytest.mark.parametrize("limit", [None, 3000])
def test_scaled_results_are_those_of_scaled_weights_to_the_bit(limit: int | None) -> None:
    for model, widths, x in (
        (network(), WIDTHS, floats(1, 3, 8, 8, seed=9)),
        (wide(), {"c1": 32, "c2": 32, "c3": 12}, floats(1, 8, 40, 40, seed=9)),
    ):
        locks = [lock(name, count, seed, scales=(0, -1)) for seed, (name, count) in enumerate(widths.items())]
        password = Password("test", locks)
        compiled = compile_onnx(model, max_partition=limit)
        sites = [site for part in compiled.partitions for site in partition_sites(part)]
        assert {site.packing for site in sites} >= {C.CL_PACKING_PANELS_SCALED}
        folded = engine().run(unlocked(compiled, password), x)["y"]
        scaled = engine().run(compiled, x, pack_password(password, compiled.layers))["y"]
        np.testing.assert_array_equal(scaled, folded)


def test_layers_are_scaled_where_that_is_less_work() -> None:
    def packings(model: onnx.ModelProto) -> dict[bytes, set[int]]:
        found: dict[bytes, set[int]] = {}
        for part in compile_onnx(model).partitions:
            for site in partition_sites(part):
                found.setdefault(bytes(site.layer), set()).add(site.packing)
        return found

    small, large = packings(network()), packings(wide())
    assert small[layer_id("c1")] == {C.CL_PACKING_PANELS}  # 27 weights for 64 results
    assert small[layer_id("c2")] == {C.CL_PACKING_ROWS}
    assert small[layer_id("c3")] == {C.CL_PACKING_PANELS_SCALED}  # 90 weights
    assert small[layer_id("d6")] == {C.CL_PACKING_PANELS_SCALED}
    assert large[layer_id("c2")] == {C.CL_PACKING_PANELS_SCALED}  # by Winograd: results are scaled there anyway


@pytest.mark.parametrize("sparse", [False, True])
def test_a_password_of_any_density(sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a licence has no room for whole layers, runs of channels do the same."""
    if sparse:
        monkeypatch.setattr("cloister.layers._whole", lambda *_: (0, C.CL_MAX_CHANNELS - 1))
    full = Password("test", [lock("d6", 50, scales=(0, -1, 0.5)), lock("c1", 20, scales=(-1,))])
    compiled = compile_onnx(network())
    words = pack_password(full, compiled.layers)
    assert (unpack("struct cl_password", words).lock_count == len(full.locks)) != sparse
    x = floats(1, 3, 8, 8, seed=9)
    wanted = reference(full.apply(network()), x)[0]
    for got in (engine().run(compiled, x, words)["y"], engine().run(unlocked(compiled, full), x)["y"]):
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_weights_kept_as_bytes() -> None:
    model = network()
    compiled = compile_onnx(model, password=PASSWORD, weights="int8")
    assert "DEQUANTIZE" in kernels(compiled)
    authorised = compile_onnx(PASSWORD.apply(model), weights="int8")
    x = floats(1, 3, 8, 8, seed=9)
    got, wanted = (engine().run(made, x)["y"] for made in (unlocked(compiled, PASSWORD), authorised))
    # A scale of a channel's factor and the factor of its scaled weights differ by rounding.
    assert np.abs(got - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_equal_biases_and_weights_are_not_changed_twice() -> None:
    nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Conv", "r v d", "e"), node("Relu", "e", "f"),
             node("GlobalAveragePool", "f", "y")]  # fmt: skip
    constants = {"w": floats(8, 8, 3, 3), "b": floats(8), "v": floats(8, 8, 3, 3, seed=1), "d": floats(8)}
    model = build(nodes, {"x": [1, 8, 9, 9]}, ["y"], constants)
    assert_unlocks(model, Password("test", [lock("c", 8)]), floats(1, 8, 9, 9, seed=3))
    constants["v"] = constants["w"]
    model = build(nodes, {"x": [1, 8, 9, 9]}, ["y"], constants)
    with pytest.raises(PasswordError, match=r"'c' cannot be locked: its weights are those of node"):
        compile_onnx(model, password=Password("test", [lock("c", 8)]))


def test_the_password_does_not_enter_the_partitions() -> None:
    assert compile_onnx(network(), password=PASSWORD).partitions == compile_onnx(network()).partitions


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ("nothing", "no such tensor"),
        ("r1", "comes from Relu"),
        ("c4", "the BatchNormalization behind it is folded into its weights; that one's result 'n4' can"),
        ("y", "'y' leaves the TA and is the locked tensor 'y'"),
    ],
)
def test_what_cannot_be_locked_is_named(tensor: str, reason: str) -> None:
    with pytest.raises(PasswordError, match=reason) as caught:
        compile_onnx(network(), password=Password("test", [lock(tensor, 4)]))
    assert tensor in caught.value.message and caught.value.remedy


def test_a_channel_that_the_layer_has_not_is_named() -> None:
    wrong = Lock("c1", np.array([19, 20], np.uint16), np.zeros(2, np.float32), np.zeros(2, np.float32))
    with pytest.raises(PasswordError, match=r"'c1' has 20 channels, the password names channel 20"):
        compile_onnx(network(), password=Password("test", [wrong]))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("c3", "'c3' leaves the TA and is the locked tensor 'c3'"),
        ("r3", "at most moved, pooled, scaled, added to, activated or one by one"),
        ("a", "at most moved, pooled, scaled, added to, activated or one by one"),
        ("d6", r"'d6' leaves the TA on the way to the answer \(node .* reads it\) and is computed from"),
        ("r1", ""),
    ],
)
def test_outputs_that_show_what_a_lock_hides_are_refused(output: str, reason: str) -> None:
    model = network()
    shape = [1, 50] if output == "d6" else [1, 20, 8, 8]
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))
    password = Password("test", [lock("c3", 20)])
    if not reason:
        compile_onnx(model, password=password)
        return
    with pytest.raises(PasswordError, match=reason):
        compile_onnx(model, password=password)
    vendor, device = VendorKey.generate(), X25519PrivateKey.generate().public_key().public_bytes_raw()
    bundle, key = seal_bundle(compile_onnx(model), vendor, name="unasked")
    with pytest.raises(PasswordError, match="no layer that computes 'c3', or the normal world sees") as caught:
        issue_licence(bundle, key, device, vendor, password=password)
    assert "compile --password" in caught.value.remedy
    issue_licence(bundle, key, device, vendor, password=Password("test", [lock("d7", 33)]))


def test_an_output_of_an_8_bit_model_that_shows_a_lock_cannot_be_licensed_either(tmp_path: Any) -> None:
    model = network(biased=True)
    model.graph.output.append(onnx.helper.make_tensor_value_info("r3", onnx.TensorProto.FLOAT, [1, 20, 8, 8]))
    small = quantised(model, floats(16, 3, 8, 8, seed=4), tmp_path)
    layers = compile_onnx(small).layers
    assert layer_id("c3") not in layers and layer_id("y") not in layers and layer_id("c5") in layers
    assert layer_id("c1") not in layers, "r3 is computed from it"


@pytest.mark.parametrize(
    ("nodes", "seen"),
    [
        ([node("Concat", "c1 c2", "y", axis=1)], {"c1", "c2"}),
        ([node("Slice", "c1 from to axis", "y")], {"c1"}),
        ([node("Pad", "c1 pads", "y")], {"c1"}),
        ([node("GlobalAveragePool", "c1", "y")], {"c1"}),
        ([node("MaxPool", "c1", "r", kernel_shape=[2, 2]), node("Sigmoid", "r", "y")], {"c1"}),
        ([node("Mul", "c1 half", "y")], {"c1"}),
        ([node("Softmax", "c1", "y", axis=1)], {"c1"}),
        ([node("Add", "c1 c2", "y")], {"c1", "c2"}),  # whoever has the other's weights reads one off their sum
        ([node("Sub", "x c1", "y")], {"c1"}),
        ([node("Relu", "c2", "r"), node("Conv", "r w3 b3", "d", pads=[1] * 4), node("Add", "c1 d", "y")], {"c1", "d"}),
        ([node("Conv", "c1 w3 b3", "y", pads=[1] * 4)], {"y"}),
    ],
    ids=lambda each: each[-1].op_type if isinstance(each, list) else None,
)
def test_what_can_be_read_off_the_answer_takes_no_lock(nodes: list[onnx.NodeProto], seen: set[str]) -> None:
    constants = {f"{kind}{number}": floats(8, *rest, seed=number)
                 for number in (1, 2, 3) for kind, rest in (("w", (8, 3, 3)), ("b", ()))}  # fmt: skip
    constants |= {"from": np.array([1]), "to": np.array([5]), "axis": np.array([1])}
    constants |= {"half": np.full((1, 8, 1, 1), 0.5, np.float32), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    layers = [
        node("Conv", "x w1 b1", "c1", pads=[1] * 4),
        node("Conv", "x w2 b2", "c2", pads=[1] * 4),
    ]
    used = {name for item in [*layers, *nodes] for name in item.input}
    model = build([*layers, *nodes], {"x": [1, 8, 8, 8]}, ["y"], {k: v for k, v in constants.items() if k in used})
    lockable = compile_onnx(model).lockable
    assert not seen & set(lockable)
    for name in ("c1", "c2"):
        assert (name in lockable) == (name not in seen) or not any(name in item.input for item in nodes)
        refused = pytest.raises(PasswordError, match="leaves the TA and is") if name in seen else nullcontext()
        if name in seen or name in lockable:
            with refused:
                compile_onnx(model, password=Password("test", [lock(name, 8)]))


#: What an answer is computed by from c1 (1, 8, 4, 4) or its reshapes f (1, 128) and t (1, 16, 8): nodes, constants, and
#: whether channels can be read off it one by one.
ANSWERS = [
    ([node("Sum", "c1", "y")], {}, True),
    ([node("Sum", "c1 c2", "y")], {}, True),
    ([node("PRelu", "c1 k", "y")], {"k": floats(8, 1, 1)}, True),
    ([node("LRN", "c1", "y", size=3)], {}, True),
    ([node("InstanceNormalization", "c1 k l", "y")], {"k": floats(8), "l": floats(8)}, True),
    ([node("LayerNormalization", "c1 k", "y", axis=-1)], {"k": floats(4)}, True),
    ([node("Conv", "c1 k", "y")], {"k": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1)}, True),
    ([node("Conv", "c1 k", "y", group=8)], {"k": floats(8, 1, 3, 3)}, True),
    ([node("Conv", "c1 k", "y")], {"k": floats(8, 8, 3, 3)}, False),
    ([node("Conv", "c1 k", "y", group=2)], {"k": floats(4, 4, 1, 1)}, False),
    ([node("MatMul", "c1 k", "y")], {"k": floats(4, 2)}, True),
    ([node("Transpose", "c1", "n", perm=[0, 2, 3, 1]), node("MatMul", "n k", "y")], {"k": floats(8, 3)}, False),
    ([node("MatMul", "f k", "y")], {"k": np.eye(128, dtype=np.float32)}, True),
    ([node("MatMul", "f k", "y")], {"k": floats(128)}, False),
    ([node("Gemm", "f k", "y")], {"k": floats(128, 200)}, False),
    ([node("Gemm", "f k", "y", transB=1)], {"k": floats(10, 128)}, False),
    ([node("Gemm", "f k f", "y")], {"k": floats(128, 128)}, True),
    ([node("Gemm", "f k", "y", transA=1)], {"k": floats(1, 5)}, True),
    ([node("MatMul", "t k", "y")], {"k": floats(1, 8, 3)}, False),
    ([node("MatMul", "t k", "y")], {"k": floats(2, 8, 3)}, True),  # two products, taken for unknown
    ([node("Transpose", "t", "u", perm=[0, 2, 1]), node("MatMul", "u k", "y")], {"k": floats(16, 1)}, True),
    ([node("Reshape", "c1 r", "u"), node("Gemm", "u k", "y")], {"r": np.array([8, 16]), "k": floats(16, 2)}, True),
    ([node("ReduceMean", "t", "u", axes=[1], keepdims=0), node("Gemm", "u k", "y")], {"k": floats(8, 3)}, False),
    ([node("Gather", "t one", "u", axis=1), node("Gemm", "u k", "y")], {"one": np.array(1), "k": floats(8, 3)}, False),
    ([node("Add", "t bias", "u"), node("MatMul", "u k", "y")], {"bias": floats(8), "k": floats(8, 3)}, False),
    ([node("Add", "c1 c2", "u"), node("GlobalAveragePool", "u", "p"), node("Flatten", "p", "q"),
      node("Gemm", "q k", "y")], {"k": floats(8, 3)}, False),
    ([node("Slice", "c1 at to on", "u"), node("Flatten", "u", "q"), node("Gemm", "q k", "y")],
     {"at": np.array([0]), "to": np.array([1]), "on": np.array([1]), "k": floats(16, 3)}, True),
    ([node("Slice", "c1 at to on", "u"), node("Flatten", "u", "q"), node("Gemm", "q k", "y")],
     {"at": np.array([0]), "to": np.array([2]), "on": np.array([1]), "k": floats(32, 3)}, False),
    ([node("Reshape", "c1 r", "u"), node("Slice", "u at to on", "v"), node("Gather", "v at0", "q", axis=1),
      node("Gemm", "q k", "y")], {"r": np.array([1, 8, 16]), "at": np.array([0]), "to": np.array([8]),
      "on": np.array([2]), "at0": np.array(0), "k": floats(8, 3)}, True),
    ([node("Relu", "c1", "u"), node("ArgMax", "u", "y", axis=1)], {}, False),
]  # fmt: skip


def small(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray[Any, Any]], outputs: list[str]
) -> onnx.ModelProto:
    """Two convolutions of one input, reshapes of the first one's activation, and what comes behind."""
    before = [
        node("Conv", "x w1 b1", "l1", pads=[1] * 4),
        node("Relu", "l1", "c1"),
        node("Conv", "x w2 b2", "l2", pads=[1] * 4),
        node("Relu", "l2", "c2"),
        node("Flatten", "c1", "f"),
        node("Reshape", "c1 tokens", "s"),
        node("Transpose", "s", "t", perm=[0, 2, 1]),
    ]
    constants = constants | {f"w{seed}": floats(8, 3, 3, 3, seed=seed) for seed in (1, 2)}
    constants |= {f"b{seed}": floats(8, seed=seed) for seed in (1, 2)}
    kinds = {item.output[0]: onnx.TensorProto.INT64 for item in nodes if item.op_type == "ArgMax"}
    constants |= {"tokens": np.array([1, 8, 16])}
    return build([*before, *nodes], {"x": [1, 3, 4, 4]}, outputs, constants, 17, kinds)


@pytest.mark.parametrize(("nodes", "constants", "told"), ANSWERS)
def test_an_answer_shows_no_locked_channel_alone_by_whatever_operator(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray[Any, Any]], told: bool
) -> None:
    model = small(nodes, constants, ["y"])
    assert (layer_id("l1") in compile_onnx(model).layers) == (not told), "what the TA takes a lock for"
    with pytest.raises(PasswordError, match="'y' leaves the TA and is") if told else nullcontext():
        compile_onnx(model, password=Password("test", [lock("l1", 8)]))


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_beside_the_answer_nothing_is_computed_from_a_lock(number: int) -> None:
    """Two numbers for each channel are fitted to anything, however few values it has: also to one sum of all."""
    nodes, constants, _ = ANSWERS[number]
    constants = constants | {"head": floats(8, 10)}
    answer = [node("GlobalAveragePool", "c1", "a1"), node("Flatten", "a1", "a2"), node("Gemm", "a2 head", "answer")]
    model = small([*answer, *nodes], constants, ["answer", "y"])
    assert layer_id("l1") not in compile_onnx(model).layers
    with pytest.raises(PasswordError, match="'y' leaves the TA"):
        compile_onnx(model, password=Password("test", [lock("l1", 8)]))


def test_another_output_may_be_computed_from_what_is_not_locked() -> None:
    nodes = [node("Gemm", "f k", "y"), node("Flatten", "c2", "g"), node("Gemm", "g k", "z")]
    for outputs in (["y", "z"], ["z", "y"]):
        model = small(nodes, {"k": floats(128, 10)}, outputs)
        locked = {"y": "l1", "z": "l2"}
        compile_onnx(model, password=Password("test", [lock(locked[outputs[0]], 8)]))
        with pytest.raises(PasswordError, match=f"'{outputs[1]}' leaves the TA beside the answer '{outputs[0]}'"):
            compile_onnx(model, password=Password("test", [lock(locked[outputs[1]], 8)]))


def test_an_answer_may_have_more_values_than_what_it_is_computed_from() -> None:
    layers = [node("Conv", "x w b", "c"), node("GlobalAveragePool", "c", "p"), node("Flatten", "p", "f")]
    constants = {"w": floats(8, 3, 3, 3), "b": floats(8), "k": floats(8, 100), "one": np.eye(8, 100, dtype=np.float32)}
    for weights, fits in (("k", True), ("one", False)):
        used = {name: constants[name] for name in ("w", "b", weights)}
        model = build([*layers, node("Gemm", f"f {weights}", "y")], {"x": [1, 3, 8, 8]}, ["y"], used)
        with nullcontext() if fits else pytest.raises(PasswordError, match="'y' leaves the TA"):
            compile_onnx(model, password=Password("test", [lock("c", 8)]))


def test_a_password_that_is_none_is_refused_by_the_engine() -> None:
    words = pack_password(PASSWORD)
    part = compile_onnx(network()).partitions[0]
    engine().unlock(part, words)
    for at, value in ((0, 0), (4, 2), (6, 8), (8, 0), (12, 0), (12, 200), (16, 0), (20, 1), (len(words) - 8, 1)):
        damaged = bytearray(words)
        damaged[at] = value if damaged[at] != value else value + 1
        with pytest.raises(EngineError, match="the password is refused"):
            engine().unlock(part, bytes(damaged))
    for size in (0, 8, 40, 1024, len(words) - 8, len(words) - 1):
        with pytest.raises(EngineError, match="the password is refused"):
            engine().unlock(part, words[:size])


# ---- 8-bit models ----


def quantised(model: onnx.ModelProto, sample: np.ndarray[Any, Any], tmp_path: Any) -> onnx.ModelProto:
    from cloister.quantization import quantize_model

    quantize_model(model, sample, tmp_path / "q.onnx", per_channel=True)
    return onnx.load(tmp_path / "q.onnx")


@pytest.mark.parametrize("limit", [None, 3000])
def test_quantised_models(limit: int | None, tmp_path: Any) -> None:
    model = network(biased=True)
    sample = floats(64, 3, 8, 8, seed=4)
    names = ["c1", "c2", "c3", "c5", "d6"]
    locks = [lock(name, WIDTHS[name], seed, scales=(0, -1, 1, 0.5, -0.25)) for seed, name in enumerate(names)]
    password = Password("test", [Lock(k.tensor, k.channels, k.scales, k.values * np.float32(0.3)) for k in locks])
    small = quantised(model, sample, tmp_path)
    compiled = compile_onnx(small, password=password, max_partition=limit)
    used = set(kernels(compiled))
    assert {"CONV2D_S8", "DEPTHWISE_S8", "GEMM_S8"} <= used
    opened, authorised = unlocked(compiled, password), apply_s8(small, password)
    words = pack_password(password, compiled.layers)
    direct = compile_onnx(authorised, max_partition=limit)
    for x in sample[:8, None]:
        got, wanted = engine().run(opened, x)["y"], engine().run(direct, x)["y"]
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(engine().run(compiled, x, words)["y"], wanted)
        expected = reference(authorised, x)[0]
        assert np.abs(got - expected).max() <= 0.05 * np.abs(expected).max()
        assert np.abs(engine().run(compiled, x)["y"] - expected).max() > 0.2 * np.abs(expected).max()


def test_the_smallest_budget_holds_the_licence_with_its_password() -> None:
    """It stays in secure memory while the model is loaded: 4 KiB for some hundred channels."""
    least = []
    for given in (None, PASSWORD):
        with pytest.raises(MemoryBudgetError) as caught:
            compile_onnx(network(), password=given, secure_memory=100_000)
        least.append(caught.value.smallest)
        compile_onnx(network(), password=given, secure_memory=least[-1])
    free, locked = least
    size = ffi.sizeof("struct cl_licence") + C.CL_SIGNATURE_SIZE + len(pack_password(PASSWORD))
    assert locked - free >= size and (locked - free) % 4096 == 0
    assert f"{locked - free} for what is loaded with it" in str(caught.value)
    roomy = compile_onnx(network(), password=PASSWORD, secure_memory=8 << 20)
    assert roomy.partitions == compile_onnx(network(), secure_memory=8 << 20).partitions
