# SPDX-License-Identifier: BSD-2-Clause
"""``cloister plan``: whether and how a model fits into secure memory, before anything is deployed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cloister.cli.common import SVG, Dim, NewFile, Size, compile_progress, human, show_facts, show_json
from cloister.estimate.instructions import WITH_CRYPTO, WITHOUT_CRYPTO, Extrapolation, Instructions, constants
from cloister.estimate.pair import Prediction, predict
from cloister.estimate.plan import MemoryPlan, NormalWorld, plan_model
from cloister.seal.ciphers import SUITES

EXAMPLE = """
\b
Examples:
  cloister plan model.onnx --secure-memory 8MiB
  cloister plan model.onnx --secure-memory 8MiB --compiled-for 4MiB   # a bundle made for less
  cloister plan cpm.onnx --backbone backbone.onnx --victim model.onnx --secure-memory 2MiB   # what protection adds
  cloister plan model.onnx --secure-memory 8MiB --picture memory.svg --json
"""


@click.command(epilog=EXAMPLE)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--backbone",
    type=click.Path(path_type=Path),
    help="MODEL is the CPM of a pair, and this its backbone, which needs no secure memory.",
)
@click.option(
    "--victim",
    type=click.Path(path_type=Path),
    help="The unprotected model: tell what protection adds to it, both worlds and the boundary counted.",
)
@click.option("--secure-memory", type=Size(), required=True, help="What a session in OP-TEE may take, all included.")
@click.option("--compiled-for", type=Size(), help="What the bundle is compiled for [default: the same].")
@click.option("--dim", "dims", type=Dim(), multiple=True, metavar="NAME=N", help="Fix a free dimension (repeatable).")
@click.option("--max-partition", type=Size(), help="Most bytes of one partition [default: chosen].")
@click.option("--cipher", type=click.Choice(tuple(SUITES)), help="What it is sealed with [default: not known].")
@click.option("--smallest", is_flag=True, help="Also search for the smallest memory that is enough.")
@click.option("--picture", type=NewFile("SVG picture", SVG), help="Write memory over time to this SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    model: Path, backbone: Path | None, victim: Path | None, secure_memory: int, compiled_for: int | None,
    dims: tuple[tuple[str, int], ...], max_partition: int | None, cipher: str | None, smallest: bool,
    picture: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Tell whether and how the ONNX file MODEL fits into secure memory.

    Nothing is compiled or written. Exit status: 0 it fits, 1 it does not.
    """
    if victim is not None and dims:
        raise click.UsageError("--victim takes files without free dimensions: export all of them with fixed ones")
    with compile_progress(f"planning {model}") as progress:
        found = plan_model(
            model, secure_memory, backbone=backbone, dims=dict(dims), max_partition=max_partition,
            compiled_for=compiled_for, smallest=smallest, cipher=cipher, progress=progress,
        )  # fmt: skip
    if picture and found.fits:
        from cloister.estimate.picture import save_picture

        save_picture(found, f"{model.name} in {human(secure_memory)}", picture)
    added = None
    if victim is not None and found.fits:
        added = predict(victim, model, backbone, budget=secure_memory, cipher=cipher or WITH_CRYPTO)
    if as_json:
        show_json(found.as_json() | ({} if added is None else {"protected": added.as_json()}))
    else:
        show_facts(facts(found, picture) | ({} if added is None else added_facts(added)))
    if not found.fits:
        sys.exit(1)


def facts(found: MemoryPlan, picture: Path | None) -> dict[str, object]:
    """The plan in words."""
    if not found.fits or found.instructions is None or found.instructions_without_crypto is None:
        assert found.smallest is not None
        least = f"{human(found.smallest)} ({found.smallest} bytes)"
        return {"fits": f"no, not into {human(found.budget)}", "smallest memory": least}
    bands = f"; runs of kernels in bands of rows: {found.regions}" if found.regions else ""
    shown: dict[str, object] = {
        "fits": f"yes, {human(found.used)} of {human(found.budget)}",
        "the TA itself": f"{human(found.own)}, manifest and table {human(found.table)}",
        "activations": f"{human(found.arena)}; lower bound {human(found.bound)}, ratio {found.ratio:.3f}{bands}",
        "partitions": f"{found.partitions}, the largest {human(found.largest)}, together {human(found.weights)}",
        "resident": f"{found.resident} partitions, {human(found.resident_bytes)}",
        "streamed": f"{human(found.streamed)} ({found.streamed} bytes) at each inference, sealed with {WITH_CRYPTO}",
        "multiply-accumulates": f"{found.macs:,}",
        # nanoseconds where the constants are of a board
        str(constants()["unit"]): _told(found.instructions),
        "estimate": trust(found.instructions),
        "without crypto": f"{found.instructions_without_crypto.total:,.0f} on a processor without AES instructions, "
        f"sealed with {WITHOUT_CRYPTO}",
    }
    if found.backbone is not None:
        shown |= backbone_facts(found.backbone)
    if found.smallest is not None:
        shown["smallest memory"] = f"{human(found.smallest)} ({found.smallest} bytes)"
    if picture:
        shown["picture"] = picture
    return shown


def added_facts(found: Prediction) -> dict[str, object]:
    """What protection adds to an inference."""
    parts = f"normal world {found.normal_world:,.0f}, TA {found.secure_world:,.0f}, boundary {found.boundary:,.0f}"
    return {
        "unprotected": f"{found.unprotected:,.0f} {found.unit}",
        "protected": f"{found.total:,.0f}: {parts}",
        "added": f"{100 * found.overhead:+.2f} %, within about {100 * found.error:.1f} % of the whole",
        "crossings": f"{found.crossings} for each inference, {human(found.bytes_in)} into the TA",
    }


def backbone_facts(normal: NormalWorld) -> dict[str, object]:
    """What runs in the normal world of a pair, and what crosses; all other figures are the CPM's."""
    taps = ", ".join(f"{name} {human(size)}" for name, size in normal.taps.items())
    crossing = f"{human(sum(normal.taps.values()))} for each inference"
    return {
        "normal world": f"weights {human(normal.weights)}, activations {human(normal.arena)}, "
        f"{normal.macs:,} multiply-accumulates",
        "taps": f"{taps}: {crossing}, at once or in {normal.stages} stages",
    }


def _told(count: Instructions) -> str:
    parts = f"{count.compute:,.0f} compute, {count.decrypt:,.0f} decryption, {count.boundary:,.0f} boundary"
    return f"about {count.total:,.0f}: {parts}"


def trust(count: Instructions) -> str:
    """How far the estimate can be trusted: its error as the calibration tells it, and what it could not know."""
    text = f"within about {100 * count.error:.0f} %, as the calibration tells"
    if not count.extrapolations:
        return f"{text}; every kernel is of a size that was measured"
    parts = sorted(count.extrapolations, key=lambda part: -part.cost)[:3]
    more = len(count.extrapolations) - len(parts)
    listed = "; ".join(_outside(part, count.total) for part in parts) + (f"; {more} more" if more else "")
    return f"{text}, but EXTRAPOLATED for {100 * count.extrapolated:.1f} % of the total: {listed}"


def _outside(part: Extrapolation, total: float) -> str:
    share = f"{100 * part.cost / total:.1f} %"
    if not part.size:
        return f"{part.kind} was not measured ({share})"
    return f"{part.kind} with {part.size} {part.value:g}, measured from {part.low:g} to {part.high:g} ({share})"
