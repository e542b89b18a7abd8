"""The demo: is it worth choosing which weights to remove? Four strategies, six compressions, three seeds, real data.

For each seed a dense network is trained once. Each strategy then prunes it at each compression, and every pruned
network is fine-tuned alike: the same epochs, optimizer and order of the data. Compression 1 is the control, the dense
network fine-tuned as long as the others. The part of the data that accuracies are reported on is read once, after all
training.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsewood.allocation import Everywhere, PerLayer, Scope
from sparsewood.criteria import Criterion, Magnitude, Random, WeightTimesGradient
from sparsewood.data import Part, digits
from sparsewood.data.split import Split, batches
from sparsewood.masks import apply_masks
from sparsewood.measurement import evaluate, measure
from sparsewood.models import small_conv
from sparsewood.pruning import prune
from sparsewood.report.rows import Result
from sparsewood.run.progress import Advance, no_progress
from sparsewood.run.settings import DemoSettings
from sparsewood.run.threads import threads
from sparsewood.train import SGD, Training, fit
from sparsewood.types import Compression, Masks

__all__ = ["EXPECTED_ORDER", "STRATEGIES", "Layer", "Outcome", "Strategy", "run_demo", "steps"]

State = Mapping[str, Tensor]

MODEL = "small_conv"
# A small first layer and a large hidden one: layers that can spare very different shares of their weights, which is
# what sets global and layerwise pruning apart.
CHANNELS = (4, 32)
HIDDEN = 128
MOMENTUM = 0.9
DENSE = "dense control"
LAYERS_FILE = "masks_summary.csv"


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
class Case:
    """Which network."""

    strategy: str
    compression: float
    seed: int


@dataclass(frozen=True)
class Candidate:
    """A network before and after fine-tuning, kept until everything is trained."""

    case: Case
    pruned: State
    final: State
    epochs: int


@dataclass(frozen=True)
class Bench:
    """What all trainings of a run share."""

    settings: DemoSettings
    split: Split
    advance: Advance


def run_demo(settings: DemoSettings, advance: Advance = no_progress) -> Outcome:
    """Train, prune, fine-tune, and at the very end evaluate. The same settings give the same results, bit for bit.

    `advance` is called after each of `steps(settings)` training steps. The number of threads is put back at the end.
    Raises `SparsewoodError` if a compression cannot be had or training diverges.
    """
    settings = effective(settings)
    with threads(settings.threads):
        bench = Bench(settings, _split(settings), advance)
        candidates = [candidate for seed in settings.seeds for candidate in _candidates(bench, seed)]
        # From here on nothing is trained or chosen any more: now the held-out part may be read.
        return _outcome(bench, candidates)


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
    return len(settings.seeds) * epochs * len(batches(_split(settings).train, settings.batch_size))


def _split(settings: DemoSettings) -> Split:
    split = digits(_generator(settings.seed, "split"))
    if not settings.dry_run:
        return split
    indices = {**split.indices, "train": split.indices["train"][: settings.batch_size]}
    one_batch = split.train.subset(torch.arange(len(indices["train"])))
    return replace(split, train=one_batch, indices=indices)


# ---------------------------------------------------------------- training


def _candidates(bench: Bench, seed: int) -> Iterator[Candidate]:
    """The control, then every strategy at every compression, all from the dense network of one seed."""
    dense = _network(_generator(seed, "weights"))
    _fit(bench, dense, seed, "dense training", None)
    yield _finetuned(bench, dense, Case(DENSE, 1.0, seed), None)
    for strategy in STRATEGIES:
        for ratio in bench.settings.compressions:
            if ratio > 1:
                masks = _pruned(bench, dense, seed, strategy, ratio)
                yield _finetuned(bench, dense, Case(strategy.name, ratio, seed), masks)


def _network(generator: torch.Generator) -> nn.Module:
    return small_conv(CHANNELS, hidden=HIDDEN, generator=generator)


def _pruned(bench: Bench, dense: nn.Module, seed: int, strategy: Strategy, ratio: float) -> Masks:
    return prune(
        dense,
        strategy.criterion,
        Compression(ratio),
        scope=strategy.scope,
        data=batches(bench.split.train, bench.settings.batch_size),
        loss=nn.functional.cross_entropy,
        generator=_generator(seed, f"masks at {ratio:g}"),
    )


def _finetuned(bench: Bench, dense: nn.Module, case: Case, masks: Masks | None) -> Candidate:
    model = copy.deepcopy(dense)
    if masks is not None:
        apply_masks(model, masks)
    pruned = copy.deepcopy(model.state_dict())
    epochs = _fit(bench, model, case.seed, f"{case.strategy} {case.compression:g}x", masks)
    return Candidate(case, pruned, model.state_dict(), epochs)


def _fit(bench: Bench, model: nn.Module, seed: int, purpose: str, masks: Masks | None) -> int:
    """Train in place; the number of epochs done."""
    settings = bench.settings
    dense = purpose == "dense training"
    order = _generator(seed, "order of dense training" if dense else "order of fine-tuning")
    training = Training(
        epochs=settings.epochs if dense else settings.finetune_epochs,
        batch_size=settings.batch_size,
        optimizer=SGD(settings.lr, momentum=MOMENTUM, nesterov=True, weight_decay=settings.weight_decay),
    )
    fitted = fit(
        model,
        batches(bench.split.train, settings.batch_size, generator=order),
        training,
        seed=seed,
        masks=masks,
        on_batch=lambda _: bench.advance(f"seed {seed}: {purpose}"),
    )
    return len(fitted.history.epochs)


# ---------------------------------------------------------------- evaluation


def _outcome(bench: Bench, candidates: Sequence[Candidate]) -> Outcome:
    results: list[Result] = []
    layers: list[Layer] = []
    data = bench.split.test.open() if bench.settings.evaluate_on == "test" else bench.split.validation
    for candidate in candidates:
        result, its_layers = _evaluated(bench, data, candidate)
        # The control belongs to every strategy: with nothing removed they are one and the same.
        names = [s.name for s in STRATEGIES] if candidate.case.strategy == DENSE else [candidate.case.strategy]
        results += [replace(result, strategy=name) for name in names]
        layers += [replace(layer, strategy=name) for name in names for layer in its_layers]
    place = {strategy.name: number for number, strategy in enumerate(STRATEGIES)}
    results.sort(key=lambda row: (place[row.strategy], row.compression, row.seed))
    layers.sort(key=lambda row: (place[row.strategy], row.compression, row.seed))
    return Outcome(tuple(results), tuple(layers), bench.split.sizes)


def _evaluated(bench: Bench, data: Part, candidate: Candidate) -> tuple[Result, list[Layer]]:
    settings = bench.settings
    loader = batches(data, settings.test_batch_size)
    model = _network(torch.Generator())  # its weights are replaced; the global random state is not to be drawn from
    model.load_state_dict(candidate.pruned)
    before = evaluate(model, loader).top
    model.load_state_dict(candidate.final)
    after = evaluate(model, loader).top
    size = measure(model, torch.zeros(1, 1, 8, 8))
    result = Result(
        dataset=bench.split.name if settings.evaluate_on == "test" else f"{bench.split.name} (validation)",
        model=MODEL,
        strategy=candidate.case.strategy,
        compression=candidate.case.compression,
        size=size.params,
        size_nz=size.nonzero,
        real_compression=size.params / size.nonzero,
        flops=size.macs,
        flops_nz=size.macs_nonzero,
        speedup=size.macs / size.macs_nonzero,
        pre_acc1=before[1],
        pre_acc5=before[5],
        post_acc1=after[1],
        post_acc5=after[5],
        seed=candidate.case.seed,
        batch_size=settings.batch_size,
        epochs=settings.finetune_epochs,
        optim="SGD",
        lr=settings.lr,
        completed_epochs=candidate.epochs,
        path=LAYERS_FILE,
    )
    return result, [_layer(candidate.case, name, parameter) for name, parameter in model.named_parameters()]


def _layer(case: Case, name: str, parameter: Tensor) -> Layer:
    size, kept = parameter.numel(), int(parameter.count_nonzero())
    shape = "x".join(map(str, parameter.shape))
    return Layer(case.strategy, case.compression, case.seed, name, shape, size, kept, 1 - kept / size)


# ---------------------------------------------------------------- determinism


def _generator(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose, so that a change in one place shifts no numbers in another."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
