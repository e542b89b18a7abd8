"""Carrying out one cell of a grid: train what it says, and measure the network that comes of it.

A cell is a stage (or a chain of them) in the directory of its problem and seed, so that it can be cut anywhere and goes
on; `cell.json` in it is written last and holds all that was measured. Test data are opened once for each network, when
it is trained, and nothing is chosen by them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsewood.criteria import Magnitude, Random
from sparsewood.errors import FileFormatError
from sparsewood.inputs import to_model_device
from sparsewood.masks import apply_masks
from sparsewood.measurement import compare_latency, evaluate
from sparsewood.measurement.counting import count
from sparsewood.packing import pack
from sparsewood.pruning import Pruning
from sparsewood.recovery import Follow
from sparsewood.run.bench import DENSE, MASKS, Bench, Trained, last_masks
from sparsewood.run.canonical import canonical
from sparsewood.run.cells import Cell, Plan, plainest
from sparsewood.run.directory import Stage, read_json, write_json
from sparsewood.run.experiment import carry_out, prune_with, state_pruned, train_controls, train_dense
from sparsewood.run.layerwise import drawn_alike, masks_by_layer, narrowed
from sparsewood.run.lengths import total_epochs
from sparsewood.run.recipe import Recipe, Variant
from sparsewood.run.score_bins import score_bins
from sparsewood.run.trainings import Course, finish, train
from sparsewood.run.yamlfile import write
from sparsewood.seeds import generator_for
from sparsewood.shrinking import shrink
from sparsewood.state import restore
from sparsewood.types import Masks

__all__ = ["CELL", "carry_out_cell", "noted_row", "of_this_dense"]

CELL = "cell.json"
REPEATS = 15
NEW_WEIGHTS = ("narrow", "scratch")
"""Kinds of cells that do not begin with the weights that all others of their seed begin with."""


def carry_out_cell(plan: Plan, cell: Cell, bench: Bench, *, latency: bool = True) -> dict[str, Any]:
    """Train and measure what is not done of one cell; its row. `bench` is of the problem, and of any seed."""
    bench = replace(bench, seed=cell.seed, recipe=plan.recipe)
    noted = noted_row(plan, cell)
    if noted is not None:
        return noted
    began = time.monotonic()
    network = _Work(bench, plan.recipe, cell).carry_out()
    row = {
        **_named(plan, cell, bench),
        **_measured(bench, network, latency=latency),
        "seconds": time.monotonic() - began,
        "recipe": _told(plan.recipe, cell),
        "hash": cell.hash,
    }
    write_json(_note(plan, cell), row)
    return row


def noted_row(plan: Plan, cell: Cell) -> dict[str, Any] | None:
    """What a cell noted when it was done.

    None if it was not, if it is damaged, or of another grid or another dense network: then it is to be done again.
    """
    path = _note(plan, cell)
    if not path.is_file():
        return None
    try:
        row = read_json(path)
        known = row.get("hash") == cell.hash and of_this_dense(plan.directory, row)
    except FileFormatError:
        return None
    return row if known else None


def _note(plan: Plan, cell: Cell) -> Path:
    return plan.directory / f"seed-{cell.seed}" / cell.stage / CELL


def of_this_dense(root: Path, row: Mapping[str, Any]) -> bool:
    """Whether what a cell noted is of the dense network that is there now, and not of one before it."""
    if row.get("dense") is None:  # nobody noted it
        return True
    path = root / f"seed-{row['seed']}" / DENSE / "done.json"
    return path.is_file() and read_json(path).get("fingerprint") == row["dense"]


class _Network:
    """What a cell trained: the network, its masks, and what it is to be compared with in size."""

    def __init__(
        self, model: nn.Module, trained: Trained, masks: Masks | None = None, *, before: nn.Module | None = None,
        coupled: bool = False, bins: list[dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.trained, self.masks, self.before = model, trained, masks, before
        self.coupled, self.bins = coupled, bins or []


class _Work:
    """The trainings of one cell."""

    def __init__(self, bench: Bench, recipe: Recipe, cell: Cell) -> None:
        self.bench, self.recipe, self.cell = bench, recipe, cell
        self.variant = recipe.variant(cell.variant) if cell.variant else None

    def carry_out(self) -> _Network:
        if self.cell.kind == "dense":
            trained = train_dense(self.bench)
            return _Network(self.bench.network_at(trained.state()), trained)
        if self.cell.kind == "narrow":
            return self._narrow()
        assert self.variant is not None, "all other cells have a variant"
        if self.cell.kind == "tuned":
            variant = replace(self.variant, name=self.cell.stage)
            trained = train_controls(self.bench, variant, self.bench.finished(DENSE))
            return _Network(self.bench.network_at(trained.state()), trained)
        if self.cell.kind == "pruned":
            stages = carry_out(self.bench, self.variant, control=False)
            return self._pruned(self.variant, stages[max(stages)], bins=True)
        return self._scratch(self.variant) if self.cell.kind == "scratch" else self._by_layer(self.variant)

    def _pruned(self, variant: Variant, stage: Stage, *, bins: bool = False) -> _Network:
        trained = Trained.of(stage)
        assert trained is not None, f"{stage.directory} was just finished"
        masks, dense = Masks.load(stage.directory / MASKS), self.bench.finished(DENSE)
        before = self.bench.network_at(state_pruned(self.bench, variant, dense))
        found = score_bins(self.bench, variant, before, masks) if bins else []
        apply_masks(before, masks)
        model = self.bench.network_at(trained.state())
        return _Network(model, trained, masks, before=before, coupled=variant.pruning.coupled, bins=found)

    def _source(self, variant: Variant) -> Masks:
        """The masks that a method ended with."""
        masks = last_masks(self.bench.stage(variant.name).directory)
        assert masks is not None, f"{variant.name} of seed {self.bench.seed} is not finished"
        return masks

    def _by_layer(self, variant: Variant) -> _Network:
        """As much in every layer as the method removed, by chance or by size."""
        criterion = Random() if self.cell.method.startswith("random_layers") else Magnitude()
        one = replace(plainest(variant, criterion, self.cell.amount), name=self.cell.stage)
        model = self.bench.network_at(state_pruned(self.bench, one, self.bench.finished(DENSE)))
        generator = generator_for(self.bench.seed, "layers", self.cell.method)
        masks = masks_by_layer(self.bench, one.pruning, model, self._source(variant), generator)
        return self._pruned(one, prune_with(self.bench, one, masks))

    def _scratch(self, variant: Variant) -> _Network:
        """The network that the method left, with new weights."""
        masks, coupled = self._source(variant), variant.pruning.coupled
        model = self.bench.network()
        if coupled:
            model, masks = self._cut(model, masks), None
        return self._from_start(model, masks, total_epochs(self.recipe, variant), small=coupled)

    def _narrow(self) -> _Network:
        """A dense network with about as many parameters, all layers made narrower alike."""
        model = self.bench.network()
        kept = 1 - 1 / self.cell.amount
        prunable = sum(mask.numel() for mask in Pruning().all_kept(model).values())
        small = narrowed(model, self._example(model), count(model).params - round(kept * prunable))
        longest = max((total_epochs(self.recipe, variant) for variant in self.recipe.variants), default=0)
        return self._from_start(small, None, longest or self.recipe.training.epochs, small=True)

    def _cut(self, model: nn.Module, masks: Masks) -> nn.Module:
        return shrink(model, self._example(model), masks=masks, verify=False).model

    def _example(self, model: nn.Module) -> Any:
        return to_model_device(torch.zeros(1, *self.bench.split.input_shape), model)

    def _from_start(self, model: nn.Module, masks: Masks | None, epochs: int, *, small: bool) -> _Network:
        """Draw weights and train as the dense network is trained, for `epochs`."""
        bench, stage = self.bench, self.bench.stage(self.cell.stage)
        trained = Trained.of(stage)
        if trained is not None:
            restore(trained.state(), model)
            return _Network(model, trained, masks)
        generator = generator_for(bench.seed, "initial" if small else "scratch", self.cell.stage)
        if self.recipe.initial is None:
            own = self.recipe.model.build(generator=generator_for(bench.seed, "weights"))
            drawn_alike(model, own, generator)
        else:
            self.recipe.initial(model, {}, generator)
        if masks is not None:
            apply_masks(model, masks)
        settings = bench.shortened(replace(self.recipe.training, epochs=epochs))
        course = Course(settings, bench.seed, 0, settings.epochs * len(bench.loader(settings)), Follow("training"))
        options = {} if masks is None else {"masks": masks}
        fitted = train(bench, stage, model, course, self.cell.method, dense=None, **options)
        if masks is not None:
            masks.save(stage.directory / MASKS)
        trained = finish(bench, stage, model, fitted, {"from": bench.finished(DENSE).fingerprint}, masks)
        return _Network(model, trained, masks)


# ---------------------------------------------------------------- what is noted


def _named(plan: Plan, cell: Cell, bench: Bench) -> dict[str, Any]:
    first = bench.stage(DENSE).directory / "snapshot-0.safetensors"
    return {
        "problem": cell.problem,
        "dataset": f"{bench.split.name} ({bench.split.note})" if bench.split.note else bench.split.name,
        "model": plan.recipe.model.name,
        "method": cell.method,
        "kind": cell.kind,
        "role": cell.role,
        "of": cell.owner,
        "amount": cell.amount,
        "seed": cell.seed,
        "stage": str(bench.stage(cell.stage).directory.relative_to(bench.root)),
        "first_weights": None if cell.kind in NEW_WEIGHTS else _fingerprint(first),
        "dense": bench.finished(DENSE).fingerprint,
    }


def _fingerprint(path: Path) -> str:
    """Of the weights with which the dense training of a seed begins: the same for all its cells."""
    from sparsewood.state import TrainingState

    return TrainingState.load(path).fingerprint()


def _measured(bench: Bench, network: _Network, *, latency: bool) -> dict[str, Any]:
    """Accuracies on the test part, sizes, multiply-adds, bytes of the packed file, latency."""
    model, test = network.model, bench.plain(bench.split.test.open())
    topk = (1, 5) if bench.split.classes > 5 else (1,)
    after = evaluate(model, test, topk=topk)
    before = None if network.before is None else evaluate(network.before, test, topk=(1,)).top[1]
    dense = bench.network_at(bench.finished(DENSE).state())
    whole, size = count(dense), count(model)
    macs, own = bench.macs(dense), bench.macs(model)
    small = _physical(bench, network)
    return {
        "accuracy": after.top[1],
        "accuracy5": after.top.get(5),
        "loss": after.loss,
        "before": before,
        "validation": network.trained.notes.get("validation_accuracy"),
        "epochs": network.trained.notes.get("completed_epochs", 0),
        "size": whole.params,
        "size_nz": size.nonzero,
        "compression": whole.params / size.nonzero,
        "flops": macs.macs,
        "flops_nz": own.macs_nonzero,
        "speedup": macs.macs / own.macs_nonzero,
        "bytes": _bytes(small),
        **(_latencies(bench, dense, small) if latency else {"latency": None, "latency_ratio": None}),
        "kept": None if network.masks is None else 1 - network.masks.sparsity,
        "layers": [
            {"layer": name, "shape": list(p.shape), "size": p.numel(), "kept": int(p.count_nonzero())}
            for name, p in model.named_parameters()
        ],
        "bins": network.bins,
    }


def _physical(bench: Bench, network: _Network) -> nn.Module:
    """What is stored and run: whole units are removed, single zeros stay where they are."""
    if not network.coupled or network.masks is None:
        return network.model
    example = to_model_device(torch.zeros(1, *bench.split.input_shape), network.model)
    return shrink(network.model, example, masks=network.masks).model


def _bytes(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as directory:
        return pack(model, Path(directory) / "network.swp").bytes


def _latencies(bench: Bench, dense: nn.Module, model: nn.Module) -> dict[str, float]:
    """Milliseconds for one example, and the dense network's time over it, both timed in turn."""
    example = torch.zeros(1, *bench.split.input_shape)
    timed = compare_latency(dense, model, to_model_device(example, model), repeats=REPEATS, seconds=5.0)
    return {"latency": 1000 * timed.second.median, "latency_ratio": timed.ratio}


def _told(recipe: Recipe, cell: Cell) -> str:
    """What a cell is, as YAML: what differs from the defaults."""
    plain: dict[str, Any] = {"cell": f"{cell.method}, {cell.amount:g}x, seed {cell.seed}"}
    whole: Mapping[str, Any] = canonical(recipe, Recipe)
    plain |= {key: value for key, value in whole.items() if key not in ("variants", "seeds")}
    if cell.variant:
        variant = canonical(replace(recipe.variant(cell.variant), name="pruned"), Variant)
        plain |= {key: value for key, value in variant.items() if key != "name"}
    if cell.kind != "pruned":
        plain["control"] = cell.kind
    return write(plain)
