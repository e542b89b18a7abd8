"""Which parameters are meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.parameters import Selectors, choose, classifier, entries, find
from sparsewood.testing import ARCHITECTURES, Architecture


def names(model: nn.Module, **given: Selectors | bool | None) -> list[str]:
    return [entry.name for entry in choose(model, **given)]  # type: ignore[arg-type]


def small() -> nn.Sequential:
    model = nn.Sequential()
    model.conv1 = nn.Conv2d(1, 2, 3)
    model.bn1 = nn.BatchNorm2d(2)
    model.block = nn.Sequential(nn.Conv2d(2, 2, 3), nn.GroupNorm(1, 2), nn.PReLU())
    model.fc1 = nn.Linear(2, 3)
    model.fc2 = nn.Linear(3, 4)
    return model


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.last = nn.Linear(3, 2)


DEFAULT = {
    "mlp": ["0.weight", "3.weight"],
    "conv_norm": ["0.weight", "3.weight"],
    "attention": ["attention.in_proj_weight", "attention.out_proj.weight", "up.weight", "down.weight"],
    "recurrent": ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l1", "lstm.weight_hh_l1"],
    "tied": ["hidden.weight", "middle.weight"],
    "raw_parameter": ["weight"],
    "transposed": ["0.weight", "2.weight"],
}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_default_of_every_architecture(architecture: Architecture) -> None:
    """[7.21] Weights, without normalisation, biases, embeddings and the classifier."""
    found = names(architecture.build())
    assert found == DEFAULT.get(architecture.name, found)
    assert not any("bias" in name or "norm" in name or "bn" in name for name in found)
    assert names(architecture.build(), protect_classifier=False) != found or architecture.name == "tied"


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ("conv1.weight", ["conv1.weight"]),
        ("conv1.bias", ["conv1.bias"]),
        ("conv1", ["conv1.weight"]),
        ("block", ["block.0.weight"]),
        ("fc*", ["fc1.weight", "fc2.weight"]),
        ("fc?.weight", ["fc1.weight", "fc2.weight"]),
        ("*", ["conv1.weight", "block.0.weight", "fc1.weight", "fc2.weight"]),
        ("*.bias", ["conv1.bias", "bn1.bias", "block.0.bias", "block.1.bias", "fc1.bias", "fc2.bias"]),
        ("bn1", ["bn1.weight", "bn1.bias"]),
        (nn.Linear, ["fc1.weight", "fc2.weight"]),
        (nn.modules.conv._ConvNd, ["conv1.weight", "block.0.weight"]),
        (["fc1", nn.Conv2d], ["conv1.weight", "block.0.weight", "fc1.weight"]),
        ("fc2", ["fc2.weight"]),
    ],
)
def test_include(include: Selectors, expected: list[str]) -> None:
    """Names, modules, patterns, classes; naming the classifier includes it. Always in model order."""
    assert names(small(), include=include) == expected


def test_include_a_module() -> None:
    model = small()
    assert names(model, include=model.block) == ["block.0.weight"]
    assert names(model, include=[model.fc2, model.conv1]) == ["conv1.weight", "fc2.weight"]


def test_exclude() -> None:
    assert names(small(), exclude="block") == ["conv1.weight", "fc1.weight"]
    assert names(small(), exclude=[nn.Linear, "conv1.weight"]) == ["block.0.weight"]
    assert names(small(), include=nn.Linear, exclude="fc1") == ["fc2.weight"]


@pytest.mark.parametrize("what", ["include", "exclude"])
@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("conv1.wieght", r"Unknown layer or parameter in {} 'conv1.wieght'. Did you mean 'conv1.weight'"),
        ("cnov1", "Unknown layer or parameter in {} 'cnov1'. Did you mean .*'conv1'"),
        ("head*", "Unknown layer or parameter in {} 'head\\*'. Known: 'conv1.weight'"),
        (nn.LSTM, "{}: no parameter of this model belongs to LSTM"),
        (5, "{} takes names, patterns, module classes and modules. Got 5"),
        ([None], "{} takes names.*Got None"),
    ],
    ids=str,
)
def test_unknown_selectors(what: str, selector: Selectors, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message.format(what)):
        names(small(), **{what: selector})


def test_nothing_left_says_what_to_do() -> None:
    with pytest.raises(SparsewoodError, match=r"Nothing to prune in Sequential: .*from 13. .*include="):
        names(small(), exclude="*")


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 2), nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.LSTM(2, 3)], ids=["a", "b", "c"]
)
def test_a_single_layer_is_pruned(model: nn.Module) -> None:
    """There is nothing else to prune: it is no classifier."""
    assert names(model) == names(model, protect_classifier=False)


def test_classifier_is_the_last_weight() -> None:
    last = classifier(entries(small()))
    assert last is not None
    assert last.name == "fc2.weight"
    assert "fc2.weight" not in names(small())
    assert names(small(), protect_classifier=False)[-1] == "fc2.weight"


def test_tied_weights_are_one_parameter_with_two_names() -> None:
    model = Tied()
    entry = entries(model)[0]
    assert (entry.name, entry.aliases) == ("first.weight", ("second.weight",))
    assert entry.owners == (model.first, model.second)
    for include in ("second.weight", "second", model.second, "sec*"):
        assert names(model, include=include)[0] == "first.weight"
    assert names(model, exclude="second.weight", protect_classifier=False) == ["last.weight"]


def test_a_module_used_twice_is_one_layer() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(3, 2))
    first = entries(model)[0]
    assert (first.name, first.aliases) == ("0.weight", ("2.weight",))
    assert len(entries(model)[0].owners) == 1


@pytest.mark.parametrize("order", ["embedding first", "linear first"])
def test_a_weight_tied_to_an_embedding_is_an_embedding(order: str) -> None:
    """Neither pruned by default, nor is another layer protected in its place."""
    model, hidden = nn.Module(), nn.Linear(4, 4)
    embedding, output = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    output.weight = embedding.weight
    pair = {"embedding": embedding, "output": output}
    for name in pair if order == "embedding first" else reversed(pair):
        model.add_module(name, pair[name])
        if name == next(iter(pair)) and order == "embedding first":
            model.add_module("hidden", hidden)
            model.add_module("more", nn.Linear(4, 4))
    if order == "linear first":
        model.add_module("hidden", hidden)
        model.add_module("more", nn.Linear(4, 4))
        assert names(model) == ["hidden.weight"]
    else:
        assert names(model) == ["hidden.weight", "more.weight"]


def test_lazy_modules_are_refused_by_name() -> None:
    """Left out silently they would stay dense."""
    with pytest.raises(SparsewoodError, match=r"'1.weight' has no shape yet.*Run the model once"):
        choose(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))


def test_whole_number_parameters_cannot_be_pruned() -> None:
    model = small()
    model.table = nn.Parameter(torch.ones(2, 2, dtype=torch.int64), requires_grad=False)
    assert "table" not in names(model)
    with pytest.raises(SparsewoodError, match=r"'table' of type torch\.int64 .*cannot be pruned"):
        names(model, include="table")


def test_find_keeps_model_order() -> None:
    found = find(entries(small()), ["fc2", "conv1"], "test")
    assert [entry.name for entry in found] == ["conv1.weight", "conv1.bias", "fc2.weight", "fc2.bias"]


def test_unknown_names_are_shown_in_part() -> None:
    error = UnknownName.among("thing", "zzz", [f"name{i}" for i in range(20)])
    assert str(error).endswith("'name7' and 12 more.")
    assert "none" in str(UnknownName.among("thing", "zzz", []))


def test_names_with_brackets_are_taken_literally() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a[0]", nn.Linear(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert names(Odd(), include="a[0]") == ["a[0].weight"]


def _weight_norm(layer: nn.Linear) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(layer)


def _spectral_norm(layer: nn.Linear) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(layer)


def _old_spectral_norm(layer: nn.Linear) -> nn.Module:
    return nn.utils.spectral_norm(layer)


def _pruned(layer: nn.Linear) -> nn.Module:
    return torch_prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize("wrap", [_weight_norm, _spectral_norm, _old_spectral_norm, _pruned])
def test_what_a_weight_is_computed_from_is_left_alone_aloud(
    wrap: Callable[[nn.Linear], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    """A zero in it is no zero of the weight; the wrapped layer still counts as the classifier if it is the last."""
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Sequential(first, wrap(nn.Linear(4, 4)), last)
    assert [entry.name for entry in choose(model)] == ["0.weight"]
    assert "Not pruned: 1." in caplog.text
    model = nn.Sequential(first, last, wrap(nn.Linear(4, 4)))
    assert [entry.name for entry in choose(model)] == ["0.weight", "1.weight"]
