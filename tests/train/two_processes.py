"""One training, once in one process and once shared between two: the same loss, weights and masks.

    python tests/train/two_processes.py

Each process gets every second example of each batch. Gradients are averaged (DDP over gloo), and the statistics that
weights are scored with are added up. All is done in float64, so that the order of sums shows below 1e-12 only.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.criteria import WeightTimesGradient
from sparsewood.distributed import rank, reduce_statistics, require_same_masks, world
from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks, enforce
from sparsewood.masks.apply import local
from sparsewood.pruning import prune
from sparsewood.seeds import generator_for
from sparsewood.state import TrainingState
from sparsewood.statistics import Gradient, InputPower, collect
from sparsewood.train import SGD, Fitted, Training, fit, make_fabric
from sparsewood.types import Masks
from sparsewood.units import (
    AbsoluteFirstOrder,
    ActivationMaximum,
    ActivationMean,
    SecondMoments,
    collect_units,
    reduce_unit_statistics,
)

# ruff: noqa: T201 - what it finds is for reading

# 29 examples in batches of 7: the last batch has one, so that the second process gets none of it.
EXAMPLES, BATCH, FEATURES, CLASSES = 29, 7, 12, 7


class Share:
    """Every second example of each batch, in an order that follows from the number of the epoch."""

    def __init__(self, seed: int) -> None:
        generator = generator_for(seed, "data")
        self.inputs = torch.randn(EXAMPLES, FEATURES, dtype=torch.float64, generator=generator)
        self.labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)

    def __len__(self) -> int:
        return math.ceil(EXAMPLES / BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(EXAMPLES, generator=generator_for(0, "order", number))
        for indices in order.split(BATCH)[start:]:
            own = indices[rank() :: world()]
            yield self.inputs[own], self.labels[own]


def network(*, norm: bool = False) -> nn.Sequential:
    """The same in every process, although each draws from a random state of its own."""
    torch.manual_seed(0)
    # Normalised over four positions, so that one example is enough.
    between = (nn.Unflatten(1, (4, 4)), nn.BatchNorm1d(4), nn.Flatten()) if norm else ()
    return nn.Sequential(nn.Linear(FEATURES, 16), *between, nn.ReLU(), nn.Linear(16, CLASSES)).double()


def run(fabric: Any) -> dict[str, Any]:
    """Train, score on all processes' data, prune, train on; and what must go wrong."""
    training = Training(3, batch_size=BATCH, optimizer=SGD(0.2), clip_norm=1.0, precision="64-true")
    model, data = network(), Share(0)
    dense = fit(model, data, training, validation=Share(1), fabric=fabric)
    batches = [batch for batch in data if len(batch[1])]
    found = reduce_statistics(collect(model, batches, [Gradient(), InputPower(2)], nn.functional.cross_entropy))
    kinds = [ActivationMean(), ActivationMaximum(), AbsoluteFirstOrder(), SecondMoments()]
    units = reduce_unit_statistics(collect_units(model, batches, kinds, nn.functional.cross_entropy))
    masks = prune(model, WeightTimesGradient(), 0.6, statistics=found)
    require_same_masks(masks)
    pruned = fit(model, data, training, validation=Share(1), fabric=fabric, masks=masks, seed=1)
    return {
        "rank": rank(),
        "samples": found.samples,
        "units": {kind: next(iter(of.values())).tolist() for kind, of in units.sums.items()},
        "unit samples": units.samples,
        "gradient": found.get("gradient", "0.weight").tolist(),
        "dense": summary(dense),
        "pruned": summary(pruned),
        "masks": masks.fingerprint(),
        "weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "zeros": all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items()),
        **checked(fabric, training),
        **sharded(),
    }


def summary(fitted: Fitted) -> dict[str, Any]:
    epochs = [list(epoch.values().values()) for epoch in fitted.history.epochs]
    return {"loss": fitted.history.epochs[-1].loss, "chosen": fitted.history.chosen, "epochs": epochs}


def checked(fabric: Any, training: Training) -> dict[str, Any]:
    """What every process says where something is wrong in one of them, and which is asked to save."""
    own = Masks({"a": torch.tensor([True, True]), "b": torch.tensor([True, rank() == 0])})
    kinds = [Gradient()] if rank() == 0 else [InputPower(2)]
    batches = [batch for batch in Share(0) if len(batch[1])]
    other = collect(network(), batches, kinds, nn.functional.cross_entropy)
    poisoned = Share(0)
    # The fourth example of the first batch: with two processes it is in the second one's share.
    poisoned.inputs[torch.randperm(EXAMPLES, generator=generator_for(0, "order", 0))[3]] = torch.nan
    states: list[TrainingState] = []
    norm = network(norm=True)
    fit(norm, Share(0), training, fabric=fabric, on_checkpoint=states.append, snapshots=(2,), on_snapshot=states.append)
    return {
        "other masks": said(lambda: require_same_masks(own)),
        "masks given": said(lambda: fit(network(), Share(0), training, fabric=fabric, masks=one_more_zero())),
        "other statistics": said(lambda: reduce_statistics(other)),
        "not finite": said(lambda: fit(network(), poisoned, training, fabric=fabric)),
        "saved at": [state.step for state in states],
        "snapshot": states[0].fingerprint(),
        "buffers": [buffer.tolist() for buffer in norm.buffers()],
    }


def sharded() -> dict[str, Any]:
    """Masks on parameters of which each process holds a part (FSDP2): the same steps as on whole ones."""
    model, flattened = network(), network()
    # 16 and 7 rows: the second weight is shared out unevenly.
    masks = {name: torch.rand(p.shape, generator=generator_for(5, name)) > 0.5 for name, p in model.named_parameters()}
    if world() > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (world(),)))
        flattened = FullyShardedDataParallel(flattened, device_id=torch.device("cpu"), use_orig_params=True)
    held = sum(local(parameter).numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    apply_masks(model, {"0.bias": masks.pop("0.bias")})
    with enforce(model, masks, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(Share(0).inputs), Share(0).labels).backward()
            optimizer.step()
    moments = [optimizer.state[parameter]["exp_avg"] for parameter in model.parameters()]
    return {
        "held": held,
        "sharded": [full(parameter) for parameter in model.parameters()],
        "moments": [full(moment) for moment in moments],
        "masks of sharded": [masks[name].tolist() if name in masks else None for name, _ in model.named_parameters()],
        "flattened": said(lambda: apply_masks(flattened, masks)),
    }


def full(tensor: Any) -> list[Any]:
    return (tensor.full_tensor() if world() > 1 else tensor.detach()).tolist()


def one_more_zero() -> Masks:
    mask = torch.ones(16, FEATURES, dtype=torch.bool)
    mask[0, rank()] = False
    return Masks({"0.weight": mask})


def said(action: Callable[[], object]) -> str:
    try:
        action()
    except SparsewoodError as error:
        return str(error)
    return ""


def run_and_write(fabric: Any, directory: str) -> None:
    torch.set_num_threads(1)
    (Path(directory) / f"{rank()}.json").write_text(json.dumps(run(fabric)))
    # Left to the interpreter's end, threads of the connections may still run when what they use is gone.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def compare() -> dict[str, Any]:
    """What one process found, and what each of two did."""
    torch.set_num_threads(1)
    one = run(make_fabric("cpu", precision="64-true"))
    with tempfile.TemporaryDirectory() as directory:
        fabric = make_fabric("cpu", devices=2, strategy="ddp_spawn", precision="64-true")
        fabric.launch(run_and_write, directory)
        two = [json.loads((Path(directory) / f"{number}.json").read_text()) for number in range(2)]
    return {"one": one, "two": two}


def main() -> None:
    found = compare()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(found))
    runs = [("one process", found["one"]), *((f"two, rank {each['rank']}", each) for each in found["two"])]
    print(f"{'':<14}{'examples':>9}  {'dense loss':<20}{'pruned loss':<20}fingerprint of the masks")
    for name, each in runs:
        losses = f"{each['dense']['loss']:<20.15f}{each['pruned']['loss']:<20.15f}"
        print(f"{name:<14}{each['samples']:>9}  {losses}{each['masks'][:24]}...")
    print(f"\nA rank with other masks: {found['two'][1]['other masks']}")


if __name__ == "__main__":
    main()
