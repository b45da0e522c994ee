# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister.zoo``: whole networks within a budget of secure memory, held against onnxruntime.

This is the long suite: VGG-19 alone moves 574 MB through the TA. `build/test` runs small networks that are cut in the
same ways (tests/qemu/test_plan_ta.py).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from cloister.cli.common import Size, human
from cloister.compile import CompiledModel, compile_onnx
from cloister.compile.arrange import MemoryBudgetError
from cloister.compile.memory import TA_OWN, reside
from cloister.tensors import Array
from cloister.zoo import NETWORKS, light_model, random_input

#: Largest error, as a part of the range of onnxruntime's scores.
TOLERANCE = 1e-4


def expected(model: onnx.ModelProto, inputs: dict[str, Any]) -> Array:
    """onnxruntime's first output as one row."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0]).ravel()


def run_in_ta(
    device: Any, compiled: CompiledModel, name: str, inputs: dict[str, Any], memory: int
) -> tuple[Array, str]:
    """The first output as the TA on a connected device computes it in ``memory``; and what the TA says it used."""
    from cloister.seal import VendorKey, issue_licence, seal_bundle
    from cloister.seal.ciphers import AUTO, choose

    vendor = VendorKey.load()
    record = device.record()
    bundle, key = seal_bundle(compiled, vendor, name=f"zoo-{name}", cipher=choose(AUTO, [record.ciphers]))
    licence = issue_licence(bundle, key, record.public_key, vendor, output="full")
    with device.load(bundle, licence, memory=memory - TA_OWN) as session:
        answers = session.run(inputs, output="full")
        usage = session.usage()
    told = f"TA peak {human(usage.peak_bytes)}, decrypted {human(usage.bytes_decrypted)}"
    return np.asarray(next(iter(answers.outputs.values()))).ravel(), f"{told}, {answers.mode}"


def check(name: str, memory: int, device: Any, path: Path | None) -> bool:
    """Runs one network and prints a line; whether it fits and agrees."""
    model = onnx.load(str(path)) if path else light_model(name)
    inputs = random_input(model)
    wanted = expected(model, inputs)
    begin = time.monotonic()
    try:
        compiled = compile_onnx(model, secure_memory=memory)
    except MemoryBudgetError as error:
        click.echo(f"{name}: does not fit into {human(memory)}; the smallest is {human(error.smallest)}")
        return False
    made = time.monotonic()
    del model
    sizes = [len(part) for part in compiled.partitions]
    lies = reside(compiled.arena_size, sizes, len(compiled.inputs) + len(compiled.outputs), memory)
    assert lies is not None
    if device is None:
        from cloister.native import NativeEngine

        got = next(iter(NativeEngine().run(compiled, inputs).values())).ravel()
        told = "native"
    else:
        got, told = run_in_ta(device, compiled, name, inputs, memory)
    done = time.monotonic()
    error_size = float(abs(got - wanted).max() / np.ptp(wanted))
    top = bool((np.argsort(-got, kind="stable")[:5] == np.argsort(-wanted, kind="stable")[:5]).all())
    bound = compiled.report.arena_bound
    click.echo(
        f"{name}: error {error_size:.2g} of the range, top-5 {'same' if top else 'DIFFERENT'}; "
        f"peak/bound {compiled.arena_size / bound:.3f} ({human(compiled.arena_size)}); {len(sizes)} partitions, "
        f"{human(sum(sizes))}, streamed {human(lies.streamed)}, used {human(lies.used)}; {told}; "
        f"compiled in {made - begin:.0f} s, run in {done - made:.0f} s"
    )
    return top and error_size <= TOLERANCE


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(NETWORKS)))
@click.option("--secure-memory", type=Size(), default=8 << 20, show_default="8MiB", help="For the whole session.")
@click.option("--target", help="Run in the TA of this device: qemu, qemu:NAME, ssh://... [default: natively].")
@click.option("--models", type=click.Path(path_type=Path), help="Take NAME.onnx from here instead of making weights.")
def main(names: tuple[str, ...], secure_memory: int, target: str | None, models: Path | None) -> None:
    """Run the ONNX package's light networks (all nine by default) and compare them with onnxruntime."""
    chosen = names or tuple(NETWORKS)
    good = []
    if target is None:
        good = [check(name, secure_memory, None, _file(models, name)) for name in chosen]
    else:
        from cloister.device import connect

        with connect(target) as device:
            good = [check(name, secure_memory, device, _file(models, name)) for name in chosen]
    sys.exit(0 if all(good) else 1)


def _file(models: Path | None, name: str) -> Path | None:
    return models / f"{name}.onnx" if models else None


if __name__ == "__main__":
    main()
