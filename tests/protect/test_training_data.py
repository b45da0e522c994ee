# SPDX-License-Identifier: BSD-2-Clause
"""Data to train on: folders, arrays and torch data sets, what is refused of them, and augmentation."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cloister.protect.training import (
    Augmentation,
    Images,
    Splits,
    TrainingError,
    load_data,
    load_model,
)
from cloister.protect.training.data import SAMPLE
from cloister.protect.training.read import _decode


def test_the_validation_split_comes_from_the_training_images_and_is_seeded() -> None:
    pixels = torch.arange(400, dtype=torch.float32).view(400, 1, 1, 1)
    labels = torch.arange(400) % 4
    whole, test = Images(pixels, labels), Images(pixels[:8] + 1000, labels[:8])
    splits = Splits.make(whole, test, validation=0.25, seed=1)
    taken, left = set(splits.validation.pixels.flatten().tolist()), set(splits.train.pixels.flatten().tolist())
    assert len(taken) == 100 and taken.isdisjoint(left) and taken | left == set(range(400))
    assert torch.bincount(splits.validation.labels).tolist() == [25] * 4
    again, other = (Splits.make(whole, test, validation=0.25, seed=seed) for seed in (1, 2))
    assert torch.equal(again.validation.pixels, splits.validation.pixels)
    assert not torch.equal(other.validation.pixels, splits.validation.pixels)


def test_augmentation_moves_and_mirrors_each_image_on_its_own() -> None:
    pixels = torch.zeros((200, 1, 5, 7), dtype=torch.uint8)
    pixels[:, 0, 2, 3] = 9
    moved = Augmentation(crop=2)(pixels, torch.Generator().manual_seed(0))
    assert moved.shape == pixels.shape and moved.dtype == torch.uint8
    assert len({tuple(place) for place in (moved == 9).nonzero()[:, 2:].tolist()}) == 25
    pixels[:, 0, 2, 3], pixels[:, 0, 2, 1] = 0, 9
    mirrored = Augmentation(flip=True)(pixels, torch.Generator().manual_seed(0))
    columns = (mirrored == 9).nonzero()[:, 3].tolist()
    assert set(columns) == {1, 5} and 60 < columns.count(1) < 140


def test_data_from_arrays_jpeg_bytes_and_folders_agree(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = np.repeat(np.repeat(random.integers(0, 255, (40, 4, 4, 3), dtype=np.uint8), 4, 1), 4, 2)
    labels = np.arange(40) % 2
    encoded = []
    for index, picture in enumerate(pictures):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "jpeg", quality=95)
        encoded.append(buffer.getvalue())
        for part in ("train", "test"):
            folder = tmp_path / "folder" / part / f"class{labels[index]}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:02}.jpg").write_bytes(encoded[-1])
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in encoded])
    offsets = np.cumsum([0, *map(len, encoded)])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    np.savez(tmp_path / "arrays.npz", x_train=decoded, y_train=labels, x_test=decoded, y_test=labels)
    np.savez(
        tmp_path / "jpeg.npz", train_jpeg=data, train_offset=offsets, train_label=labels,
        test_jpeg=data, test_offset=offsets, test_label=labels,
    )  # fmt: skip
    arrays, jpeg = load_data(tmp_path / "arrays.npz"), load_data(tmp_path / "jpeg.npz")
    folder = load_data(tmp_path / "folder")
    assert arrays.shape == (3, 16, 16) and folder.classes == ("class0", "class1")
    assert torch.equal(arrays.test.pixels, jpeg.test.pixels) and torch.equal(arrays.train.pixels, jpeg.train.pixels)
    order = np.argsort(labels, kind="stable")  # a folder is read class by class
    assert torch.equal(folder.test.pixels, arrays.test.take(order).pixels)


def test_an_npz_file_can_bring_the_normalisation_that_its_model_was_trained_with(tmp_path: Path) -> None:
    pixels, labels = np.random.default_rng(0).random((40, 1, 8, 8), np.float32), np.arange(40) % 2
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    np.savez(tmp_path / "own.npz", **arrays, mean=[0.0], std=[1.0])
    splits = load_data(tmp_path / "own.npz")
    assert torch.equal(splits.normalise(splits.test.pixels), torch.from_numpy(pixels)), "used as they are"
    for wrong in ({"mean": [0.0]}, {"mean": [0.0, 0.0], "std": [1.0, 1.0]}, {"mean": [0.0], "std": [0.0]}):
        np.savez(tmp_path / "own.npz", **arrays, **wrong)
        with pytest.raises(TrainingError, match="images have 1 channels"):
            load_data(tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", **arrays, mean=[0.0], std=[1.0])
    given = load_data(tmp_path / "own.npz", mean=(0.25,), std=(0.5,))
    assert torch.equal(given.normalise(given.test.pixels), (torch.from_numpy(pixels) - 0.25) / 0.5)
    assert load_data(tmp_path / "own.npz", mean=np.array([0.25]), std=np.array([0.5])).mean == (0.25,)
    for mean, std in (((0.5,), None), (None, (0.5,)), ((0.5,) * 3, (0.5,) * 3), ((0.5,), (float("nan"),))):
        with pytest.raises(TrainingError, match=r"own: mean and std are .* images have 1 channels"):
            load_data(tmp_path / "own.npz", mean=mean, std=std)


def folder_of(root: Path, *pictures: Image.Image, ending: str = "png") -> Path:
    """A data set of two classes that both have these pictures."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            place = root / part / name
            place.mkdir(parents=True)
            for index, picture in enumerate(pictures):
                picture.save(place / f"{index}.{ending}")
    return root


def test_a_folder_can_bring_the_images_that_choices_are_made_on(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    folder_of(root, *[Image.new("L", (4, 4), shade) for shade in (0, 100, 200)])
    (root / "train").rename(root / "val")
    with pytest.raises(TrainingError, match="has no folder 'train'"):
        load_data(root)
    (root / "test").rename(root / "train")
    with pytest.raises(TrainingError, match="has no folder 'test'") as caught:
        load_data(root)
    assert "val/ is what choices are made on, test/ what is reported on" in caught.value.remedy
    shutil.copytree(root / "val", root / "test")
    splits = load_data(root)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 6, 6]


@pytest.mark.parametrize("ending", ["png", "pgm"])
def test_greys_of_16_bits_are_scaled_to_8(tmp_path: Path, ending: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    picture = Image.fromarray(values)
    assert picture.mode == "I;16"
    splits = load_data(folder_of(tmp_path, picture, picture, ending=ending))
    assert splits.shape == (1, 8, 8) and splits.test.pixels.dtype == torch.uint8
    assert np.array_equal(splits.test.pixels[0, 0].numpy(), np.round(values / 257).astype(np.uint8))
    data = (tmp_path / "test" / "a" / f"0.{ending}").read_bytes()
    decoded = _decode(np.frombuffer(data, np.uint8), np.array([0, len(data)]), "data")
    assert np.array_equal(decoded[0, :, :, 1], splits.test.pixels[0, 0].numpy())


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "chunk":
        place = data.index(b"IDAT")  # its length stands before: what lies behind 10 bytes is no chunk
        data = data[: place - 4] + (10).to_bytes(4, "big") + data[place:]
    elif how == "short":
        data = data[: len(data) // 2]
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["chunk", "short", "floats", "huge"])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8))
    root = folder_of(tmp_path / "set", grey, grey)
    wrong = root / "train" / "b" / "1.png"
    if how == "floats":
        Image.fromarray(np.ones((32, 32), np.float32)).save(wrong, "tiff")
    elif how == "huge":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # twice as many are an error
        Image.new("L", (40, 40)).save(wrong)
        for path in root.rglob("*.png"):
            if path != wrong:
                Image.new("L", (20, 20)).save(path)
    damaged(wrong, how)
    with pytest.raises(TrainingError, match=re.escape(f"{wrong} cannot be read as an image: ")) as caught:
        load_data(root)
    assert caught.value.remedy == "remove or replace it"
    good, bad = (root / "train" / "a" / "0.png").read_bytes(), wrong.read_bytes()
    both = {"jpeg": np.frombuffer(good + bad, np.uint8), "offset": np.array([0, len(good), len(good + bad)])}
    arrays = {f"{part}_{key}": value for part in ("train", "test") for key, value in both.items()}
    np.savez(tmp_path / "set.npz", **arrays, train_label=np.arange(2), test_label=np.arange(2))
    with pytest.raises(TrainingError, match=r"set.npz\[train_jpeg\]: image 1 cannot be read: ") as caught:
        load_data(tmp_path / "set.npz")
    assert caught.value.remedy == "check the offsets"


def test_images_of_several_sizes_are_refused_with_a_way_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "sizes", Image.new("L", (10, 10)), Image.new("L", (12, 8)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match=r"1.png is \(8, 12\), the images before it \(10, 10\)") as caught:
        load_data("sizes")
    assert "--size N (in Python Data(path, size=N))" in caught.value.remedy
    assert load_data("sizes", size=8).shape == (1, 8, 8)
    with pytest.raises(TrainingError, match="pair_of_data_sets: only a folder's images are resized"):
        load_data("test_training_data:pair_of_data_sets", size=8)


def test_normalisation_is_measured_on_images_of_all_classes() -> None:
    labels = torch.arange(SAMPLE + 10_000) // (SAMPLE // 2)  # three classes, the last one dark
    pixels = torch.where(labels == 2, 0, 200).to(torch.uint8).view(-1, 1, 1, 1)
    large = Splits.make(Images(pixels, labels), Images(pixels, labels), validation=Images(pixels[:1], labels[:1]))
    assert large.mean[0] == pytest.approx(float(pixels.float().mean()) / 255, abs=1e-3)
    pixels, labels = torch.randint(0, 256, (500, 3, 4, 4), dtype=torch.uint8), torch.arange(500) % 2
    few = Splits.make(Images(pixels, labels), Images(pixels, labels), validation=Images(pixels[:1], labels[:1]))
    whole = pixels.to(torch.float32) / 255.0
    assert few.mean == tuple(whole.mean((0, 2, 3)).tolist()) and few.std == tuple(whole.std((0, 2, 3)).tolist())


def pair_of_data_sets() -> tuple[object, object]:
    data = torch.utils.data.TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 3)
    return data, data


def test_data_from_a_factory_of_torch_data_sets() -> None:
    splits = load_data("test_training_data:pair_of_data_sets")
    assert splits.shape == (1, 8, 8) and len(splits.classes) == 3 and len(splits.test) == 60
    normal = splits.normalise(splits.train.pixels)
    assert abs(float(normal.mean())) < 1e-4 and abs(float(normal.std()) - 1) < 1e-2


class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[object]:
        return iter(())


IMAGE = np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(IMAGE, 0), (IMAGE, 1, "more")], r"item 1 is a tuple of 3, not \(image, label\)"),
        ([{"image": IMAGE, "label": 0}], r"item 0 is a dict of 2, not \(image, label\)"),
        ([(IMAGE, np.eye(3)[0])], r"item 0 has a label that has shape \(3,\)"),
        ([(IMAGE, 0.7)], "item 0 has a label that is 0.7"),
        ([(IMAGE, "cat")], "item 0 has a label that is 'cat'"),
        ([(Image.fromarray(np.full((8, 8), 0.5, np.float32)), 0)], "image 0 cannot be read: its values are not of 8"),
        (Endless(), "is Endless, no data set with a length and items"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_items_that_are_no_labelled_images_are_named(data: object, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        load_data((data, data))  # type: ignore[arg-type]
    assert caught.value.remedy


def test_pictures_of_a_data_set_have_the_colours_that_they_show() -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:, :4] = (250, 10, 90)
    palette = Image.fromarray(colours).quantize(4)
    assert palette.mode == "P"
    splits = load_data(([(palette, label) for label in (0, 1) * 10],) * 2)
    assert splits.shape == (3, 8, 8)
    shown = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(splits.test.pixels[0].numpy(), shown)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"x_train": np.zeros((4, 8, 8), np.uint8), "y_train": np.zeros(4, int)}, "has no test images"),
        ({"x": np.zeros(3)}, "has no train and no test"),
        ({"x_train": np.zeros((4, 8), np.uint8), "y_train": np.zeros(4, int)}, r"shape \(4, 8\)"),
        ({"x_train": np.zeros((4, 8, 8), np.int32), "y_train": np.zeros(4, int)}, "int32"),
        ({"x_train": np.zeros((4, 8, 8), np.uint8), "y_train": np.zeros(5, int)}, "for 4 images"),
    ],
)
def test_errors_name_what_is_wrong_with_the_data(tmp_path: Path, keys: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **keys)
    with pytest.raises(TrainingError, match=message) as caught:
        load_data(tmp_path / "bad.npz")
    assert caught.value.remedy


@pytest.mark.parametrize("where", ["nowhere.npz", "no.such.module:factory", "test_training_data:nothing"])
def test_data_and_models_that_are_not_there(where: str) -> None:
    with pytest.raises(TrainingError):
        load_data(where)
    with pytest.raises(TrainingError):
        load_model(where)


@pytest.mark.parametrize("how", ["given to Splits.make", "made by hand", "too large"])
def test_images_that_are_not_finite_are_refused_however_they_are_given(how: str) -> None:
    pixels, labels = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
    good = Images(pixels.clone(), labels)
    pixels[33, 0, 1, 1] = float("nan")
    bad = Images(pixels, labels)
    with pytest.raises(TrainingError, match="1 of 40 images holds NaN or infinity, the first at index 33"):
        if how == "made by hand":
            load_data(replace(Splits.make(good, good), test=bad))
        elif how == "too large":
            load_data([(image.double().numpy() * (1e300 if index == 33 else 1), index % 2)
                       for index, image in enumerate(good.pixels)])  # fmt: skip
        else:
            Splits.make(good, bad)


def test_data_sets_can_be_given_as_they_are() -> None:
    items = [(torch.full((1, 4, 4), index / 40), index % 2) for index in range(40)]
    pair = load_data((items[:30], items[30:]), validation=0.2)
    assert (len(pair.train), len(pair.validation), len(pair.test)) == (24, 6, 10) and pair.shape == (1, 4, 4)
    assert sorted(pair.test.pixels[:, 0, 0, 0].tolist()) == pytest.approx([index / 40 for index in range(30, 40)])
    whole = load_data(items)
    assert len(whole.test) == 8 and load_data(whole) is whole
    with pytest.raises(TrainingError, match="the data given is int, no data set"):
        load_data((items, 7))
