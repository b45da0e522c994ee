# SPDX-License-Identifier: BSD-2-Clause
"""``cloister inspect``: what is in a model, bundle, licence or TA."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cloister.cli.common import Dim, human, show_facts, show_json, show_table
from cloister.cli.compile import pair_facts
from cloister.errors import FormatError
from cloister.seal.bundle import Bundle, TensorInfo
from cloister.seal.files import read_file
from cloister.seal.licence import Licence
from cloister.wire import C

EXAMPLE = """
\b
Examples:
  cloister inspect model.onnx
  cloister inspect model.clb --json
  cloister inspect model.lic
"""
DTYPES = {C.CL_DTYPE_F32: "float32", C.CL_DTYPE_I32: "int32", C.CL_DTYPE_I64: "int64", C.CL_DTYPE_U8: "uint8",
          C.CL_DTYPE_I8: "int8", C.CL_DTYPE_BOOL: "bool"}  # fmt: skip


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "dtype": DTYPES.get(info.dtype, "unknown"), "shape": list(info.shape)}


def _tensors(infos: list[dict[str, Any]]) -> str:
    return ", ".join(f"{i['name']} {i['dtype']}{i['shape']}" for i in infos)


def inspect_bundle(data: bytes, source: str) -> tuple[dict[str, Any], Callable[[], None]]:
    """Facts of a bundle, and a function that prints them."""
    bundle = Bundle.from_bytes(data, source)
    facts: dict[str, Any] = {
        "kind": "bundle",
        "model": bundle.name,
        "version": bundle.version,
        "cipher": bundle.cipher,
        "model_id": bundle.model_id.hex(),
        "content_key_id": bytes(bundle.header.content_key_id).hex(),
        "inputs": [_tensor(info) for info in bundle.inputs],
        "outputs": [_tensor(info) for info in bundle.outputs],
        "arena_bytes": bundle.arena_size,
        "partitions": [{"offset": o, "sealed_bytes": s, "plain_bytes": p} for o, s, p in bundle.partitions],
    }
    if bundle.is_pair:
        facts["taps"] = facts.pop("inputs")
        facts["inputs"] = [_tensor(info) for info in bundle.user_inputs]
        facts["backbone"] = backbone_facts(bundle)

    def show() -> None:
        shown = {**facts, "inputs": _tensors(facts["inputs"]), "outputs": _tensors(facts["outputs"]),
                 "arena_bytes": human(bundle.arena_size), "partitions": len(bundle.partitions)}  # fmt: skip
        if bundle.is_pair:
            shown |= {"taps": _tensors(facts["taps"]), **pair_facts(bundle)}
        show_facts(shown)
        rows = [[i, *p] for i, p in enumerate(bundle.partitions)]
        show_table("partitions", ["index", "offset", "sealed bytes", "plain bytes"], rows)

    return facts, show


def backbone_facts(bundle: Bundle) -> dict[str, Any]:
    """What runs in the normal world of a pair, in clear, and when the CPM needs what of it."""
    backbone = bundle.backbone
    return {
        "bytes": backbone.size,
        "sha256": hashlib.sha256(bundle.section).hexdigest(),
        "arena_bytes": backbone.arena_size,
        "partitions": [{"offset": offset, "plain_bytes": size} for offset, size in backbone.partitions],
        "taps": [
            {"name": info.name, "bytes": tap.size, "ready_after": tap.ready, "first_use": use}
            for info, tap, use in zip(bundle.inputs, backbone.taps, bundle.first_uses, strict=True)
        ],
    }


def inspect_licence(data: bytes, _source: str) -> tuple[dict[str, Any], Callable[[], None]]:
    """Facts of a licence (those in clear), and a function that prints them."""
    licence = Licence(data)
    facts: dict[str, Any] = {
        "kind": "licence",
        "licence_id": licence.licence_id.hex(),
        "model_id": licence.model_id.hex(),
        "device_id": licence.device_id.hex(),
        "password": licence.has_password,
        "sealed": "content key, limits and password: only the device can read them",
    }
    return facts, lambda: show_facts(facts)


def inspect_model(path: Path, dims: dict[str, int]) -> tuple[dict[str, Any], Callable[[], None]]:
    """Facts of an ONNX model, and a function that prints them; all that is not supported is listed, not raised."""
    from cloister.compile.survey import survey

    found = survey(path, dims=dims)
    facts: dict[str, Any] = {
        "kind": "model",
        "opset": found.opset,
        "inputs": found.inputs,
        "outputs": found.outputs,
        "parameters": found.parameters,
        "macs": found.macs,
        "operators": [
            {"operator": row.operator, "count": row.count, "supported": row.supported, "macs": row.macs}
            for row in found.operators
        ],
        "problems": [str(problem) for problem in found.problems],
        "notes": list(found.notes),
    }

    def show() -> None:
        show_facts({"model": path, "opset": found.opset, "inputs": _tensors(found.inputs),
                    "outputs": _tensors(found.outputs), "parameters": f"{found.parameters:,}",
                    "macs": f"{found.macs:,}" if found.macs is not None else "unknown"})  # fmt: skip
        show_table(
            "operators",
            ["operator", "count", "supported", "multiply-accumulates"],
            [[r.operator, r.count, "yes" if r.supported else "NO", r.macs] for r in found.operators],
        )
        for note in found.notes:
            click.echo(f"note: {note}")
        for problem in found.problems:
            click.secho(f"not supported: {problem}", fg="red")
        if not found.problems:
            click.echo("This model compiles.")

    return facts, show


def inspect_application(path: Path) -> tuple[dict[str, Any], Callable[[], None]]:
    """Facts of a built TA (ELF, or signed and not encrypted), and a function that prints them."""
    from cloister.compile.inspect_ta import inspect_ta

    report = inspect_ta(path)
    facts: dict[str, Any] = {
        "kind": "trusted application",
        "uuid": str(report.uuid),
        "session_bytes": report.memory_size,
        "code_bytes": report.code_size,
        "data_bytes": report.data_size,
        "stack_bytes": report.stack_size,
        "writable_executable": [hex(address) for address in report.writable_executable],
        "undefined": list(report.undefined),
    }

    def show() -> None:
        show_facts({name: human(value) if isinstance(value, int) else value or "none" for name, value in facts.items()})
        show_table("sections", ["section", "bytes"], report.sections)

    return facts, show


@click.command("inspect", epilog=EXAMPLE)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dim", "dims", type=Dim(), multiple=True, metavar="NAME=N", help="Fix a model's free dimension.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_(file: Path, dims: tuple[tuple[str, int], ...], as_json: bool) -> None:
    """Show what is in FILE: an ONNX model (are all of its operators supported?), a bundle, a licence, or a built TA."""
    data = read_file(file, "file", 1 << 34)
    if data[:4] == C.CL_MAGIC_BUNDLE.to_bytes(4, "little"):
        facts, show = inspect_bundle(data, str(file))
    elif data[:4] == C.CL_MAGIC_LICENCE.to_bytes(4, "little"):
        facts, show = inspect_licence(data, str(file))
    elif data[:4] in (b"\x7fELF", b"HSTO"):
        facts, show = inspect_application(file)
    elif file.suffix == ".onnx" or data[:1] == b"\x08":  # field 1 of a ModelProto, its IR version
        facts, show = inspect_model(file, dict(dims))
    else:
        raise FormatError(f"{file} is no ONNX model, bundle, licence or TA", "give one of these files")
    if as_json:
        show_json(facts)
    else:
        show()
