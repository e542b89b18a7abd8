"""Random changes of training images: batched, on pixels in [0, 1], before normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsewood.errors import SparsewoodError

# The catalogue: what can be chosen in a recipe.
__all__ = ["CropFlip", "NormalViews", "ResizedCrop", "SimCLRViews", "StrongViews", "UnitMemViews", "WeakViews"]

ATTEMPTS = 10
TOLERANCE = 1e-6


class Augmentation(Protocol):
    """Changes pixels, float[b, c, h, w] in [0, 1], at random; every image by draws of its own from `generator`."""

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class CropFlip:
    """A black border of `padding` pixels, a crop of the old size anywhere in it, and a mirror image half the time.

    The usual augmentation of CIFAR: He et al. 2016, section 4.2, https://arxiv.org/abs/1512.03385.

    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3) / 9
    >>> moved = CropFlip(padding=1)(image, torch.Generator().manual_seed(1))
    >>> moved.shape
    torch.Size([1, 1, 3, 3])
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        whole = isinstance(self.padding, int) and not isinstance(self.padding, bool)
        _require(whole and self.padding >= 0, self, "'padding' must be a whole number >= 0")

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        require_pixels(pixels, self)
        count, _, height, width = pixels.shape
        rows, columns = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
        windows = F.pad(pixels, (self.padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        moved = windows[torch.arange(count), :, rows, columns]
        return mirrored(moved, generator) if self.flip else moved


@dataclass(frozen=True)
class ResizedCrop:
    """A rectangle with `scale` of the area and `ratio` of width to height, at the old size; mirrored half the time.

    Area and logarithm of the ratio are uniform in their ranges; of ten draws the first that fits the image is taken,
    else the whole image. Image files are cropped while they are decoded, so that no detail is lost, and what is drawn
    for a file does not depend on its batch. Source: Szegedy et al. 2015, https://arxiv.org/abs/1409.4842.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        _require(0 < self.scale[0] <= self.scale[1] <= 1, self, "'scale' must be a range in (0, 1]")
        _require(0 < self.ratio[0] <= self.ratio[1], self, "'ratio' must be a range above 0")

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        require_pixels(pixels, self)
        count, _, height, width = pixels.shape
        left, top, across, down = self.boxes(count, height, width, generator).unbind(1)
        zero = torch.zeros_like(left)
        # An affine grid speaks of [-1, 1]: half the extent is the scale, the middle of the box the shift.
        across, left, down, top = across / width, left / width, down / height, top / height
        theta = torch.stack([across, zero, 2 * left + across - 1, zero, down, 2 * top + down - 1], 1).reshape(-1, 2, 3)
        grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
        cropped = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).clamp_(0, 1)
        return mirrored(cropped, generator) if self.flip else cropped

    def boxes(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """float[count, 4]: left, top, width and height of a crop of each of `count` images, in pixels."""
        area, shape, x, y = torch.rand(4, count, ATTEMPTS, generator=generator)
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * area) * height * width
        low, high = torch.tensor(self.ratio).log()
        ratio = (low + (high - low) * shape).exp()
        across, down = (area * ratio).sqrt(), (area / ratio).sqrt()
        fits = (across <= width) & (down <= height)
        first = fits.int().argmax(1, keepdim=True)
        drawn = torch.stack([x * (width - across), y * (height - down), across, down], 2)
        box = drawn.gather(1, first.unsqueeze(2).expand(-1, 1, 4)).squeeze(1)
        whole = torch.tensor([0.0, 0.0, width, height])
        return torch.where(fits.any(1, keepdim=True), box, whole)


@dataclass(frozen=True)
class UnitMemViews:
    """The views of UnitMem: RandomResizedCrop(size), mirror image, ColorJitter(.9, .9, .9, .1) p=.9, Grayscale p=.1.

    `jitter` is (brightness, contrast, saturation, hue); `size` None is that of the images. Needs kornia, which works on
    whole batches with draws of its own for every image. Source: Wang et al. 2024, "Localizing Memorization in SSL
    Vision Encoders", https://arxiv.org/abs/2409.19069.
    """

    size: int | None = 32
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.9, 0.9, 0.9, 0.1)
    jitter_probability: float = 0.9
    grayscale_probability: float = 0.1
    vertical_flip: float = 0.0

    def __post_init__(self) -> None:
        _require_views(self)

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return _views(self, pixels, generator)


@dataclass(frozen=True)
class WeakViews(UnitMemViews):
    """The weak set for UnitMem: ColorJitter(.9, .9, .9, .5) p=.4, mirror image p=.5, Grayscale p=.1.

    Source: Wang et al. 2024, "Localizing Memorization in SSL Vision Encoders", https://arxiv.org/abs/2409.19069.
    """

    size: int | None = None
    jitter: tuple[float, float, float, float] = (0.9, 0.9, 0.9, 0.5)
    jitter_probability: float = 0.4


@dataclass(frozen=True)
class NormalViews(UnitMemViews):
    """The normal set for UnitMem: ColorJitter(.8, .8, .8, .2) p=.8, mirror image always, Grayscale p=.2.

    Source: Wang et al. 2024, "Localizing Memorization in SSL Vision Encoders", https://arxiv.org/abs/2409.19069.
    """

    size: int | None = None
    flip: float = 1.0
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2


@dataclass(frozen=True)
class StrongViews(UnitMemViews):
    """The strong set for UnitMem: as `NormalViews`, but upside down, ColorJitter p=.9 and Grayscale p=.5.

    Source: Wang et al. 2024, "Localizing Memorization in SSL Vision Encoders", https://arxiv.org/abs/2409.19069.
    """

    size: int | None = None
    flip: float = 1.0
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    grayscale_probability: float = 0.5
    vertical_flip: float = 1.0


@dataclass(frozen=True)
class SimCLRViews:
    """The views of SimCLR for small images: crop, mirror image, ColorJitter of strength .5 p=.8, Grayscale p=.2.

    Strength s is ColorJitter(.8 s, .8 s, .8 s, .2 s); small images are not blurred. Needs kornia. Source: Chen et al.
    2020, appendices A and B.9, https://arxiv.org/abs/2002.05709.
    """

    size: int = 32
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2

    def __post_init__(self) -> None:
        _require_views(self)

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return _views(self, pixels, generator)


def require_pixels(pixels: Tensor, augment: object) -> None:
    """Raise `SparsewoodError` for what is no batch of pixels in [0, 1], such as normalised inputs."""
    if pixels.ndim != 4 or not pixels.is_floating_point():
        raise SparsewoodError(
            f"{augment} works on float pixels (batch, channels, height, width). Got {pixels.dtype} of shape "
            f"{tuple(pixels.shape)}."
        )
    if pixels.numel():
        low, high = (float(bound) for bound in pixels.aminmax())
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise SparsewoodError(
                f"{augment} works on pixels in [0, 1], before normalisation. Got values in [{low:g}, {high:g}]."
            )


def mirrored(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability 1/2."""
    chosen = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(chosen.reshape(-1, 1, 1, 1), pixels.flip(3), pixels)


def _require(condition: bool, augment: object, what: str) -> None:
    if not condition:
        raise SparsewoodError(f"{what}. Got {augment}.")


def _require_views(augment: UnitMemViews | SimCLRViews) -> None:
    size = augment.size
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 1
    _require(
        whole or (size is None and isinstance(augment, UnitMemViews)), augment, "'size' must be a whole number >= 1"
    )
    _require(0 < augment.scale[0] <= augment.scale[1] <= 1, augment, "'scale' must be a range in (0, 1]")
    strengths = len(augment.jitter) == 4 and min(augment.jitter) >= 0 and augment.jitter[3] <= 0.5
    _require(strengths, augment, "'jitter' must be four numbers >= 0, the last (hue) at most .5")
    for name in ("flip", "jitter_probability", "grayscale_probability", "vertical_flip"):
        _require(0 <= getattr(augment, name, 0) <= 1, augment, f"'{name}' must be a probability")


def _views(augment: UnitMemViews | SimCLRViews, pixels: Tensor, generator: torch.Generator) -> Tensor:
    require_pixels(pixels, augment)
    if pixels.shape[1] != 3:
        raise SparsewoodError(f"{augment} changes colours and needs 3 channels. Got {pixels.shape[1]}.")
    steps = _kornia_steps(augment, (pixels.shape[2], pixels.shape[3]))
    with torch.random.fork_rng(devices=[]):
        # kornia draws from the global random state; only that of the CPU is used for what it draws here.
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for step in steps:
            pixels = step(pixels)
    return pixels.clamp_(0, 1)


def _kornia_steps(augment: UnitMemViews | SimCLRViews, shape: tuple[int, int]) -> list[Callable[[Tensor], Any]]:
    try:
        from kornia import augmentation as kornia
    except ImportError as error:
        raise SparsewoodError(
            f"{type(augment).__name__} uses kornia, which is not installed. Run: pip install 'sparsewood[augment]'"
        ) from error
    brightness, contrast, saturation, hue = augment.jitter
    upside_down = getattr(augment, "vertical_flip", 0.0)
    size = shape if augment.size is None else (augment.size, augment.size)
    return [
        kornia.RandomResizedCrop(size, scale=augment.scale, cropping_mode="resample"),
        kornia.RandomHorizontalFlip(p=augment.flip),
        kornia.ColorJitter(brightness, contrast, saturation, hue, p=augment.jitter_probability),
        kornia.RandomGrayscale(p=augment.grayscale_probability),
        *([kornia.RandomVerticalFlip(p=upside_down)] if upside_down else []),
    ]
