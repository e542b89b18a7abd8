"""What a report shows of single units comes from the files that other commands write (000-14)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsewood.run.cli import main
from sparsewood.run.gather import gather
from sparsewood.run.gather_units import is_matrix, of_levels, of_matrix, of_table
from sparsewood.units.matrix import MatrixWriter


def test_scores_and_activations_come_from_the_matrix(tmp_path: Path) -> None:
    """000-14: (mu_k - m) / (mu_k + m) of every unit, none of a dead one, violins of those that memorize most."""
    values = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
    writer = MatrixWriter(tmp_path / "acts")
    writer.add({"fc": values})
    writer.close()
    assert is_matrix(tmp_path / "acts")
    assert not is_matrix(tmp_path)
    found = of_matrix(tmp_path / "acts")
    assert found.source == "acts"
    assert found.scores["fc"] == (pytest.approx((3 - 0.5) / (3 + 0.5)), None, pytest.approx(0.0))
    assert found.activations["fc"] == ((0, (1.0, 3.0, 0.0)), (2, (2.0, 2.0, 2.0)))


def test_of_many_images_some_are_shown_and_always_the_largest(tmp_path: Path) -> None:
    values = torch.rand(5000, 1, generator=torch.Generator().manual_seed(0))
    values[1234] = 7.0
    writer = MatrixWriter(tmp_path / "acts")
    writer.add({"fc": values})
    writer.close()
    ((_, shown),) = of_matrix(tmp_path / "acts").activations["fc"]
    assert len(shown) == 300
    assert max(shown) == 7.0


def test_inspect_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--units", "--data", "digits", "--images", "40", "--augment", "{name: CropFlip, padding: 1}"]
    files = ["--csv", "units.csv", "--activations", "acts", "--augmentations", "3"]
    assert main(["inspect", "small_conv", *options, *files]) == 0
    table, matrix = of_table(tmp_path / "units.csv"), of_matrix(tmp_path / "acts")
    layers = {name: values for name, values in table.scores.items() if any(v is not None for v in values)}
    assert layers
    for name, values in layers.items():
        site = next(one for one in matrix.scores.values() if len(one) == len(values) and _near(one, values))
        assert site, name
    both = gather([tmp_path / "units.csv", tmp_path / "acts"]).study.memorization
    assert [one.source for one in both] == ["units.csv", "acts"]
    assert main(["inspect", "small_conv", *options, *files]) == 2  # activations are there already


def _near(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if b is not None]
    return all(a is not None and abs(a - b) < 1e-4 for a, b in pairs)


def test_levels_of_a_run(tmp_path: Path) -> None:
    """000-14, from Avg_UnitMems_perlevel.json: the first and the last level, no outlier selectivity."""
    for name, level in (
        ("low", {"level_0": {"fc": [[0.5, 3], [float("nan"), -1]]}, "level_1": {"fc": [[0.25, 3], [0.75, 2]]}}),
        ("outlier", {"level_0": {"fc": [[0.5, 3, 4]]}}),
    ):
        place = tmp_path / "run" / "seed-1" / name
        place.mkdir(parents=True)
        (place / "Avg_UnitMems_perlevel.json").write_text(json.dumps(level))
    found = of_levels(tmp_path / "run")
    assert [(one.source, one.scores) for one in found] == [
        ("run: low, level 0", {"fc": (0.5, None)}),
        ("run: low, level 1", {"fc": (0.25, 0.75)}),
    ]
    assert of_levels(tmp_path) == []
