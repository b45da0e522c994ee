# SPDX-License-Identifier: BSD-2-Clause
"""Locked models on the device: the password in the licence decides what they answer, and hostile ones are refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from ta_driver import BAD_FORMAT, MAC_INVALID, OUT_OF_MEMORY, SIGNATURE_INVALID, SUCCESS, Sample, Ta

from cloister.api import compile as compile_model
from cloister.api import licence as issue
from cloister.compile import compile_onnx
from cloister.compile.memory import TA_OWN, least_memory, licence_pages
from cloister.device import Device
from cloister.layers import pack_password
from cloister.password import Lock, Password
from cloister.quantization import quantize_model
from cloister.seal import Bundle, VendorKey
from cloister.seal.keys import load_content_key
from cloister.seal.licence import issue_licence, signed_message
from cloister.teec import TaError, TeecError
from cloister.wire import C, ffi, new, pack, unpack

LAYERS = {"c1": 16, "c2": 24, "d3": 40}
HEAD, LOCK = (ffi.sizeof(f"struct cl_{name}") for name in ("password", "lock"))


def network() -> onnx.ModelProto:
    """Two convolutions and two products; the last is not locked."""
    numbers = np.random.default_rng(5)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (24, 16, 3, 3), "b2": (24,), "w3": (864, 40), "b3": (40,),
              "w4": (40, 10), "b4": (10,)}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Flatten", ["r2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["d3"]),
        helper.make_node("Relu", ["d3"], ["r3"]),
        helper.make_node("Gemm", ["r3", "w4", "b4"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array((numbers.standard_normal(shape) / 5).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        nodes,
        "locked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def password(layers: dict[str, int] | None = None, scales: tuple[float, ...] = (0, -1, 0.5)) -> Password:
    numbers = np.random.default_rng(6)
    locks = []
    for tensor, count in (LAYERS if layers is None else layers).items():
        channels = np.sort(numbers.permutation(count)[: count // 2]).astype(np.uint16)
        kinds = numbers.choice(np.array(scales, np.float32), len(channels))
        locks.append(Lock(tensor, channels, kinds, numbers.standard_normal(len(channels)).astype(np.float32)))
    return Password("locked", locks)


def reference(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": sample})[0] for sample in x[:, None]])


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return compile_model(network(), name="password", max_partition=16 << 10, password=password())


@pytest.fixture(scope="module")
def inputs() -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).standard_normal((3, 3, 12, 12)).astype(np.float32)


def outputs(device: Device, bundle: Bundle, licence: Any, x: np.ndarray[Any, Any], **options: Any) -> Any:
    with device.load(bundle, licence, **options) as session:
        first, second = (session.run(x, "full").outputs for _ in range(2))
        assert session.resident_count == session.partition_count or options.get("memory")
    assert first is not None and second is not None
    np.testing.assert_array_equal(first["y"], second["y"])
    return first["y"].reshape(len(x), -1)


@pytest.mark.parametrize("mode", ["whole", "steps"])
@pytest.mark.parametrize("memory", [0, 100_000])
def test_the_password_decides_what_the_device_answers(
    device: Device, bundle: Bundle, inputs: np.ndarray[Any, Any], mode: str, memory: int
) -> None:
    """Resident partitions are opened once, streamed ones for each inference: all give the authorised answer."""
    key = device.public_key()
    for given, model in ((None, network()), (password(), password().apply(network()))):
        licence = issue(bundle, key, output="full", password=given)
        wanted = reference(model, inputs)
        got = outputs(device, bundle, licence, inputs, mode=mode, memory=memory)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    apart = np.abs(reference(network(), inputs) - wanted).max()
    assert apart > 0.1 * np.abs(wanted).max()


def test_the_ta_takes_what_the_compiler_holds_for_a_licence_with_a_password(
    device: Device, inputs: np.ndarray[Any, Any]
) -> None:
    """Models run in the memory that is named as the least, with their licences, and in no page less."""
    options = {"password": password(), "secure_memory": TA_OWN + (128 << 10)}
    bundle, compiled = compile_model(network(), name="password-least", **options), compile_onnx(network(), **options)
    sizes, ios = [len(part) for part in compiled.partitions], len(compiled.inputs) + len(compiled.outputs)
    least = least_memory(compiled.arena_size, sizes, ios, len(compiled.layers)) - TA_OWN
    for given, model in ((None, network()), (password(), password().apply(network()))):
        licence = issue(bundle, device.public_key(), output="full", password=given)
        held = licence_pages(len(pack_password(given, compiled.layers))) if given else 0
        got = outputs(device, bundle, licence, inputs, memory=least + held)
        np.testing.assert_allclose(got, reference(model, inputs), rtol=1e-4, atol=1e-4)
        with pytest.raises(TeecError, match="OUT_OF_MEMORY"):
            device.load(bundle, licence, memory=least + held - 4096)


def test_a_password_of_one_licence_is_not_that_of_the_next(
    device: Device, bundle: Bundle, inputs: np.ndarray[Any, Any]
) -> None:
    key = device.public_key()
    free, locked = (issue(bundle, key, output="full", password=given) for given in (password(), None))
    with Ta(device) as ta:
        for licence, model in ((free, password().apply(network())), (locked, network())):
            assert ta.load_code(bundle.manifest, licence.data) == SUCCESS
            answer, _ = ta.run(bundle.payload, data=inputs[:1].tobytes())
            np.testing.assert_allclose(
                np.frombuffer(answer, "<f4"), reference(model, inputs[:1])[0], rtol=1e-4, atol=1e-4
            )


def test_a_quantised_model(device: Device, inputs: np.ndarray[Any, Any], tmp_path: Path) -> None:
    from cloister.native import NativeEngine

    samples = np.random.default_rng(8).standard_normal((32, 3, 12, 12)).astype(np.float32)
    quantize_model(network(), samples, tmp_path / "q.onnx", per_channel=True)
    given = password(scales=(0, -1))
    bundle = compile_model(tmp_path / "q.onnx", name="password-s8", password=given)
    got = outputs(device, bundle, issue(bundle, device.public_key(), output="full", password=given), inputs)
    engine, compiled = NativeEngine(), compile_onnx(tmp_path / "q.onnx", secure_memory=0)
    parts = [engine.unlock(part, pack_password(given)) for part in compiled.partitions]
    opened = type(compiled)(parts, compiled.inputs, compiled.outputs, compiled.arena_size, compiled.report)
    for sample, answer in zip(inputs, got, strict=True):
        np.testing.assert_array_equal(engine.run(opened, sample[None])["y"].reshape(-1), answer)


def test_the_largest_password(device: Device) -> None:
    """64 KiB: more than OP-TEE would take as a signed message."""
    numbers = np.random.default_rng(9)
    count = 8064
    shapes = {"w": (8, count), "b": (count,), "v": (count, 10)}
    arrays = {name: numbers.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), helper.make_node("Relu", ["z"], ["r"]),
             helper.make_node("MatMul", ["r", "v"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "large", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    turned = Lock("z", np.arange(count, dtype=np.uint16), -np.ones(count, np.float32), np.ones(count, np.float32))
    given = Password("large", [turned])
    assert len(pack_password(given)) > C.CL_MAX_PASSWORD - 1024
    bundle = compile_model(model, name="password-large", password=given)
    x = numbers.standard_normal((2, 8)).astype(np.float32)
    got = outputs(device, bundle, issue(bundle, device.public_key(), output="full", password=given), x)
    np.testing.assert_allclose(got, reference(given.apply(model), x), rtol=1e-3, atol=1e-2)


# ---- refusals ----


@pytest.fixture
def forge(device: Device, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], bytes]:
    """A licence that the vendor signed over any bytes as its password."""
    vendor, key = VendorKey.load(), load_content_key(bytes(bundle.header.content_key_id))

    def make(words: bytes) -> bytes:
        monkeypatch.setattr("cloister.seal.licence.check_layers", lambda *_: None)
        monkeypatch.setattr("cloister.seal.licence.pack_password", lambda *_: words)
        return issue_licence(bundle, key, device.public_key(), vendor, output="full", password=password()).data

    return make


@pytest.mark.parametrize(
    "layers",
    [{"c1": 16, "c9": 4}, {"r1": 16}, {"y": 20}, {"y": 10}, {"c1": 60}, {"c2": 65536}],
    ids=lambda each: "-".join(each),
)
def test_a_password_of_another_model_is_refused_at_load(
    device: Device, bundle: Bundle, forge: Callable[[bytes], bytes], layers: dict[str, int]
) -> None:
    given = password({name: min(count, 2000) for name, count in layers.items()})
    if max(layers.values()) > 1000:
        given = Password("x", [Lock("c2", np.array([65535], np.uint16), *(np.ones(1, np.float32) for _ in range(2)))])
    with Ta(device) as ta:
        assert ta.load_code(bundle.manifest, forge(pack_password(given))) == C.CL_ERROR_PASSWORD
        assert ta.state() == C.CL_STATE_OPEN
    with pytest.raises(TaError) as caught, device.load(bundle, forge(pack_password(given))):
        pass
    assert caught.value.name == "PASSWORD"


def test_a_model_without_layers_takes_no_password(device: Device) -> None:
    sample = Sample.make(VendorKey.load(), device.public_key())
    clear = issue_licence(sample.bundle, sample.content_key, sample.device_key, sample.vendor, output="full")
    assert not clear.has_password
    with Ta(device) as ta, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloister.seal.licence.check_layers", lambda *_: None)
        assert ta.load_code(sample.bundle.manifest, sample.licence(password=password())) == C.CL_ERROR_PASSWORD
        ta.works(sample)


def damaged(words: bytes, at: int, value: bytes) -> bytes:
    return words[:at] + value + words[at + len(value) :]


def channels_in(words: bytes) -> int:
    return int(unpack("struct cl_password", words).channel_count)


INFINITE, NAN = (np.array(value, "<f4").tobytes() for value in (np.inf, np.nan))
FIRST = HEAD + 3 * LOCK
MUCH = b"\xff\xff\xff\xff"


#: What is done to a password, and what LOAD then says.
HOSTILE: list[tuple[Callable[[bytes], bytes], int]] = [
    (lambda words: words, SUCCESS),
    (lambda words: damaged(words, 0, b"XXXX"), BAD_FORMAT),
    (lambda words: damaged(words, 4, b"\1\0"), C.CL_ERROR_VERSION),
    (lambda words: damaged(words, 6, b"\0\0"), BAD_FORMAT),
    (lambda words: damaged(words, 8, MUCH), BAD_FORMAT),
    (lambda words: damaged(words, 12, b"\0\0\0\0"), BAD_FORMAT),
    (lambda words: damaged(words, 12, MUCH), BAD_FORMAT),
    (lambda words: damaged(words, 16, MUCH), BAD_FORMAT),
    (lambda words: damaged(words, 20, b"\1"), BAD_FORMAT),
    (lambda words: damaged(words, HEAD, bytes(8)), C.CL_ERROR_PASSWORD),
    (lambda words: damaged(words, HEAD, b"\xff" * 8), BAD_FORMAT),
    (lambda words: damaged(words, HEAD + 8, b"\1\0"), BAD_FORMAT),
    (lambda words: damaged(words, HEAD + 10, b"\0\0"), BAD_FORMAT),
    (lambda words: damaged(words, HEAD + 8, MUCH), BAD_FORMAT),
    (lambda words: damaged(words, HEAD + 12, b"\1"), BAD_FORMAT),
    (lambda words: damaged(words, FIRST, bytes(4)), BAD_FORMAT),
    (lambda words: damaged(words, FIRST + 4, INFINITE), BAD_FORMAT),
    (lambda words: damaged(words, FIRST + 8, NAN), BAD_FORMAT),
    (lambda words: damaged(words, FIRST + 4 * channels_in(words), INFINITE), BAD_FORMAT),
    (lambda words: damaged(words, FIRST + 8 * channels_in(words), b"\1"), BAD_FORMAT),
    (lambda words: words[:-8] + b"\1" + bytes(7), BAD_FORMAT),
    (lambda words: words[:HEAD], BAD_FORMAT),
    (lambda words: words[:8], BAD_FORMAT),
    (lambda words: words + bytes(8), BAD_FORMAT),
    (lambda words: words + bytes(4), BAD_FORMAT),
    (lambda _: bytes(C.CL_MAX_PASSWORD), BAD_FORMAT),
    (lambda _: bytes(C.CL_MAX_PASSWORD + 8), BAD_FORMAT),
]


def test_hostile_passwords(device: Device, bundle: Bundle, forge: Callable[[bytes], bytes]) -> None:
    words = pack_password(password())
    with Ta(device) as ta:
        codes = [ta.load_code(bundle.manifest, forge(change(words))) for change, _ in HOSTILE]
        assert codes == [code for _, code in HOSTILE]
        assert ta.load_code(bundle.manifest, forge(words)) == SUCCESS


def test_altered_licences_with_a_password(device: Device, bundle: Bundle, forge: Callable[[bytes], bytes]) -> None:
    licence = forge(pack_password(password()))
    vendor, numbers = VendorKey.load(), random.Random(4)

    def flipped(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 1 << numbers.randrange(8)]) + data[at + 1 :]

    with Ta(device) as ta:
        for at in numbers.sample(range(112, len(licence)), 12):
            assert ta.load_code(bundle.manifest, flipped(licence, at)) == SIGNATURE_INVALID
        unsigned = licence[: -C.CL_SIGNATURE_SIZE]
        for at in numbers.sample(range(112, len(unsigned)), 6):
            changed = flipped(unsigned, at)
            assert ta.load_code(bundle.manifest, changed + vendor.sign(signed_message(changed))) == MAC_INVALID
        # The other kind of signature is none.
        other = unsigned + vendor.sign(b"cloister licence v1" + unsigned)
        assert ta.load_code(bundle.manifest, other) == SIGNATURE_INVALID
        for size in (1, 255, 256, 264, len(licence) - 8, len(licence) - 1):
            assert ta.load_code(bundle.manifest, licence[:size]) == BAD_FORMAT
        header = unpack("struct cl_licence", licence)
        for name in ("total_size", "sealed_size"):
            fields = {"total_size": header.total_size, "sealed_size": header.sealed_size, name: 0xFFFFFFF8}
            head = pack(new("struct cl_licence", magic=header.magic, version=1, header_size=192, **fields))
            assert ta.load_code(bundle.manifest, head[:16] + licence[16:]) == BAD_FORMAT
        assert ta.load_code(bundle.manifest, licence) == SUCCESS


def test_memory_of_passwords_comes_back(device: Device, bundle: Bundle, forge: Callable[[bytes], bytes]) -> None:
    licence = forge(pack_password(password()))
    with Ta(device) as ta:
        held = set()
        for _ in range(6):
            assert ta.load_code(bundle.manifest, licence) == SUCCESS
            held.add(ta.usage().resident_bytes)
            assert ta.load_code(bundle.manifest, forge(bytes(4096))) == BAD_FORMAT
        assert len(held) == 1
        assert ta.load_code(bundle.manifest, licence, memory=8192) == OUT_OF_MEMORY
        assert ta.load_code(bundle.manifest, licence) == SUCCESS
