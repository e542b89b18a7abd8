"""What masks of a sweep show: numbers of made-up masks, which can be worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsewood.report.study import NetworkPicture
from sparsewood.run.gather_masks import of_masks
from sparsewood.types import Masks

Shapes = dict[str, tuple[int, ...]]


def cell(place: Path, method: str, masks: dict[str, torch.Tensor], shapes: Shapes | None = None) -> Any:
    """A cell with these masks; its layers are those of the masks, if nothing else is said."""
    directory = place / method
    (directory / "round-01").mkdir(parents=True)
    Masks(masks).save(directory / "round-01" / "masks.safetensors")
    given = shapes or {name: tuple(mask.shape) for name, mask in masks.items()}
    layers = [{"layer": name, "shape": list(shape), "size": 1, "kept": 1} for name, shape in given.items()]
    told = {"problem": "p", "method": method, "kind": "pruned", "role": "method", "of": "", "amount": 2.0, "seed": 1}
    return {**told, "layers": layers}, directory


def kept(rows: int, columns: int, first: int) -> torch.Tensor:
    return (torch.arange(rows * columns) < first).reshape(rows, columns)


def test_every_pair_of_methods_has_a_chance_level_of_its_own(tmp_path: Path) -> None:
    """Whole units leave few weights of the layers: by chance they have less in common with a method than others do."""
    alike = {"a": 40, "b": 40, "units": 4}
    cells = [cell(tmp_path, name, {"w": kept(8, 10, count)}) for name, count in alike.items()]
    (found,) = of_masks(cells)["overlaps"]
    assert found.names == ("a", "b", "units")
    assert found.chances[0][1] == pytest.approx(0.25 / 0.75)
    assert found.chances[0][2] == pytest.approx(0.025 / 0.525)
    assert found.matrix[0][2] == pytest.approx(4 / 40)  # twice what chance would do, and below the mean of all pairs
    assert found.chance == pytest.approx((0.25 / 0.75 + 2 * 0.025 / 0.525) / 3)


def test_units_are_compared_by_the_weights_that_all_prune(tmp_path: Path) -> None:
    """Whole units have masks of biases and of the classifier, which single weights have not."""
    unit = kept(4, 10, 20)
    more = {"w": unit, "w_bias": unit[:, 0].clone(), "classifier": kept(2, 4, 4)}
    (found,) = of_masks([cell(tmp_path, "weights", {"w": unit}), cell(tmp_path, "units", more)])["overlaps"]
    assert found.matrix[0][1] == 1.0


def test_a_unit_with_one_weight_in_many_is_not_gone(tmp_path: Path) -> None:
    mask = torch.zeros(2, 100_000, dtype=torch.bool)
    mask[1, 5] = True
    ((found),) = of_masks([cell(tmp_path, "m", {"w": mask})])["unit_maps"]
    assert found.kept == (0.0, 1e-5)


@pytest.mark.parametrize(
    ("shapes", "known"),
    [
        ({"conv": (16, 1, 3, 3), "next": (32, 16, 3, 3), "fc": (10, 32 * 49)}, True),
        ({"conv": (16, 3, 3, 3), "depthwise": (16, 1, 3, 3), "point": (32, 16, 1, 1)}, True),
        ({"conv": (64, 3, 3, 3), "one": (128, 64, 3, 3), "two": (128, 128, 3, 3), "shortcut": (128, 64, 1, 1)}, False),
        ({"only": (10, 4)}, False),
    ],
)
def test_what_feeds_what_is_only_said_of_a_chain(tmp_path: Path, shapes: Shapes, known: bool) -> None:
    cells = [cell(tmp_path, "m", {"x": kept(2, 2, 1)}, shapes)]
    (picture,) = of_masks(cells)["networks"]
    assert isinstance(picture, NetworkPicture)
    names = list(shapes)
    assert picture.edges == (tuple(pairwise(names)) if known else ())
