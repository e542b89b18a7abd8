"""Latency budgets, with a clock of their own: predictions, widths that are really faster, what cannot be reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.criteria import Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs
from sparsewood.measurement.layer_times import Layer
from sparsewood.measurement.module_times import ModuleTimes, module_times
from sparsewood.shrinking.budgets import Latency
from sparsewood.shrinking.choice import Choice, Chooser
from sparsewood.shrinking.engines import Eager, OnnxRuntime
from sparsewood.shrinking.latency import Rounds, _Search, meet_latency
from sparsewood.shrinking.latency_model import LatencyModel
from sparsewood.structure import Structure

Cost = Callable[[tuple[int, ...]], float]


def products(sizes: tuple[int, ...]) -> float:
    """A microsecond per multiply-add."""
    return 1e-6 * prod(sizes)


class Clock:
    """An engine of which every time is known: layers cost what `cost` says, modules what `own` says."""

    def __init__(self, own: Mapping[str, float], total: float, cost: Cost = products, overhead: float = 0.0) -> None:
        self.own, self.total, self.cost, self.each = dict(own), total, cost, overhead
        self.asked: list[tuple[int, ...]] = []

    def machine(self, device: torch.device) -> Mapping[str, str]:
        return {"engine": "clock", "device": device.type}

    def layer(self, layer: Layer, sizes: tuple[int, ...]) -> float:  # noqa: ARG002
        self.asked.append(sizes)
        return self.cost(sizes)

    def modules(self, model: nn.Module, example_inputs: Inputs) -> ModuleTimes:
        return ModuleTimes(self.total, self.own, module_times(model, example_inputs, repeats=1).inputs)

    def overhead(self) -> float:
        return self.each


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 4))


X = torch.zeros(2, 10)
LAYERS = {"0": products((2, 10, 256)), "2": products((2, 256, 128)), "4": products((2, 128, 4))}


def plain_clock(cost: Cost = products) -> Clock:
    """Time is spent in the linear layers alone."""
    own = {"0": cost((2, 10, 256)), "2": cost((2, 256, 128)), "4": cost((2, 128, 4))}
    return Clock(own, sum(own.values()), cost)


def model_and_times(engine: Any, **options: Any) -> tuple[nn.Sequential, Structure, LatencyModel]:
    model = mlp()
    structure = sw.trace(model, X)
    return model, structure, LatencyModel(model, X, structure, engine=engine, **options)


def first(kept: int, units: int) -> np.ndarray:
    return np.arange(units) < kept


# ---------------------------------------------------------------- predictions


def test_a_prediction_is_the_sum_of_the_layers_at_their_widths() -> None:
    _, _, times = model_and_times(plain_clock())
    assert times.dense == pytest.approx(sum(LAYERS.values()))
    assert times.predict({}) == pytest.approx(times.dense, rel=1e-12)
    kept = {"0": first(128, 256), "2": first(32, 128)}
    expected = products((2, 10, 128)) + products((2, 128, 32)) + products((2, 32, 4))
    assert times.predict(kept) == pytest.approx(expected)
    assert times.predict_units(np.array([128, 32])) == times.predict(kept)
    assert times.names == ("0", "2")


def test_layers_take_the_share_that_they_take_alone() -> None:
    """In the network the middle layer takes three times as long as alone, and stays so."""
    own = {**LAYERS, "2": 3 * LAYERS["2"]}
    _, _, times = model_and_times(Clock(own, sum(own.values())))
    half = {"0": first(128, 256)}
    expected = products((2, 10, 128)) + 3 * products((2, 128, 128)) + LAYERS["4"]
    assert times.predict(half) == pytest.approx(expected)


def test_other_modules_shrink_with_their_outputs_down_to_a_call() -> None:
    own = {**LAYERS, "1": 1.0, "3": 0.01}
    _, _, times = model_and_times(Clock(own, sum(own.values()), overhead=0.1))
    kept = {"0": first(64, 256), "2": first(64, 128)}
    layers = products((2, 10, 64)) + products((2, 64, 64)) + products((2, 64, 4))
    assert times.predict(kept) == pytest.approx(layers + (0.1 + 0.9 * 64 / 256) + 0.01)


def test_predictions_are_scaled_to_the_whole_network() -> None:
    """Modules timed one by one take longer than the pass does: the measured total counts."""
    _, _, times = model_and_times(Clock(LAYERS, 10 * sum(LAYERS.values())))
    half = {"2": first(64, 128)}
    layers = LAYERS["0"] + (LAYERS["2"] + LAYERS["4"]) / 2
    assert times.predict(half) == pytest.approx(10 * layers)


def test_an_engine_that_knows_no_modules() -> None:
    _, _, times = model_and_times(Clock({}, 2 * sum(LAYERS.values())))
    assert times.predict({}) == pytest.approx(times.dense)
    assert times.predict({"2": first(64, 128)}) == pytest.approx(2 * LAYERS["0"] + LAYERS["2"] + LAYERS["4"])


class Residual(nn.Module):
    """Convolutions, a depthwise one among them, around a shortcut; then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.wide = nn.Conv2d(32, 32, 1, bias=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head((x + self.wide(torch.relu(self.deep(x)))).mean((2, 3)))


def test_convolutions_shrink_on_both_sides_and_depthwise_ones_once() -> None:
    model, x = Residual(), torch.zeros(2, 3, 16, 16)
    structure = sw.trace(model, x)
    (group,) = structure.prunable
    sizes = {cost.module: cost.sizes for cost in structure.record.costs}
    own = {name: products(one) for name, one in sizes.items()}
    times = LatencyModel(model, x, structure, engine=Clock(own, sum(own.values())))
    shares = {"stem": 1 / 2, "deep": 1 / 2, "wide": 1 / 4, "head": 1 / 2}
    expected = sum(own[name] * share for name, share in shares.items())
    assert times.predict({group.name: first(16, 32)}) == pytest.approx(expected)


class Functional(nn.Module):
    """Everything in one forward, without modules that multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.rand(16, 3, 3, 3))
        self.first = nn.Parameter(torch.rand(16, 32))
        self.second = nn.Parameter(torch.rand(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(nn.functional.conv2d(x, self.filters)).mean((2, 3))
        return torch.relu(x @ self.first) @ self.second


def test_operations_outside_of_modules_share_their_time() -> None:
    model, x = Functional(), torch.zeros(2, 3, 8, 8)
    structure = sw.trace(model, x)
    work = [products(cost.sizes) for cost in structure.record.costs]
    clock = Clock({"": 2 * sum(work)}, 2 * sum(work))
    times = LatencyModel(model, x, structure, engine=clock)
    half = {"filters": first(8, 16), "first": first(16, 32)}
    layers = work[0] / 2 + work[1] / 4 + work[2] / 2
    assert layers < times.predict(half) <= layers + sum(work)  # half of the time is nobody's
    assert times.predict({}) == pytest.approx(2 * sum(work))


def test_equal_layers_are_measured_once() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    structure = sw.trace(model, torch.zeros(1, 64))
    clock = Clock({str(i): 1.0 for i in range(4)}, 4.0)
    LatencyModel(model, torch.zeros(1, 64), structure, engine=clock)
    assert clock.asked == [(1, 64, 64)]


def test_times_of_layers_are_kept_on_disk(tmp_path: Path) -> None:
    once, again = plain_clock(), plain_clock()
    half = {"0": first(128, 256)}
    _, _, times = model_and_times(once, cache=tmp_path)
    expected = times.predict(half)
    times.save()
    assert model_and_times(again, cache=tmp_path)[2].predict(half) == expected
    assert once.asked
    assert again.asked == []


def test_steps_of_units_are_those_of_their_positions() -> None:
    """A head of 16 positions is a multiple of 16 already; 256 neurons go by 16, 6 by 1."""
    model = nn.MultiheadAttention(128, 8, batch_first=True)
    x = torch.zeros(1, 4, 128)
    structure = sw.trace(model, (x, x, x))
    times = LatencyModel(model, (x, x, x), structure, engine=Clock({}, 1.0))
    assert dict(zip(times.names, times.unit_steps(), strict=True))["in_proj_weight"] == 1
    assert model_and_times(plain_clock())[2].unit_steps().tolist() == [16, 16]
    assert model_and_times(plain_clock(), step=4)[2].unit_steps().tolist() == [4, 4]


# ---------------------------------------------------------------- budgets


def meet(budget: Latency, clock: Clock, **options: Any) -> tuple[Choice, LatencyModel]:
    chooser = {key: options.pop(key) for key in ("scope", "min_units", "round_to", "protect") if key in options}
    model, structure, times = model_and_times(clock)
    made = Chooser(model, structure, criterion=Magnitude(), **chooser)
    return meet_latency(made, model, X, structure, budget, times=times, **options), times


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.25, 0.1])
def test_a_budget_is_met_and_used(fraction: float) -> None:
    choice, times = meet(Latency(fraction), plain_clock())
    predicted = times.predict(choice.keep)
    assert predicted <= fraction * times.dense
    assert predicted > (fraction - 0.09) * times.dense  # one step of 16 more would be 6 % and more
    assert all(kept.sum() % 16 == 0 for kept in choice.keep.values())
    assert choice.budget == Latency(fraction)
    assert choice.removed == sum((~kept).sum() for kept in choice.keep.values())


def test_seconds_and_shares_are_the_same_budget() -> None:
    dense = plain_clock().total
    share, seconds = (meet(budget, plain_clock())[0].keep for budget in (Latency(0.5), Latency(seconds=0.5 * dense)))
    assert {name: kept.tolist() for name, kept in share.items()} == {n: kept.tolist() for n, kept in seconds.items()}


def test_the_whole_time_removes_nothing() -> None:
    choice, _ = meet(Latency(1.0), plain_clock())
    assert (choice.keep, choice.removed, choice.asked) == ({}, 0, 0)


def test_the_best_units_stay() -> None:
    choice, _ = meet(Latency(0.4), plain_clock())
    model, structure, _ = model_and_times(plain_clock())
    scores = Chooser(model, structure, criterion=Magnitude()).scores
    for name, kept in choice.keep.items():
        assert scores[name][torch.tensor(kept)].min() >= scores[name][torch.tensor(~kept)].max()


def blocks(sizes: tuple[int, ...]) -> float:
    """Widths cost as much as the next multiple of 64."""
    return products(tuple(-(-size // 64) * 64 for size in sizes[-2:]))


def test_no_width_is_chosen_of_which_a_larger_one_is_as_fast() -> None:
    for fraction in (0.8, 0.6, 0.4, 0.3):
        choice, times = meet(Latency(fraction), plain_clock(blocks))
        kept = np.array([choice.keep[n].sum() if n in choice.keep else u for n, u in (("0", 256), ("2", 128))])
        now = times.predict_units(kept)
        for group, units in enumerate((256, 128)):
            for wider in range(int(kept[group]) + 16, units + 1, 16):
                more = kept.copy()
                more[group] = wider
                assert times.predict_units(more) > now


def slow_middle(sizes: tuple[int, ...]) -> float:
    """Some narrower layers are slower: the middle layer at 97 to 160 inputs."""
    return products(sizes) * (3.0 if 96 < sizes[1] <= 160 else 1.0)


def test_every_group_gets_as_wide_as_costs_nothing() -> None:
    model, structure, times = model_and_times(plain_clock(blocks))
    chooser = Chooser(model, structure, criterion=Magnitude())
    search = _Search(chooser, times, chooser.free({}), allowed=times.dense)
    assert search.widened(np.array([80, 48])).tolist() == [128, 64]
    assert search.widened(np.array([128, 64])).tolist() == [128, 64]


def test_widths_that_are_slower_than_larger_ones_are_passed_by() -> None:
    """Half of the units is too slow, and so is a bit less; a quarter is not."""
    choice, times = meet(Latency(0.7), plain_clock(slow_middle))
    assert times.predict(choice.keep) <= 0.7 * times.dense
    assert choice.keep["0"].sum() > 160


def test_a_correction_asks_for_less() -> None:
    plain, times = meet(Latency(0.5), plain_clock())
    corrected, _ = meet(Latency(0.5), plain_clock(), correction=1.25)
    assert times.predict(plain.keep) <= 0.5 * times.dense
    assert times.predict(corrected.keep) <= 0.4 * times.dense
    assert corrected.removed > plain.removed


def test_held_and_protected_groups_stay_whole() -> None:
    held, times = meet(Latency(0.5), plain_clock(), held={"0": "for a reason"})
    assert set(held.keep) == {"2"}
    assert held.held == {"0": "for a reason"}
    assert times.predict(held.keep) <= 0.5 * times.dense
    protected, _ = meet(Latency(0.5), plain_clock(), protect="2")
    assert set(protected.keep) == {"0"}


def test_round_to_and_min_units_hold() -> None:
    choice, _ = meet(Latency(0.3), plain_clock(), round_to=24, min_units=60)
    for kept in choice.keep.values():
        assert kept.sum() % 48 == 0  # the least common multiple with 16
        assert kept.sum() >= 60


def test_what_cannot_be_reached_says_what_can() -> None:
    with pytest.raises(SparsewoodError, match=r"The least that is predicted is .*Ask for Latency\(0\.0") as caught:
        meet(Latency(0.001), plain_clock())
    assert "min_units=1" in str(caught.value)
    assert re.search(r"allows [\d.]+ ms of the [\d.]+ ms", str(caught.value))
    least = float(str(caught.value).partition("Ask for Latency(")[2].partition(")")[0])
    choice, times = meet(Latency(least + 0.001), plain_clock())
    assert times.predict(choice.keep) <= (least + 0.001) * times.dense


def test_the_least_is_corrected_as_measured() -> None:
    with pytest.raises(SparsewoodError, match=r"is predicted \(predictions times 2\.00, as measured\)"):
        meet(Latency(0.001), plain_clock(), correction=2.0)


def test_amounts_of_single_groups_are_refused() -> None:
    with pytest.raises(SparsewoodError, match="needs a scope that shares a total out"):
        meet(Latency(0.5), plain_clock(), scope={"0": 0.5})


def test_without_times_the_network_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real time: a network whose layers dominate gets narrower; its times are there for the next time."""
    monkeypatch.setenv("SPARSEWOOD_CACHE", str(tmp_path))
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8))
    x = torch.zeros(64, 64)
    structure = sw.trace(model, x)
    told: list[str] = []
    chooser = Chooser(model, structure, criterion=Magnitude())
    choice = meet_latency(chooser, model, x, structure, Latency(0.7), progress=told.append)
    assert choice.removed > 0
    assert told == ["time the network, module by module", "time layers at other widths"]
    assert len(list(tmp_path.glob("layer-times-eager-*.json"))) == 1
    times = LatencyModel(model, x, structure, engine=Eager(), cache=tmp_path)
    assert 0 < times.predict(choice.keep) < times.dense
    again: list[str] = []
    rounds = Rounds(chooser, model, x, structure, Latency(0.7), progress=again.append)
    assert rounds.choose({}).removed > 0
    assert again == told


def test_onnxruntime_as_the_engine() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, _, times = model_and_times(OnnxRuntime())
    assert 0 < times.predict({"0": first(64, 256), "2": first(32, 128)}) < 2 * times.dense
    assert times.predict({}) == pytest.approx(times.dense)
