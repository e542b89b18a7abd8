"""The state of a training: weights, buffers, optimizer and where it is, copied so that training on does not change it.

Random state is no part of it: what is random in a step follows from the seed and the step's number (`seeds`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood import checkpoint
from sparsewood.errors import SparsewoodError

__all__ = ["TrainingState", "capture", "restore"]

MODEL, OPTIMIZER = "model", "optimizer"


@dataclass(frozen=True)
class TrainingState:
    """Tensors by name ("model/conv.weight", "optimizer/0/exp_avg", ...) and JSON values, "step" among them.

    Nobody else holds the tensors; do not write to them. `fingerprint` shows that nobody did.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    @property
    def step(self) -> int:
        """How many training steps were done."""
        return self.values["step"]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one part by what follows its prefix.

        >>> capture(nn.Linear(1, 1)).part("model").keys()
        dict_keys(['weight', 'bias'])
        """
        start = f"{prefix}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}

    def fingerprint(self) -> str:
        """SHA-256 over all tensors and values: equal states, equal fingerprint."""
        return checkpoint.digest(self.tensors, self.values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to one file, complete or not at all. Raises `OutputError` if that cannot be done."""
        checkpoint.write(path, self.tensors, self.values)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingState:
        """Read what `save` wrote. Raises `FileNotFoundError`, and `FileFormatError` if the checksum differs."""
        tensors, values = checkpoint.read(path)
        return cls(MappingProxyType(tensors), MappingProxyType(values))


def capture(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    step: int = 0,
    extra_tensors: Mapping[str, Tensor] | None = None,
    values: Mapping[str, Any] | None = None,
) -> TrainingState:
    """A copy, on the CPU, of all that a training goes on from.

    Args:
        extra_tensors: further tensors, by a name with a prefix of its own ("best/conv.weight").
        values: further JSON values. A float keeps its exact value.

    Raises `SparsewoodError` for a module whose state holds something else than tensors.

    >>> layer = nn.Linear(1, 1)
    >>> state = capture(layer, step=3)
    >>> _ = layer.weight.data.zero_()
    >>> restore(state, layer)
    >>> bool(layer.weight == 0), state.step
    (False, 3)
    """
    tensors = {f"{MODEL}/{name}": _tensor(name, value) for name, value in model.state_dict().items()}
    scalars: dict[str, Any] = {}
    if optimizer is not None:
        found, scalars = _optimizer_parts(optimizer)
        tensors |= found
    tensors |= dict(extra_tensors or {})
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    every = {"step": step, OPTIMIZER: scalars, **(values or {})}
    return TrainingState(MappingProxyType(own), MappingProxyType(json.loads(json.dumps(every))))


def restore(state: TrainingState, model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Copy the state into `model` and, if given, `optimizer` (its memory and learning rates), in place.

    Raises `SparsewoodError` if the state is of another model or optimizer.
    """
    try:
        model.load_state_dict(state.part(MODEL))
    except RuntimeError as error:
        raise SparsewoodError(f"The saved state does not fit {type(model).__name__}: {error}") from error
    if optimizer is None:
        return
    scalars = state.values[OPTIMIZER]
    if not scalars or [len(g["params"]) for g in optimizer.state_dict()["param_groups"]] != scalars["sizes"]:
        raise SparsewoodError(
            f"The saved state of step {state.step} has no state of a {type(optimizer).__name__} over "
            f"{sum(len(g['params']) for g in optimizer.param_groups)} parameters. Use one saved with this optimizer."
        )
    memory: dict[int, dict[str, Any]] = {int(i): dict(entries) for i, entries in scalars["memory"].items()}
    for name, tensor in state.part(OPTIMIZER).items():
        index, key = name.split("/", 1)
        memory.setdefault(int(index), {})[key] = tensor.clone()
    now = optimizer.state_dict()
    groups = [group | saved for group, saved in zip(now["param_groups"], scalars["groups"], strict=True)]
    optimizer.load_state_dict({"state": memory, "param_groups": groups})


def _tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise SparsewoodError(
            f"The model's state holds {name!r}, a {type(value).__name__}; only tensors can be "
            "saved. Keep it in a buffer."
        )
    if value.layout is not torch.strided:
        raise SparsewoodError(
            f"The model's state holds {name!r}, which is {value.layout}; only dense tensors can be saved. Register it "
            "with persistent=False, if the model makes it anew, or keep its indices and values."
        )
    return value


def _optimizer_parts(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    memory: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}/{index}/{key}"] = value
            else:
                memory.setdefault(str(index), {})[key] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    sizes = [len(group["params"]) for group in state["param_groups"]]
    return tensors, {"memory": memory, "groups": groups, "sizes": sizes}
