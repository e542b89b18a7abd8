"""Exact counts and the lower-index rule, against a stable sort."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.allocation import select as module
from sparsewood.allocation.select import best_in_rows, select
from sparsewood.criteria import Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.pruning import prune
from sparsewood.testing.strategies import score_tensors, shapes
from sparsewood.types import Count

LOWEST = -float("inf")
CPU = torch.device("cpu")


@dataclass
class Flat:
    """The scores of one tensor, in pieces of a given size, with a sample that may mislead."""

    values: Tensor
    step: int = 7
    misleading: Tensor | None = None
    name: str = "w"
    device: torch.device = CPU

    @property
    def units(self) -> int:
        return self.values.numel()

    @property
    def alive(self) -> int:
        return int((self.values > LOWEST).sum())

    def chunks(self) -> Iterator[Tensor]:
        yield from self.values.reshape(-1).split(self.step)

    def sample(self, count: int) -> Tensor:
        source = self.values.reshape(-1) if self.misleading is None else self.misleading
        return source[:count]


def oracle(tensors: Sequence[Tensor], keep: int, floors: Sequence[int] | None = None) -> list[Tensor]:
    """The best `floor` of each tensor, then the best of all the others, by stable sorts."""
    flat = [tensor.reshape(-1).double() for tensor in tensors]
    masks = [torch.zeros(len(values), dtype=torch.bool) for values in flat]
    for values, mask, floor in zip(flat, masks, floors or [0] * len(flat), strict=True):
        mask[values.sort(descending=True, stable=True).indices[:floor]] = True
    taken = torch.cat(masks)
    order = torch.cat(flat).sort(descending=True, stable=True).indices
    rest = order[~taken[order]][: keep - int(taken.sum())]
    taken[rest] = True
    return list(taken.split([len(values) for values in flat]))


def assert_best(tensors: Sequence[Tensor], keep: int, floors: Sequence[int] | None = None, **flat: Any) -> None:
    found = select([Flat(tensor, **flat) for tensor in tensors], keep, floors)
    assert [mask.tolist() for mask in found] == [mask.tolist() for mask in oracle(tensors, keep, floors)]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which even small pools take every path."""
    monkeypatch.setattr(module, "SAMPLE", 8)
    monkeypatch.setattr(module, "COLLECT_AT_LEAST", 4)
    monkeypatch.setattr(module, "COLLECT_SHARE", 1 << 40)
    monkeypatch.setattr(module, "MARGIN", 0.01)


# ---------------------------------------------------------------- the rule


@given(st.lists(score_tensors(shapes(max_axes=2)), min_size=1, max_size=4), st.data())
def test_equals_a_stable_sort(tensors: list[Tensor], data: st.DataObject) -> None:
    """[002-03] Exactly the n lowest go, ties by position."""
    keep = data.draw(st.integers(0, sum(tensor.numel() for tensor in tensors)))
    assert_best(tensors, keep)


@given(st.lists(score_tensors(shapes(max_axes=2), torch.float64), min_size=1, max_size=3), st.data())
def test_float64(tensors: list[Tensor], data: st.DataObject) -> None:
    assert_best(tensors, data.draw(st.integers(0, sum(tensor.numel() for tensor in tensors))))


@given(st.lists(score_tensors(shapes(max_axes=2)), min_size=1, max_size=4), st.data())
def test_floors(tensors: list[Tensor], data: st.DataObject) -> None:
    """[7.11] No tensor falls below its floor, and the total stays exact."""
    floors = [data.draw(st.integers(0, tensor.numel())) for tensor in tensors]
    keep = data.draw(st.integers(sum(floors), sum(tensor.numel() for tensor in tensors)))
    assert_best(tensors, keep, floors)


@given(st.lists(score_tensors(shapes(max_axes=1, max_size=30)), min_size=1, max_size=3), st.data())
def test_removed_units_never_return(tensors: list[Tensor], data: st.DataObject) -> None:
    """[7.10]"""
    gone = [torch.rand(t.shape, generator=torch.Generator().manual_seed(i)) < 0.5 for i, t in enumerate(tensors)]
    scores = [tensor.masked_fill(mask, LOWEST) for tensor, mask in zip(tensors, gone, strict=True)]
    keep = data.draw(st.integers(0, int(sum((~mask).sum() for mask in gone))))
    assert_best(scores, keep)


@pytest.mark.parametrize("keep", [0, 1, 499, 500, 501, 999, 1000])
def test_all_scores_equal(keep: int) -> None:
    """[7.9] Exactly `keep`, and the first ones."""
    mask = select([Flat(torch.full((1000,), 3.0))], keep)[0]
    assert mask.tolist() == [True] * keep + [False] * (1000 - keep)


@pytest.mark.parametrize("keep", [1, 10, 11, 500, 990, 1000])
def test_99_percent_zeros(keep: int) -> None:
    """[7.9] [001-01]"""
    scores = torch.zeros(1000)
    scores[::100] = torch.arange(1.0, 11.0)
    assert_best([scores[:300], scores[300:]], keep)


def test_negative_scores() -> None:
    assert_best([torch.tensor([-3.0, -1.0, -2.0]), torch.tensor([-1.0, 0.5])], 3)


def test_zeros_of_both_signs_are_equal() -> None:
    assert_best([torch.tensor([-0.0, 0.0, -0.0, 0.0])], 2)


def test_floors_are_met_by_the_others() -> None:
    """Four of five belong to the first tensor; a floor of two takes one of them away."""
    first, second = torch.tensor([9.0, 8.0, 7.0, 6.0]), torch.tensor([5.0, 4.0, 3.0])
    masks = select([Flat(first), Flat(second)], 5, [1, 2])
    assert [int(mask.sum()) for mask in masks] == [3, 2]


def test_floors_in_a_chain() -> None:
    """Raising one tensor pushes the next below its floor."""
    tensors = [torch.tensor([9.0, 8.0, 7.0]), torch.tensor([6.0, 5.0]), torch.tensor([1.0, 1.0, 1.0])]
    assert_best(tensors, 6, [1, 2, 3])


@pytest.mark.parametrize(("keep", "floors"), [(4, None), (1, [1, 1]), (-1, None)])
def test_impossible_counts_name_the_tensors(keep: int, floors: list[int] | None) -> None:
    with pytest.raises(SparsewoodError, match=rf"Cannot keep {keep} units of a, b: the floors need \d and 3 are left"):
        select([Flat(torch.ones(2), name="a"), Flat(torch.ones(1), name="b")], keep, floors)


def test_ties_that_decide_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        select([Flat(torch.ones(4), name="conv.weight")], 2)
    assert "All 4 scores of conv.weight are equal" in caplog.text


# ---------------------------------------------------------------- the search


@pytest.mark.usefixtures("tiny")
@given(
    score_tensors(st.integers(1, 300).map(lambda n: (n,))), st.sampled_from(["plain", "sorted", "reversed", "sample"])
)
def test_every_start_finds_the_threshold(scores: Tensor, order: str) -> None:
    """Sorted data, misleading samples and hardly any room to collect change nothing."""
    flat: dict[str, Any] = {}
    if order in {"sorted", "reversed"}:
        scores = scores.sort(descending=order == "reversed").values
    if order == "sample":
        flat["misleading"] = torch.linspace(-5, -4, 8)
    for keep in {1, len(scores) // 3, len(scores) // 2, len(scores) - 1, len(scores)} - {0}:
        assert_best([scores], keep, **flat)


@pytest.mark.usefixtures("tiny")
def test_every_line_of_the_search_is_reached() -> None:
    """Bad brackets on either side, proof by ties, collection, overflow to either side."""
    ramp = torch.arange(1.0, 201.0)
    cases = [
        (ramp, 3, torch.linspace(-9, -8, 8)),  # everything is above the bracket
        (ramp, 150, torch.linspace(900, 901, 8)),  # nothing is
        (torch.ones(200), 7, None),  # one value
        (ramp, 10, None),
        (ramp, 190, None),
        (ramp.flip(0), 100, torch.tensor([1.0, 200.0] * 4)),
        (ramp, 100, torch.tensor([1.0, 200.0] * 4)),
        (torch.cat([ramp, torch.full((200,), 77.0)]), 150, torch.tensor([1.0, 200.0] * 4)),
        (torch.cat([torch.full((200,), 77.0), ramp]), 150, torch.tensor([1.0, 200.0] * 4)),
    ]
    code = module._search.__code__
    reached: set[int] = set()

    def note(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is code and event == "line":
            reached.add(frame.f_lineno)
        return note if frame.f_code is code or event != "call" else None

    before = sys.gettrace()
    for values, keep, misleading in cases:
        sys.settrace(note)
        try:
            found = select([Flat(values, misleading=misleading)], keep)
        finally:
            sys.settrace(before)
        assert torch.equal(found[0], oracle([values], keep)[0])
    lines = {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
    assert not lines - reached


@pytest.mark.usefixtures("tiny")
def test_adjacent_numbers_are_told_apart() -> None:
    """Steps of one unit in the last place, denormals, and the ends of the range."""
    tiny = torch.finfo(torch.float32).smallest_normal
    finite = torch.finfo(torch.float32)
    values = [torch.tensor(1.0)]
    for _ in range(40):
        values.append(torch.nextafter(values[-1], torch.tensor(2.0)))
    denormals = torch.arange(0, 40) * 1.4e-45
    ends = torch.tensor([finite.min, finite.max, 0.0, tiny, -tiny])
    for scores in (torch.stack(values), denormals, torch.cat([ends, ends, torch.stack(values)])):
        for keep in (1, 5, 20, len(scores) - 1):
            assert_best([scores.flip(0)], keep)


@pytest.mark.usefixtures("tiny")
def test_periodic_data() -> None:
    """A period that the sample could follow."""
    assert_best([torch.arange(1000.0) % 8, torch.arange(500.0) % 5], 777)


def test_flushing_denormals_does_not_hang() -> None:
    """With denormals flushed, zero's neighbours are zero."""
    scores = torch.zeros(600_000)
    scores[::2] = 1e-40
    torch.set_flush_denormal(True)
    try:
        kept = [int(select([Flat(scores, step=100_000)], keep)[0].sum()) for keep in (1, 200_000, 500_000)]
    finally:
        torch.set_flush_denormal(False)
    assert kept == [1, 200_000, 500_000]


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "sorted"])
def test_a_million(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = {
        "normal": torch.randn(1_000_000, generator=generator),
        "ties": torch.randint(9, (1_000_000,), generator=generator).float(),
        "zeros": torch.randn(1_000_000, generator=generator) * (torch.rand(1_000_000, generator=generator) < 0.01),
        "sorted": torch.arange(1_000_000.0),
    }[kind]
    for keep in (1, 100_000, 999_999):
        found = select([Flat(part, step=100_000) for part in values.split(300_000)], keep)
        assert torch.equal(torch.cat(found), oracle([values], keep)[0])


# ---------------------------------------------------------------- rows


@given(score_tensors(shapes(min_axes=2, max_axes=2)), st.data())
def test_best_in_rows(scores: Tensor, data: st.DataObject) -> None:
    keep = torch.tensor([data.draw(st.integers(0, scores.shape[1])) for _ in scores])
    rows = [oracle([row], int(k))[0].tolist() for row, k in zip(scores, keep, strict=True)]
    assert best_in_rows(scores, keep).tolist() == rows


# ---------------------------------------------------------------- through prune


def two_layers(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_dtypes_and_memory_formats(dtype: torch.dtype, channels_last: bool) -> None:
    """Half precision has many ties; the order is that of the logical positions, whatever the memory format."""
    model = two_layers(dtype)
    plain = [layer.weight.detach().clone() for layer in model]
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        assert not model[1].weight.is_contiguous()
    masks = prune(model, Magnitude(), Count(400), protect_classifier=False)
    expected = oracle([weight.abs().double() for weight in plain], masks.total - 400)
    assert [mask.reshape(-1).tolist() for mask in masks.values()] == [mask.tolist() for mask in expected]


def test_mixed_dtypes_compete_by_value() -> None:
    model = two_layers()
    model[0].half()
    model[1].double()
    weights = [layer.weight.detach() for layer in model]
    masks = prune(model, Magnitude(), 0.37, protect_classifier=False)
    expected = oracle([weight.abs().double() for weight in weights], masks.total - masks.removed)
    assert masks.removed == round(0.37 * masks.total)
    assert [mask.reshape(-1).tolist() for mask in masks.values()] == [mask.tolist() for mask in expected]


def test_values_that_differ_only_in_float64_are_told_apart() -> None:
    layer = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 + 3e-12, 1.0 + 2e-12]], dtype=torch.float64)
    assert prune(layer, Magnitude(), 2)["weight"].tolist() == [[False, False, True, True]]


def test_chunked_scores_equal_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the size of the pieces nor what was masked before changes what is chosen."""
    model = two_layers().to(memory_format=torch.channels_last)
    earlier = prune(model, Magnitude(), 0.2, protect_classifier=False)
    whole = prune(model, Magnitude(), 0.6, protect_classifier=False, masks=earlier)
    for size in (1, 10, 1000):
        monkeypatch.setattr("sparsewood.pruning.scores.CHUNK", size)
        assert prune(model, Magnitude(), 0.6, protect_classifier=False, masks=earlier) == whole


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 100])
def test_bad_scores_name_the_parameter(bad: float, place: int) -> None:
    model = two_layers()
    model[1].weight.data.view(-1)[place] = bad
    message = r"1 of \d+ scores of 1\.weight are NaN or infinite.*Check the weights"
    with pytest.raises(SparsewoodError, match=message):
        prune(model, Magnitude(), 0.5, protect_classifier=False)


def test_a_sum_that_overflows_is_no_error() -> None:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data.fill_(torch.finfo(torch.float32).max)
    assert prune(layer, Magnitude(), 0.5).removed == 8
