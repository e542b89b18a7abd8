"""What is read from the test part, once, when all trainings of a run are finished."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsewood.masks import apply_masks
from sparsewood.measurement import Evaluation, evaluate
from sparsewood.measurement.counting import count
from sparsewood.report.rows import Result
from sparsewood.run.bench import DENSE, MASKS, Bench, Trained
from sparsewood.run.experiment import IN_TRAINING, control_name, numbered, round_name, state_pruned
from sparsewood.run.lengths import dense_trainings
from sparsewood.run.recipe import Variant
from sparsewood.run.sharing_work import SHARED, file_stages
from sparsewood.run.trainings import tell_test
from sparsewood.run.unit_rounds import share_of_units
from sparsewood.state import restore
from sparsewood.types import Masks

__all__ = ["Evaluated", "Layer", "evaluate_seed", "fingerprints"]


@dataclass(frozen=True)
class Layer:
    """What is left of one parameter of one final network; `kept` counts non-zeros."""

    strategy: str
    round: int
    seed: int
    parameter: str
    shape: str
    size: int
    kept: int
    sparsity: float


@dataclass(frozen=True)
class Evaluated:
    """One final network. `round` 0 is the last control; `kept` is the share of the prunable weights that masks left.

    Where whole units go, that is of all entries of parameters in which units lie, and `units` is the share of units
    that went of those that can.
    `control_acc1` is the test accuracy of this round's control: the dense network, trained on as often and as long.
    """

    result: Result
    round: int
    kept: float
    validation_acc1: float | None
    train_acc1: float
    post_loss: float
    control_acc1: float
    layers: tuple[Layer, ...]
    units: float | None = None


def evaluate_seed(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """Every final network of one seed, on training and test data, and the stages of small files; as JSON values.

    The test part is opened here and nowhere else.
    """
    test, train = bench.plain(bench.split.test.open()), bench.plain(bench.split.train)
    dense = bench.finished(DENSE)
    rows, files, told = list[dict[str, Any]](), list[dict[str, Any]](), set[Path]()
    for variant in bench.recipe.variants:
        every = _results(bench, variant, dense)
        reached: dict[str, float] = {}  # by each control
        for found in every:
            name = str(found.control.stage.directory)
            if name not in reached:
                reached[name] = evaluate(bench.network_at(found.control.state()), test, topk=(1,)).top[1]
            one = _evaluated(bench, variant, found, test, train, reached[name])
            rows.append(asdict(one))
            if found.trained.stage.directory not in told:
                told.add(found.trained.stage.directory)
                reported = Evaluation(one.post_loss, {1: one.result.post_acc1}, len(bench.split.test))
                tell_test(bench, found.trained, reported)
            bench.advance(f"seed {bench.seed}: test of {variant.name}", 0)
        if variant.sharing is not None:
            last = every[-1]
            files += map(asdict, file_stages(bench, variant, last.control, last.trained, test))
    return {"results": rows, "files": files}


def fingerprints(bench: Bench) -> dict[str, str]:
    """Of every network that is evaluated, by its stage."""
    dense = bench.finished(DENSE)
    results = [found for variant in bench.recipe.variants for found in _results(bench, variant, dense)]
    every = [network for found in results for network in (found.trained, found.control)]
    every += [bench.finished(variant.name, SHARED) for variant in bench.recipe.variants if variant.sharing is not None]
    return {str(one.stage.directory.relative_to(bench.root)): one.fingerprint for one in every}


@dataclass(frozen=True)
class Found:
    """A final network, the one whose weights were masked to get it, and its control. Round 0 is a control."""

    round: int
    trained: Trained
    base: Trained
    control: Trained


def _results(bench: Bench, variant: Variant, dense: Trained) -> list[Found]:
    """Everything that a variant trained."""
    last = dense_trainings(variant)
    tuned = [bench.finished(variant.name, control_name(number)) for number in range(1, last + 1)] or [dense]
    found = [Found(0, tuned[-1], dense, tuned[-1])]
    if variant.in_training:
        trained = bench.finished(variant.name, IN_TRAINING)
        return [*found, Found(variant.pruning.rounds, trained, dense, tuned[-1])]
    base = dense
    for index, (number, _) in enumerate(numbered(variant.pruning)):
        if variant.only is not None and number not in variant.only:
            continue
        trained = bench.finished(variant.name, round_name(number))
        found.append(Found(number, trained, base, tuned[min(index, len(tuned) - 1)]))
        if not variant.independent and variant.masks_from is None:
            base = trained
    return found


def _evaluated(bench: Bench, variant: Variant, found: Found, test: Any, train: Any, control: float) -> Evaluated:
    number, trained = found.round, found.trained
    model = bench.network_at(state_pruned(bench, variant, found.base) if number else found.base.state())
    masks = Masks.load(trained.stage.directory / MASKS) if number else Masks({})
    apply_masks(model, masks)
    topk = (1, 5) if bench.split.classes > 5 else (1,)
    before = evaluate(model, test, topk=topk).top
    restore(trained.state(), model)
    after = evaluate(model, test, topk=topk)
    size, macs = count(model), bench.macs(model)
    settings = bench.training if trained.stage.directory.name == DENSE else _settings(bench, variant)
    result = Result(
        dataset=f"{bench.split.name} ({bench.split.note})" if bench.split.note else bench.split.name,
        model=bench.recipe.model.name,
        strategy=variant.name,
        compression=size.params / (size.params - masks.removed),
        size=size.params,
        size_nz=size.nonzero,
        real_compression=size.params / size.nonzero,
        flops=macs.macs,
        flops_nz=macs.macs_nonzero,
        speedup=macs.macs / macs.macs_nonzero,
        pre_acc1=before[1],
        pre_acc5=before.get(5, 1.0),
        post_acc1=after.top[1],
        post_acc5=after.top.get(5, 1.0),
        seed=bench.seed,
        batch_size=settings.batch_size,
        epochs=settings.epochs if bench.recipe.train_dense or number else 0,
        optim=type(settings.optimizer).__name__,
        lr=settings.optimizer.rate,
        completed_epochs=trained.notes.get("completed_epochs", 0),
        path=str(trained.stage.directory.relative_to(bench.root)),
    )
    return Evaluated(
        result,
        number,
        1 - masks.sparsity,
        trained.notes.get("validation_accuracy"),
        evaluate(model, train, topk=(1,)).top[1],
        after.loss,
        control,
        tuple(_layers(variant.name, number, bench.seed, model)),
        share_of_units(trained.stage) if number else (0.0 if variant.pruning.coupled else None),
    )


def _settings(bench: Bench, variant: Variant) -> Any:
    tuned = variant.pruning.recovery.follow.settings == "retraining"
    return bench.retraining(variant) if tuned else bench.training


def _layers(strategy: str, number: int, seed: int, model: nn.Module) -> list[Layer]:
    return [_layer(strategy, number, seed, name, parameter) for name, parameter in model.named_parameters()]


def _layer(strategy: str, number: int, seed: int, name: str, parameter: Tensor) -> Layer:
    size, kept = parameter.numel(), int(parameter.count_nonzero())
    shape = "x".join(map(str, parameter.shape))
    return Layer(strategy, number, seed, name, shape, size, kept, 1 - kept / size)
