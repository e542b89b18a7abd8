"""Images that stay in their files and are decoded when they are read."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sparsewood.data.augment import ResizedCrop
from sparsewood.data.part import Source, View
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.seeds import generator_for

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGENET", "ImageFiles", "images_below", "require_pillow"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and standard deviations of ImageNet's channels, in common use for photographs."""

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class ImageFiles(Source):
    """Image files at one size: RGB, the middle square with `central` of the shorter side, scaled to `size` x `size`.

    `central` = 0.875 is the usual Resize(256), CenterCrop(224) in one step (bilinear, antialiased). A training view
    with a `ResizedCrop` cuts that instead; what it draws for a file follows from the view's seed and epoch and the
    file's position, wherever it is read. `boxes[i]` = (left, top, width, height), if given, is the part of image i that
    counts as the image. Raises `FileFormatError` for a file that cannot be decoded.
    """

    paths: Sequence[Path]
    size: int = 224
    central: float = 0.875
    boxes: Sequence[Box] | None = None

    decodes = True

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1 or not 0 < self.central <= 1:
            raise SparsewoodError(
                "Images are read at a 'size' of whole pixels >= 1, from a 'central' share in (0, 1]. "
                f"Got {self.size!r} and {self.central!r}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self) -> str:
        """Of the names and sizes of the files, which are not read for it."""
        found = hashlib.sha256(f"{self.size} {self.central} {self.boxes}".encode())
        for path in self.paths:
            found.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        return found.hexdigest()

    def read(self, positions: Tensor, view: View | None = None) -> Tensor:
        images = np.empty((len(positions), self.size, self.size, 3), np.uint8)
        for place, position in enumerate(positions.tolist()):
            images[place] = self._decoded(position, view)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def _decoded(self, position: int, view: View | None) -> Any:
        from PIL import Image

        path = self.paths[position]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise FileFormatError(f"Cannot decode image '{path}': {error}. Get it again or remove it.") from error
        region = self._region(position, image.size)
        if view is None or view.crop is None:
            return self._resized(image, self._middle(region))
        crop: ResizedCrop = view.crop
        generator = generator_for(view.seed, "image", view.epoch, position)
        left, top, across, down = region
        box = crop.boxes(1, round(down), round(across), generator)[0].tolist()
        pixels = self._resized(image, (left + box[0], top + box[1], box[2], box[3]))
        mirrored = crop.flip and bool(torch.rand((), generator=generator) < 0.5)
        return pixels[:, ::-1] if mirrored else pixels

    def _resized(self, image: Image.Image, box: Box) -> Any:
        from PIL import Image

        left, top, across, down = box
        right, bottom = min(left + across, image.width), min(top + down, image.height)
        scaled = image.resize((self.size, self.size), Image.Resampling.BILINEAR, (left, top, right, bottom))
        return np.asarray(scaled)

    def _middle(self, region: Box) -> Box:
        left, top, across, down = region
        side = self.central * min(across, down)
        return left + (across - side) / 2, top + (down - side) / 2, side, side

    def _region(self, position: int, size: tuple[int, int]) -> Box:
        if self.boxes is None:
            return 0.0, 0.0, float(size[0]), float(size[1])
        left, top, across, down = self.boxes[position]
        right, bottom = min(left + across, size[0]), min(top + down, size[1])
        left, top = max(left, 0.0), max(top, 0.0)
        if right - left < 1 or bottom - top < 1:
            raise FileFormatError(
                f"The box {self.boxes[position]} of image '{self.paths[position]}' lies outside its {size} pixels."
            )
        return left, top, right - left, bottom - top


def images_below(folder: Path) -> list[Path]:
    """All image files in `folder` and its folders, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def require_pillow() -> None:
    """Raise `SparsewoodError` if Pillow, which decodes images, is missing."""
    try:
        importlib.import_module("PIL.Image")
    except ImportError as error:
        raise SparsewoodError(
            "Image files are decoded by Pillow, which is not installed. Run: pip install 'sparsewood[vision]'"
        ) from error
