"""Augmentations: each image by itself, on pixels in [0, 1], by their generator alone. [000-12], regressions 5, 24."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsewood.data import CropFlip, ResizedCrop, SimCLRViews, UnitMemViews
from sparsewood.data.augment import Augmentation, mirrored
from sparsewood.errors import SparsewoodError

ALL: tuple[Augmentation, ...] = (CropFlip(), CropFlip(1, flip=False), ResizedCrop(), UnitMemViews(), SimCLRViews())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 8, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=generator(99))


@pytest.mark.parametrize("augment", ALL, ids=repr)
def test_results_are_pixels_that_follow_from_the_generator(augment: Augmentation) -> None:
    pixels = images()
    untouched = pixels.clone()
    before, python = torch.get_rng_state(), random.getstate()
    first = augment(pixels, generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python
    torch.manual_seed(5)
    assert torch.equal(first, augment(pixels, generator(1)))
    assert not torch.equal(first, augment(pixels, generator(2)))
    assert torch.equal(pixels, untouched)
    assert first.shape == pixels.shape
    assert 0 <= first.min() <= first.max() <= 1


@pytest.mark.parametrize("augment", ALL, ids=repr)
def test_each_image_has_draws_of_its_own(augment: Augmentation) -> None:
    """[000-12] Equal images of one batch become different ones."""
    alike = images(1).expand(16, -1, -1, -1).contiguous()
    assert len({image.numpy().tobytes() for image in augment(alike, generator())}) > 4


@pytest.mark.parametrize("augment", ALL, ids=repr)
def test_normalised_inputs_are_refused(augment: Augmentation) -> None:
    """Regression 5. [-1, 1] is what "normalise .5/.5" leaves."""
    for wrong in (images() * 2 - 1, images() * 255):
        with pytest.raises(SparsewoodError, match=r"works on pixels in \[0, 1\], before normalisation"):
            augment(wrong, generator())
    for wrong in (images()[0], (images() * 255).byte()):
        with pytest.raises(SparsewoodError, match="works on float pixels"):
            augment(wrong, generator())


def test_crops_are_windows_of_the_padded_image() -> None:
    pixels = images(64, 6)
    moved = CropFlip(padding=2, flip=False)(pixels, generator())
    padded = F.pad(pixels, (2, 2, 2, 2))
    found = set()
    for image, around in zip(moved, padded, strict=True):
        places = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(image, around[:, y : y + 6, x : x + 6])
        ]  # fmt: skip
        assert len(places) == 1
        found.add(places[0])
    assert {y for y, _ in found} == {x for _, x in found} == set(range(5))


def test_half_of_the_images_are_mirrored() -> None:
    pixels = images(400, 2)
    turned = mirrored(pixels, generator())
    changed = (turned != pixels).flatten(1).any(1)
    assert torch.equal(turned[changed], pixels[changed].flip(3))
    assert 160 < int(changed.sum()) < 240


def test_crops_are_mirrored_too_unless_not_asked_for() -> None:
    pixels = images(100)
    for augment in (CropFlip(0), ResizedCrop((1.0, 1.0), (1.0, 1.0))):
        turned = augment(pixels, generator())
        mirror = (turned - pixels.flip(3)).abs().flatten(1).amax(1) < 1e-4
        same = (turned - pixels).abs().flatten(1).amax(1) < 1e-4
        assert (mirror | same).all()
        assert 30 < int(mirror.sum()) < 70


def test_no_padding_and_no_flip_changes_nothing() -> None:
    assert torch.equal(CropFlip(0, flip=False)(images(), generator()), images())


def test_crop_boxes_have_the_area_and_shape_asked_for() -> None:
    crop = ResizedCrop(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    left, top, across, down = crop.boxes(500, 30, 40, generator()).unbind(1)
    area, ratio = across * down / 1200, across / down
    assert (area.min() > 0.199, area.max() < 0.501) == (True, True)
    assert (ratio.min() > 0.499, ratio.max() < 2.001) == (True, True)
    assert float(area.mean()) == pytest.approx(0.35, abs=0.02)
    assert min(float(left.min()), float(top.min())) >= 0
    assert (float((left + across).max()) <= 40.001, float((top + down).max()) <= 30.001) == (True, True)


def test_where_no_crop_fits_the_whole_image_is_taken() -> None:
    assert ResizedCrop(scale=(1.0, 1.0), ratio=(2.0, 2.0)).boxes(2, 8, 8, generator()).tolist() == [[0, 0, 8, 8]] * 2


def test_the_whole_image_as_crop_is_the_image() -> None:
    crop = ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    assert torch.allclose(crop(images(), generator()), images(), atol=1e-5)


def test_a_crop_shows_the_box() -> None:
    """A ramp from left to right stays a ramp, from the left edge of the box to its right one."""
    ramp = ((torch.arange(32) + 0.5) / 32).expand(1, 1, 32, 32).contiguous()
    crop = ResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0), flip=False)
    left, _, across, _ = crop.boxes(1, 32, 32, generator(3))[0].tolist()
    shown = crop(ramp, generator(3))[0, 0, 16]
    assert across == pytest.approx(16)
    expected = (left + (torch.arange(32) + 0.5) / 2) / 32
    inner = slice(2, -2)  # beyond the outermost centres there is nothing to interpolate
    assert torch.allclose(shown[inner], expected[inner], atol=1e-4)


def test_unitmem_views_are_those_described() -> None:
    """[000-12] RandomResizedCrop(32), flip, ColorJitter(.9, .9, .9, .1) p=.9, Grayscale p=.1."""
    augment = UnitMemViews()
    assert (augment.size, augment.jitter, augment.jitter_probability) == (32, (0.9, 0.9, 0.9, 0.1), 0.9)
    alike = images(1).expand(600, -1, -1, -1).contiguous()
    grey = augment(alike, generator())
    share = ((grey[:, 0] - grey[:, 1]).abs().flatten(1).amax(1) < 1e-6).float().mean()
    assert 0.06 < float(share) < 0.15
    still = UnitMemViews(scale=(1.0, 1.0), flip=0.5, jitter_probability=0.0, grayscale_probability=0.0)
    half = alike[:400]
    # Crops of the whole area may still change the shape; those that do not are the image or its mirror image.
    views = still(half, generator())
    turned = (views - half.flip(3)).abs().flatten(1).mean(1) < (views - half).abs().flatten(1).mean(1)
    assert 0.4 < float(turned.float().mean()) < 0.6  # not .25: a flip is not wrapped in another chance


def test_colour_jitter_is_left_out_in_a_tenth_of_the_views() -> None:
    plain = UnitMemViews(scale=(1.0, 1.0), flip=0.0, grayscale_probability=0.0)
    flat = torch.full((600, 3, 32, 32), 0.5)
    flat[:, 0] = 0.3
    unchanged = (plain(flat, generator()) - flat).abs().flatten(1).amax(1) < 1e-4
    assert 0.06 < float(unchanged.float().mean()) < 0.15


@pytest.mark.parametrize("augment", [UnitMemViews(), SimCLRViews()])
def test_what_kornia_needs_is_said(augment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SparsewoodError, match=r"needs 3 channels. Got 1"):
        augment(images()[:, :1], generator())
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[augment\]'"):
        augment(images(), generator())


@pytest.mark.parametrize(
    "make",
    [lambda: CropFlip(-1), lambda: CropFlip(1.5),  # type: ignore[arg-type]
     lambda: CropFlip(True), lambda: ResizedCrop(scale=(0.0, 1.0)),
     lambda: ResizedCrop(scale=(0.5, 0.2)), lambda: ResizedCrop(scale=(0.5, 1.2)), lambda: ResizedCrop(ratio=(0, 1)),
     lambda: UnitMemViews(size=0), lambda: UnitMemViews(jitter=(0.9, 0.9, 0.9, 0.6)), lambda: SimCLRViews(flip=1.5),
     lambda: SimCLRViews(jitter=(0.1, 0.1, 0.1)),  # type: ignore[arg-type]
     lambda: SimCLRViews(grayscale_probability=-0.1)],
)  # fmt: skip
def test_impossible_settings_are_refused(make: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"'\w+' must be .* Got \w+\("):
        make()
