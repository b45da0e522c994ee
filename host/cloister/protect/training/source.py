# SPDX-License-Identifier: BSD-2-Clause
"""Where a model comes from: a factory and a checkpoint, an object, or an ONNX file."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from cloister.protect.training.data import Splits
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import labels_of

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_factory(text: str) -> bool:
    """Whether ``text`` has the form ``package.module:factory``."""
    return _FACTORY.fullmatch(text) is not None


def call_factory(name: str) -> Any:
    """Import ``package.module`` and call its ``factory`` without arguments; the working directory is importable.

    Raises:
        TrainingError: the module or the attribute is missing, or cannot be called so.
    """
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        written = module_name.removesuffix(".py")
        remedy = (
            f"write {written}:{attribute}" if written != module_name else "run where it lies, or put it on PYTHONPATH"
        )
        raise TrainingError(f"{name}: module {module_name} cannot be imported: {error}", remedy) from error
    except Exception as error:  # whatever the user's module does
        raise TrainingError(f"{name}: importing {module_name} failed: {_told(error)}", "mend that module") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise TrainingError(f"{name}: {module_name} has no {part!r}", "name a function or class of that module")
        found = getattr(found, part)
    if not callable(found):
        raise TrainingError(f"{name} cannot be called", "name a function or class that takes no arguments")
    try:
        return found()
    except TypeError as error:
        raise TrainingError(
            f"{name} cannot be called without arguments: {error}", "give its arguments defaults"
        ) from error
    except TrainingError:
        raise
    except Exception as error:  # whatever the user's function does
        raise TrainingError(f"{name} failed: {_told(error)}", "mend that function") from error


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def load_model(source: str | Path | nn.Module, checkpoint: Path | None = None, shape: Sequence[int] = ()) -> nn.Module:
    """A torch module to train, prune or lock.

    Args:
        source: ``package.module:factory`` (a function or module class that needs no arguments), a module, or the
            path of an ONNX file, which is converted with onnx2torch.
        checkpoint: the module's state: a file of ``torch.save(module.state_dict())``, or a checkpoint that
            :func:`~cloister.protect.training.loop.fit` wrote.
        shape: channels, height and width of an image: what an ONNX file is loaded for that leaves them free.

    Raises:
        TrainingError: the source is none of these, or the checkpoint does not fit.
    """
    if isinstance(source, nn.Module):
        module = source
    elif is_factory(str(source)):
        made = call_factory(str(source))
        if not isinstance(made, nn.Module):
            raise TrainingError(f"{source} returned {type(made).__name__}", "return a torch.nn.Module")
        module = made
    elif Path(source).suffix == ".onnx":
        module = _from_onnx(Path(source), shape)
    else:
        raise TrainingError(
            f"{source} is no package.module:factory and no .onnx file",
            "name a function that returns the model, such as my_models:network for network() in my_models.py",
        )
    if checkpoint is not None:
        if Path(str(source)).suffix == ".onnx" and not isinstance(source, nn.Module):
            raise TrainingError(f"{source} brings its own weights", f"leave the checkpoint {checkpoint} out")
        load_checkpoint(module, checkpoint)
    return module


def check_model(module: nn.Module, splits: Splits, name: str) -> None:
    """Refuse a model that does not answer logits to images of the data.

    Args:
        module: is left as it was.
        splits: the data it is to be trained on.
        name: for the message.

    Raises:
        TrainingError: it cannot be run on two of the images, or answers something else than (2, classes).
    """
    shape, classes = splits.shape, len(splits.classes)
    mode = module.training
    try:
        with torch.no_grad():
            found: Any = module.cpu().eval()(splits.normalise(splits.validation.pixels[:2].cpu()))
    except Exception as error:  # whatever the user's module raises
        raise TrainingError(
            f"{name} cannot be run on images {shape} of {splits.name}: {_told(error)}",
            "give the data that the model was trained on, as (channels, height, width)",
        ) from error
    finally:
        module.train(mode)
    answer = f"{tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
    if answer != f"{(min(2, len(splits.validation)), classes)}":
        raise TrainingError(
            f"{name} answers {answer} to 2 images; {splits.name} has {classes} classes",
            "give a model that answers logits (images, classes), and the data it was trained on",
        )


def gives_probabilities(module: nn.Module, splits: Splits) -> bool:
    """Whether a model seems to end in a softmax: its answers are no logits, which losses take.

    Args:
        module: has passed :func:`check_model`; is left as it was.
        splits: the data it is to be trained on.
    """
    mode = module.training
    try:
        with torch.no_grad():
            found = module.eval()(splits.normalise(splits.validation.pixels[:64].cpu())).to(torch.float64)
    finally:
        module.train(mode)
    return found.shape[1] > 1 and bool((found >= 0).all()) and bool(((found.sum(1) - 1).abs() <= 1e-4).all())


def check_trained(module: nn.Module, splits: Splits, name: str) -> float:
    """Refuse a model that guesses: its checkpoint was forgotten, or it was trained on images of another kind.

    Args:
        module: has passed :func:`check_model`.
        splits: the data it is said to be trained on.
        name: for the message.

    Returns:
        Its accuracy on the validation images, 0 to 1.

    Raises:
        TrainingError: over the classes, however many images each has, it is hardly better than a guess.
    """
    labels = splits.validation.labels.cpu()
    right = labels_of(module, splits.validation, splits).cpu() == labels
    found = float(right.float().mean())
    # the mean over classes: always answering the most frequent one is a guess, however often it is right
    recalls = [float(right[labels == label].float().mean()) for label in labels.unique()]
    # images of a single class do not tell a guess at it from knowledge, but one at any class
    chance = 1 / (len(recalls) if len(recalls) > 1 else max(2, len(splits.classes)))
    if sum(recalls) / len(recalls) <= chance + min(chance / 2, 0.05):
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (splits.mean, splits.std))
        raise TrainingError(
            f"{name} labels only {found:.1%} of {splits.name}'s validation images rightly, about what guessing gets",
            "give the trained weights (--checkpoint), and the data that it was trained on: classes in the same order, "
            f"images normalised in the same way. Here it gets (pixels - mean) / std with mean {mean} and std {std}; "
            "give others by --mean and --std, or as `mean` and `std` in an .npz file",
        )
    return found


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Load a state into ``module``: a state dictionary alone, or under ``best``, ``model`` or ``state_dict``.

    The names may all begin with ``module.``, as those of a model do that was trained on several GPUs.

    Raises:
        TrainingError: the file is missing, is no checkpoint, or has other tensors than the module.
    """
    if not path.is_file():
        raise TrainingError(
            f"{path} cannot be loaded: there is no such file", "give a file of torch.save(module.state_dict())"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler, zip reader and file give
        raise TrainingError(
            f"{path} cannot be loaded: {_told(error)}", "give a file of torch.save(module.state_dict())"
        ) from error
    for key in ("best", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    # DistributedDataParallel saves its own layer, which holds the model; a model may have a part of that name, too
    prefixed = isinstance(state, dict) and all(str(key).startswith("module.") for key in state)
    if prefixed and not state.keys() & module.state_dict().keys():
        consume_prefix_in_state_dict_if_present(state, "module.")
    try:
        module.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        told = _misfit(module, state) if isinstance(state, dict) else ""
        raise TrainingError(
            f"{path} does not fit the model: {told or _told(error)}",
            "give the checkpoint of this model; a pruned or locked one's .onnx file brings its own weights",
        ) from error


def _misfit(module: nn.Module, state: dict[str, Any]) -> str:
    """How the names and shapes of a state differ from the module's; empty where they do not."""
    own = module.state_dict()
    shapes = [{key: tuple(getattr(value, "shape", ())) for key, value in each.items()} for each in (own, state)]
    lacks = [str(key) for key in own if key not in state]
    more = [str(key) for key in state if key not in own]
    other = [
        f"{key} is {shapes[1][key]} and not {shapes[0][key]}"
        for key in own
        if key in state and shapes[0][key] != shapes[1][key]
    ]
    parts = (("it lacks ", lacks), ("the model lacks ", more), ("", other))
    return "; ".join(word + _some(names) for word, names in parts if names)


def _some(names: Sequence[str], most: int = 4) -> str:
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def _from_onnx(path: Path, shape: Sequence[int]) -> nn.Module:
    from cloister.protect.training.from_onnx import convert

    return convert(path, shape)
