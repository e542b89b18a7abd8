"""A torchvision built for CUDA, made importable beside a CPU-only torch.

Such a wheel cannot load its compiled extension, and its Python code then stops at the first operator it expects there:
"operator torchvision::nms does not exist". Libraries that import torchvision stop with it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["ensure_torchvision"]

_definitions: list[torch.library.Library] = []
"""A library's operators exist for as long as the object does."""


def ensure_torchvision() -> None:
    """Make `import torchvision` work where its wheel was built for CUDA and torch was not.

    Call it before the first import of torchvision or of anything that imports it. Where the wheels match, torchvision
    is absent, or it is imported already, nothing happens. Otherwise the two operators without which the import fails
    are declared, `nms` with an implementation in plain PyTorch; models and transforms then work, while the other
    compiled operators (`roi_align`, image decoding) stay unavailable and say so when called.

    >>> ensure_torchvision()
    """
    if "torchvision" in sys.modules or _definitions or not _extension_is_broken():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    _definitions.append(library)
    # torchvision.ops.nms asks whether the extension was loaded before it calls the operator, which now exists.
    boxes = importlib.import_module("torchvision.ops.boxes")
    vars(boxes)["_assert_has_ops"] = _operators_exist


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: indices of the boxes to keep, best score first.

    Going from the highest score down, a box is kept unless its intersection over union with a kept one is above
    `iou_threshold`. `boxes` is (n, 4) with corners (x1, y1, x2, y2), `scores` (n,).

    >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)
    tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    corners = boxes[order]
    sizes = (corners[:, 2:] - corners[:, :2]).prod(1)
    suppressed = torch.zeros(len(order), dtype=torch.bool)
    kept: list[int] = []
    for i in range(len(order)):
        if suppressed[i]:
            continue
        kept.append(i)
        low = torch.maximum(corners[i, :2], corners[i:, :2])
        high = torch.minimum(corners[i, 2:], corners[i:, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        suppressed[i:] |= shared / (sizes[i] + sizes[i:] - shared) > iou_threshold
    return order[torch.tensor(kept, dtype=torch.int64)]


def _extension_is_broken() -> bool:
    if torch.version.cuda is not None or torch.version.hip is not None:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    extension = next(Path(spec.submodule_search_locations[0]).glob("_C.*"), None)
    if extension is None:
        return False
    try:
        ctypes.CDLL(str(extension))
    except OSError:
        return True
    return False


def _operators_exist() -> None:
    """Stands in for torchvision's check, which looks at the extension alone."""
