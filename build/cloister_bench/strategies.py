# SPDX-License-Identifier: BSD-2-Clause
"""Strategies that the emulator's predictions are held against: varied, untrained, none of them in the calibration.

Half are chosen so that each kind of backbone, monitor, tap and precision occurs, on each network; half are drawn from
the generator's own space, so that nobody chose them. What a strategy takes does not depend on what its weights have
learned, but in 8 bits it may on their distribution: these are drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cloister.errors import CloisterError
from cloister.estimate.pair import Prediction, predict
from cloister.protect.strategy import Strategy
from cloister_bench.errors import BenchError
from cloister_build.paths import REPO, cache_dir

#: Channels, height and width of each network's images.
SHAPES = {"digits": (1, 8, 8), "lenet5": (1, 28, 28), "vgg7": (3, 32, 32), "resnet20": (3, 32, 32)}
CLASSES = 10
#: Strategies that are drawn for each network, and the seed.
DRAWN, SEED = 5, 5
#: What the exported files depend on.
_EXPORTS = ("protect/mirror/*.py", "protect/training/*.py", "protect/automatic/costs.py", "quantization.py")


@dataclass(frozen=True)
class Case:
    """One strategy on one network.

    Attributes:
        network: of ``cloister.protect.training``.
        strategy: what is done with it.
        budget: secure memory of the session, as a share of what it takes without a budget; None: no budget.
        drawn: it was not chosen.
    """

    network: str
    strategy: Strategy
    budget: float | None = None
    drawn: bool = False

    @property
    def name(self) -> str:
        """As tables show it; no two cases of a list have the same."""
        limit = "" if self.budget is None else f", {100 * self.budget:.0f} % of its memory"
        return f"{self.network}: {self.strategy}{limit}"


def _mirror(network: str, taps: str, backbone: str = "tampered", **choices: Any) -> Case:
    return Case(network, Strategy(taps=tuple(taps.split()), backbone=backbone, **choices))  # type: ignore[arg-type]


_EIGHT: dict[str, Any] = {"precision": "int8"}
_CHOSEN = (
    _mirror("digits", "2", cpm_width=4, cpm_depth=0, head="average"),
    _mirror("digits", "image 5 logits", cpm_width=8, cpm_depth=1, operator="conv1x1", pool=2),
    _mirror("digits", "6 9", "truncated", tail="short", cpm_width=16, merge="concat", **_EIGHT),
    _mirror("digits", "image", "random", tail="short", cpm_width=16, cpm_depth=2),
    Case("digits", Strategy(kind="whole", precision="int8")),
    _mirror("lenet5", "3", cpm_width=8, cpm_depth=0, pool=2, channels=0.5),
    _mirror("lenet5", "2 6 10", "trained", cpm_width=4, cpm_depth=2, operator="separable", pool=4, pool_kind="max"),
    _mirror("lenet5", "7 12", "random", tail="short", backbone_width=0.5, cpm_width=8, merge="concat", **_EIGHT),
    Case("lenet5", Strategy(kind="whole")),
    _mirror("vgg7", "13", cpm_width=16, cpm_depth=1, pool=2, **_EIGHT),
    _mirror("vgg7", "6 13 20", "truncated", tail="short", cpm_width=8, operator="conv1x1", pool=4, channels=0.5),
    _mirror("vgg7", "2 9 16 23", "random", tail="short", backbone_width=0.5, cpm_width=32, operator="separable"),
    _mirror("vgg7", "image 20", "tampered", cpm_width=16, cpm_depth=2, merge="concat", pool=2, head="average"),
    _mirror("vgg7", "logits", cpm_width=32, cpm_depth=2, **_EIGHT),
    Case("vgg7", Strategy(kind="whole"), budget=0.6),
    _mirror("resnet20", "5.relu", cpm_width=8, cpm_depth=0, pool=8, channels=0.25),
    _mirror("resnet20", "5.relu 8.relu 11.relu", cpm_width=8, cpm_depth=1, pool=2, **_EIGHT),
    _mirror("resnet20", "2 7.relu", "truncated", tail="short", cpm_width=32, cpm_depth=1, pool=4, pool_kind="max"),
    _mirror("resnet20", "8.relu 12", "random", tail="short", backbone_width=0.25, cpm_width=16, operator="separable"),
    _mirror("resnet20", "image 11.relu", "trained", cpm_width=16, cpm_depth=2, pool=4, merge="concat", **_EIGHT),
    Case("resnet20", Strategy(kind="whole", precision="int8"), budget=0.7),
)  # fmt: skip
#: A few for tests and --quick: both precisions, one tap and several, a whole model.
_QUICK = (0, 5, 2, 4)


def cases(quick: bool = False) -> list[Case]:
    """All that are measured.

    Raises:
        BenchError: the extra `train` is not installed.
    """
    _check()
    if quick:
        return [_CHOSEN[index] for index in _QUICK]
    return [*_CHOSEN, *(case for network in SHAPES for case in _drawn(network))]


def built_files() -> Path:
    """A folder for exported strategies, which a later run takes as long as what exports them is the same."""
    _check()
    import torch

    found = hashlib.sha256(torch.__version__.encode())
    for path in sorted(path for place in _EXPORTS for path in (REPO / "host" / "cloister").glob(place)):
        found.update(path.read_bytes())
    return cache_dir() / "bench-strategies" / found.hexdigest()[:16]


def _check() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise BenchError(
            f"strategies are built with torch, which is not here: {error}", "build/setup --train"
        ) from error


def _victim(network: str) -> Any:
    from cloister.protect.training import network as made

    return made(network, SHAPES[network][0], CLASSES, 0).eval()


def _drawn(network: str) -> Iterator[Case]:
    """Out of the space that ``cloister protect`` searches: what fits the network, and is none of the chosen."""
    from cloister.protect.mirror.pair import build_pair, taps_of
    from cloister.search.strategies import strategy_space

    victim, shape = _victim(network), SHAPES[network]
    taps = taps_of(victim, shape)
    space = strategy_space(list(taps), shapes=taps, lock=("none",), pruned=(None,))
    generator = np.random.default_rng([SEED, list(SHAPES).index(network)])
    known = {case.strategy for case in _CHOSEN if case.network == network}
    found = 0
    while found < DRAWN:
        point = {name: values[generator.integers(len(values))] for name, values in space.choices.items()}
        strategy = space.build(point)
        if strategy in known or strategy.kind == "whole":
            continue
        known.add(strategy)
        try:
            build_pair(victim, shape, CLASSES, strategy)
        except CloisterError:
            continue  # a tap of places behind one of vectors, for one
        found += 1
        yield Case(network, strategy, drawn=True)


@dataclass(frozen=True)
class Built:
    """A case as ONNX: once as the search makes files for predictions, and once as they go to the device.

    Attributes:
        victim: the unprotected network, of the strategy's precision.
        sketch: CPM or whole model, and backbone, for predictions.
        files: the same for the device.
        backbone: whether the backbone is needed.
        limit: secure memory of the session in bytes; 0: none.
    """

    case: Case
    victim: Path
    sketch: tuple[Path, Path]
    files: tuple[Path, Path]
    backbone: bool
    limit: int

    @property
    def staged(self) -> bool:
        """Whether taps could cross one by one."""
        return self.backbone and not self.limit

    def predict(self, *, staged: bool = False) -> Prediction:
        """What it will take, by the constants as they are now.

        Raises:
            CloisterError: it cannot be compiled.
        """
        protected, backbone = self.sketch
        return predict(
            self.victim, protected, backbone if self.backbone else None, budget=self.limit or None, staged=staged
        )


class Builder:
    """Builds cases in a folder; victims are exported once."""

    def __init__(self, folder: Path) -> None:
        _check()
        self._folder = folder

    def build(self, case: Case) -> Built:
        """Export a case.

        Raises:
            CloisterError: it cannot be exported or compiled.
        """
        from cloister.protect.automatic.costs import needs_backbone, sketch
        from cloister.protect.mirror import build_pair
        from cloister.protect.mirror.export import BACKBONE_FILE, CPM_FILE, export_pair

        victim = self._victim_file(case.network, case.strategy.precision)
        quick = real = (victim, victim)
        if case.strategy.kind == "mirror":
            place = self._folder / f"{case.network}-{case.strategy.digest}"
            quick, real = ((place / name / CPM_FILE, place / name / BACKBONE_FILE) for name in ("quick", "real"))
            if not (place / "done").exists():
                for path in (quick[0], real[0]):
                    path.parent.mkdir(parents=True, exist_ok=True)
                pair = build_pair(_victim(case.network), SHAPES[case.network], CLASSES, case.strategy)
                sketch(pair, quick[0].parent)
                export_pair(pair, real[0].parent)
                (place / "done").touch()
        built = Built(case, victim, quick, real, needs_backbone(case.strategy), 0)
        if case.budget is None:
            return built
        return replace(built, limit=int(built.predict().secure_memory * case.budget))

    def _victim_file(self, network: str, precision: str) -> Path:
        from cloister.protect.mirror.narrow import synthetic
        from cloister.protect.training import export_onnx
        from cloister.quantization import quantize_model

        path = self._folder / f"{network}.onnx"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            export_onnx(_victim(network), SHAPES[network], path)
        if precision == "fp32":
            return path
        quantised = self._folder / f"{network}_int8.onnx"
        if not quantised.exists():
            quantize_model(path, synthetic(SHAPES[network], 16, 0).numpy(), quantised)
        return quantised
