"""Sensitivity analysis. Requirement 004-33: a copy of each layer pruned alone, rows at 0, the original unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsewood as sw
from sparsewood import checkpoint, unit_criteria
from sparsewood.errors import FileFormatError, OutputError, SparsewoodError, UnknownName
from sparsewood.granularity import Coupled
from sparsewood.measurement import Evaluation
from sparsewood.recipes import sensitivity
from sparsewood.recipes.sensitivity_analysis import AMOUNTS
from sparsewood.report.rows import to_csv
from sparsewood.report.sensitivity import Sensitivity

GRANULARITIES = (sw.Element(), sw.Filter(), sw.Channel())
Key = tuple[str, str, float]


def network(classes: int = 7) -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(5, classes),
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def batches(classes: int = 7, seed: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(9, 2, 5, 5, generator=generator), torch.randint(classes, (9,), generator=generator))
        for _ in range(2)
    ]


def by_key(found: Sensitivity) -> dict[Key, Evaluation]:
    """What each row says, as an evaluation."""
    return {
        (row.parameter, row.granularity, row.sparsity): Evaluation(
            row.loss, {k: v for k, v in ((1, row.top1), (5, row.top5)) if v is not None}, row.samples
        )
        for row in found.rows
    }


class Counting:
    """An evaluation that counts its calls, and stops at one of them as a process that is killed does."""

    def __init__(self, stop: int | None = None) -> None:
        self.calls, self.stop, self.data = 0, stop, batches()

    def __call__(self, model: nn.Module) -> Evaluation:
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return sw.evaluate(model, self.data)


# ---------------------------------------------------------------- closed forms


def test_the_identity_loses_one_class_for_each_diagonal_entry() -> None:
    """[004-33] Inputs are the unit vectors: a class whose weight is gone ties with all others, 1 / 4 of the credit."""
    model = nn.Linear(4, 4, bias=False)
    model.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])))
    found = sensitivity(
        model, [(torch.eye(4), torch.arange(4))], amounts=(0.25, 0.5, 0.75), granularities=[sw.Channel()]
    )
    assert [row.top1 for row in found.rows] == [1.0, (3 + 1 / 4) / 4, (2 + 2 / 4) / 4, (1 + 3 / 4) / 4]
    assert [row.achieved for row in found.rows] == [0.0, 0.25, 0.5, 0.75]


def test_rows_are_those_of_a_copy_pruned_by_hand() -> None:
    """[004-33] Every layer, granularity and amount, measured on a copy."""
    model, data = network(), batches()
    found = by_key(sensitivity(model, data, amounts=(0.3, 0.6)))
    weights = ("0.weight", "3.weight", "6.weight")
    expected = {(name, type(g).__name__, a) for name in weights for g in GRANULARITIES for a in (0.0, 0.3, 0.6)}
    assert set(found) == {key for key in expected if key[:2] != ("6.weight", "Filter")}
    for (name, label, amount), evaluation in found.items():
        pruned = copy.deepcopy(model)
        if amount:
            granularity = next(g for g in GRANULARITIES if type(g).__name__ == label)
            sw.apply_masks(pruned, sw.prune(model, sw.LpNorm(1), amount, granularity=granularity, include=[name]))
        assert evaluation == sw.evaluate(pruned, data), (name, label, amount)


def test_units_of_the_structure_go_everywhere() -> None:
    """[004-33] A channel with its BatchNorm entries and the inputs that read it: the network that `shrink` makes."""
    model, data = network(), batches()
    found = by_key(sensitivity(model, data, amounts=(0.5,), granularities=[Coupled()], example_inputs=data[0][0]))
    assert {name for name, _, _ in found} == {"0.weight", "3.weight"}
    for name, other, gone in (("0.weight", "3", 3), ("3.weight", "0", 2)):
        small = sw.shrink(model, data[0][0], sparsity=gone, protect=other).model
        told, expected = found[name, "Coupled", 0.5], sw.evaluate(small, data)
        assert (told.top, told.samples) == (expected.top, expected.samples)
        assert told.loss == pytest.approx(expected.loss, rel=1e-5)
        assert told.loss != found[name, "Coupled", 0.0].loss


# ---------------------------------------------------------------- the baseline


def test_the_row_at_0_is_the_whole_network_and_is_evaluated_once() -> None:
    """[004-33] The base is not evaluated again for each tensor."""
    model, count = network(), Counting()
    found = sensitivity(model, count, amounts=(0.0, 0.5), granularities=[sw.Element()])
    whole = sw.evaluate(model, count.data)
    zero = [row for row in found.rows if row.sparsity == 0]
    assert [(row.parameter, row.top1, row.top5, row.loss, row.achieved) for row in zero] == [
        (name, whole.top[1], whole.top[5], whole.loss, 0.0) for name in ("0.weight", "3.weight", "6.weight")
    ]
    assert count.calls == 1 + 3


def test_masks_that_were_seen_before_are_not_evaluated_again() -> None:
    """[004-33] Of 5 filters 0.1 removes none, as the whole network has it; 0.8 and 0.9 both leave one."""
    count, cuts = Counting(), [sw.Filter(), sw.Row()]
    found = sensitivity(network(), count, layers="3", amounts=(0.1, 0.2, 0.8, 0.9), granularities=cuts)
    assert [row.achieved for row in found.rows] == [0.0, 0.0, 0.2, 0.8, 0.8] * 2
    assert count.calls == 1 + 2


def test_top5_needs_six_classes_and_top1_class_scores() -> None:
    """[004-33] What cannot be said is left out."""
    few = sensitivity(network(5), batches(5), amounts=(0.5,), granularities=[sw.Element()])
    assert {row.top5 for row in few.rows} == {None}
    assert few.baseline.top1 is not None

    def regression(model: nn.Module) -> Evaluation:
        data = [(x, torch.zeros(len(x), 7)) for x, _ in batches()]
        return sw.evaluate(model, data, loss=nn.functional.mse_loss, topk=())

    found = sensitivity(network(), regression, amounts=(0.5,), granularities=[sw.Element()])
    assert {row.top1 for row in found.rows} == {None}
    assert found.table().title.startswith("loss")


# ---------------------------------------------------------------- the model stays as it was


def state(model: nn.Module) -> tuple[object, ...]:
    tensors = dict(model.state_dict(keep_vars=True))
    grads = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    places = [(id(t), t.data_ptr(), t._version) for t in tensors.values()]
    return checkpoint.digest(tensors, {}), places, grads, [module.training for module in model.modules()]


@pytest.mark.parametrize("stop", [None, 5])
def test_the_model_is_left_as_it_was(stop: int | None) -> None:
    """[004-33] Bits, memory, versions, gradients and modes; also if the evaluation is stopped in the middle."""
    model = network()
    model[0].train(False)
    model[6].weight.grad = torch.ones_like(model[6].weight)
    output = model(batches()[0][0]).square().sum()  # a graph that goes through the weights
    before, count = state(model), Counting(stop)
    given = {"granularities": [*GRANULARITIES, Coupled()], "example_inputs": batches()[0][0]}
    if stop is None:
        sensitivity(model, count, **given)
    else:
        with pytest.raises(KeyboardInterrupt):
            sensitivity(model, count, **given)
    assert state(model) == before
    output.backward()  # a weight that was written to would be refused


def test_tied_weights_are_cut_once_and_stay_tied() -> None:
    """[004-33] One parameter under two names."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    model[1].weight = model[0].weight
    data = [(torch.randn(5, 4), torch.arange(5) % 3)]
    found = sensitivity(model, data, amounts=(0.5,), granularities=[sw.Element()])
    assert [row.parameter for row in found.rows] == ["0.weight"] * 2 + ["2.weight"] * 2
    assert model[1].weight is model[0].weight


def test_a_function_that_trains_is_refused() -> None:
    """[004-33] No row could be compared with another."""

    def train(model: nn.Module) -> Evaluation:
        model.get_parameter("6.weight").data.add_(1)
        return sw.evaluate(model, batches())

    with pytest.raises(SparsewoodError, match="changed its weights"):
        sensitivity(network(), train)


# ---------------------------------------------------------------- counts and choices


@settings(max_examples=30)
@given(
    st.integers(2, 6), st.integers(1, 6), st.lists(st.integers(0, 100), min_size=1, max_size=4, unique=True),
    st.sampled_from(GRANULARITIES),
)  # fmt: skip
def test_counts_are_exact(outputs: int, inputs: int, percent: list[int], granularity: sw.Units) -> None:
    """[004-33] round(a n) units, less one where none would be left, all of them for 1."""
    model = nn.Linear(inputs, outputs)
    data = [(torch.ones(2, inputs), torch.zeros(2, dtype=torch.int64))]
    amounts = [p / 100 for p in percent]
    units = {"Element": outputs * inputs, "Filter": outputs, "Channel": inputs}[type(granularity).__name__]
    if units == 1:
        with pytest.raises(SparsewoodError, match="nothing to analyse"):
            sensitivity(model, data, amounts=amounts, granularities=[granularity])
        return
    found = sensitivity(model, data, amounts=amounts, granularities=[granularity])
    asked = sorted({0.0, *amounts})
    gone = [units if a == 1 else min(round(a * units), units - 1) for a in asked]
    assert [(row.sparsity, round(row.achieved * units)) for row in found.rows] == list(zip(asked, gone, strict=True))


def test_whole_outputs_of_the_classifier_go_only_if_it_is_named() -> None:
    """[004-33] They are classes."""
    data = batches()
    usual = sensitivity(network(), data, amounts=(0.5,), granularities=[sw.Filter(), sw.Row()])
    assert {row.parameter for row in usual.rows} == {"0.weight", "3.weight"}
    named = sensitivity(network(), data, amounts=(0.5,), granularities=[sw.Filter()], layers=["6"])
    assert {row.parameter for row in named.rows} == {"6.weight"}


def test_random_scores_depend_on_the_seed_and_on_nothing_else() -> None:
    """[004-33] Not on which other layers there are; the masks of larger amounts hold those of smaller ones."""
    model, seen = network(), []

    def watch(model: nn.Module) -> Evaluation:
        seen.append(model.get_parameter("3.weight").detach() == 0)
        return sw.evaluate(model, batches())

    given = {"criterion": sw.Random(), "granularities": [sw.Element()], "amounts": (0.2, 0.5, 0.9)}
    alone = sensitivity(model, watch, layers="3", **given)
    assert all(bool((seen[i] <= seen[i + 1]).all()) for i in range(3))
    together = sensitivity(model, batches(), **given)
    assert alone.rows == tuple(row for row in together.rows if row.parameter == "3.weight")
    other = sensitivity(model, batches(), layers="3", seed=1, **given)
    assert [row.loss for row in other.rows] != [row.loss for row in alone.rows]


def test_criteria_that_read_data_are_given_other_data() -> None:
    """[004-33] Gradients of `scoring`, one pass, and the same masks as `prune` finds."""
    model, data, scoring = network(), batches(), batches(seed=8)
    with pytest.raises(SparsewoodError, match="pass scoring"):
        sensitivity(model, data, criterion=sw.WeightTimesGradient())
    given = {"criterion": sw.WeightTimesGradient(), "amounts": (0.5,)}
    found = by_key(sensitivity(model, data, scoring=scoring, granularities=[sw.Filter()], **given))
    loss = nn.functional.cross_entropy
    masks = sw.prune(
        model, sw.WeightTimesGradient(), 0.5, granularity=sw.Filter(), include=["3"], data=scoring, loss=loss
    )
    pruned = copy.deepcopy(model)
    sw.apply_masks(pruned, masks)
    assert found["3.weight", "Filter", 0.5] == sw.evaluate(pruned, data)


def test_criteria_of_units_choose_units_of_the_structure() -> None:
    """[004-33] And nothing else."""
    model, data = network(), batches()
    criterion = unit_criteria.GeometricMedian()
    found = sensitivity(
        model, data, criterion=criterion, granularities=[Coupled()], amounts=(0.5,), example_inputs=data[0][0]
    )
    masks = sw.prune_units(model, data[0][0], criterion, 3, include=["0"])
    pruned = copy.deepcopy(model)
    sw.apply_masks(pruned, masks)
    assert by_key(found)["0.weight", "Coupled", 0.5] == sw.evaluate(pruned, data)
    with pytest.raises(SparsewoodError, match="scores units"):
        sensitivity(model, data, criterion=criterion)


def test_progress_says_what_is_done_and_how_far_it_is() -> None:
    told: list[str] = []
    sensitivity(network(), batches(), layers="3", amounts=(0.5,), granularities=[sw.Filter()], progress=told.append)
    assert told == ["whole network", "1 of 1: 3.weight, Filter, 0.5"]


# ---------------------------------------------------------------- going on


def run(path: Path | None, data: object, **given: object) -> Sensitivity:
    usual = {"amounts": (0.25, 0.5), "granularities": [sw.Element(), sw.Filter()]}
    return sensitivity(network(), data, path=path, **{**usual, **given})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stop", [2, 4, 8])
def test_a_second_call_goes_on_where_the_first_was_cut(tmp_path: Path, stop: int) -> None:
    """[004-33] Also where the last line was not finished; nothing is evaluated twice but the whole network."""
    path, whole = tmp_path / "deep" / "rows.csv", run(None, batches())
    with pytest.raises(KeyboardInterrupt):
        run(path, Counting(stop))
    with path.open("a") as stream:
        stream.write("3.weight,0.2")
    assert Sensitivity.from_csv(path).rows == whole.rows[: len(path.read_text().splitlines()) - 2]
    count = Counting()
    assert run(path, count) == whole
    assert count.calls == 1 + 10 - (stop - 2)
    assert path.read_text() == to_csv(whole.rows)
    again = Counting()
    assert run(path, again) == whole
    assert again.calls == 1


def test_a_second_call_may_ask_for_more_and_for_less(tmp_path: Path) -> None:
    """[004-33] What is asked for comes back, and what is there is not done again."""
    path = tmp_path / "rows.csv"
    run(path, batches())
    count = Counting()
    more = run(path, count, amounts=(0.25, 0.5, 0.75))
    assert more == run(None, batches(), amounts=(0.25, 0.5, 0.75))
    assert count.calls == 1 + 5
    assert {row.parameter for row in run(path, batches(), layers="3").rows} == {"3.weight"}
    assert len(Sensitivity.from_csv(path).rows) == len(more.rows)


@pytest.mark.parametrize(
    "change",
    [{"criterion": sw.LpNorm(2)}, {"seed": 1}, {"loss": nn.functional.multi_margin_loss}, {"data": batches(seed=6)}],
    ids=lambda change: next(iter(change)),
)
def test_rows_of_something_else_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """[004-33] Another criterion, seed, loss, and other data; the file stays as it was."""
    path = tmp_path / "rows.csv"
    run(path, batches())
    before = path.read_bytes()
    with pytest.raises(SparsewoodError, match="Choose another path, or remove the file"):
        run(path, **{"data": batches(), **change})
    assert path.read_bytes() == before


def test_rows_of_another_network_are_refused(tmp_path: Path) -> None:
    """[004-33] One bit of one buffer is another network."""
    path, model = tmp_path / "rows.csv", network()
    sensitivity(model, batches(), amounts=(0.5,), path=path)
    model[1].running_mean[0] += 1e-6  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
    with pytest.raises(SparsewoodError, match="other weights"):
        sensitivity(model, batches(), amounts=(0.5,), path=path)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match="columns are"):
        run(path, batches())
    path.write_text(to_csv(run(None, batches()).rows) + "3.weight,half,,,,,,,\n")
    with pytest.raises(FileFormatError, match=r"line 17: not a row.*'half'"):
        run(path, batches())
    with pytest.raises(OutputError, match="no regular file"):
        run(tmp_path, batches())


def test_a_full_disk_leaves_what_can_be_gone_on_from(tmp_path: Path, room_for: Callable) -> None:
    """[004-33] The error names the file; with room again the same call goes on."""
    path, whole = tmp_path / "rows.csv", run(None, batches())
    with room_for(700), pytest.raises(OutputError, match=r"rows\.csv"):
        run(path, batches())
    assert run(path, batches()) == whole
    assert path.read_text() == to_csv(whole.rows)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"amounts": ()}, "at least one"),
        ({"amounts": (0.5, 0.5)}, "each once"),
        ({"amounts": (1.5,)}, r"in \[0, 1\]"),
        ({"granularities": ()}, "at least one"),
        ({"granularities": [sw.Filter(), sw.Filter()]}, "each once"),
        ({"granularities": ["Filter"]}, "such as Element"),
        ({"granularities": [sw.NM(2, 4)]}, "fixed share"),
        ({"granularities": [Coupled()]}, "pass example_inputs"),
        ({"granularities": [sw.Block((5, 5))]}, "divisible by 5"),
        ({"criterion": "Magnitude"}, "must be a criterion"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_evaluated(given: dict[str, object], message: str) -> None:
    """[004-33] Not after hours."""
    count = Counting()
    with pytest.raises(SparsewoodError, match=message):
        sensitivity(network(), count, **given)  # pyright: ignore[reportArgumentType]
    assert count.calls == 0


def test_data_that_cannot_be_read_twice_and_what_is_no_data_are_refused() -> None:
    with pytest.raises(SparsewoodError, match="only once"):
        sensitivity(network(), iter(batches()))
    with pytest.raises(SparsewoodError, match="must be batches"):
        sensitivity(network(), torch.ones(3))
    with pytest.raises(SparsewoodError, match="function of the model"):
        sensitivity(network(), nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(SparsewoodError, match=r"must return an Evaluation.*Got 0\.5"):
        sensitivity(network(), lambda _: 0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownName, match="conv9"):
        sensitivity(network(), batches(), layers="conv9")


def test_the_amounts_are_those_of_the_documentation() -> None:
    assert AMOUNTS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
