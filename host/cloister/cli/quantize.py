# SPDX-License-Identifier: BSD-2-Clause
"""``cloister quantize``: an 8-bit model from an fp32 model and sample inputs."""

from __future__ import annotations

from pathlib import Path

import click
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from rich.console import Console

from cloister.api import quantize as make
from cloister.cli.common import NewFile, human, keep_apart, show_facts
from cloister.quantization import METHODS

EXAMPLE = """
\b
Examples:
  cloister quantize model.onnx --samples images.npy -o model_int8.onnx
  cloister quantize model.onnx --samples inputs.npz -o model_int8.onnx --per-channel --method entropy
  cloister quantize locked.onnx --password password.pwd --samples images.npy -o locked_int8.onnx
"""


def _is_model(path: Path) -> bool:
    try:
        return bool(onnx.load(path, load_external_data=False).graph.node)
    except DecodeError:
        return False


def _beside(model: Path) -> list[Path]:
    """The files with weights of a model that keeps them outside of its own; a file that is no model has none."""
    try:
        tensors = onnx.load(model, load_external_data=False).graph.initializer
    except (DecodeError, OSError):
        return []
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [model.parent / place for place in sorted(places)]


@click.command(epilog=EXAMPLE)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    required=True,
    help="Typical inputs, a leading axis of samples: .npy for one input, .npz by input name.",
)
@click.option("-o", "output", type=NewFile("ONNX file", _is_model), required=True, help="ONNX file to write.")
@click.option("--per-channel", is_flag=True, help="A scale for each output channel of the weights: more accurate.")
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="minmax",
    show_default=True,
    help="How the range of a tensor follows from what the samples show.",
)
@click.option(
    "--password",
    type=click.Path(path_type=Path),
    help="MODEL is locked, and this is its password (.pwd): ranges are measured with it, the result is locked too.",
)
def quantize(model: Path, samples: Path, output: Path, per_channel: bool, method: str, password: Path | None) -> None:
    """Quantise the fp32 ONNX file MODEL to 8 bits, as standard ONNX (QuantizeLinear and DequantizeLinear).

    The result is compiled like any other model, and runs on 8-bit integers.
    """
    keep_apart(output, model, samples, *([password] if password else ()), *_beside(model))
    with Console(stderr=True).status(f"quantising {model}"):
        report = make(model, samples, output, per_channel=per_channel, method=method, password=password)
    facts: dict[str, object] = {
        "model": f"{output} ({human(report.int8_bytes)}, before {human(report.fp32_bytes)})",
        "samples": report.samples,
        "same label": f"{report.same_label:.2%}",
        "largest error": f"{report.largest_error:.4g} of a range of {report.output_range:.4g}",
        "signal to noise": f"{report.signal_to_noise:.1f} dB",
    }
    show_facts(facts)
