"""Image files: folders as ImageNet is laid out, CUB-200-2011, decoding in threads. [003], [001-06], regression 4."""

from __future__ import annotations

import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsewood.data import CropFlip, ImageFiles, Loader, Part, ResizedCrop, Split, cub200, image_folder
from sparsewood.data.part import View
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.testing.checks.data import check_data

SIZE = 16


def save(path: Path, seed: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


def fill(root: Path, parts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog", "newt")) -> Path:
    for part, count in parts.items():
        for number, name in enumerate(classes):
            for image in range(count):
                ending = ("JPEG", "png", "jpg")[image % 3]
                save(root / part / name / f"{image:02}.{ending}", zlib.crc32(f"{part} {number} {image}".encode()))
    return root


def images_of(part: Part) -> Tensor:
    return part.pixels(torch.arange(len(part)))


# ---------------------------------------------------------------- folders


def test_val_is_the_test_part_and_validation_is_cut_from_training(tmp_path: Path) -> None:
    """Regression 4: nothing is chosen on the test part."""
    split = image_folder(fill(tmp_path, {"train": 10, "val": 2}), size=SIZE, validation=0.2)
    assert split.sizes == {"train": 24, "validation": 6, "test": 6}
    assert (split.classes, split.class_names, split.input_shape) == (3, ("cat", "dog", "newt"), (3, SIZE, SIZE))
    assert split.validation.labels.bincount().tolist() == [2, 2, 2]
    assert split.note == ""
    check_data(split)
    assert folders_of(split) == {"train": {"train"}, "validation": {"train"}, "test": {"val"}}


def test_with_a_test_folder_val_is_for_validation(tmp_path: Path) -> None:
    split = image_folder(fill(tmp_path, {"train": 4, "val": 2, "test": 3}), size=SIZE)
    assert split.sizes == {"train": 12, "validation": 6, "test": 9}
    assert folders_of(split) == {"train": {"train"}, "validation": {"val"}, "test": {"test"}}
    check_data(split)


def test_with_a_test_folder_alone_validation_is_cut_from_training(tmp_path: Path) -> None:
    split = image_folder(fill(tmp_path, {"train": 4, "test": 3}), size=SIZE, validation=3)
    assert split.sizes == {"train": 9, "validation": 3, "test": 9}
    assert folders_of(split) == {"train": {"train"}, "validation": {"train"}, "test": {"test"}}


def test_test_images_without_labels_are_not_used(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 4, "val": 2})
    save(tmp_path / "test" / "ILSVRC2012_test_1.JPEG", 0)
    split = image_folder(tmp_path, size=SIZE, validation=3)
    assert folders_of(split)["test"] == {"val"}
    assert split.note == "folder 'test' has no classes and is not used"


def folders_of(split: Split) -> dict[str, set[str]]:
    parts = {"train": split.train, "validation": split.validation, "test": split.test.open()}
    found = {}
    for name, part in parts.items():
        assert isinstance(part.source, ImageFiles)
        positions = torch.arange(len(part)) if part.positions is None else part.positions
        found[name] = {part.source.paths[int(position)].parents[1].name for position in positions}
    return found


def test_folders_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        SparsewoodError, match=r"folder of images was not found. .*train/<class>/<image>.*image-net.org"
    ):
        image_folder(tmp_path)
    fill(tmp_path, {"train": 2})
    (tmp_path / "val").mkdir()
    with pytest.raises(SparsewoodError, match="Neither 'val' nor 'test'"):
        image_folder(tmp_path)
    fill(tmp_path, {"val": 1}, ("cat", "owl"))
    with pytest.raises(SparsewoodError, match=r"val/owl' is a class that the training images do not have. .*cat, dog"):
        image_folder(tmp_path)
    (tmp_path / "train" / "owl").mkdir()
    with pytest.raises(SparsewoodError, match=r"Class folder .*train/owl' has no image"):
        image_folder(tmp_path)


def test_missing_pillow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for load in (image_folder, cub200):
        with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[vision\]'"):
            load(tmp_path)


# ---------------------------------------------------------------- decoding


def test_an_image_of_the_right_size_is_read_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 3, (SIZE, SIZE))
    read = ImageFiles([tmp_path / "a.png"], SIZE, central=1.0).read(torch.tensor([0]))
    assert read.dtype == torch.uint8
    expected = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(read[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    save(tmp_path / "a.png", 3, mode=mode)
    read = ImageFiles([tmp_path / "a.png"], SIZE).read(torch.tensor([0]))
    assert read.shape == (1, 3, SIZE, SIZE)
    if mode == "L":
        assert torch.equal(read[:, 0], read[:, 1])


def test_the_middle_is_read_as_resize_and_centre_crop_do(tmp_path: Path) -> None:
    """Resize(256), CenterCrop(224) of torchvision, in one step: the same but for rounding."""
    save(tmp_path / "a.png", 5, (400, 300))
    image = Image.open(tmp_path / "a.png")
    resized = image.resize((int(256 * 400 / 300), 256), Image.Resampling.BILINEAR)
    left = round((resized.width - 224) / 2)
    expected = np.asarray(resized.crop((left, 16, left + 224, 240))).astype(int)
    read = ImageFiles([tmp_path / "a.png"], 224).read(torch.tensor([0]))[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(read - expected).mean() < 1.0


def test_boxes_are_the_image(tmp_path: Path) -> None:
    pixels = np.zeros((20, 24, 3), np.uint8)
    pixels[4:12, 6:14] = (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = ImageFiles([tmp_path / "a.png"] * 3, 8, 1.0, [(6.0, 4.0, 8.0, 8.0), (20, 0, 50, 50), (30, 0, 5, 5)])
    read = source.read(torch.tensor([0, 1]))
    assert (read[0].permute(1, 2, 0) == torch.tensor([10, 20, 30], dtype=torch.uint8)).all()
    assert (read[1] == 0).all()
    with pytest.raises(FileFormatError, match=r"box \(30, 0, 5, 5\) of image .*a.png' lies outside its \(24, 20\)"):
        source.read(torch.tensor([2]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path, workers: int) -> None:
    fill(tmp_path, {"train": 4, "val": 2})
    path = tmp_path / "val" / "dog" / "01.png"
    for content in (b"no image", path.read_bytes()[:-200], b""):
        path.write_bytes(content)
        split = image_folder(tmp_path, size=SIZE, validation=3)
        with pytest.raises(FileFormatError, match=r"Cannot decode image '.*val/dog/01.png'"):
            list(Loader(split.test.open(), 2, workers=workers))
    path.unlink()
    with pytest.raises(FileFormatError, match=r"Cannot decode image '.*val/dog/01.png': .*No such file"):
        list(Loader(split.test.open(), 2, workers=workers))


@pytest.mark.parametrize(("size", "central"), [(0, 1.0), (True, 1.0), (8, 0.0), (8, 1.5), (8.0, 1.0)])
def test_impossible_sizes_are_refused(size: Any, central: float) -> None:
    with pytest.raises(SparsewoodError, match="whole pixels"):
        ImageFiles([], size, central)


# ---------------------------------------------------------------- threads and crops


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return image_folder(fill(tmp_path, {"train": 8, "val": 2}), size=SIZE, validation=3)


@pytest.mark.parametrize("augment", [None, CropFlip(2), ResizedCrop()])
def test_values_do_not_depend_on_the_number_of_threads(split: Split, augment: Any) -> None:
    expected = list(Loader(split.train, 4, seed=1, augment=augment).epoch(2))
    before = torch.get_rng_state()
    for workers in (1, 3, 5):
        loader = Loader(split.train, 4, seed=1, augment=augment, workers=workers)
        for start in (0, 3):
            loaded = list(loader.epoch(2, start))
            assert len(loaded) == len(expected) - start
            for (inputs, labels), (same, targets) in zip(loaded, expected[start:], strict=True):
                assert torch.equal(inputs, same)
                assert torch.equal(labels, targets)
    assert torch.equal(torch.get_rng_state(), before)


def test_crops_of_files_follow_from_seed_epoch_and_image_only(split: Split) -> None:
    """Not from the batch, its size, or the rank."""

    def by_image(epoch: int, **settings: Any) -> dict[int, Tensor]:
        ranks = [Loader(split.train, rank=rank, augment=ResizedCrop(), **settings) for rank in range(settings["world"])]
        order = ranks[0].order(epoch).split(settings["batch_size"])
        found = {}
        for rank, loader in enumerate(ranks):
            for indices, (inputs, _) in zip(order, loader.epoch(epoch), strict=True):
                found |= dict(zip(indices[rank :: settings["world"]].tolist(), inputs, strict=True))
        return found

    first = by_image(1, batch_size=7, world=1, seed=3)
    second = by_image(1, batch_size=3, world=3, seed=3)
    assert first.keys() == second.keys() == set(range(21))
    assert all(torch.equal(first[index], second[index]) for index in first)
    for other in (by_image(2, batch_size=7, world=1, seed=3), by_image(1, batch_size=7, world=1, seed=4)):
        assert not any(torch.equal(first[index], other[index]) for index in first)


def test_crops_are_cut_once_and_never_in_evaluation(split: Split) -> None:
    """[001-06] A view is for training parts; scoring and evaluation see the middle of the image."""
    plain = images_of(split.train)
    seeded = torch.cat([inputs for inputs, _ in Loader(split.train, 21, seed=0)])
    assert torch.equal(seeded, split.train.normalized(plain[Loader(split.train, 21, seed=0).order(0)]))
    view = View(0, 0, ResizedCrop())
    order = Loader(split.train, 21, seed=0).order(0)
    (inputs, _) = next(Loader(split.train, 21, seed=0, augment=ResizedCrop()).epoch(0))
    raw = split.train.read(order, view)
    assert torch.equal(inputs, split.train.normalized(raw.float() / 255))


def test_a_crop_of_everything_is_the_whole_image_mirrored_half_the_time(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 9, (SIZE, SIZE))
    source = ImageFiles([tmp_path / "a.png"], SIZE, 1.0)
    whole = source.read(torch.tensor([0]))
    crop = ResizedCrop((1.0, 1.0), (1.0, 1.0))
    views = [source.read(torch.tensor([0]), View(0, epoch, crop)) for epoch in range(60)]
    straight = [torch.equal(view, whole) for view in views]
    assert all(same or torch.equal(view, whole.flip(3)) for same, view in zip(straight, views, strict=True))
    assert 18 < sum(straight) < 42


def test_files_of_one_epoch_are_cropped_differently(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 9)
    source = ImageFiles([tmp_path / "a.png"] * 8, SIZE)
    views = source.read(torch.arange(8), View(0, 0, ResizedCrop()))
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_threads_end_with_the_epoch_and_when_it_is_left(split: Split) -> None:
    before = threading.active_count()
    loader = Loader(split.train, 2, seed=0, workers=3)
    list(loader)
    assert threading.active_count() == before
    epoch = loader.epoch(0)
    next(epoch)
    assert threading.active_count() > before
    epoch.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


# ---------------------------------------------------------------- CUB-200-2011


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    folder = tmp_path / "CUB_200_2011"
    lines: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split", "boxes")}
    for number in range(1, 25):
        kind = (number - 1) // 8 + 1
        file = f"{kind:03}.Bird_{kind}/Bird {number}.jpg"
        save(folder / "images" / file, number)
        lines["images"].append(f"{number} {file}")
        lines["image_class_labels"].append(f"{number} {kind}")
        lines["train_test_split"].append(f"{number} {int(number % 4 != 0)}")
        lines["boxes"].append(f"{number} 4.0 2.0 12.0 10.0")
    for name, rows in lines.items():
        (folder / f"{'bounding_boxes' if name == 'boxes' else name}.txt").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("".join(f"{kind} {kind:03}.Bird_{kind}\n" for kind in (1, 2, 3)))
    return folder


def test_cub_parts_are_those_of_its_lists(birds: Path) -> None:
    split = cub200(birds.parent, size=SIZE, validation=3)
    assert split.sizes == {"train": 15, "validation": 3, "test": 6}
    assert split.class_names == ("001.Bird_1", "002.Bird_2", "003.Bird_3")
    assert split.note == "18 of 5,994 training images; 6 of 5,794 test images; 3 of 200 classes"
    check_data(split)
    test = split.test.open()
    assert isinstance(test.source, ImageFiles)
    numbers = [int(path.stem.split()[1]) for path in test.source.paths]
    assert numbers == [4, 8, 12, 16, 20, 24]
    assert test.labels.tolist() == [(number - 1) // 8 for number in numbers]
    assert cub200(birds, size=SIZE, validation=3).sizes == split.sizes


def test_cub_boxes_are_cut_out(birds: Path) -> None:
    split = cub200(birds, size=8, central=1.0, boxes=True, validation=3)
    assert split.note.endswith("cut to bounding boxes")
    test = split.test.open()
    assert isinstance(test.source, ImageFiles)
    cut = Image.open(test.source.paths[0]).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR, (5, 2, 15, 12))
    assert np.array_equal(test.read(torch.tensor([0]))[0].permute(1, 2, 0).numpy(), np.asarray(cut))
    (birds / "bounding_boxes.txt").unlink()
    with pytest.raises(SparsewoodError, match=r"lacks bounding_boxes.txt. .*vision.caltech.edu"):
        cub200(birds.parent, boxes=True)
    assert cub200(birds, validation=3).sizes["test"] == 6


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("image_class_labels.txt", "1 one\n", r"labels.txt', line 1: expected a number and a value. Got '1 one'"),
     ("images.txt", "x\n", r"images.txt', line 1"), ("train_test_split.txt", "1 1\n", "says nothing of 23 images"),
     ("image_class_labels.txt", "".join(f"{i} 7\n" for i in range(1, 25)), r"gives image 1 the class 7, which"),
     ("train_test_split.txt", "".join(f"{i} 2\n" for i in range(1, 25)), r"must hold 1 for training and 0 for test")],
)  # fmt: skip
def test_lists_that_do_not_fit_are_named(birds: Path, file: str, content: str, message: str) -> None:
    (birds / file).write_text(content)
    with pytest.raises(FileFormatError, match=message):
        cub200(birds)
