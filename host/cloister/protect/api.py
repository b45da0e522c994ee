# SPDX-License-Identifier: BSD-2-Clause
"""``cloister.prune``, ``edgepro``, ``attack`` and ``protect``, of the same shape as the commands of that name.

>>> import cloister                                                          # doctest: +SKIP
>>> cloister.prune("my_models:network", "images/", "pruned", checkpoint="trained.pt")  # doctest: +SKIP
>>> cloister.edgepro("pruned/pruned.onnx", "images/", "locked")              # doctest: +SKIP
>>> bundle = cloister.compile("locked/locked.onnx", name="model", password="locked/password.pwd")  # doctest: +SKIP

Importing this needs no torch; calling does (the extra ``train``).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cloister.errors import CloisterError
from cloister.password import Password
from cloister.protect.extra import need_torch
from cloister.protect.folder import claim_folder, made_folder

if TYPE_CHECKING:
    from torch import nn

    from cloister.attack import Effort, Exposed, Report
    from cloister.protect.automatic import Protected, ProtectSettings
    from cloister.protect.edgepro import Locked, LockSettings
    from cloister.protect.prune import Pruned, PruneSettings
    from cloister.protect.training import DataSource, Splits
    from cloister.search import Budget


def edgepro(
    model: str | Path | nn.Module,
    data: DataSource,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    name: str | None = None,
    settings: LockSettings | None = None,
    validation: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> Locked:
    """Lock a trained model with EdgePro, so that it answers only with a password.

    Args:
        model: an ONNX file, ``package.module:factory``, or a torch module; logits (N, classes) from normalised images
            (N, C, H, W). It is not changed.
        data: what it was trained on: a folder of images, an ``.npz`` file, ``package.module:factory`` of torch data
            sets, what such a factory returns (a pair of torch data sets, or one), or ``Splits``.
        output: folder that gets ``locked.onnx``, ``password.pwd`` (secret), ``report.json``, and checkpoints in
            ``training``: interrupted, the same call goes on where it was.
        checkpoint: the model's state, as ``torch.save(module.state_dict())`` writes it.
        name: the model's name in the password file (default: the output folder's).
        settings: default: those of ``LockSettings``, with ``seed``.
        validation: share of the training images that choices are made on; ignored where the data bring their own.
        seed: decides which images those are; and everything else where no settings are given.
        device: to train on: "cpu", "cuda", or "auto", the GPU where there is one.
        quiet: show no progress.

    Raises:
        CloisterError: torch is missing.
        TrainingError: the model, the data or a setting cannot be used, or ``output`` holds another run.
    """
    need_torch()
    from cloister.protect.edgepro.deployed import deployable
    from cloister.protect.edgepro.folding import fold_normalisation, token_rows
    from cloister.protect.edgepro.lock import MODEL_FILE, REPORT_FILE, lock_folded
    from cloister.protect.edgepro.settings import settings_with

    folder = made_folder(output, data, (MODEL_FILE, REPORT_FILE), (model, checkpoint))
    splits = _splits(data, validation, seed)
    module = _model(model, checkpoint, splits, quiet)
    settings = settings or settings_with(seed=seed)
    folded = fold_normalisation(token_rows(module, splits.shape))
    settings = replace(settings, layers=deployable(folded, splits.shape, settings.layers))
    claim_folder(folder / "training", "edgepro", module, splits)
    _trained(model, module, splits, quiet)
    locked = lock_folded(
        folded.cpu(), splits, settings, folder=folder / "training", device=device, name="locking", quiet=quiet
    )
    locked.save(folder, name or folder.resolve().name)
    return locked


def prune(
    model: str | Path | nn.Module,
    data: DataSource,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    settings: PruneSettings | None = None,
    int8: bool = True,
    measure: bool = False,
    validation: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> Pruned:
    """Remove channels of a trained model step by step, as long as it answers nearly as well.

    Args:
        model, data, checkpoint, validation, seed, device, quiet: as for :func:`edgepro`.
        output: folder that gets ``pruned.onnx``, ``pruned.pt``, ``pruned_int8.onnx``, the report (``report.json``,
            ``report.md``, ``report.svg``), and checkpoints in ``training``.
        settings: default: those of ``PruneSettings``, with ``seed``.
        int8: also quantise the pruned model.
        measure: count every step's instructions on the emulated device; needs a checkout.

    Returns:
        The pruned model; its report has ``rows``, the costs of each step.

    Raises:
        CloisterError: torch is missing.
        TrainingError: the model, the data or a setting cannot be used, or ``output`` holds another run.
    """
    need_torch()
    from cloister.protect.prune import prune_model, settings_with
    from cloister.protect.prune.report import FILES, check_bench, full_report

    if measure:
        check_bench()
    folder = made_folder(output, data, FILES, (model, checkpoint))
    splits = _splits(data, validation, seed)
    module = _exportable(_model(model, checkpoint, splits, quiet), splits)
    claim_folder(folder / "training", "prune", module, splits)
    _trained(model, module, splits, quiet)
    pruned = prune_model(
        module, splits, settings or settings_with(seed=seed), folder=folder / "training",
        device=device, name="pruning", quiet=quiet,
    )  # fmt: skip
    pruned.save(folder)
    return replace(pruned, report=full_report(pruned, splits, folder, int8=int8, measure=measure))


def attack(
    victim: str | Path | nn.Module,
    data: DataSource,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    locked: str | Path | None = None,
    password: Password | str | Path | None = None,
    seen: Sequence[str] = (),
    pruned: Sequence[str | Path] = (),
    protected: Sequence[str | Path] = (),
    targets: Sequence[Exposed] = (),
    attacks: Sequence[str] | None = None,
    effort: Effort | None = None,
    validation: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> Report:
    """Put protected models on the attack bench, between the unprotected victim and a black box.

    Args:
        victim: the unprotected model, as :func:`edgepro` takes models.
        data, checkpoint, validation, seed, device, quiet: as for :func:`edgepro`.
        output: folder that gets ``attacks.json``, ``attacks.md`` and ``attacks.svg``, and checkpoints in ``work``.
        locked: a locked ONNX file, taken to have leaked; needs ``password``.
        password: of ``locked``, for the device's answers.
        seen: tensors of ``locked`` that authorised runs show, or "all" for those that are locked.
        pruned: ONNX files that are exposed whole; named by their folders, too, where their names agree.
        protected: output folders of :func:`protect`, of the same victim and data.
        targets: own protections; docs/attacks.md describes the interface.
        attacks: names (default: all).
        effort: what attackers have (default: ``Effort()``).

    Raises:
        CloisterError: torch is missing, ``locked`` and ``password`` are not given together, or no target shows runs
            that could be observed.
        PasswordError: the password is of another model.
        FormatError: a folder of ``protected`` holds no report.
        TrainingError: a model or the data cannot be used, or a folder of ``protected`` is of another model.
        AttackError: an attack or a tensor that is not there, or a target that does not fit the data.
    """
    need_torch()
    from cloister.attack import bench
    from cloister.attack.files import exposed_files, leaked_file

    if (locked is None) != (password is None):
        raise CloisterError("a locked model and its password belong together", "give both, or neither")
    if seen and locked is None:
        raise CloisterError("only runs of a locked model can be seen", "give the locked model and its password too")
    splits = _splits(data, validation, seed)
    if any(Path(output).resolve() == Path(path).resolve() for path in protected):
        raise CloisterError(f"{output} has the attacks that `cloister protect` tried", "write elsewhere: -o FOLDER")
    folder = made_folder(output, data)
    module = _model(victim, checkpoint, splits, quiet)
    found: list[Exposed] = []
    if locked is not None and password is not None:
        opened = password if isinstance(password, Password) else Password.read(Path(password))
        found.append(leaked_file(Path(locked), opened, splits, seen))
    found += exposed_files([Path(path) for path in pruned], splits)
    if protected:
        from cloister.protect.automatic.again import exposed_again

        for path in protected:
            found += exposed_again(Path(path), module, splits, device)
    if attacks is not None and "observe" in attacks and not any(hasattr(one, "observed") for one in [*found, *targets]):
        raise CloisterError("there are no authorised runs to observe", "name the tensors that are seen (--seen all)")
    _trained(victim, module, splits, quiet)
    report = bench(
        [*found, *targets], splits, module, attacks=attacks, effort=effort, seed=seed, folder=folder / "work",
        device=device, quiet=quiet,
    )  # fmt: skip
    report.write(folder)
    return report


def protect(
    model: str | Path | nn.Module,
    data: DataSource,
    output: str | Path,
    *,
    budget: Budget | None = None,
    budget_memory: str | None = None,
    budget_overhead: str | None = None,
    budget_accuracy: str | None = None,
    checkpoint: str | Path | None = None,
    name: str | None = None,
    settings: ProtectSettings | None = None,
    study: str | Path | None = None,
    time_limit: float | None = None,
    measure: bool = False,
    keys: Path | None = None,
    validation: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> Protected:
    """Choose how a trained model is protected within a budget, train that, and compile it.

    >>> cloister.protect("my_models:network", "images/", "protected", checkpoint="trained.pt",
    ...                  budget_memory="2MiB", budget_overhead="1%", budget_accuracy="1")  # doctest: +SKIP

    Args:
        model, data, checkpoint, validation, seed, device, quiet: as for :func:`edgepro`.
        output: folder that gets the bundle (``pair.clb``, or ``model.clb`` where the whole model lies in the TA), its
            ONNX files, ``report.html``, ``report.json``, pictures, and in ``training`` the study and checkpoints:
            interrupted, the same call goes on where it was.
        budget: what protection may cost; or in words by the next three.
        budget_memory: secure memory, such as "2MiB".
        budget_overhead: instructions that may be added, such as "1%" of the unprotected model's.
        budget_accuracy: points of accuracy that may be lost, such as "1".
        name: of the model on devices (default: the output folder's).
        settings: how strategies are searched for, trained and attacked; default: those of ``ProtectSettings``, with
            ``seed``.
        study: a file, or a database's URL for workers on several machines; default: in ``output``.
        time_limit: seconds, after which the search ends with the best so far.
        measure: also count the instructions of what was chosen on the emulated device, everything resident; needs a
            checkout.
        keys: directory of the vendor's keys (default: the user's).

    Raises:
        CloisterError: torch is missing, the budget is given twice, or ``output`` holds a file that would be overwritten
            and that no earlier run wrote, such as the model.
        SearchError: Optuna is missing, or the study cannot be used.
        BudgetError: nothing keeps the budget; the message says how near one can come.
        KeyFileError: there is no vendor key.
        TrainingError: the model, the data or a setting cannot be used, or ``output`` holds another run.
    """
    need_torch()
    from cloister.search.errors import need_optuna

    need_optuna()
    from cloister.protect.automatic import protect_model, settings_with
    from cloister.protect.automatic.bundle import check_folder
    from cloister.protect.automatic.costs import VICTIM_FILE
    from cloister.protect.training import Data
    from cloister.search import Budget

    words = (budget_memory, budget_overhead, budget_accuracy)
    if budget is not None and any(word is not None for word in words):
        raise CloisterError("the budget is given twice", "give it whole or in words")
    limits = budget or Budget.parse(*words)
    where = data.where if isinstance(data, Data) else data
    check_folder(Path(output), [path for path in (model, where, checkpoint) if isinstance(path, str | Path)])
    folder = made_folder(output, data)
    splits = _splits(data, validation, seed)
    module = _model(model, checkpoint, splits, quiet)
    _trained(model, module, splits, quiet=True)  # it tells so itself
    # its estimates are of one model, too, even where nothing has been trained yet
    claim_folder(folder / "training", "protect", module, splits, VICTIM_FILE)
    return protect_model(
        module, splits, limits, folder, settings=settings or settings_with(seed=seed), name=name or "", study=study,
        time_limit=time_limit, measure=measure, keys=keys, device=device, quiet=quiet,
    )  # fmt: skip


def _splits(data: DataSource, validation: float, seed: int) -> Splits:
    from cloister.protect.training import load_data

    return load_data(data, validation=validation, seed=seed)


def _model(model: str | Path | nn.Module, checkpoint: str | Path | None, splits: Splits, quiet: bool) -> nn.Module:
    """The model, once it has answered two of the images with one number for each class; warns of probabilities."""
    from cloister.protect.training import load_model
    from cloister.protect.training.source import check_model, gives_probabilities

    name = str(model) if isinstance(model, str | Path) else type(model).__name__
    module = load_model(model, None if checkpoint is None else Path(checkpoint), splits.shape)
    check_model(module, splits, name)
    if not quiet and gives_probabilities(module, splits):
        print(f"warning: {name} ends in probabilities, and trainings here expect logits: they lose more points than "
              "they need to; give the network without its last Softmax (the label is the same)",
              file=sys.stderr, flush=True)  # fmt: skip
    return module


def _trained(model: str | Path | nn.Module, module: nn.Module, splits: Splits, quiet: bool) -> None:
    """Refuse a model that guesses, which is not worth hours; tell how good any other is on images as it gets them."""
    from cloister.protect.training.source import check_trained

    name = str(model) if isinstance(model, str | Path) else type(model).__name__
    right = check_trained(module, splits, name)
    if not quiet:
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (splits.mean, splits.std))
        print(f"{name} labels {right:.2%} of {len(splits.validation)} validation images rightly, normalised with mean "
              f"{mean} and std {std}", file=sys.stderr, flush=True)  # fmt: skip


def _exportable(module: nn.Module, splits: Splits) -> nn.Module:
    """The module, once it has been exported: it would be late to find out after training that it cannot be."""
    from cloister.protect.training import export_onnx

    with tempfile.TemporaryDirectory(prefix="cloister-export-") as folder:
        export_onnx(module, splits.shape, Path(folder) / "model.onnx")
    return module
