# SPDX-License-Identifier: BSD-2-Clause
"""How a model's payload reaches the TA: at once, in steps, or through one partition's room; and over SSH alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloister.api import compile as compile_model
from cloister.api import licence as issue
from cloister.device import Device, Session, connect
from cloister.device.errors import DeviceError
from cloister.device.qemu import QemuDevice
from cloister.seal import Bundle, VendorKey
from cloister.seal.keys import default_key_dir
from cloister.teec import OutOfMemory, TaError
from cloister.tensors import InputError


def chain(layers: int, width: int) -> tuple[Bundle, list[np.ndarray]]:
    """A bundle of `layers` matrices of `width` x `width`, and the matrices."""
    rng = np.random.default_rng(layers)
    weights = [(rng.standard_normal((width, width)) / width**0.5).astype(np.float32) for _ in range(layers)]
    nodes = [helper.make_node("MatMul", [f"y{i}", f"w{i}"], [f"y{i + 1}"]) for i in range(layers)]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info(f"y{layers}", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    return compile_model(model, name=f"chain-{layers}-{width}", max_partition=1 << 20), weights


def product(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    result = x.astype(np.float64)
    for weight in weights:
        result = result @ weight
    return result


@pytest.fixture(scope="module")
def small() -> tuple[Bundle, list[np.ndarray]]:
    VendorKey.load(default_key_dir())
    return chain(3, 320)


@pytest.mark.parametrize(("mode", "memory"), [("whole", 0), ("steps", 0), ("whole", 1_000_000), ("steps", 1_000_000)])
def test_both_ways_give_the_same_answer(
    device: Device, small: tuple[Bundle, list[np.ndarray]], mode: str, memory: int
) -> None:
    bundle, weights = small
    x = np.random.default_rng(1).standard_normal((3, 320)).astype(np.float32)
    licence = issue(bundle, device.public_key(), output="full")
    seen: list[tuple[int, int]] = []
    with device.load(bundle, licence, mode=mode, memory=memory) as session:
        assert (session.resident_count == session.partition_count) == (memory == 0)
        answers = session.run(x, "full", progress=lambda done, total: seen.append((done, total)))
        usage = session.usage()
    assert answers.outputs is not None
    (output,) = answers.outputs.values()
    np.testing.assert_allclose(output, product(x, weights), atol=1e-4)
    assert answers.mode == mode
    assert usage.queries == 3
    assert memory == 0 or usage.peak_bytes <= memory
    assert seen[-1] == (3, 3)
    # What stays is decrypted once, the rest for each inference.
    streamed = session.partition_count - session.resident_count
    assert answers.decrypted == session.resident_count + 3 * streamed


def first_answer(session: Session, weights: list[np.ndarray]) -> str:
    """Check one full answer; returns the mode in which it was computed."""
    x = np.random.default_rng(2).standard_normal((1, 1024)).astype(np.float32)
    answers = session.run(x, "full")
    assert answers.outputs is not None
    (output,) = answers.outputs.values()
    np.testing.assert_allclose(output, product(x, weights), atol=1e-3)
    return answers.mode


def test_payload_that_cannot_be_mapped_at_once(device: Device) -> None:
    """24 MiB: more than secure memory, and than OP-TEE maps of one session; "whole" is not quietly done in steps."""
    bundle, weights = chain(6, 1024)
    licence = issue(bundle, device.public_key(), output="full")
    with device.load(bundle, licence) as session:
        assert first_answer(session, weights) == "steps"
        assert session.resident_count < session.partition_count
    with pytest.raises(DeviceError, match="closed"):
        session.run(np.zeros((1, 1024), np.float32))
    with device.load(bundle, licence, mode="whole") as session, pytest.raises(OutOfMemory):
        session.run(np.zeros((1, 1024), np.float32))


def test_payload_that_cannot_be_shared_at_once(device: Device) -> None:
    """72 MiB: more pages than OP-TEE keeps a list of; one partition's room is shared instead."""
    bundle, weights = chain(18, 1024)
    with device.load(bundle, issue(bundle, device.public_key(), output="full")) as session:
        assert first_answer(session, weights) == "steps"


def test_device_answers_no_more_than_the_licence_allows(device: Device, small: tuple[Bundle, list[np.ndarray]]) -> None:
    bundle, _ = small
    x = np.ones((1, 320), np.float32)
    with device.load(bundle, issue(bundle, device.public_key(), output="label")) as session:
        assert session.allowed == "label"
        assert session.run(x).labels.shape == (1,)
        with pytest.raises(TaError) as caught:
            session.run(x, "full")
        assert caught.value.name == "OUTPUT_LIMIT"
        with pytest.raises(InputError, match="float64"):
            session.run(x.astype(np.float64))
        # A refusal ends neither the session nor the model.
        assert session.run(x).labels.shape == (1,)


def test_the_emulated_device_reached_as_a_board(
    device: Device, small: tuple[Bundle, list[np.ndarray]], tmp_path: Path
) -> None:
    """All of it over SSH alone: files are staged, the payload goes through the agent, nothing through the share."""
    if not isinstance(device, QemuDevice):
        pytest.skip("the target is a board already")
    bundle, weights = small
    instance = device.instance
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{instance.note.ssh_port} {instance.keys.host_public()}\n")
    target = f"ssh://root@127.0.0.1:{instance.note.ssh_port}?identity={instance.keys.client}&known_hosts={known}"
    x = np.ones((2, 320), np.float32)
    with connect(target) as board:
        assert board.public_key() == device.public_key()
        with board.load(bundle, issue(bundle, board.public_key(), output="full")) as session:
            answers = session.run(x, "full")
        assert board.place(b"x") is None
        assert board.run("cat /run/cloister/*/digest").text
    assert answers.outputs is not None
    np.testing.assert_allclose(next(iter(answers.outputs.values())), product(x, weights), atol=1e-4)
