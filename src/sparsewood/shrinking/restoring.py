"""What saving and packing have in common: a network as tensors and a plan, and the network that these make."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.shrinking import planfile
from sparsewood.shrinking.compose import require_left, require_shapes, shapes_of
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.cut import attribute, cut
from sparsewood.shrinking.plan import Edit, ShrinkPlan
from sparsewood.shrinking.planfile import from_json, to_json
from sparsewood.shrinking.replacements import CLASSES
from sparsewood.shrinking.running import OPAQUE

__all__ = [
    "attach",
    "attached",
    "check_names",
    "cut_copy",
    "fill",
    "model_and_plan",
    "refuse",
    "require_real",
    "require_state",
    "stored",
    "with_aliases",
]

T = TypeVar("T")
Described = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor."""

_ATTRIBUTE = "_sparsewood_plan"
_LONGEST = 100
"""Characters of a name that an error shows."""


def attach(model: nn.Module, plan: ShrinkPlan) -> None:
    """Let the model know the plan that made it, as a text that is copied and pickled with it."""
    model.__dict__[_ATTRIBUTE] = to_json(plan)


def attached(model: nn.Module) -> ShrinkPlan | None:
    """The plan that made the model, None if it never shrank.

    >>> layer = nn.Linear(2, 1)
    >>> attach(layer, ShrinkPlan("Linear", {"weight": (1, 3), "bias": (1,)}, {"weight": {1: torch.tensor([0, 2])}}))
    >>> attached(layer).kept, attached(nn.Linear(2, 1))
    ({'weight': {1: tensor([0, 2])}}, None)
    """
    text = vars(model).get(_ATTRIBUTE)
    return None if text is None else from_json(text)


def model_and_plan(shrunk: Any, what: str) -> tuple[nn.Module, ShrinkPlan]:
    """The network in what the function called `what` was given, and the plan that made it, one without cuts if it never
    shrank. Raises `SparsewoodError` for anything else, and if the network is not what its plan leaves."""
    if isinstance(shrunk, nn.Module):
        model, plan = shrunk, attached(shrunk)
    else:
        model, plan = getattr(shrunk, "model", None), getattr(shrunk, "plan", None)
        if not isinstance(model, nn.Module) or not isinstance(plan, ShrinkPlan):
            raise SparsewoodError(f"{what} takes a network, or what shrink returned. Got {type(shrunk).__name__}.")
    require_real(model)
    if plan is None:
        kind = type(model)
        return model, ShrinkPlan(f"{kind.__module__}.{kind.__qualname__}", shapes_of(model), {})
    require_left(model, plan)
    return model, plan


def stored(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to write, each once, and for its other names the one that it is written under."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    places: dict[tuple[Any, ...], str] = {}
    for name, tensor in sorted(model.state_dict().items()):
        storage = tensor.untyped_storage()._cdata
        lazy = (tensor.is_conj(), tensor.is_neg())  # views of the same bytes that mean other values
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, *lazy)
        if tensor.numel() and place in places:
            aliases[name] = places[place]
        else:
            places[place] = name
            tensors[name] = tensor.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous()
    return tensors, aliases


def refuse(where: Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    """Raise the error for a file that cannot be used."""
    raise FileFormatError(
        f"'{where}' cannot be used: {reason}. Put back a good copy, or save the network again."
    ) from (cause)


def check_names(data: Mapping[str, Any], where: Path) -> None:
    """Raise `FileFormatError` if the object in a file has aliases that are none, or classes that there are not."""
    aliases = data.get("aliases")
    if not isinstance(aliases, dict) or not all(isinstance(name, str) for name in aliases.values()):
        refuse(where, "its field 'aliases' is damaged")
    for name, key in data["replaced"].items():
        if key not in CLASSES:
            refuse(where, f"it replaces module {name!r} by {key[:60]!r}, a class that this release does not know")


def with_aliases(tensors: Mapping[str, T], aliases: Mapping[str, str], where: Path) -> dict[str, T]:
    """The tensors, or what is said of them, under all names. Raises `FileFormatError` if aliases do not fit."""
    wrong = [name for name, kept in aliases.items() if name in tensors or kept not in tensors]
    if wrong:
        refuse(where, f"its field 'aliases' does not fit its tensors, as for {wrong[0]!r}")
    return {**tensors, **{name: tensors[kept] for name, kept in aliases.items()}}


def cut_copy(model: nn.Module, data: Mapping[str, Any], where: Path) -> nn.Module:
    """A copy of `model` in the shapes that the plan in `data` leaves, which knows the plan; its values are of no use.

    Raises `SparsewoodError` if the plan in the file `where` was not made for `model`.
    """
    require_real(model)
    shapes = {name: tuple(sizes) for name, sizes in data["shapes"].items()}
    require_shapes(model, shapes, f"'{where}' was made from another network than this")
    plan = planfile.plan_of(data)
    _check_places(where, model, plan)
    copied = duplicate(model, double=False)
    try:
        cut(copied, plan)
    except SparsewoodError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        refuse(where, f"it cannot be carried out on {type(model).__name__} ({error})", error)
    attach(copied, plan)
    return copied


def require_real(model: nn.Module) -> None:
    """Raise `SparsewoodError` if the state holds something else than plain dense tensors with values.

    Lazy parameters have no shapes, meta tensors no values, and of subclasses nobody knows what they hold.
    """
    for name, value in model.state_dict(keep_vars=True).items():
        plain = isinstance(value, Tensor) and type(value) in (Tensor, nn.Parameter, nn.Buffer)
        if not plain or value.is_meta or value.layout is not torch.strided or value.is_quantized:
            kind = f"{type(value).__name__} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise SparsewoodError(
                f"The state of {type(model).__name__} holds {name!r}, a {kind}; only plain dense tensors with values "
                "can be saved and loaded. Give the network its values first, and keep all else out of its state."
            )


def require_state(model: nn.Module, found: Mapping[str, Described], where: Path) -> None:
    """Raise `SparsewoodError` if the state of a network cannot have the tensors of the file `where`."""
    state = model.state_dict(keep_vars=True)
    if state.keys() != found.keys():
        different = [name[:_LONGEST] for name in sorted(state.keys() ^ found.keys())]
        raise SparsewoodError(
            f"'{where}' and the state of {type(model).__name__} hold different tensors: {different[:6]}. Build the "
            "network with the arguments that it was built with then."
        )
    for name, tensor in state.items():
        shape, dtype = found[name]
        if tuple(shape) != tuple(tensor.shape):
            refuse(where, f"{name!r} has shape {list(shape)}, its plan says {list(tensor.shape)}")
        if dtype != tensor.dtype and not (dtype.is_floating_point and tensor.is_floating_point()):
            raise SparsewoodError(f"{name!r} is {dtype} in '{where}' and {tensor.dtype} in {type(model).__name__}.")


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Give the state of a network the values, and dtypes, of the file `where`."""
    require_state(model, {name: (tuple(values.shape), values.dtype) for name, values in tensors.items()}, where)
    state = model.state_dict(keep_vars=True)
    held: dict[int, str] = {}
    for name, tensor in state.items():
        other = held.setdefault(id(tensor), name)
        if other != name and not _equal(tensors[name], tensors[other]):
            raise SparsewoodError(
                f"{name!r} and {other!r} are one tensor in {type(model).__name__}, and differ in '{where}'. Build the "
                "network with the ties that it had then."
            )
    for name, tensor in state.items():
        if tensor.dtype != tensors[name].dtype:
            tensor.data = tensor.data.to(tensors[name].dtype)
    _load(model, OrderedDict(tensors), getattr(state, "_metadata", None), where)


def _load(model: nn.Module, state: OrderedDict[str, Tensor], metadata: Any, where: Path) -> None:
    """Fill the model; by the metadata its modules know the version of what they are given, which is their own."""
    if metadata is not None:
        vars(state)["_metadata"] = metadata
    try:
        model.load_state_dict(state)
    except SparsewoodError:
        raise
    except Exception as error:  # modules fill themselves by code of their own, which can raise anything
        raise SparsewoodError(
            f"{type(model).__name__} does not take the values of '{where}': {' '.join(str(error).split())[:500]} Build "
            "the network with the code that it was built with then, and with tensors that values can be copied into."
        ) from error


def _check_places(where: Path, model: nn.Module, plan: ShrinkPlan) -> None:
    """All that the plan changes has to be there, with the value that it had."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in [*plan.replaced, *(bias.rpartition(".")[0] for bias in plan.added), *(e.module for e in plan.edits)]:
        if name not in modules:
            raise SparsewoodError(f"{type(model).__name__} has no module {name!r}, which '{where}' changes.")
    for bias in plan.added:
        owner, _, leaf = bias.rpartition(".")
        parameters = modules[owner]._parameters
        if leaf not in parameters or parameters[leaf] is not None:
            raise SparsewoodError(f"'{where}' adds {bias!r}, and {type(model).__name__} has no place for a bias there.")
    real = {name for name, p in model.named_parameters(remove_duplicate=False) if p.is_floating_point()}
    for one in plan.scalings:
        if one.param not in real.union(plan.added):
            refuse(where, f"it scales {one.param!r}, which is no real parameter of {type(model).__name__}")
    for edit in plan.edits:
        _check_edit(where, model, edit)


def _check_edit(where: Path, model: nn.Module, edit: Edit) -> None:
    for depth in range(len(edit.path)):
        holder = attribute(model, Edit(edit.module, edit.name, edit.path[:depth], None, None))
        if isinstance(holder, (*OPAQUE, nn.Module, Tensor)):
            refuse(where, f"it changes something in {edit.name!r}, which holds no settings")
    value = attribute(model, edit)
    plain = tuple(value) if isinstance(value, list | tuple) else value
    if not _alike(plain, edit.before):
        place = ".".join(map(str, (edit.module, edit.name, *edit.path))).lstrip(".")
        raise SparsewoodError(
            f"{type(model).__name__} has {place} = {str(value)[:60]}, and '{where}' was made from a network in which "
            f"it is {edit.before!r}. Build the network with the arguments that it was built with then."
        )


def _alike(value: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return isinstance(value, tuple) and len(value) == len(expected) and all(map(_alike, value, expected))
    return type(value) is type(expected) and value == expected


def _equal(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself."""
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
