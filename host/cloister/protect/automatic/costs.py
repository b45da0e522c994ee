# SPDX-License-Identifier: BSD-2-Clause
"""What a strategy costs, told from its untrained pair."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cloister.compile.arrange import MemoryBudgetError
from cloister.estimate.pair import Prediction, predict
from cloister.protect.mirror import Pair, build_pair
from cloister.protect.mirror.export import BACKBONE_FILE, CPM_FILE
from cloister.protect.mirror.mirror import calibration
from cloister.protect.mirror.narrow import synthetic
from cloister.protect.mirror.quantise import quantise_pair
from cloister.protect.strategy import IMAGE, Strategy
from cloister.protect.training import Splits, TrainingError, export_onnx
from cloister.quantization import quantize_model
from cloister.search import Figures

#: What a victim that is pruned for estimates takes more or less than one that was pruned and trained, as a share of the
#: unprotected model: a standard error.
PRUNED_ERROR = 0.01
VICTIM_FILE, VICTIM_INT8_FILE = "victim.onnx", "victim_int8.onnx"
#: For estimates alone torch's older exporter is used: it takes a hundredth of the other's time.
OPSET = 17


def needs_backbone(strategy: Strategy) -> bool:
    """Whether anything runs in the normal world: a CPM that sees the image alone needs nothing else."""
    return strategy.kind == "mirror" and strategy.taps != (IMAGE,)


class Costs:
    """Estimates costs of strategies for one victim.

    An 8-bit strategy is compared with the 8-bit victim: what quantisation saves is no merit of the protection.

    Args:
        victim: trained.
        splits: its data.
        folder: gets the victim as ONNX, in float32 and when first needed in 8 bits.
        memory: secure memory in bytes: strategies that take more are estimated with partitions that are swapped; None:
            no limit.

    Raises:
        TrainingError: the victim cannot be exported.
    """

    def __init__(self, victim: nn.Module, splits: Splits, folder: Path, memory: int | None = None) -> None:
        self._victim, self._splits, self._folder, self._memory = victim, splits, folder, memory
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / VICTIM_FILE).exists():
            export_onnx(victim, splits.shape, folder / VICTIM_FILE)

    def victim_file(self, precision: str) -> Path:
        """The whole model as ONNX."""
        path = self._folder / VICTIM_FILE
        if precision == "fp32":
            return path
        quantised = self._folder / VICTIM_INT8_FILE
        if not quantised.exists():
            quantize_model(path, calibration(self._splits), quantised)
        return quantised

    def predict(self, strategy: Strategy, source: nn.Module | None = None) -> Prediction:
        """What one inference takes, beside the unprotected model, which is never a pruned one.

        A lock adds nothing to the operators; what it adds to opening a partition that is swapped is left out.

        Args:
            strategy: to be estimated.
            source: what it protects; default: the victim. Give the pruned victim where the strategy is pruned.

        Raises:
            TrainingError: the strategy does not fit the victim.
            MemoryBudgetError: not even with partitions that are swapped does it fit into the secure memory.
            CloisterError: it cannot be compiled.
        """
        victim = self.victim_file(strategy.precision)
        if strategy.kind == "whole" and source is None:
            return self._within(victim, victim, None)
        with tempfile.TemporaryDirectory(prefix="cloister-estimate-") as name:
            if source is not None and strategy.kind == "whole":
                return self._within(victim, self._whole(source, strategy.precision, Path(name)), None)
            classes = len(self._splits.classes)
            pair = build_pair(source or self._victim, self._splits.shape, classes, strategy)
            backbone, cpm = sketch(pair, Path(name))
            return self._within(victim, cpm, backbone if needs_backbone(strategy) else None)

    def _whole(self, source: nn.Module, precision: str, folder: Path) -> Path:
        """A whole model as ONNX, quickly."""
        path = folder / VICTIM_FILE
        _export(source, {"image": self._splits.shape}, ["logits"], path)
        if precision == "int8":
            quantize_model(path, calibration(self._splits), path)
        return path

    def _within(self, victim: Path, protected: Path, backbone: Path | None) -> Prediction:
        found = predict(victim, protected, backbone)
        if self._memory is None or found.secure_memory <= self._memory:
            return found
        return predict(victim, protected, backbone, budget=self._memory)

    def __call__(self, strategy: Strategy, source: nn.Module | None = None) -> Figures:
        """Costs as the search takes them; raises as :meth:`predict`, but where only memory is too small."""
        try:
            found = self.predict(strategy, source)
        except MemoryBudgetError as error:
            unlimited = Costs(self._victim, self._splits, self._folder).predict(strategy, source)
            found = replace(unlimited, secure_memory=error.smallest)
        return figures_of(found)


def figures_of(found: Prediction) -> Figures:
    """A prediction as the search takes it."""
    # what backbone and victim have in common is mistaken alike; the error is of what differs
    differing = found.secure_world + found.boundary + abs(found.normal_world - found.unprotected)
    return Figures(
        found.overhead, found.secure_memory, found.bytes_in, error=found.error * differing / found.unprotected,
        details={"prediction": found.as_json()},
    )  # fmt: skip


def same_costs(strategy: Strategy) -> Strategy:
    """One strategy for all that cost the same, since they differ only in weights."""
    if strategy.kind == "whole":
        return Strategy(kind="whole", precision=strategy.precision, pruned=strategy.pruned)
    backbone = "tampered" if strategy.backbone == "trained" else strategy.backbone
    return replace(strategy, backbone=backbone, select="first", lock=None)


def sketch(pair: Pair, folder: Path, splits: Splits | None = None) -> tuple[Path, Path]:
    """Both halves as ONNX for estimates and short trainings: as ``export_pair`` makes them, but quickly.

    Args:
        pair: trained or not.
        folder: gets the files.
        splits: whose training images 8-bit tensors are measured on; default: synthetic ones.

    Raises:
        TrainingError: torch cannot export a half.
    """
    inputs = {crossing.input: crossing.shape for crossing in pair.crossings}
    backbone, cpm = folder / BACKBONE_FILE, folder / CPM_FILE
    _export(pair.backbone, {"image": pair.shape}, ["logits", *(name for name in inputs if name != IMAGE)], backbone)
    _export(pair.cpm, inputs, ["logits"], cpm)
    if pair.strategy.precision == "int8":
        images = synthetic(pair.shape, 16, 0).numpy() if splits is None else calibration(splits)
        quantise_pair(pair, backbone, cpm, images)
    return backbone, cpm


def _export(module: nn.Module, inputs: dict[str, tuple[int, ...]], outputs: Sequence[str], path: Path) -> None:
    given = tuple(torch.zeros((1, *shape)) for shape in inputs.values())
    axes = {name: {0: "batch"} for name in (*inputs, *outputs)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that the other one is to be preferred
            torch.onnx.export(
                module, given, str(path), dynamo=False, opset_version=OPSET, input_names=list(inputs),
                output_names=list(outputs), dynamic_axes=axes, verbose=False,
            )  # fmt: skip
    except Exception as error:  # torch raises many kinds
        raise TrainingError(
            f"the pair cannot be exported: {str(error).splitlines()[0]}", "make the model's forward free of branches"
        ) from error
    _join_dense(path)


def _join_dense(path: Path) -> None:
    """Write dense layers without bias as ``export_tensors`` does: as Gemm, not as MatMul.

    onnxruntime's quantiser would join a MatMul with an Add behind it, also where what is added is no constant; that the
    engine computes in float32.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    weights = {value.name for value in model.graph.initializer if len(value.dims) == 2}
    rows = {value.name for value in (*model.graph.value_info, *model.graph.input)
            if len(value.type.tensor_type.shape.dim) == 2}  # fmt: skip
    dense = [node for node in model.graph.node
             if node.op_type == "MatMul" and node.input[0] in rows and node.input[1] in weights]  # fmt: skip
    for node in dense:
        node.op_type = "Gemm"
    if dense:
        onnx.save(model, str(path))


def copied(source: Path, folder: Path, name: str) -> Path:
    """A copy of a file, put in place when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{name}.new"
    shutil.copyfile(source, aside)
    return aside.replace(folder / name)
