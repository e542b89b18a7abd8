"""Carrying out `sharing` for one variant: values shared, trained on, rounded, packed; and what each stage came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.errors import SparsewoodError
from sparsewood.measurement import evaluate
from sparsewood.measurement.counting import count
from sparsewood.packing import pack, unpack
from sparsewood.quantization import CentroidKeeper, round_codebooks, share_weights, tune_centroids
from sparsewood.recovery import Follow
from sparsewood.run.bench import DENSE, Bench, Trained
from sparsewood.run.recipe import Variant
from sparsewood.run.trainings import Course, finish, finished, train
from sparsewood.seeds import derive
from sparsewood.state import TrainingState, capture
from sparsewood.train import Training
from sparsewood.types import Masks

__all__ = ["FILE", "SHARED", "FileStage", "file_stages", "pack_missing", "share", "tuning_of"]

SHARED = "shared"
FILE = "network.swp"
_AT_ONCE, _TUNED = "at-once.safetensors", "tuned.safetensors"


@dataclass(frozen=True)
class FileStage:
    """One row of stages.csv: the network after one stage, and the file that it would be packed into.

    `state_bytes` are those of its state as it is in memory, `ratio` is state_bytes / file_bytes.
    """

    strategy: str
    seed: int
    stage: str
    test_acc1: float
    nonzero: int
    state_bytes: int
    file_bytes: int
    ratio: float


def tuning_of(bench: Bench, variant: Variant) -> Training | None:
    """How the values are trained on, shortly in a dry run; None if they are not."""
    tuning = None if variant.sharing is None else variant.sharing.tuning
    return None if tuning is None else bench.shortened(tuning)


def share(bench: Bench, variant: Variant, pruned: Trained, masks: Masks) -> None:
    """Share the weights of what `pruned` came to, train the values on, round them; the stage `shared`."""
    stage, settings, tuning = bench.stage(variant.name, SHARED), variant.sharing, tuning_of(bench, variant)
    assert settings is not None
    if finished(stage, pruned) is not None:
        return
    model, fitted = bench.network_at(pruned.state()), None
    bench.advance(f"seed {bench.seed}: {variant.name}, sharing weights", 0)
    shared = share_weights(model, settings.clusters, settings.bits, masks, per=settings.per)
    if bench.writes:
        capture(model, step=0).save(stage.directory / _AT_ONCE)
    if tuning is not None:
        steps = tuning.epochs * len(bench.loader(tuning))
        course = Course(tuning, derive(bench.seed, "tuning", 1), 0, steps, Follow("retraining"))

        def during(network: nn.Module, optimizer: Optimizer, per_epoch: int) -> _Tuner:
            del per_epoch
            return _Tuner(tune_centroids(network, shared, optimizer))

        fitted = train(
            bench, stage, model, course, f"{variant.name}, shared values", dense=None, masks=masks, during=during
        )
        if bench.writes:
            capture(model, step=fitted.steps).save(stage.directory / _TUNED)
    if settings.codebook_bits is not None:
        round_codebooks(model, shared)
    finish(bench, stage, model, fitted, {"from": pruned.fingerprint}, masks)


def file_stages(bench: Bench, variant: Variant, control: Trained, pruned: Trained, test: Any) -> list[FileStage]:
    """Each stage on the test part, packed; the file of the last one is kept, and is what the last row is read from.

    Raises `SparsewoodError` if the file does not give back every bit.
    """
    shared = bench.finished(variant.name, SHARED)
    rows = []
    with TemporaryDirectory() as directory:
        for name, state in _states(bench, variant, control, pruned, shared):
            model = bench.network_at(state)
            rows.append(_row(bench, variant, name, model, test, Path(directory) / FILE))
            bench.advance(f"seed {bench.seed}: test of {variant.name}, {name}", 0)
    path, model = shared.stage.directory / FILE, bench.network_at(shared.state())
    rows.append(_row(bench, variant, "packed and read back", model, test, path, read_back=True))
    return rows


def pack_missing(bench: Bench) -> None:
    """The files of shared networks that are no longer there, written again."""
    for variant in bench.recipe.variants:
        if variant.sharing is not None:
            shared = bench.finished(variant.name, SHARED)
            path = shared.stage.directory / FILE
            if not path.is_file():
                pack(bench.network_at(shared.state()), path)


def _states(
    bench: Bench, variant: Variant, control: Trained, pruned: Trained, shared: Trained
) -> Iterator[tuple[str, TrainingState]]:
    assert variant.sharing is not None
    dense, directory = bench.finished(DENSE), shared.stage.directory
    yield "dense", dense.state()
    if control.fingerprint != dense.fingerprint:
        yield "dense, trained on", control.state()
    yield "pruned", pruned.state()
    yield "shared", TrainingState.load(directory / _AT_ONCE)
    if variant.sharing.tuning is not None:
        yield "values trained on", TrainingState.load(directory / _TUNED)
    if variant.sharing.codebook_bits is not None:
        yield f"{variant.sharing.codebook_bits}-bit values", shared.state()


def _row(
    bench: Bench, variant: Variant, name: str, model: nn.Module, test: Any, path: Path, *, read_back: bool = False
) -> FileStage:
    report = pack(model, path)
    if read_back:
        there = model
        model = unpack(path, model=bench.network())
        _require_same(there, model, path)
    accuracy, nonzero = evaluate(model, test, topk=(1,)).top[1], count(model).nonzero
    return FileStage(
        variant.name, bench.seed, name, accuracy, nonzero, report.raw_bytes, path.stat().st_size, report.ratio
    )


def _require_same(there: nn.Module, back: nn.Module, path: Path) -> None:
    found = back.state_dict()
    for name, tensor in there.state_dict().items():
        if not torch.equal(tensor, found[name].to(tensor.device)):
            raise SparsewoodError(f"'{path}' does not give back {name!r} as it was. Please report this.")


@dataclass(frozen=True)
class _Tuner:
    """Trains the values of shared weights, as something that the training loop calls."""

    keeper: CentroidKeeper
    masks: Masks = field(default_factory=lambda: Masks({}))  # those that there are, `fit` has
    done: bool = True  # any epoch may be chosen

    def step(self) -> None:
        """Nothing: the keeper is told by the optimizer."""

    def state(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Nothing: the values are in the weights, and the clusters follow from the network before."""
        return {}, {}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """The optimizer trains single weights again."""
        self.keeper.remove()
