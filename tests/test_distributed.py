"""Two processes over gloo do what one does. The script beside the training tests is run once, as anybody may run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsewood.distributed import rank, reduce_statistics, require_same_masks, total, world
from sparsewood.types import Masks, Statistics

SCRIPT = Path(__file__).parent / "train" / "two_processes.py"
# Both sides compute in float64 and differ in the order of sums only; six training epochs multiply that.
CLOSE = 1e-12


def test_one_process_is_its_own_world() -> None:
    statistics = Statistics({"gradient": {"w": torch.ones(2)}}, 3)
    assert (rank(), world()) == (0, 1)
    assert reduce_statistics(statistics) is statistics
    require_same_masks(Masks({"w": torch.tensor([True])}))
    ones = torch.ones(2)
    assert total(ones) is ones


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("two") / "found.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(output)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "one process" in done.stdout
    return json.loads(output.read_text())


def flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for part in value.values() for x in flat(part)]
    if isinstance(value, list):
        return [x for part in value for x in flat(part)]
    return [] if value is None else [float(value)]


@pytest.mark.slow
def test_statistics_of_units_are_those_of_one_process(found: Any) -> None:
    assert len(found["one"]["units"]) == 4
    for each in found["two"]:
        assert each["unit samples"] == found["one"]["unit samples"] == 29
        assert flat(each["units"]) == pytest.approx(flat(found["one"]["units"]), rel=1e-6)


@pytest.mark.slow
def test_loss_and_weights_are_those_of_one_process(found: Any) -> None:
    """Uneven shares, one of them empty, weigh by their examples; clipping sees the whole gradient."""
    for each in found["two"]:
        for part in ("dense", "pruned"):
            assert flat(each[part]["epochs"]) == pytest.approx(flat(found["one"][part]["epochs"]), abs=CLOSE)
            assert each[part]["chosen"] == found["one"][part]["chosen"]
        assert flat(each["weights"]) == pytest.approx(flat(found["one"]["weights"]), abs=CLOSE)
        assert each["zeros"]


@pytest.mark.slow
def test_masks_are_those_of_one_process_exactly(found: Any) -> None:
    for each in found["two"]:
        assert each["samples"] == found["one"]["samples"] == 29
        assert flat(each["gradient"]) == pytest.approx(flat(found["one"]["gradient"]), abs=CLOSE)
        assert each["masks"] == found["one"]["masks"]


@pytest.mark.slow
def test_processes_agree_to_the_bit(found: Any) -> None:
    """Also in the statistics of normalisation, which each gathers over its own share."""
    first, second = found["two"]
    for part in ("dense", "pruned", "weights", "gradient", "buffers", "snapshot"):
        assert first[part] == second[part]


@pytest.mark.slow
def test_a_rank_with_other_masks_stops_all(found: Any) -> None:
    for each in found["two"]:
        assert "rank 1 has others than rank 0. First parameter: 'b'" in each["other masks"]
        assert "rank 1 has others than rank 0. First parameter: '0.weight'" in each["masks given"]
        assert "rank 1 have other kinds, parameters or shapes" in each["other statistics"]
    assert found["one"]["other masks"] == found["one"]["other statistics"] == ""


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_stops_all(found: Any) -> None:
    messages = {each["not finite"] for each in (found["one"], *found["two"])}
    assert len(messages) == 1
    assert "infinite or NaN in epoch 1, batch 1" in messages.pop()


@pytest.mark.slow
def test_snapshots_go_to_all_and_checkpoints_to_the_first(found: Any) -> None:
    assert [each["saved at"] for each in found["two"]] == [[2, 5, 10], [2]]
    assert found["one"]["saved at"] == [2, 5, 10]


@pytest.mark.slow
def test_masks_hold_on_sharded_parameters(found: Any) -> None:
    """Each process clears its own shard, of the weights and of what the optimizer remembers."""
    one, two = found["one"], found["two"]
    assert sum(each["held"] for each in two) == one["held"]
    assert all(each["held"] < one["held"] for each in two)
    for each in two:
        assert flat(each["sharded"]) == pytest.approx(flat(one["sharded"]), abs=CLOSE)
        for values, mask in zip(each["sharded"], each["masks of sharded"], strict=True):
            if mask is not None:
                assert [value != 0 for value in flat(values)] == [bool(kept) for kept in flat(mask)]
        for values, mask in zip(each["moments"], each["masks of sharded"], strict=True):
            if mask is not None:
                assert all(value == 0 for value, kept in zip(flat(values), flat(mask), strict=True) if not kept)


@pytest.mark.slow
def test_flattened_parameters_are_refused(found: Any) -> None:
    for each in found["two"]:
        assert "flattens parameters" in each["flattened"]
        assert "fully_shard" in each["flattened"]
