# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister.zoo``: whole networks within a budget of secure memory, held against onnxruntime.

This is the long suite: VGG-19 alone moves 574 MB through the TA. `build/test` runs small networks that are cut in the
same ways (tests/qemu/test_plan_ta.py).
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import numpy_helper

from cloister.cli.common import Size, human
from cloister.compile import CompiledModel, compile_onnx
from cloister.compile.arrange import MemoryBudgetError
from cloister.compile.memory import TA_OWN, reside
from cloister.errors import CloisterError
from cloister.tensors import Array
from cloister.zoo import NETWORKS, light_model, random_input
from cloister.zoo.table import Result, write


def expected(model: onnx.ModelProto, inputs: dict[str, Any]) -> Array:
    """onnxruntime's first output as one row."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0]).ravel()


def run_in_ta(
    device: Any, compiled: CompiledModel, name: str, inputs: dict[str, Any], memory: int
) -> tuple[Array, Any]:
    """The first output as the TA on a connected device computes it in ``memory``; and what the TA says it used."""
    from cloister.seal import VendorKey, issue_licence, seal_bundle

    vendor = VendorKey.load()
    bundle, key = seal_bundle(compiled, vendor, name=f"zoo-{name}")
    licence = issue_licence(bundle, key, device.public_key(), vendor, output="full")
    with device.load(bundle, licence, memory=memory - TA_OWN) as session:
        answers = session.run(inputs, output="full")
        usage = session.usage()
    return np.asarray(next(iter(answers.outputs.values()))).ravel(), usage


def check(name: str, memory: int, device: Any, path: Path | None) -> Result | None:
    """Runs one network; None where it does not fit.

    Raises:
        CloisterError: the TA used other amounts of memory or of bytes than planned.
    """
    model = onnx.load(str(path)) if path else light_model(name)
    inputs = random_input(model)
    wanted = expected(model, inputs)
    begin = time.monotonic()
    try:
        compiled = compile_onnx(model, secure_memory=memory)
    except MemoryBudgetError as error:
        click.echo(f"{name}: {error}")
        return None
    made = time.monotonic()
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    del model
    sizes = [len(part) for part in compiled.partitions]
    ios = len(compiled.inputs) + len(compiled.outputs)
    lies = reside(compiled.arena_size, sizes, ios, memory, len(compiled.layers))
    assert lies is not None
    peak = None
    if device is None:
        from cloister.native import NativeEngine

        got = next(iter(NativeEngine().run(compiled, inputs).values())).ravel()
    else:
        got, usage = run_in_ta(device, compiled, name, inputs, memory)
        peak = usage.peak_bytes + TA_OWN
        if (usage.peak_bytes, usage.bytes_decrypted) != (lies.loaded, sum(sizes)):
            raise CloisterError(
                f"{name}: the TA took {usage.peak_bytes} bytes and decrypted {usage.bytes_decrypted}; "
                f"planned were {lies.loaded} and {sum(sizes)}",
                "report this as a bug",
            )
    done = time.monotonic()
    return Result(
        name,
        weights=weights,
        shipped=sum(sizes),
        partitions=len(sizes),
        streamed=lies.streamed,
        arena=compiled.arena_size,
        bound=compiled.report.arena_bound,
        peak=peak,
        error=float(abs(got - wanted).max() / np.ptp(wanted)),
        same_top5=bool((np.argsort(-got, kind="stable")[:5] == np.argsort(-wanted, kind="stable")[:5]).all()),
        seconds=(made - begin, done - made),
    )


def show(result: Result) -> None:
    """Prints what came of a network."""
    made, run = result.seconds
    peak = "natively" if result.peak is None else f"TA peak {human(result.peak)}"
    click.echo(
        f"{result.name}: error {result.error:.2g} of the range, top-5 {'same' if result.same_top5 else 'DIFFERENT'}; "
        f"peak/bound {result.arena / result.bound:.3f} ({human(result.arena)}); {result.partitions} partitions, "
        f"{human(result.shipped)}, streamed {human(result.streamed)}; {peak}; "
        f"compiled in {made:.0f} s, run in {run:.0f} s"
    )


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(NETWORKS)))
@click.option("--secure-memory", type=Size(), default=8 << 20, show_default="8MiB", help="For the whole session.")
@click.option("--target", help="Run in the TA of this device: qemu, qemu:NAME, ssh://... [default: natively].")
@click.option("--models", type=click.Path(path_type=Path), help="Take NAME.onnx from here instead of making weights.")
@click.option(
    "--write", "page", type=click.Path(path_type=Path, exists=True), help="Put the figures into this page's table."
)
def main(
    names: tuple[str, ...], secure_memory: int, target: str | None, models: Path | None, page: Path | None
) -> None:
    """Run the ONNX package's light networks (all nine by default) and compare them with onnxruntime."""
    chosen = names or tuple(NETWORKS)
    with ExitStack() as stack:
        device = None
        if target is not None:
            from cloister.device import connect

            device = stack.enter_context(connect(target))
        good = True
        for name in chosen:
            result = check(name, secure_memory, device, models / f"{name}.onnx" if models else None)
            good = good and result is not None and result.good
            if result is not None:
                show(result)
                if page:
                    write(page, [result])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
