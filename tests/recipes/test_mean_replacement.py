"""Mean replacement pruning (003-02, 003-04, 003-05, 003-10 ... 003-18): scores, means, probes, one unit at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.recipes import (
    MeanReplacer,
    create_binary_mask_from_scores,
    eval_layer,
    get_pruning_measurements,
    global_prune,
    mask_and_broadcast,
    masks_from_scores,
    probe_pruning,
    prune_all_layers,
    replacing_means,
    without_units,
)
from sparsewood.recipes.measurements import SCORES
from sparsewood.shrinking.costs import Costs
from sparsewood.shrinking.unit_masks import units_left
from sparsewood.unit_criteria import MeanReplacement, TaylorRemoval


def network(*, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=not norm), *between, nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    count = sum(sizes or (12, 12))
    x, y = torch.randn(count, 1, 8, 8, generator=generator), torch.randint(3, (count,), generator=generator)
    return list(zip(x.split(list(sizes or (12, 12))), y.split(list(sizes or (12, 12))), strict=True))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


class Counting(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.runs = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(len(x))
        return self.inner(x)


# ---------------------------------------------------------------- scores


def test_003_05_six_scores_of_every_layer_in_two_passes() -> None:
    model = Counting(network())
    found = get_pruning_measurements(model, batches(10, 14), loss=F.cross_entropy)
    assert model.runs == [10, 14, 10, 14]
    assert tuple(found.scores) == SCORES
    for of in (*found.scores.values(), found.means, found.l2norms):
        assert {name: len(one) for name, one in of.items()} == {"inner.0": 4, "inner.3": 6, "inner.7": 8}
        assert all(bool(torch.isfinite(one).all()) for one in of.values())


def test_003_04_norm_and_random_scores() -> None:
    net = nn.Sequential(nn.Conv1d(5, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        # range(30) as (kernel 3, inputs 5, units 2): the weights of unit 0 are 0, 2, ..., 28
        net[0].weight.copy_(torch.arange(30.0).reshape(3, 5, 2).permute(2, 1, 0))
    data = [(torch.randn(3, 5, 4), torch.tensor([0, 1, 0]))]
    scores = get_pruning_measurements(net, data, loss=F.cross_entropy).scores
    assert float(scores["norm"]["0"][0]) == pytest.approx(sum(w * w for w in range(0, 30, 2)) / 15)
    again = get_pruning_measurements(net, data, loss=F.cross_entropy).scores["rand"]["0"]
    assert torch.equal(again, scores["rand"]["0"])
    other = get_pruning_measurements(net, data, loss=F.cross_entropy, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(other.scores["rand"]["0"], again)


def test_003_01_scores_do_not_depend_on_batches_and_are_those_of_definition() -> None:
    one, two = (get_pruning_measurements(network(), batches(*of), loss=F.cross_entropy) for of in ((24,), (5, 19)))
    for name in SCORES:
        for layer, values in one.scores[name].items():
            torch.testing.assert_close(two.scores[name][layer], values, rtol=1e-3, atol=1e-7)
    net, (x, y) = network().eval(), batches(24)[0]
    a = net[2](net[1](net[0](x))).detach().requires_grad_()
    loss = F.cross_entropy(net[3:](a), y, reduction="sum")
    (g,) = torch.autograd.grad(loss, a)
    mean = a.detach().mean((0, 2, 3), keepdim=True)
    expected = {
        "rs": (-a * g).mean((2, 3)).mean(0),
        "abs_rs": (a * g).mean((2, 3)).abs().mean(0),
        "mrs": ((mean - a) * g).mean((2, 3)).mean(0),
        "abs_mrs": ((mean - a) * g).mean((2, 3)).abs().mean(0),
    }
    for name, values in expected.items():
        torch.testing.assert_close(one.scores[name]["0"], values.detach().double(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(one.means["0"], mean.flatten().double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.l2norms["0"], a.detach().square().mean((0, 2, 3)).double(), rtol=1e-5, atol=1e-7)


def test_003_18_layers_by_word_and_name() -> None:
    given = {"loss": F.cross_entropy}
    assert list(get_pruning_measurements(network(), batches(), "lastconv", **given).means) == ["3"]
    assert list(get_pruning_measurements(network(), batches(), ["firstconv", "7"], **given).means) == ["0", "7"]
    with pytest.raises(sw.SparsewoodError, match="No unit of 9 can be seen"):
        get_pruning_measurements(network(), batches(), "9", **given)
    with pytest.raises(sw.SparsewoodError, match="reads the data twice"):
        get_pruning_measurements(network(), iter(batches()), **given)


# ---------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("scores", "given", "mask"),
    [
        ([4.0, 3, 2, 1], {"fraction": 0.5}, [1, 1, 0, 0]),
        ([0.1, 0.2, -0.5, 0.23, -5.1, 3], {"fraction": 0.35}, [1, 1, 0, 1, 0, 1]),
        ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], {"fraction": 0.5}, [[1, 0, 0], [1, 1, 0]]),
        ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], {"fraction": 0.7}, [[0, 0, 0], [1, 1, 0]]),
        ([[0.6, 0.5, 0.1], [0.9, 0.7, 0.4]], {"fraction": 0.2}, [[1, 1, 0], [1, 1, 1]]),
        ([0.1, 0.2, -0.5, 0.23, -5.1, 3], {"n_zeros": 0}, [1, 1, 1, 1, 1, 1]),
        ([0.1, 0.2, -0.5, 0.23, -5.1, 3], {"n_zeros": 2}, [1, 1, 0, 1, 0, 1]),
        ([0.1, 0.2, -0.5, 0.23, -5.1, 3], {"n_zeros": 6}, [0, 0, 0, 0, 0, 0]),
        ([1.0, 1, 1, 1], {"n_zeros": 2}, [1, 1, 0, 0]),
    ],
)
def test_003_10_masks_from_scores(scores: Any, given: dict[str, Any], mask: Any) -> None:
    assert create_binary_mask_from_scores(torch.tensor(scores), **given).tolist() == mask


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of the two"),
        ({"fraction": 0.5, "n_zeros": 1}, "one of the two"),
        ({"fraction": 1.5}, r"in \[0, 1\]"),
        ({"n_zeros": 5}, "from 0 to 4"),
    ],
)
def test_003_10_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(sw.SparsewoodError, match=message):
        create_binary_mask_from_scores(torch.ones(4), **given)


def test_003_11_mask_and_broadcast() -> None:
    values, mask = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([0.0, 1, 1, 0, 0])
    assert mask_and_broadcast(mask, values, (2, 5)).tolist() == [[0, 2, 3, 0, 0]] * 2
    assert mask_and_broadcast(mask, values, (5,), invert=True).tolist() == [1, 0, 0, 4, 5]
    with pytest.raises(sw.SparsewoodError, match="cannot be broadcast"):
        mask_and_broadcast(mask, values, (2, 4))


def test_003_12_units_that_are_gone_stay_gone_whatever_their_scores() -> None:
    model = network()
    structure = sw.trace(model, torch.zeros(1, 1, 8, 8))
    first, _ = masks_from_scores(structure, {"0": torch.tensor([3.0, 0.0, 2.0, 1.0])}, {"0": 1})
    second, keep = masks_from_scores(structure, {"0": torch.tensor([-3.0, 9.0, -2.0, -1.0])}, {"0": 2}, masks=first)
    assert keep["0"].tolist() == [False, False, True, True]
    assert all(bool((~first[name] <= ~second[name]).all()) for name in first)
    assert masks_from_scores(structure, {"0": torch.ones(4)}, {"0": 0.49})[1]["0"].sum() == 3, "floor(0.49 * 4) go"
    with pytest.raises(sw.UnknownName, match="layer with scores"):
        masks_from_scores(structure, {"0": torch.ones(4)}, {"3": 1})


# ---------------------------------------------------------------- means


def test_003_02_a_replacer_uses_means_of_the_data_not_of_the_batch() -> None:
    replace = MeanReplacer(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(replace(x), x), "none is active"
    replace.set_active_units([2, 0, 2])
    out = replace(x)
    assert bool((out[:, 0] == 1).all())
    assert bool((out[:, 2] == 3).all())
    assert torch.equal(out[:, 1], x[:, 1])
    assert torch.equal(replace(x[:1]), out[:1]), "whatever the batch"
    for wrong in ([], [3], [-1], [0.5], "0"):
        with pytest.raises(sw.SparsewoodError, match="numbers of units from 0 to 2"):
            replace.set_active_units(wrong)  # type: ignore[arg-type]
    with pytest.raises(sw.SparsewoodError, match="3 units along axis 1"):
        replace(torch.ones(2, 4))


@pytest.mark.parametrize("group", ["3", "7"])
def test_003_13_folded_means_are_what_replacing_them_computes(group: str) -> None:
    """Without zero padding the mean in the bias and the mean in place of the unit are the same to rounding."""
    model, data = network().double().eval(), [(x.double(), y) for x, y in batches()]
    structure = sw.trace(model, data[0][0])
    keep = {group: np.arange(structure.group(group).units) >= 2}
    x = data[0][0]
    with torch.no_grad(), replacing_means(model, structure, data, {group: [0, 1]}):
        replaced = model(x)
    with torch.no_grad():
        torch.testing.assert_close(without_units(model, structure, keep, data)(x), replaced, rtol=0, atol=1e-10)
        assert not torch.allclose(without_units(model, structure, keep)(x), replaced)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_003_13_a_constant_unit_costs_nothing() -> None:
    model, data = network(norm=False).eval(), batches()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 0.7
    structure = sw.trace(model, data[0][0])
    keep = {"0": np.array([True, False, True, True])}
    with torch.no_grad():
        torch.testing.assert_close(without_units(model, structure, keep, data)(data[0][0]), model(data[0][0]))


def test_biases_that_are_made_stay_0_for_units_that_are_gone() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1),
    )  # fmt: skip
    with torch.no_grad():
        for one in model[0], model[2]:
            one.weight.abs_()
    data = [torch.rand(4, 1, 3, 3)]
    structure = sw.trace(model, data[0])
    keep = {"0": np.array([True, False, True]), "2": np.array([True, True, False])}
    copied = without_units(model, structure, keep, data)
    assert copied[2].bias[2] == 0
    assert bool((copied[2](torch.rand(1, 3, 2, 2))[:, 2] == 0).all())


# ---------------------------------------------------------------- probes


def test_003_17_a_probe_changes_nothing_and_says_what_it_measured() -> None:
    model, data, val = network(), batches(), batches(16)
    before = state(model)
    found = probe_pruning(model, data, {"0": 2, "3": 0.5}, evaluate_on={"val": val, "test": data}, loss=F.cross_entropy)
    assert unchanged(model, before)
    assert len(found.rows) == 4 * 2 * 2
    assert set(found.tags()) == {
        f"pruning_penalty{bp}_{name}{part}"
        for bp in ("", "_bp") for name in ("rand", "norm", "abs_rs", "abs_mrs") for part in ("", "_test")
    }  # fmt: skip
    structure = sw.trace(model, data[0][0])
    for row in found.rows:
        copied = without_units(model, structure, found.keep[row.scoring], data if row.bias_propagation else None)
        loss = sw.evaluate(copied, val if row.part == "val" else data, topk=()).loss
        assert row.loss == pytest.approx(loss)
        assert row.penalty == pytest.approx(loss - found.baseline[row.part])
    assert {name: int((~stays).sum()) for name, stays in found.keep["norm"].items()} == {"0": 2, "3": 3}


def test_003_17_pruning_nothing_costs_nothing() -> None:
    found = probe_pruning(network(), batches(), 0, evaluate_on={"val": batches(16)}, loss=F.cross_entropy)
    assert set(found.tags().values()) == {0.0}
    with pytest.raises(sw.UnknownName, match="score of mean replacement"):
        probe_pruning(network(), batches(), 0, evaluate_on={}, loss=F.cross_entropy, scorings=["taylor"])


def test_003_14_bias_propagation_can_be_left_out() -> None:
    data = batches()
    found = probe_pruning(
        network(), data, 1, "firstconv", evaluate_on={"val": data}, loss=F.cross_entropy, bias_propagation=[False]
    )
    assert not any(row.bias_propagation for row in found.rows)


def test_eval_layer_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    model, data = network(), batches()
    given: Any = {"train": data, "test": batches(16), "loss": F.cross_entropy, "n_exps": 4, "max_fraction": 0.75}
    whole = eval_layer(model, "firstconv", data, **given)
    assert whole[0].counts == (0, 1, 2, 3)
    assert len({curve.train_loss[0] for curve in whole}) == 1, "nothing removed is the whole network"
    done: list[object] = []

    def stop(curve: object) -> None:
        done.append(curve)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        eval_layer(model, "firstconv", data, path=tmp_path, progress=stop, **given)
    assert len(list(tmp_path.iterdir())) == 3
    again = eval_layer(model, "firstconv", data, path=tmp_path, progress=done.append, **given)
    assert again == whole
    assert len(done) == 8, "three before, five after"
    with pytest.raises(sw.SparsewoodError, match="another model or other settings"):
        eval_layer(model, "firstconv", data, path=tmp_path, **given | {"max_fraction": 0.5})


# ---------------------------------------------------------------- one unit at a time


def test_003_15_the_unit_that_goes_is_the_lowest_of_the_whole_network() -> None:
    model, data = network(), batches()
    structure = sw.trace(model, data[0][0])
    scores = TaylorRemoval()(model, structure, data=data, loss=F.cross_entropy, generator=torch.Generator())
    normalized = {name: one / one.norm() for name, one in scores.items()}
    every = [(float(value), name, unit) for name, one in normalized.items() for unit, value in enumerate(one)]
    lowest = min(every)[0]
    expected = [one for one in every if one[0] == lowest][-1]  # of equal ones the lower index stays
    masks, (step,) = global_prune(model, data, 1, criterion=TaylorRemoval(), loss=F.cross_entropy)
    assert (step.group, step.unit) == expected[1:]
    assert step.score == pytest.approx(expected[0])
    assert sum(int((~alive).sum()) for alive in units_left(structure, masks).values()) == 1


def test_003_15_groups_compete_by_scores_over_the_norm_of_what_is_left() -> None:
    model, data = network(), batches()
    structure = sw.trace(model, data[0][0])
    of = {"0": [1.0, 1, 1, 1], "3": [2.0, 20, 20, 20, 20, 20], "7": [3.0, 4, 4, 4, 4, 4, 4, 1000]}

    def fixed(*_: object, **__: object) -> dict[str, Tensor]:
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in of.items()}

    # 3 / 1000 is the lowest as long as the large one counts; without it 3 / 10 is not.
    (first,) = global_prune(model, data, 1, criterion=fixed, bias_propagation=False)[1]
    assert (first.group, first.unit, first.score) == ("7", 0, pytest.approx(3 / np.linalg.norm(of["7"])))
    masks = structure.to_masks({"7": np.arange(8) < 7})
    (second,) = global_prune(network(), data, 1, criterion=fixed, bias_propagation=False, masks=masks)[1]
    assert (second.group, second.unit, second.score) == ("3", 0, pytest.approx(2 / np.linalg.norm(of["3"])))


def test_003_15_no_group_is_emptied_and_nothing_comes_back() -> None:
    model, data = network(), batches()
    structure = sw.trace(model, data[0][0])
    total = sum(group.units for group in structure.prunable)
    masks, done = global_prune(model, data, total - 3, loss=F.cross_entropy)
    left = units_left(structure, masks)
    assert [int(alive.sum()) for alive in left.values()] == [1, 1, 1]
    assert len({(step.group, step.unit) for step in done}) == total - 3
    assert [step.macs for step in done] == sorted((step.macs for step in done), reverse=True)
    with pytest.raises(sw.SparsewoodError, match="15 units can go"):
        global_prune(network(), data, total, loss=F.cross_entropy)


def test_003_16_what_a_unit_costs_counts_as_the_structure_says() -> None:
    data = batches()
    structure = sw.trace(network(), data[0][0])
    plain, costly = (
        global_prune(network(), data, 4, criterion=MeanReplacement(), loss=F.cross_entropy, flop_weight=weight)[1]
        for weight in (0.0, 1e6)
    )
    most = max(structure.prunable, key=lambda group: int(structure.macs(group).max())).name
    assert {step.group for step in costly[:3]} == {most}, "with a large weight only costs count"
    assert costly[-1].macs < plain[-1].macs


def test_updates_between_steps_keep_masked_weights_at_0() -> None:
    model, data, steps = network(), batches(), []

    def update(net: nn.Module, masks: sw.Masks) -> None:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        with sw.enforce(net, masks, optimizer):
            F.cross_entropy(net(data[0][0]), data[0][1]).backward()
            optimizer.step()
        steps.append(masks.removed)

    masks, _ = global_prune(model, data, 3, loss=F.cross_entropy, update=update)
    assert len(steps) == 3
    assert steps == sorted(steps)
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())

    def drifting(net: nn.Module, _: sw.Masks) -> None:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(1.0)

    with pytest.raises(sw.SparsewoodError, match=r"After update, .* masked weights of .* are not zero"):
        global_prune(network(), data, 1, loss=F.cross_entropy, update=drifting)


def test_layer_after_layer_with_means_of_the_network_as_it_is_then(caplog: pytest.LogCaptureFixture) -> None:
    model, data, seen = network(), batches(), []
    structure = sw.trace(model, data[0][0])

    def update(_: nn.Module, masks: sw.Masks) -> None:
        seen.append(masks.removed)

    masks = prune_all_layers(model, [("3", 0.5), ("0", 0.25)], data, loss=F.cross_entropy, update=update)
    left = units_left(structure, masks)
    assert {name: int((~alive).sum()) for name, alive in left.items()} == {"0": 1, "3": 3, "7": 0}
    assert len(seen) == 2
    assert not caplog.records
    # By hand: the second layer's scores and means are those of the network without the first one's units.
    given: Any = {"data": data, "loss": F.cross_entropy, "structure": structure}
    byhand = network()
    first = sw.prune_units(byhand, None, MeanReplacement(), 0.5, include=["3"], **given)
    byhand = without_units(byhand, structure, units_left(structure, first), data)
    second = sw.prune_units(byhand, None, MeanReplacement(), 0.25, include=["0"], masks=first, **given)
    byhand = without_units(byhand, structure, {"0": units_left(structure, second)["0"]}, data)
    torch.testing.assert_close(model.state_dict(), byhand.state_dict())


# ---------------------------------------------------------------- modules called again, layers left out, what is kept


class Shared(nn.Module):
    """Two layers whose units are seen at two calls of one module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.second(self.relu(self.first(x)))))


@pytest.mark.parametrize("group", ["first", "second"])
def test_003_02_units_are_replaced_at_their_own_call_of_a_shared_module(group: str) -> None:
    model, x = Shared().double().eval(), torch.randn(9, 3, dtype=torch.float64)
    structure = sw.trace(model, x)
    keep = {group: np.array([True, False, True, False])}
    folded = without_units(model, structure, keep, [x])
    with torch.no_grad(), replacing_means(model, structure, [x], {group: [1, 3]}):
        for part in (x, x[:2]):  # calls are counted anew in every forward
            torch.testing.assert_close(model(part), folded(part), rtol=0, atol=1e-12)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with (
        pytest.raises(sw.SparsewoodError, match=r"units 0 to 3. Got \[4\]"),
        replacing_means(model, structure, [x], {group: [4]}),
    ):
        pass


def test_003_02_a_call_can_do_without_replacing() -> None:
    replace, x = MeanReplacer(torch.tensor([1.0, 2.0])), torch.zeros(3, 2)
    replace.set_active_units([0])
    assert torch.equal(replace(x, is_replacing=False), x)
    assert replace(x)[:, 0].tolist() == [1.0] * 3


class OneLayerUnclear(nn.Module):
    """Of the first layer it is not clear which example a place belongs to, of the second it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.act, self.between = nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5)
        self.relu, self.last = nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 1)
        return self.last(self.relu(self.between(self.act(self.up(windows)).unflatten(0, (2, -1)).mean((0, 2)))))


def test_layers_that_are_left_out_do_not_hide_the_others() -> None:
    data = [(torch.randn(5, 8, 3), torch.tensor([0, 1, 2, 0, 1]))]
    found = get_pruning_measurements(OneLayerUnclear(), data, loss=F.cross_entropy)
    assert {name: list(of) for name, of in found.scores.items()} == {name: ["between"] for name in SCORES}
    with pytest.raises(sw.SparsewoodError, match="No unit of up can be seen"):
        get_pruning_measurements(OneLayerUnclear(), data, "up", loss=F.cross_entropy)


def test_003_01_sums_over_space_are_what_the_criteria_score() -> None:
    for model, data in ((network(), batches()), (Twice(), [(torch.randn(6, 4), torch.tensor([0, 1, 2] * 2))])):
        structure = sw.trace(model, data[0][0])
        found = get_pruning_measurements(model, data, loss=F.cross_entropy, space="sum", structure=structure)
        for name, criterion in {
            "rs": TaylorRemoval("signed"), "abs_rs": TaylorRemoval(),
            "mrs": MeanReplacement("signed"), "abs_mrs": MeanReplacement(),
        }.items():  # fmt: skip
            scores = criterion(model, structure, data=data, loss=F.cross_entropy, generator=torch.Generator())
            assert set(scores) == set(found.scores[name])
            for layer, values in scores.items():
                torch.testing.assert_close(found.scores[name][layer], values, rtol=1e-4, atol=1e-8)


class Twice(nn.Module):
    """One layer that is called twice: its units are seen at two sites."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.one, self.other, self.last = nn.Linear(4, 5), nn.ReLU(), nn.Tanh(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.one(self.layer(x)) + self.other(self.layer(2 * x)))


def test_003_10_a_share_is_the_number_that_was_written() -> None:
    """floor(f N) of f as it is meant: 0.29 * 100 is 28.999... in floating point, and 1/3 * 3 is 1."""
    for share, size, gone in ((0.29, 100, 29), (1 / 3, 3, 1), (0.57, 100, 57), (0.299, 100, 29)):
        mask = create_binary_mask_from_scores(torch.arange(float(size)), fraction=share)
        assert int((mask == 0).sum()) == gone


def test_003_12_scores_are_of_the_network_as_it_was_so_the_order_of_layers_does_not_count() -> None:
    model = network()
    structure = sw.trace(model, torch.zeros(1, 1, 8, 8))
    scores = get_pruning_measurements(model, batches(), loss=F.cross_entropy).scores["abs_mrs"]
    one, two = (masks_from_scores(structure, scores, amounts) for amounts in ({"0": 1, "3": 2}, {"3": 2, "0": 1}))
    assert all(bool((one[0][name] == two[0][name]).all()) for name in one[0])
    copies = [without_units(model, structure, keep, batches()) for _, keep in (one, two)]
    torch.testing.assert_close(copies[0].state_dict(), copies[1].state_dict(), rtol=0, atol=0)


def test_003_17_a_probe_has_means_and_squares_and_trains_copies() -> None:
    model, data, trained = network(norm=False), batches(), []
    model[2] = nn.Conv2d(4, 6, 3, bias=False)
    measured = get_pruning_measurements(model, data, loss=F.cross_entropy)

    def retrain(copied: nn.Module, masks: sw.Masks) -> None:
        optimizer = torch.optim.SGD(copied.parameters(), lr=0.1, momentum=0.9)
        with sw.enforce(copied, masks, optimizer):
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(copied(data[0][0]), data[0][1]).backward()
                optimizer.step()
        trained.append("2.bias" in masks)

    given: Any = {"evaluate_on": {"val": batches(16)}, "loss": F.cross_entropy, "scorings": ["abs_mrs"]}
    before = state(model)
    found, plain = (probe_pruning(model, data, {"0": 1, "2": 2}, retrain=how, **given) for how in (retrain, None))
    assert unchanged(model, before)
    assert trained == [False, True], "a bias that a copy got for the means is held too"
    assert [one.loss for one in found.rows] != [one.loss for one in plain.rows]
    for name, values in measured.means.items():
        assert torch.equal(found.means[name], values)
        assert torch.equal(found.l2norms[name], measured.l2norms[name])


def test_003_17_parts_that_can_be_read_only_once_are_refused_before_anything_is_measured() -> None:
    model = Counting(network())
    with pytest.raises(sw.SparsewoodError, match="'val' is read for every copy"):
        probe_pruning(model, batches(), 1, evaluate_on={"val": iter(batches())}, loss=F.cross_entropy)
    with pytest.raises(sw.SparsewoodError, match="'test' is read for every copy"):
        eval_layer(model, "inner.0", batches(), train=batches(), test=iter(batches()), loss=F.cross_entropy)
    assert not model.runs


@pytest.mark.parametrize("wrong", [("9.9", 0.5), ("7", 1.0), ("7", -0.5)])
def test_a_plan_that_cannot_be_carried_out_changes_nothing(wrong: tuple[str, float]) -> None:
    model = network()
    before = state(model)
    with pytest.raises(sw.SparsewoodError):
        prune_all_layers(model, [("0", 0.5), wrong], batches(), loss=F.cross_entropy)
    assert unchanged(model, before)


def test_003_16_costs_are_of_what_is_left() -> None:
    """With a large weight the unit goes that saves most now, found by counting each; costs change with every step."""
    model, data = network(), batches()
    structure = sw.trace(model, data[0][0])
    costs, left = Costs(structure, {}), {group.name: np.ones(group.units, bool) for group in structure.prunable}
    for step in global_prune(model, data, 8, loss=F.cross_entropy, flop_weight=1e6)[1]:
        now, some = costs.macs(left), {name: alive for name, alive in left.items() if alive.sum() > 1}
        saved = {name: now - costs.macs({**left, name: one_less(alive)}) for name, alive in some.items()}
        assert saved[step.group] == max(saved.values())
        left[step.group][step.unit] = False
        assert step.macs == costs.macs(left)


def one_less(alive: np.ndarray) -> np.ndarray:
    return alive & (np.cumsum(alive) > 1)
