"""The network as boxes: what is coloured is what is left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsewood.errors import SparsewoodError
from sparsewood.plot import network
from sparsewood.report.study import BoxState, NetworkPicture

BOXES = (
    BoxState("conv1", "Conv2d", "8x1x3x3", 72, 36, 8, 4),
    BoxState("conv2", "Conv2d", "8x8x3x3", 576, 0, 8, 0),
    BoxState("fc", "Linear", "10x8", 80, 80),
)
PICTURE = NetworkPicture("digits", "magnitude", 8.0, BOXES, (("conv1", "conv2"), ("conv2", "fc"), ("conv1", "fc")))


def test_boxes_are_filled_by_what_is_left_in_order() -> None:
    (axes,) = network(PICTURE).axes
    boxes = [one for one in axes.patches if type(one).__name__ == "Rectangle"]
    assert [box.get_width() for box in boxes[::2]] == [0.5, 0.0, 1.0]  # pyright: ignore[reportAttributeAccessIssue]
    assert [round(box.get_y() + box.get_height() / 2, 6) for box in boxes[::2]] == [0, 1, 2]  # pyright: ignore[reportAttributeAccessIssue]
    words = [text.get_text() for text in axes.texts]
    assert words[:3] == ["conv1", "Conv2d 8x1x3x3", "36 of 72 (50.0 %)\n4 of 8 units"]
    assert words[-1] == "80 of 80 (100.0 %)"
    assert axes.get_title(loc="left") == "digits: magnitude, asked 8x\n116 of 728 entries left (15.93 %)"


def test_arrows_are_the_edges() -> None:
    assert count_arrows(PICTURE) == 3
    assert count_arrows(replace(PICTURE, edges=())) == 0
    assert count_arrows(replace(PICTURE, edges=(("conv1", "elsewhere"),))) == 0


def count_arrows(picture: NetworkPicture) -> int:
    (axes,) = network(picture).axes
    return sum(type(one).__name__ == "FancyArrowPatch" for one in axes.patches)


def test_very_long_networks_are_cut_and_say_so() -> None:
    many = tuple(BoxState(f"layer{n}", "Linear", "1x1", 1, 1) for n in range(200))
    (axes,) = network(replace(PICTURE, boxes=many)).axes
    assert len(axes.patches) == 300
    assert axes.get_title(loc="left").endswith("200 of 200 entries left (100.00 %); the first 150 of 200 modules")
    with pytest.raises(SparsewoodError, match="no module"):
        network(replace(PICTURE, boxes=()))
