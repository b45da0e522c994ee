# SPDX-License-Identifier: BSD-2-Clause
"""Data sets from where users have them: a folder of images, an ``.npz`` file, or a factory of torch data sets."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cloister.arrays import ARRAY_ERRORS
from cloister.protect.training.data import Images, Splits, refuse_not_finite
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.source import call_factory, is_factory

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp")
#: What Pillow raises where a file is damaged; beside these its DecompressionBombError.
_BROKEN = (OSError, SyntaxError, ValueError)
_FORMS = (
    "x_train, y_train, x_test, y_test; train_image, train_label, test_image, test_label; or "
    "train_jpeg, train_offset, train_label and the same with test_"
)


@dataclass(frozen=True)
class Data:
    """Where data come from, and how their images are brought to the model; the arguments of :func:`load_data`.

    Functions that take data take this too, so that nothing is read before they have looked at their other arguments.
    """

    where: str | Path | Splits | Sequence[Any]
    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


#: Where data come from; a torch data set is anything with a length and items (image, label).
DataSource = str | Path | Splits | Sequence[Any] | Data


def load_data(
    where: DataSource,
    *,
    validation: float = 0.1,
    seed: int = 0,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Splits:
    """Read a data set and cut its validation split off.

    Args:
        where: :class:`Data`, with a size, mean and std of its own; or a folder with ``train/CLASS/*.png`` and
            ``test/CLASS/*.png`` (any format that Pillow reads); an ``.npz`` file with
            arrays of images, or JPEG bytes and offsets; or ``package.module:factory``, called without arguments, which
            returns :class:`Splits`, a pair of torch data sets (training, test), or one data set, of which a fifth
            becomes the test split; or what such a factory returns. A data set's items are (image, label); floats that
            its transforms normalised already need a mean of 0 and a deviation of 1 here. An ``.npz`` file may hold
            ``mean`` and ``std`` for each channel, if the model was trained with others than :class:`Splits` measures.
        validation: share of the training images that choices are made on; ignored where the data bring their own.
        seed: decides which images those are.
        size: images of a folder are resized to this height and width, whatever their own, bilinearly; the ratio
            of their sides is not kept.
        mean, std: for each channel, what the model was trained with, in place of those that the data bring or
            :class:`Splits` measures; both or neither.

    Raises:
        TrainingError: names what is missing or does not fit.
    """
    data = where if isinstance(where, Data) else Data(where, size, mean, std)
    splits = _load(data.where, validation, seed, data.size)
    if data.mean is None and data.std is None:
        return splits
    mean, std = ([] if values is None else values for values in (data.mean, data.std))
    return _normalised(splits, mean, std, splits.name)


def _load(where: str | Path | Splits | Sequence[Any], validation: float, seed: int, size: int | None) -> Splits:
    path = Path(where) if isinstance(where, str | Path) else None
    if path is not None and path.is_dir():
        return _folder(path, validation, seed, size)
    if size is not None:
        raise TrainingError(
            f"{'the data given' if path is None else path}: only a folder's images are resized",
            f"leave the size away, and bring the images to {size} x {size} yourself",
        )
    if path is None:
        return _given(where, "the data given", "data", validation, seed)
    text = str(where)
    if path.is_file() and path.suffix == ".npz":
        return _npz(path, validation, seed)
    if is_factory(text):
        return _factory(text, validation, seed)
    if not path.exists():
        raise TrainingError(f"there is no {text}", "check the path: a folder, an .npz file or a package.module:factory")
    raise TrainingError(
        f"{text} is no folder, no .npz file and no package.module:factory",
        "check the path, or name a factory that can be imported",
    )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise TrainingError("reading image files needs Pillow", "pip install pillow") from error
    return Image


def _folder(root: Path, validation: float, seed: int, size: int | None) -> Splits:
    own = next((root / name for name in ("validation", "val") if (root / name).is_dir()), None)
    for part in ("train", "test"):
        if not (root / part).is_dir():
            remedy = "lay images out as train/CLASS/ and test/CLASS/"
            if part == "test" and own is not None:
                remedy += f"; {own.name}/ is what choices are made on, test/ what is reported on"
            raise TrainingError(f"{root} has no folder {part!r}", remedy)
    classes = sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir())
    if not classes:
        raise TrainingError(f"{root / 'train'} has no folders", "make one folder for each class")
    unknown = {entry.name for entry in (root / "test").iterdir() if entry.is_dir()} - set(classes)
    if unknown:
        raise TrainingError(f"{root / 'test'} has classes that train lacks: {sorted(unknown)}", "use the same names")
    train, test = (_read_folder(root / part, classes, size) for part in ("train", "test"))
    if own is not None:
        chosen_on = _read_folder(own, classes, size)
        return Splits.make(train, test, validation=chosen_on, classes=classes, name=root.name)
    return Splits.make(train, test, validation=validation, seed=seed, classes=classes, name=root.name)


def _read_folder(root: Path, classes: Sequence[str], size: int | None) -> Images:
    image = _pillow()
    arrays: list[npt.NDArray[np.uint8]] = []
    labels = []
    for label, name in enumerate(classes):
        for path in sorted((root / name).glob("*")):
            if path.suffix.lower() not in _ENDINGS:
                continue
            try:
                with image.open(path) as opened:
                    picture = _bytes(image, opened)
                    if size is not None:
                        picture = picture.resize((size, size), image.Resampling.BILINEAR)
                    arrays.append(np.asarray(picture, np.uint8))
            except (*_BROKEN, image.DecompressionBombError) as error:
                raise TrainingError(f"{path} cannot be read as an image: {error}", "remove or replace it") from error
            labels.append(label)
            if arrays[-1].shape != arrays[0].shape:
                raise TrainingError(
                    f"{path} is {arrays[-1].shape}, the images before it {arrays[0].shape}",
                    "bring all images to one size and mode; --size N (in Python Data(path, size=N)) resizes them "
                    "to N x N",
                )
    if not arrays:
        raise TrainingError(f"{root} has no images", f"endings that are read: {', '.join(_ENDINGS)}")
    return _images(np.stack(arrays), np.array(labels), str(root))


def _bytes(image: Any, opened: Any) -> Any:
    """A picture of mode "L" or "RGB". Greys of 16 bits are scaled, as Pillow's own conversion cuts them off at 255.

    Args:
        image: the module ``PIL.Image``.
        opened: a picture of any mode.

    Raises:
        ValueError: its values are floats, or have more than 16 bits: it does not say which is white.
    """
    if opened.mode != "F" and not opened.mode.startswith("I"):
        return opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    values = np.asarray(opened)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("its values are not of 8 or 16 bits")
    return image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))  # 65535 is 255 * 257


def _images(pixels: npt.NDArray[Any], labels: npt.NDArray[Any], what: str) -> Images:
    """(N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floats, to Images."""
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] not in (1, 3, 4) and pixels.shape[3] in (1, 3, 4):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3, 4):
        raise TrainingError(
            f"{what}: images have the shape {pixels.shape}",
            "use (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels",
        )
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.floating):
            raise TrainingError(f"{what}: images are {pixels.dtype}", "use uint8, or floats")
        with np.errstate(over="ignore"):  # beyond float32 they are infinite, and refused
            pixels = pixels.astype(np.float32)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not np.issubdtype(labels.dtype, np.integer):
        raise TrainingError(f"{what}: labels are {labels.dtype}", "use integers from 0")
    if labels.shape != pixels.shape[:1]:
        raise TrainingError(
            f"{what}: labels have the shape {labels.shape} for {len(pixels)} images",
            "give one integer label for each image",
        )
    images = Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels.astype(np.int64)))
    refuse_not_finite(images, what)
    return images


def _npz(path: Path, validation: float, seed: int) -> Splits:
    if not zipfile.is_zipfile(path):
        raise TrainingError(
            f"{path} cannot be read: it is no .npz file, or not a whole one",
            "write it with numpy.savez, or copy it once more",
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = set(file.files)
            parts = {
                part: found for part in ("train", "validation", "test") if (found := _npz_part(file, keys, part, path))
            }
            classes = tuple(str(name) for name in file["classes"]) if "classes" in keys else ()
            own = {key: [float(value) for value in np.ravel(file[key])] for key in ("mean", "std") if key in keys}
    except ARRAY_ERRORS as error:
        raise TrainingError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            "write it with numpy.savez: numbers alone, and text for classes",
        ) from error
    missing = [part for part in ("train", "test") if part not in parts]
    if missing:
        raise TrainingError(
            f"{path} has no {' and no '.join(missing)} images; its keys are {sorted(keys)}", f"use {_FORMS}"
        )
    splits = Splits.make(
        parts["train"], parts["test"], validation=parts.get("validation", validation), seed=seed,
        classes=classes, name=path.stem,
    )  # fmt: skip
    return _normalised(splits, own.get("mean", ()), own.get("std", ()), str(path)) if own else splits


def _normalised(splits: Splits, mean: Sequence[float], std: Sequence[float], what: str) -> Splits:
    """The same data with a mean and a deviation of the user's."""
    means, deviations = (tuple(float(value) for value in values) for values in (mean, std))
    if (
        [len(means), len(deviations)] != 2 * [len(splits.mean)]
        or not all(map(math.isfinite, means + deviations))
        or min(deviations) <= 0
    ):
        raise TrainingError(
            f"{what}: mean and std are {means}, {deviations}, the images have {len(splits.mean)} channels",
            "give both, one number for each channel, std above 0",
        )
    return replace(splits, mean=means, std=deviations)


def _npz_part(file: Mapping[str, Any], keys: set[str], part: str, path: Path) -> Images | None:
    short = "val" if part == "validation" else part
    for pixels, labels in ((f"x_{short}", f"y_{short}"), (f"{part}_image", f"{part}_label")):
        if {pixels, labels} <= keys:
            return _images(file[pixels], file[labels], f"{path}[{pixels}]")
    if {f"{part}_jpeg", f"{part}_offset", f"{part}_label"} <= keys:
        pictures = _decode(file[f"{part}_jpeg"], file[f"{part}_offset"], f"{path}[{part}_jpeg]")
        return _images(pictures, file[f"{part}_label"], f"{path}[{part}_jpeg]")
    return None


def _decode(jpeg: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], what: str) -> npt.NDArray[np.uint8]:
    image = _pillow()
    data = jpeg.tobytes()
    pictures = []
    for index, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        try:
            with image.open(io.BytesIO(data[begin:end])) as opened:
                pictures.append(np.asarray(_bytes(image, opened).convert("RGB"), np.uint8))
        except (*_BROKEN, image.DecompressionBombError) as error:
            raise TrainingError(f"{what}: image {index} cannot be read: {error}", "check the offsets") from error
    return np.stack(pictures)


def _factory(name: str, validation: float, seed: int) -> Splits:
    return _given(call_factory(name), f"what {name} returned", name.rpartition(":")[2], validation, seed)


def _given(made: Any, what: str, name: str, validation: float, seed: int) -> Splits:
    """Splits as they are; of data sets those that they make."""
    if isinstance(made, Splits):
        for part in ("train", "validation", "test"):  # they may have been put together without Splits.make
            refuse_not_finite(getattr(made, part), f"{part} images of {made.name}")
        return made
    if isinstance(made, tuple) and len(made) == 2:
        train, test = (_data_set(entry, what) for entry in made)
    else:
        test, train = _data_set(made, what).divide(0.2, seed)
    return Splits.make(train, test, validation=validation, seed=seed, name=name)


def _data_set(data: Any, name: str) -> Images:
    """All items of a torch data set (or any sequence) of (image, label)."""
    if isinstance(data, Images):
        refuse_not_finite(data, name)
        return data
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TrainingError(
            f"{name} is {type(data).__name__}, no data set with a length and items",
            "give Splits, a torch Dataset that has both, or a pair of them; list(...) of what is only iterated will do",
        )
    arrays, labels = [], []
    for index in range(len(data)):
        image, label = _item(data[index], f"{name}: item {index}")
        arrays.append(_array(image, f"{name}: image {index}"))
        labels.append(label)
        if arrays[-1].shape != arrays[0].shape:
            raise TrainingError(
                f"{name}: image {index} is {arrays[-1].shape}, the first {arrays[0].shape}",
                "bring all images to one size",
            )
    if not arrays:
        raise TrainingError(f"{name} holds a data set without images", "give one that has some")
    return _images(np.stack(arrays), np.array(labels), name)


def _item(item: Any, what: str) -> tuple[Any, int]:
    """An image and its class."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        shape = f"{type(item).__name__} of {len(item)}" if hasattr(item, "__len__") else type(item).__name__
        raise TrainingError(f"{what} is a {shape}, not (image, label)", "wrap the data set in one with such items")
    label = np.asarray(item[1])
    if label.size != 1 or label.dtype.kind not in "iufb" or not float(label.item()).is_integer():
        told = f"has shape {label.shape}" if label.size != 1 else f"is {item[1]!r}"
        raise TrainingError(f"{what} has a label that {told}", "labels are class numbers: 0, 1, 2 and so on")
    return item[0], int(label.item())


def _array(image: Any, what: str) -> npt.NDArray[Any]:
    """Channels first; pictures of Pillow's with the colours that they show."""
    if isinstance(image, torch.Tensor):
        array: npt.NDArray[Any] = image.numpy()
        return array[None] if array.ndim == 2 else array
    if hasattr(image, "convert") and hasattr(image, "mode"):
        try:
            image = _bytes(_pillow(), image)
        except ValueError as error:
            raise TrainingError(f"{what} cannot be read: {error}", "convert it to 8 bits") from error
    array = np.asarray(image)
    if array.ndim == 2:
        return array[None]
    return array.transpose(2, 0, 1) if array.ndim == 3 and array.shape[-1] in (1, 3, 4) else array
