"""Pruning before training: masks for the very weights that are then trained.

All take and give the same: a model, which is not changed, an amount, and masks. By default all weights compete, those
of the last layer too, as in the papers; biases and normalisations stay unless `include` names them. Every layer keeps
at least `min_units` weights; `find_collapse` says whether signals still get through.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from sparsewood.allocation.scopes import Amounts, Everywhere, Scope
from sparsewood.criteria import ECS, GraSP, SynFlow, WeightTimesGradient
from sparsewood.parameters import Selectors
from sparsewood.pruning import prune, score
from sparsewood.statistics import Loss
from sparsewood.statistics.synaptic_flow import Precision
from sparsewood.types import AmountLike, Masks

__all__ = ["connection_sensitivity", "ecs", "force", "grasp", "iterative_snip", "snip", "synflow"]


def connection_sensitivity(
    model: nn.Module, data: Iterable[Any], loss: Loss, *, include: Selectors | None = None
) -> dict[str, Tensor]:
    """SNIP's scores s_j = |w_j g_j| / sum over all weights k of |w_k g_k|, g the gradient of the mean loss over `data`.

    The signed gradients of all batches are averaged before the absolute value. The scores sum to 1.
    Source: Lee et al. 2019, https://arxiv.org/abs/1810.02340; over the whole data set as Lee et al. 2020,
    https://arxiv.org/abs/1906.06307.

    >>> import torch
    >>> data = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]
    >>> scores = connection_sensitivity(nn.Linear(3, 2), data, nn.functional.cross_entropy)
    >>> round(float(scores["weight"].sum()), 6)
    1.0
    """
    scores = score(model, WeightTimesGradient(), data=data, loss=loss, include=include)
    total = sum(float(one.double().sum()) for one in scores.values())
    return {name: one / total for name, one in scores.items()} if total else scores


def snip(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss,
    sparsity: AmountLike,
    *,
    scope: Scope | Amounts = Everywhere(),
    include: Selectors | None = None,
    min_units: int = 1,
) -> Masks:
    """SNIP: the weights with the largest connection sensitivities stay. Of one batch, several, or the whole data set.

    `scope=PerLayer()` keeps the same share of every layer, a mapping from layers to amounts what it says for each.
    Source: Lee et al. 2019, "SNIP: Single-shot Network Pruning", https://arxiv.org/abs/1810.02340.

    >>> import torch
    >>> data = [(torch.randn(4, 10), torch.tensor([0, 1, 0, 1]))]
    >>> snip(nn.Linear(10, 2), data, nn.functional.cross_entropy, 0.9).sparsity
    0.9
    """
    return prune(
        model, WeightTimesGradient(), sparsity, data=data, loss=loss, scope=scope, include=include,
        min_units=min_units, protect_classifier=False,
    )  # fmt: skip


def iterative_snip(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss,
    sparsity: AmountLike,
    *,
    iterations: int = 100,
    revive: bool = False,
    min_units: int = 1,
) -> Masks:
    """SNIP in small steps, each with the sensitivities of the network that the steps before left.

    The densities fall exponentially. What went stays away; with `revive` it is FORCE: see `force`.
    Source: de Jorge et al. 2021, "Progressive Skeletonization: Trimming more fat from a network at initialization",
    https://arxiv.org/abs/2006.09081; Verdenius et al. 2020, https://arxiv.org/abs/2006.00896.

    >>> import torch
    >>> data = [(torch.randn(4, 10), torch.tensor([0, 1, 0, 1]))]
    >>> iterative_snip(nn.Linear(10, 2), data, nn.functional.cross_entropy, 0.9, iterations=5).sparsity
    0.9
    """
    return prune(
        model, WeightTimesGradient(), sparsity, data=data, loss=loss, iterations=iterations, revive=revive,
        min_units=min_units, protect_classifier=False,
    )  # fmt: skip


def force(model: nn.Module, data: Iterable[Any], loss: Loss, sparsity: AmountLike, *, iterations: int = 100) -> Masks:
    """FORCE: `iterative_snip` in which weights that went may come back, |w g| with the gradient of the pruned network.

    Source: de Jorge et al. 2021, https://arxiv.org/abs/2006.09081.

    >>> import torch
    >>> data = [(torch.randn(4, 10), torch.tensor([0, 1, 0, 1]))]
    >>> force(nn.Linear(10, 2), data, nn.functional.cross_entropy, 0.9, iterations=5).sparsity
    0.9
    """
    return iterative_snip(model, data, loss, sparsity, iterations=iterations, revive=True)


def grasp(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss,
    sparsity: AmountLike,
    *,
    temperature: float = 200.0,
    min_units: int = 1,
) -> Masks:
    """GraSP: what goes is what raises, or lowers least, the norm of the gradient; see `criteria.GraSP`.

    For data the paper takes 10 examples of each class (`sparsewood.data.balanced`). The loss must be computed from what
    the model returns, which `temperature` divides.
    Source: Wang et al. 2020, https://arxiv.org/abs/2002.07376.

    >>> import torch
    >>> data = [(torch.randn(4, 10), torch.tensor([0, 1, 0, 1]))]
    >>> grasp(nn.Linear(10, 2), data, nn.functional.cross_entropy, 0.9).sparsity
    0.9
    """
    return prune(
        model, GraSP(temperature), sparsity, data=data, loss=loss, min_units=min_units, protect_classifier=False
    )


def synflow(
    model: nn.Module,
    example_inputs: Any,
    sparsity: AmountLike,
    *,
    iterations: int = 100,
    min_units: int = 1,
    precision: Precision = "float64",
) -> Masks:
    """SynFlow: data-free, 100 steps along an exponential; see `criteria.SynFlow`.

    `precision` is that of the passes, for models that cannot run in float64.
    Source: Tanaka et al. 2020, https://arxiv.org/abs/2006.05467.

    >>> import torch
    >>> synflow(nn.Linear(10, 2), torch.ones(1, 10), 0.9).sparsity
    0.9
    """
    batch = (example_inputs, None) if isinstance(example_inputs, list | tuple) else example_inputs
    return prune(
        model, SynFlow(precision), sparsity, data=[batch], iterations=iterations, min_units=min_units,
        protect_classifier=False,
    )  # fmt: skip


def ecs(model: nn.Module, data: Iterable[Any], loss: Loss, sparsity: AmountLike, *, min_units: int = 1) -> Masks:
    """Explicit connection sensitivity: what is large, or has a large gradient, stays; exactly as much as is asked.

    Meant for a network that was trained for an epoch; see `criteria.ECS`.

    >>> import torch
    >>> data = [(torch.randn(4, 10), torch.tensor([0, 1, 0, 1]))]
    >>> ecs(nn.Linear(10, 2), data, nn.functional.cross_entropy, 0.9).sparsity
    0.9
    """
    return prune(model, ECS(), sparsity, data=data, loss=loss, min_units=min_units, protect_classifier=False)
