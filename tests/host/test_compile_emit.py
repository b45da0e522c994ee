# SPDX-License-Identifier: BSD-2-Clause
"""Partitions: their bytes, their sizes, and that cutting changes no answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_matches, build, engine, floats, node

from cloister.compile import CompiledModel, compile_onnx
from cloister.compile.lowering import STRUCTS
from cloister.compile.partition import PartitionError
from cloister.native import EngineError, NativeEngine
from cloister.wire import C, ffi, unpack

BY_NUMBER = {getattr(C, f"CL_KERNEL_{name}"): struct for name, struct in STRUCTS.items()}


def network() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w1 b1", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w2 b2", "c", pads=[1, 1, 1, 1]),
        node("Add", "b c", "d"),
        node("MaxPool", "d", "e", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "e", "f"),
        node("Gemm", "f w3 b3", "g", transB=1),
        node("Softmax", "g", "y"),
    ]
    constants = {
        "w1": floats(16, 3, 3, 3), "b1": floats(16), "w2": floats(16, 16, 3, 3), "b2": floats(16),
        "w3": floats(10, 256), "b3": floats(10),
    }  # fmt: skip
    return build(nodes, {"x": [1, 3, 8, 8]}, ["y"], constants)


def test_the_header_and_every_record_agree_with_the_bytes() -> None:
    compiled = compile_onnx(network(), partitions=3)
    count = 0
    for data in compiled.partitions:
        header = unpack("struct cl_partition", data)
        assert header.magic == C.CL_MAGIC_PARTITION
        assert header.total_size == len(data) == header.weights_offset + header.weights_size
        assert header.weights_offset % C.CL_ALIGN == 0
        assert header.arena_size == compiled.arena_size
        position = header.ops_offset
        for _ in range(header.op_count):
            op = unpack("struct cl_op", data, position)
            struct = BY_NUMBER[op.kernel]
            assert op.size == ffi.sizeof(struct)
            record = unpack(struct, data, position)
            for name, field in ffi.typeof(struct).fields:
                if field.type is ffi.typeof("struct cl_ref"):
                    ref = getattr(record, name)
                    end = {C.CL_SPACE_NONE: 0, C.CL_SPACE_ARENA: compiled.arena_size,
                           C.CL_SPACE_WEIGHTS: header.weights_size}[ref.space]  # fmt: skip
                    assert ref.offset % 8 == 0
                    assert ref.offset + ref.size <= end
            position += op.size
            count += 1
        assert position == header.ops_offset + header.ops_size
        engine().check(data, compiled.arena_size)
    assert count == len(compiled.report.rows)


def test_the_same_model_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(network().SerializeToString())
    script = (
        "import hashlib, sys; from cloister.compile import compile_onnx; "
        "print(hashlib.sha256(b''.join(compile_onnx(sys.argv[1], partitions=3).partitions)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


@pytest.mark.parametrize("limit", [1, 5000, 12000, 1 << 20])
def test_partitions_keep_the_limit_unless_one_kernel_exceeds_it(limit: int) -> None:
    compiled = compile_onnx(network(), max_partition=limit)
    for data in compiled.partitions:
        assert len(data) <= limit or unpack("struct cl_partition", data).op_count == 1


@pytest.mark.parametrize(
    ("nodes", "shape", "constants"),
    [
        ([node("Gemm", "x w b", "g"), node("Relu", "g", "y")], (1, 50), {"w": floats(50, 101), "b": floats(101)}),
        ([node("Gemm", "x w b", "g"), node("Relu", "g", "y")], (5, 50), {"w": floats(50, 101), "b": floats(101)}),
        ([node("Gemm", "x w b", "y", alpha=0.5)], (5, 50), {"w": floats(50, 96), "b": floats(5, 96)}),
        ([node("MatMul", "x w", "g"), node("Tanh", "g", "y")], (2, 3, 50), {"w": floats(50, 101)}),
        (
            [node("Conv", "x w b", "g"), node("Relu", "g", "y")],
            (2, 3, 7, 6),
            {"w": floats(50, 3, 3, 3), "b": floats(50)},
        ),
        (
            [node("Conv", "x w b", "g"), node("Relu", "g", "y")],
            (1, 9, 5, 4),
            {"w": floats(50, 9, 5, 4), "b": floats(50)},
        ),
        ([node("Conv", "x w", "y")], (2, 3, 17), {"w": floats(70, 3, 9)}),
    ],
)
def test_weights_larger_than_a_partition_are_split(
    nodes: list[onnx.NodeProto], shape: tuple[int, ...], constants: dict[str, Any]
) -> None:
    model = build(nodes, {"x": list(shape)}, ["y"], constants)
    assert len(compile_onnx(model).partitions) == 1
    compiled = assert_matches(model, {"x": floats(*shape, seed=1)}, max_partition=4096)
    assert len(compiled.partitions) > 2
    if model.graph.node[0].op_type != "Conv" or shape[1] == 3:
        assert max(map(len, compiled.partitions)) <= 4096
    assert compiled.report.macs == compile_onnx(model).report.macs


@pytest.mark.parametrize("count", range(1, 8))
def test_any_number_of_partitions_gives_the_same_answer(count: int) -> None:
    x = floats(1, 3, 8, 8)
    whole = engine().run(compile_onnx(network()), x)["y"]
    compiled = compile_onnx(network(), partitions=count)
    assert len(compiled.partitions) == count
    np.testing.assert_array_equal(engine().run(compiled, x)["y"], whole)


@pytest.mark.parametrize("count", [0, -1, 100])
def test_impossible_numbers_of_partitions_are_refused(count: int) -> None:
    with pytest.raises(PartitionError):
        compile_onnx(network(), partitions=count)


def test_equal_weights_are_stored_once() -> None:
    weights = floats(64, 64)
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a v", "y")]
    twice = compile_onnx(build(nodes, {"x": [1, 64]}, ["y"], {"w": weights, "v": weights.copy()}))
    assert len(twice.partitions[0]) < 1.2 * weights.nbytes
    other = compile_onnx(build(nodes, {"x": [1, 64]}, ["y"], {"w": weights, "v": weights + 1}))
    assert len(other.partitions[0]) > 2 * weights.nbytes


def test_the_report_adds_up() -> None:
    compiled = compile_onnx(network(), partitions=3)
    report = compiled.report
    assert report.macs == 64 * 16 * 27 + 64 * 16 * 144 + 2560
    assert sum(row.macs for row in report.rows) == report.macs
    assert report.partition_sizes == [len(data) for data in compiled.partitions]
    assert {row.partition for row in report.rows} == {0, 1, 2}
    assert report.arena_peak == compiled.arena_size >= report.arena_bound


def test_progress_counts_up_to_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    compile_onnx(network(), partitions=3, progress=lambda *step: told.append(step))
    assert [step for step, _, _ in dict.fromkeys((s, 0, 0) for s, _, _ in told)] == ["import", "lower", "plan", "emit"]
    assert told[-1] == ("emit", 3, 3)
    assert all(done <= total for _, done, total in told)


def _spoil(compiled: CompiledModel, position: int) -> CompiledModel:
    data = bytearray(compiled.partitions[0])
    data[position] ^= 0xFF
    return CompiledModel([bytes(data)], compiled.inputs, compiled.outputs, compiled.arena_size, compiled.report)


def test_the_native_engine_refuses_a_spoiled_partition_and_says_where() -> None:
    compiled = compile_onnx(network())
    x = floats(1, 3, 8, 8)
    with pytest.raises(EngineError, match="CL_BAD_FORMAT at header"):
        engine().run(_spoil(compiled, 0), x)
    with pytest.raises(EngineError, match="CL_BAD_KERNEL at kernel 0"):
        engine().run(_spoil(compiled, ffi.sizeof("struct cl_partition")), x)


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOISTER_ENGINE", str(tmp_path / "none.so"))
    with pytest.raises(EngineError, match=r"none\.so"):
        NativeEngine()
