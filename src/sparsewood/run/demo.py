"""The demo: is it worth choosing which weights to remove? Four strategies, six compressions, three seeds, real data.

For each seed a dense network is trained once. Each strategy then prunes it at each compression, and every pruned
network is fine-tuned alike: the same epochs, optimizer and order of the data. Compression 1 is the control, the dense
network fine-tuned as long as the others. The part of the data that accuracies are reported on is read once, after all
training.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from sparsewood.allocation import Everywhere, PerLayer, Scope
from sparsewood.criteria import Criterion, Magnitude, Random, WeightTimesGradient
from sparsewood.data import digits
from sparsewood.data.split import Split, batches
from sparsewood.masks import apply_masks, enforce
from sparsewood.measure import evaluate, measure
from sparsewood.models import small_conv
from sparsewood.pruning import prune
from sparsewood.report.rows import Result
from sparsewood.run.progress import Advance, no_progress
from sparsewood.run.settings import DemoSettings
from sparsewood.train import Progress, fit
from sparsewood.types import Compression, Masks

__all__ = ["EXPECTED_ORDER", "STRATEGIES", "Layer", "Outcome", "Strategy", "run_demo", "steps"]

State = Mapping[str, Tensor]

MODEL = "small_conv"
# A narrow first layer, as most networks have: what every layer can spare differs.
CHANNELS = (8, 32)
HIDDEN = 128
MOMENTUM = 0.9
DENSE = "dense"


@dataclass(frozen=True)
class Strategy:
    """How a network is pruned: which scores, competing in which pool."""

    name: str
    criterion: Criterion
    scope: Scope


STRATEGIES = (
    Strategy("random", Random(), Everywhere()),
    Strategy("layerwise magnitude", Magnitude(), PerLayer()),
    Strategy("global magnitude", Magnitude(), Everywhere()),
    Strategy("global gradient magnitude", WeightTimesGradient(), Everywhere()),
)
EXPECTED_ORDER = ("global magnitude", "layerwise magnitude", "random")


@dataclass(frozen=True)
class Layer:
    """What is left of one parameter of one final network; `kept` counts non-zeros."""

    strategy: str
    compression: float
    seed: int
    parameter: str
    shape: str
    size: int
    kept: int
    sparsity: float


@dataclass(frozen=True)
class Outcome:
    """One result for each strategy, compression and seed, the layers of their networks, and the split's sizes."""

    results: tuple[Result, ...]
    layers: tuple[Layer, ...]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Candidate:
    """A network before and after fine-tuning, kept until everything is trained."""

    strategy: str
    compression: float
    seed: int
    pruned: State
    final: State
    epochs: int


def run_demo(settings: DemoSettings, advance: Advance = no_progress) -> Outcome:
    """Train, prune, fine-tune, and at the very end evaluate. The same settings give the same results, bit for bit.

    `advance` is called after each of `steps(settings)` training steps. The number of threads is put back at the end.
    Raises `SparsewoodError` if a compression cannot be had or training diverges.
    """
    settings = effective(settings)
    with _threads(settings.threads):
        split = digits(_generator(settings.seed, "split"))
        candidates = [c for seed in settings.seeds for c in _candidates(settings, split, seed, advance)]
        held_out = split.test if settings.evaluate_on == "test" else split.validation
        return _outcome(settings, split, held_out, candidates)


def effective(settings: DemoSettings) -> DemoSettings:
    """The settings that are run: a dry run has one seed and one epoch (of one batch) for every training."""
    if not settings.dry_run:
        return settings
    return replace(settings, seeds=settings.seeds[:1], epochs=1, finetune_epochs=1)


def steps(settings: DemoSettings) -> int:
    """How many training steps `run_demo` makes."""
    settings = effective(settings)
    points = 1 + len(STRATEGIES) * sum(ratio > 1 for ratio in settings.compressions)
    epochs = settings.epochs + settings.finetune_epochs * points
    return epochs * len(_train_batches(settings, digits(_generator(settings.seed, "split")), 0)) * len(settings.seeds)


# ---------------------------------------------------------------- training


def _candidates(settings: DemoSettings, split: Split, seed: int, advance: Advance) -> Iterator[Candidate]:
    """The control, then every strategy at every compression, of the dense network of one seed."""
    dense = _network(seed)
    train = _train_batches(settings, split, seed)
    _fit(settings, dense, train, settings.epochs, lambda _: advance(f"seed {seed}: dense training"))

    def tuned(name: str, ratio: float, masks: Masks) -> Candidate:
        doing = f"seed {seed}: {name} {ratio:g}x"
        return _finetuned(settings, split, dense, masks, Candidate(name, ratio, seed, {}, {}, 0), lambda _: advance(doing))

    yield tuned(DENSE, 1.0, Masks({}))
    for strategy in STRATEGIES:
        for ratio in settings.compressions:
            if ratio > 1:
                yield tuned(strategy.name, ratio, _pruned(settings, split, dense, strategy, ratio, seed))


def _pruned(
    settings: DemoSettings, split: Split, dense: nn.Module, strategy: Strategy, ratio: float, seed: int
) -> Masks:
    return prune(
        dense,
        strategy.criterion,
        Compression(ratio),
        scope=strategy.scope,
        data=batches(_part(settings, split.train), settings.batch_size),
        loss=nn.functional.cross_entropy,
        generator=_generator(seed, f"masks at {ratio:g}"),
    )
