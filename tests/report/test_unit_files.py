"""Files about units: what is written is read again, in both spellings, and what is no such file is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsewood.errors import FileFormatError
from sparsewood.report.unit_files import (
    by_level,
    index_text,
    read_index,
    read_l1_scores,
    read_memorization,
    read_pruned_indices,
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("key", ["{}", "level_{}"])
def test_both_spellings_of_levels(tmp_path: Path, key: str) -> None:
    """[1.3] [9.6] The original documents one and writes the other."""
    content = {key.format(10): {"conv2": [1]}, key.format(0): {"layer1.0.conv1": [3, 5], "conv1": []}}
    found = read_pruned_indices(written(tmp_path, json.dumps(content)))
    assert found == {0: {"layer1.0.conv1": [3, 5], "conv1": []}, 10: {"conv2": [1]}}
    assert list(found) == [0, 10]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """[1.3] Keys come back as numbers, and a score that is none as NaN."""
    indices = {0: {"conv1": [3, 5]}, 1: {}, 11: {"conv1": [0], "conv2": [1]}}
    assert read_pruned_indices(written(tmp_path, by_level(indices))) == indices
    l1 = {0: {"conv1": {0: 1.25, 1: 0.1, 10: 2.0}}}
    assert read_l1_scores(written(tmp_path, by_level(l1))) == l1
    scores = {0: {"conv1": [[0.1 + 0.2, 41], [math.nan, -1]]}, 1: {"conv1": [[1.0, 2, 3]]}}
    rows = read_memorization(written(tmp_path, by_level(scores)))
    assert rows[0]["conv1"][0] == (0.1 + 0.2, 41)
    assert math.isnan(rows[0]["conv1"][1][0])
    assert rows[0]["conv1"][1][1] == -1
    assert rows[1] == {"conv1": [(1.0, 2, 3)]}
    assert read_pruned_indices(written(tmp_path, by_level({}))) == {}


def test_nothing_is_rounded(tmp_path: Path) -> None:
    """[000-01] The original's six decimals made ties."""
    scores = {0: {"conv1": [[1e-9, 1], [2e-9, 1]]}}
    assert [row[0] for row in read_memorization(written(tmp_path, by_level(scores)))[0]["conv1"]] == [1e-9, 2e-9]


def test_index_files(tmp_path: Path) -> None:
    """[1.3] Pairs of lines, with or without spaces and a last line break."""
    levels = {0: [4, 7, 1], 1: [], 2: [9]}
    assert read_index(written(tmp_path, index_text(levels))) == levels
    assert read_index(written(tmp_path, "\nLevel:0\n Sublist: [4,7]\n\nLevel: 3\nSublist: [1]")) == {0: [4, 7], 3: [1]}
    assert read_index(written(tmp_path, "")) == {}


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_pruned_indices, "{", "is no JSON file"),
        (read_pruned_indices, "[1]", "must map levels"),
        (read_pruned_indices, '{"first": {}}', "the key 'first'"),
        (read_pruned_indices, '{"0": {}, "level_0": {}}', "has level 0 twice"),
        (read_pruned_indices, '{"0": {"conv1": [1.5]}}', "level 0, layer 'conv1': expected a list of whole numbers"),
        (read_pruned_indices, '{"0": {"conv1": [true]}}', "expected a list of whole numbers"),
        (read_memorization, '{"0": {"conv1": [[1.0]]}}', "expected a list of"),
        (read_memorization, '{"0": {"conv1": [["x", 1]]}}', "expected a list of"),
        (read_l1_scores, '{"0": {"conv1": [1.0]}}', "expected a mapping from units"),
        (read_l1_scores, '{"0": {"conv1": {"a": 1.0}}}', "expected a mapping from units"),
        (read_index, "Level: 0\nSublist: [1]\nLevel: 0\nSublist: [2]\n", "line 3"),
        (read_index, "Level: 0\nSublist: [1.5]\n", "line 1"),
        (read_index, "Level: 0\n", "line 1"),
    ],
)
def test_what_is_no_such_file_is_said(read: Callable[[Path], Any], text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(FileFormatError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
