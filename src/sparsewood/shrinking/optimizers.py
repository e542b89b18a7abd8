"""What optimizers remember of parameters, carried over to the smaller ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.cut import take
from sparsewood.shrinking.plan import Scaling

__all__ = ["Added", "Carried", "carry"]


@dataclass(frozen=True, eq=False)
class Carried:
    """A parameter, the one that takes its place, and the positions of the first, by axis, that the second has."""

    old: nn.Parameter
    new: nn.Parameter
    kept: Mapping[int, Tensor]


@dataclass(frozen=True, eq=False)
class Added:
    """A parameter that was not there, and the one (after the cut) that it stands beside; `name` as in the model."""

    new: nn.Parameter
    beside: nn.Parameter
    name: str = ""


State = dict[str, Any]

_POWERS: tuple[tuple[str, Mapping[str, int]], ...] = (
    ("SGD", {"momentum_buffer": -1}),
    ("Muon", {"momentum_buffer": -1}),
    ("Adam", {"exp_avg": -1, "exp_avg_sq": -2, "max_exp_avg_sq": -2}),
    ("NAdam", {"exp_avg": -1, "exp_avg_sq": -2}),
    ("RAdam", {"exp_avg": -1, "exp_avg_sq": -2}),
    ("SparseAdam", {"exp_avg": -1, "exp_avg_sq": -2}),
    ("Adamax", {"exp_avg": -1, "exp_inf": -1}),
    ("RMSprop", {"square_avg": -2, "grad_avg": -1}),
    ("Adagrad", {"sum": -2}),
    ("Adadelta", {"square_avg": -2, "acc_delta": 2}),
    ("Adafactor", {"variance": -2}),
    ("ASGD", {"ax": 1}),
    ("Rprop", {"prev": -1}),
)
"""What optimizers of PyTorch (AdamW is an Adam) remember, and the power of a weight's factor that it goes with."""


def carry(
    optimizer: Optimizer,
    pairs: Sequence[Carried],
    added: Sequence[Added] = (),
    scalings: Iterable[tuple[nn.Parameter, Scaling]] = (),
) -> None:
    """Make an optimizer go on with new parameters, in place, with what it remembers of the old ones.

        state[new][key] = state[old][key][kept]

    for what is shaped like the parameter, and for what has one entry along some of its axes (Adafactor's rows and
    columns, whose means still count what is gone). Numbers and counts of steps stay. An added parameter stands behind
    the one that it is beside, in the same group; if that is not trained, neither is the added one. Parameters of no
    pair stay, and so do hooks, learning rates, schedulers and the order of groups and parameters.

    `scalings` says which new parameters were multiplied by what, `w' = c w`, besides being cut. Gradients of `w'` are
    `1 / c` times those of `w`, so what optimizers of PyTorch remember of gradients is divided by `c`, and of their
    squares by `c^2`. What others remember stays, and so do Adafactor's rows and columns: means over many positions.

    Raises `SparsewoodError`, before anything is changed, if the optimizer holds none of the old parameters, is one
    whose memory is not kept by parameter (LBFGS), or remembers something that cannot be cut.

    >>> old, new = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.SGD([old], lr=1.0, momentum=0.9)
    >>> old.grad = torch.tensor([1.0, 2.0, 3.0])
    >>> optimizer.step()
    >>> carry(optimizer, [Carried(old, new, {0: torch.tensor([0, 2])})])
    >>> optimizer.param_groups[0]["params"][0] is new, optimizer.state[new]["momentum_buffer"]
    (True, tensor([1., 3.]))
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise SparsewoodError(
            "LBFGS cannot go on with smaller parameters: it remembers curvature in vectors over all parameters at "
            "once. Build a new one for the small network."
        )
    heirs = _heirs(pairs)
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if pairs and not any(old in held for old in heirs):
        raise SparsewoodError(
            f"The {type(optimizer).__name__} holds none of the {len(pairs)} parameters that were cut. Give the "
            "optimizer that was built from the parameters of this very model."
        )
    names = _names(optimizer)
    companions: dict[nn.Parameter, list[Added]] = {}
    for one in added:
        companions.setdefault(one.beside, []).append(one)
    members = [_members(group, heirs, companions) for group in optimizer.param_groups]
    state: dict[Any, Any] = {}
    for parameter, remembered in _memory(optimizer).items():
        if parameter in heirs:
            for pair in heirs[parameter]:
                state[pair.new] = _cut(optimizer, names.get(parameter, "a parameter"), pair, remembered)
        else:
            state[parameter] = remembered
    for group, (_, joined, _) in zip(optimizer.param_groups, members, strict=True):
        state.update(
            {new: _begun(optimizer, group, new) for new in joined if isinstance(optimizer, torch.optim.Adagrad)}
        )
    for parameter, scaling in scalings:
        if parameter in state:
            state[parameter] = _scaled(optimizer, state[parameter], scaling)
    _commit(optimizer, members, state)


def _memory(optimizer: Optimizer) -> Mapping[Any, Any]:
    return optimizer.state


def _heirs(pairs: Sequence[Carried]) -> dict[nn.Parameter, list[Carried]]:
    """The pairs of every old parameter; of several that say the same, one."""
    heirs: dict[nn.Parameter, list[Carried]] = {}
    owner: dict[nn.Parameter, nn.Parameter] = {}
    for pair in pairs:
        left = [len(pair.kept[axis]) if axis in pair.kept else size for axis, size in enumerate(pair.old.shape)]
        if left != list(pair.new.shape):
            raise SparsewoodError(
                f"What is kept of a parameter of shape {list(pair.old.shape)} has shape {left}, and the parameter that "
                f"takes its place {list(pair.new.shape)}. Pair parameters with what they were cut to."
            )
        before = owner.setdefault(pair.new, pair.old)
        if before is not pair.old:
            raise SparsewoodError(
                f"Two parameters of shapes {list(before.shape)} and {list(pair.old.shape)} cannot both become one of "
                f"shape {list(pair.new.shape)}."
            )
        found = heirs.setdefault(pair.old, [])
        if all(one.new is not pair.new for one in found):
            found.append(pair)
    return heirs


def _members(
    group: Mapping[str, Any],
    heirs: Mapping[nn.Parameter, Sequence[Carried]],
    companions: Mapping[nn.Parameter, Sequence[Added]],
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[str] | None]:
    """The parameters of a group from now on, those among them that joined, and their names if it has names."""
    labels: Sequence[str] = group.get("param_names") or [""] * len(group["params"])
    parameters: list[nn.Parameter] = []
    joined: list[nn.Parameter] = []
    names: list[str] = []
    for old, name in zip(group["params"], labels, strict=True):
        for new in [pair.new for pair in heirs[old]] if old in heirs else [old]:
            beside = companions.get(new, ())
            parameters += [new, *(one.new for one in beside)]
            joined += [one.new for one in beside]
            names += [name, *(one.name for one in beside)]
    return parameters, joined, names if "param_names" in group else None


def _commit(optimizer: Optimizer, members: Sequence[tuple[Any, Any, Any]], state: Mapping[Any, Any]) -> None:
    for group, (parameters, _, names) in zip(optimizer.param_groups, members, strict=True):
        group["params"][:] = parameters
        if names is not None:
            group["param_names"] = names
    optimizer.state.clear()
    optimizer.state.update(state)


def _names(optimizer: Optimizer) -> dict[nn.Parameter, str]:
    """How messages call parameters: by name where the optimizer knows it, else by group and place."""
    return {
        parameter: f"parameter {group['param_names'][i]!r}"
        if "param_names" in group
        else f"parameter {i} of group {number}"
        for number, group in enumerate(optimizer.param_groups)
        for i, parameter in enumerate(group["params"])
    }


# ---------------------------------------------------------------- what is remembered of one parameter


def _cut(optimizer: Optimizer, name: str, pair: Carried, remembered: Mapping[str, Any]) -> State:
    state: State = {}
    for key, value in remembered.items():
        if not isinstance(value, Tensor):
            if not _is_plain(value):
                raise _uncuttable(optimizer, name, key, pair, f"a {type(value).__name__}")
            state[key] = value
        elif value.shape == pair.old.shape and value.dim():
            state[key] = take(value, pair.kept)
        elif value.numel() == 1:
            state[key] = value
        elif _is_factored(value, pair.old):
            state[key] = take(value, {axis: kept for axis, kept in pair.kept.items() if value.shape[axis] > 1})
        else:
            raise _uncuttable(optimizer, name, key, pair, f"of shape {list(value.shape)}")
    return state


def _scaled(optimizer: Optimizer, remembered: Mapping[str, Any], scaling: Scaling) -> State:
    """What would be remembered of a parameter if it had always been scaled; a mean of weights is scaled as they are."""
    state = dict(remembered)
    for key, power in _powers(optimizer).items():
        value = state.get(key)
        if isinstance(value, Tensor) and value.dim():
            index = scaling.positions.to(value.device)
            offset = scaling.offset if power == 1 else 0.0
            entries = (value.index_select(scaling.axis, index) + offset) * scaling.factor**power - offset
            state[key] = value.index_copy(scaling.axis, index, entries)
    return state


def _powers(optimizer: Optimizer) -> Mapping[str, int]:
    for name, powers in _POWERS:
        kind = getattr(torch.optim, name, None)  # some are not in every release
        if kind is not None and isinstance(optimizer, kind):
            return powers
    return {}


def _is_factored(value: Tensor, parameter: Tensor) -> bool:
    """One entry along some axes, as many as the parameter along the others."""
    return value.dim() == parameter.dim() and all(
        size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _uncuttable(optimizer: Optimizer, name: str, key: str, pair: Carried, got: str) -> SparsewoodError:
    return SparsewoodError(
        f"{type(optimizer).__name__} remembers {key!r} {got} of {name}, whose shape is {list(pair.old.shape)}: how to "
        "cut that is not known. Nothing was changed; build a new optimizer for the small network."
    )


def _begun(optimizer: Optimizer, group: Mapping[str, Any], new: nn.Parameter) -> State:
    """What Adagrad, which makes its memory when it is built and never later, would have made."""
    step = torch.zeros((), dtype=torch.get_default_dtype(), device=new.device if group["fused"] else "cpu")
    start = group.get("initial_accumulator_value", optimizer.defaults["initial_accumulator_value"])
    value = complex(start, start) if new.is_complex() else start
    return {"step": step, "sum": torch.full_like(new, value, memory_format=torch.preserve_format)}
