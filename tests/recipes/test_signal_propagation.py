"""Connection sensitivity over a data set, uniform labels, other data, and isometry after pruning."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.measurement import jacobian_singular_values
from sparsewood.recipes import prune_with_isometry, uniform_labels
from sparsewood.recovery import Isometry, Orthogonal, VarianceScaling

Batches = list[tuple[Tensor, Tensor]]
SHORT = Isometry(iterations=100)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    model = sw.models.mlp(3, 12, activation="tanh", inputs=20, classes=4).double()
    Orthogonal()(model, {}, seeded())
    return model


def examples(seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = seeded(seed)
    x = torch.randn(30, 20, generator=drawn, dtype=torch.float64)
    return x, torch.randint(4, (30,), generator=drawn)


def batches(size: int, seed: int = 0) -> Batches:
    x, y = examples(seed)
    return list(zip(x.split(size), y.split(size), strict=True))


def all_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def sensitivity(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """|w dL/dw| for one batch, by autograd."""
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(parameters.values()))
    return {name: (w * g).abs().detach() for (name, w), g in zip(parameters.items(), gradients, strict=True)}


# ---------------------------------------------------------------- connection sensitivity


@pytest.mark.parametrize("size", [30, 10, 7, 1])
def test_004_20_the_cut_into_batches_does_not_matter(size: int) -> None:
    """The signed sum over all examples, then the absolute value: as one batch, also if the last one is smaller."""
    model = network()
    expected = sensitivity(model, *examples())
    found = sw.score(
        model, sw.WeightTimesGradient(), data=batches(size), loss=F.cross_entropy, include=all_names(model)
    )
    assert found.keys() == expected.keys()
    for name, scores in found.items():
        assert torch.allclose(scores, expected[name], rtol=1e-9, atol=1e-15)


def test_004_20_opposite_gradients_cancel() -> None:
    """The absolute value of the sum, not the sum of absolute values."""
    model = nn.Linear(1, 1, bias=False)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output * target).mean()

    data = [(torch.ones(1, 1), torch.tensor([[1.0]])), (torch.ones(1, 1), torch.tensor([[-1.0]]))]
    assert float(sw.score(model, sw.WeightTimesGradient(), data=data, loss=loss)["weight"]) == 0


def test_004_20_biases_that_are_zero_score_zero_and_go_first() -> None:
    """The hidden rule: with biases included all of them go before any weight."""
    model = network()
    names = all_names(model)
    scores = sw.score(model, sw.WeightTimesGradient(), data=batches(10), loss=F.cross_entropy, include=names)
    biases = [name for name in names if name.endswith("bias")]
    assert all(bool((scores[name] == 0).all()) for name in biases)
    assert all(bool((scores[name] > 0).all()) for name in names if name not in biases)
    for count in (12 + 12 + 4, 300):
        masks = prune_with_isometry(network(), batches(10), sparsity=count, include=names, isometry=SHORT)
        assert masks.removed == count
        assert not any(bool(masks[name].any()) for name in biases)


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_004_20_exactly_the_best_stay(sparsity: float) -> None:
    """Top k of all scores together, k = round(N (1 - sparsity)), the classifier's weights among them."""
    model = network()
    expected = sensitivity(model, *examples())
    weights = torch.cat([scores.flatten() for name, scores in expected.items() if name.endswith("weight")])
    kept = round(len(weights) * (1 - sparsity))
    least = weights.sort(descending=True).values[kept - 1]
    masks = prune_with_isometry(model, batches(10), sparsity=sparsity, isometry=SHORT)
    assert list(masks) == [name for name in expected if name.endswith("weight")]
    assert masks.total - masks.removed == kept
    for name, mask in masks.items():
        assert torch.equal(mask, expected[name] >= least)


class Quiet(nn.Module):
    """A second branch that the loss hardly feels."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.quiet = nn.Linear(20, 4), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.loud(x) + 1e-6 * self.quiet(x)


def test_a_layer_may_lose_everything() -> None:
    """No floor: as in the paper, exactly the best of all scores stay."""
    x, y = examples()
    masks = prune_with_isometry(Quiet(), [(x.float(), y)], sparsity=0.6, isometry=SHORT)
    assert masks.total - masks.removed == 64
    assert not bool(masks["quiet.weight"].any())


# ---------------------------------------------------------------- labels and data


@pytest.mark.parametrize("shape", [(5, 3), (2, 7, 4), (1, 2)], ids=str)
def test_004_25_uniform_cross_entropy_is_divergence_plus_log_k(shape: tuple[int, ...]) -> None:
    logits = 3 * torch.randn(shape, generator=seeded(), dtype=torch.float64)
    classes = shape[1]
    log_p = F.log_softmax(logits, 1)
    divergence = ((1 / classes) * (math.log(1 / classes) - log_p)).sum(1).mean()
    assert float(uniform_labels(logits)) == pytest.approx(float(divergence) + math.log(classes), rel=1e-12)
    soft = torch.full(shape, 1 / classes, dtype=torch.float64)
    assert float(uniform_labels(logits, None)) == pytest.approx(float(F.cross_entropy(logits, soft)), rel=1e-12)


def test_004_25_it_is_least_where_all_classes_are_alike() -> None:
    logits = torch.zeros(2, 5, requires_grad=True)
    value = uniform_labels(logits)
    value.backward()
    assert float(value.detach()) == pytest.approx(math.log(5))
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-7
    assert float(uniform_labels(torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]))) > math.log(5)


def test_004_25_unsupervised_pruning_reads_no_labels() -> None:
    """Shuffled, absurd or missing labels give the same masks; true ones others."""
    x, y = examples()
    kept = [
        prune_with_isometry(network(), data, loss=uniform_labels, sparsity=0.7, isometry=SHORT)
        for data in ([(x, y)], [(x, y.flip(0))], [(x, torch.full_like(y, -77))], [x])
    ]
    assert all(masks == kept[0] for masks in kept)
    assert prune_with_isometry(network(), [(x, y)], sparsity=0.7, isometry=SHORT) != kept[0]


def test_004_25_scores_may_come_from_other_data() -> None:
    """Transfer: nothing but the data differs, and each data set has its own masks, the same at every call."""
    masks = [prune_with_isometry(network(), batches(10, seed), sparsity=0.7, isometry=SHORT) for seed in (0, 1, 1)]
    assert masks[1] == masks[2]
    assert masks[0] != masks[1]
    assert masks[0].removed == masks[1].removed


@pytest.mark.parametrize("logits", [torch.zeros(3), [[0.0]], None])
def test_uniform_labels_need_classes(logits: object) -> None:
    with pytest.raises(SparsewoodError, match=r"needs logits \[examples, classes, \.\.\.\]"):
        uniform_labels(logits)  # type: ignore[arg-type]


# ---------------------------------------------------------------- isometry


@pytest.mark.parametrize("first", [Orthogonal(), VarianceScaling.lecun()], ids=repr)
def test_004_24_signals_pass_the_pruned_network_again(first: Orthogonal | VarianceScaling) -> None:
    """Linear: from far below what it was back to near 1. Removed weights are 0, the others differ from before."""
    model = sw.models.mlp(5, 60, inputs=100)
    first(model, {}, seeded())
    x = torch.randn(100, 100, generator=seeded(1))
    data = [(x, torch.arange(100) % 10)]
    before = sw.recovery.snapshot(model)
    dense = jacobian_singular_values(model, data, examples=1).mean
    masks = prune_with_isometry(model, data, sparsity=0.9, isometry=Isometry(iterations=1000))
    after = jacobian_singular_values(model, data, examples=1).mean
    now = sw.recovery.snapshot(model)
    assert jacobian_singular_values(model, data, masks=masks, examples=1).mean == after
    model.load_state_dict(dict(before))
    pruned = jacobian_singular_values(model, data, masks=masks, examples=1).mean
    assert pruned < 0.3 * dense
    assert 0.7 < after < 1.1
    for name, mask in masks.items():
        assert bool((now[name][~mask] == 0).all())


def test_training_goes_on_from_there() -> None:
    model = network().float()
    data = [(x.float(), y) for x, y in batches(10)]
    masks = prune_with_isometry(model, data, sparsity=0.5, isometry=SHORT)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with sw.enforce(model, masks, optimizer):
        for _ in range(30):
            for x, y in data:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
