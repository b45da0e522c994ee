# SPDX-License-Identifier: BSD-2-Clause
"""From an ONNX model to the files that the device needs to run it in each place."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from cloister.compile import CompiledModel, compile_onnx
from cloister.password import Password
from cloister.seal import VendorKey, issue_licence, seal_bundle
from cloister_bench.errors import BenchError

#: One name for all models: a device remembers the highest version of each name for ever.
MODEL_NAME = "benchmark"
ALIGN = 64
Array = npt.NDArray[Any]


@dataclass
class Workload:
    """A model, compiled, and its inputs.

    Attributes:
        name: as the tables show it.
        directory: on the device, below the input directory.
        precision: `int8` for models with quantised tensors, else `fp32`.
        cipher: what it is sealed with; "": the fastest that the device has.
        choices: arguments that it was compiled with.
        password: what its licence carries.
        compiled: None where Cloister does not support the model yet; `refusal` then says why.
    """

    name: str
    directory: str
    model: onnx.ModelProto
    precision: str
    inputs: dict[str, Array] = field(repr=False)
    compiled: CompiledModel | None = None
    refusal: str = ""
    cipher: str = ""
    choices: dict[str, Any] = field(default_factory=dict)
    password: Password | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self.compiled.report.macs if self.compiled else 0

    @property
    def needed(self) -> int:
        """Bytes with which everything is resident."""
        assert self.compiled is not None
        sizes = [self.compiled.arena_size, *map(len, self.compiled.partitions)]
        return sum(-(-size // ALIGN) * ALIGN for size in sizes)

    def files(self, device_key: bytes, vendor: VendorKey, with_onnx: bool, cipher: str) -> dict[str, bytes]:
        """All that the device needs, by path below the input directory; `cipher` is the fastest that it has."""
        made: dict[str, bytes] = {"inputs": b"".join(np.ascontiguousarray(a).tobytes() for a in self.inputs.values())}
        if self.compiled is not None:
            bundle, content_key = seal_bundle(self.compiled, vendor, name=MODEL_NAME, cipher=self.cipher or cipher)
            licence = issue_licence(bundle, content_key, device_key, vendor, output="full", password=self.password)
            table, partitions = plain_files(self.compiled)
            made |= {"manifest": bundle.manifest, "payload": bundle.payload, "licence": licence.data}
            made |= {"table": table.encode(), "partitions": partitions}
        if with_onnx:
            archive = io.BytesIO()
            np.savez(archive, **self.inputs)  # type: ignore[arg-type]
            made |= {"model.onnx": self.model.SerializeToString(), "inputs.npz": archive.getvalue()}
        return {f"{self.directory}/{name}": data for name, data in made.items()}


def plain_files(compiled: CompiledModel) -> tuple[str, bytes]:
    """The table and the partitions that the client's job `normal` reads."""
    lines = [f"arena 0 {compiled.arena_size}"]
    lines += [f"input {info.offset} {info.size}" for info in compiled.inputs]
    lines += [f"output {info.offset} {info.size}" for info in compiled.outputs]
    data = bytearray()
    for plain in compiled.partitions:
        lines.append(f"partition {len(data)} {len(plain)}")
        data += plain
        data += bytes(-len(data) % ALIGN)
    return "\n".join(lines) + "\n", bytes(data)


def precision_of(model: onnx.ModelProto) -> str:
    """`int8` where tensors are quantised."""
    return "int8" if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else "fp32"


def random_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Standard normal inputs, the same each time; free dimensions are 1.

    Raises:
        BenchError: an input is no float32 tensor.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if kind != np.float32:
            raise BenchError(f"input {value.name!r} has the type {kind}", "only float32 inputs are measured")
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        random = np.random.default_rng([len(inputs), *shape])
        inputs[value.name] = random.standard_normal(shape).astype(np.float32)
    return inputs


def prepare(
    name: str, directory: str, model: onnx.ModelProto | Path, *, optional: bool = False, **choices: Any
) -> Workload:
    """Compile a model.

    Args:
        optional: a model that is not supported is no error; its `compiled` is None.
        choices: arguments of :func:`cloister.compile.compile_onnx`.

    Raises:
        CloisterError: the model is not supported.
    """
    from cloister.errors import CloisterError

    loaded = onnx.load(model) if isinstance(model, Path) else model
    work = Workload(name, directory, loaded, precision_of(loaded), random_inputs(loaded), choices=choices)
    try:
        work.compiled = compile_onnx(loaded, **choices)
    except CloisterError as error:
        if not optional:
            raise
        work.refusal = error.message.splitlines()[0]
    return work
