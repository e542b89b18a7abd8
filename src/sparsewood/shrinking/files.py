"""Networks on disk: the weights as safetensors, and the plan that makes a network of their shapes; see docs/format.md.

Nothing is unpickled, and nothing that a file says is done before all of it was checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from sparsewood import checkpoint
from sparsewood.errors import FileFormatError, SparsewoodError, require_model
from sparsewood.files import writable_directory, write_atomically
from sparsewood.shrinking import planfile
from sparsewood.shrinking.compose import compose, expand, require_left, require_shapes, shapes_after, shapes_of
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.cut import attribute, cut
from sparsewood.shrinking.plan import Edit, ShrinkPlan
from sparsewood.shrinking.planfile import from_json, to_json
from sparsewood.shrinking.replacements import CLASSES
from sparsewood.shrinking.running import OPAQUE

__all__ = [
    "PLAN",
    "WEIGHTS",
    "attach",
    "attached",
    "compose",
    "expand",
    "fingerprint",
    "from_json",
    "load",
    "save",
    "shapes_after",
    "to_json",
]

WEIGHTS, PLAN = "model.safetensors", "plan.json"
_ATTRIBUTE = "_sparsewood_plan"
_LARGEST_PLAN = 2**28
"""Bytes of a plan file; that of a network of a hundred thousand tensors has a tenth."""


def save(shrunk: Any, path: str | os.PathLike[str]) -> None:
    """Write a network to the directory `path`: `model.safetensors` and `plan.json`, as docs/format.md says.

    Args:
        shrunk: what `shrink` returned, or its network, also after training or a deepcopy; or one that never shrank.
        path: is created if needed. Files of these names that are there are replaced once both new ones are written.

    Raises `SparsewoodError` if the network holds something else than tensors, or is not what its plan leaves, and
    `OutputError` if the files cannot be written.
    """
    model, plan = _model_and_plan(shrunk)
    tensors, aliases = _stored(model)
    data = planfile.to_dict(plan)
    directory = writable_directory(path)

    def write(plan_file: Path, weights_file: Path) -> None:
        content = save_bytes(tensors, {"format": "pt"})
        weights_file.write_bytes(content)
        whole = {**data, "aliases": aliases, "weights": hashlib.sha256(content).hexdigest()}
        whole["sha256"] = planfile.digest(whole)
        plan_file.write_bytes(planfile.render(whole).encode())

    # Both are written before either takes its place; the plan, which names the weights, does so last.
    write_atomically(
        directory / PLAN,
        lambda plan_file: write_atomically(directory / WEIGHTS, lambda weights_file: write(plan_file, weights_file)),
    )


def load(path: str | os.PathLike[str], *, model: nn.Module) -> nn.Module:
    """The network that `save` wrote: a copy of `model`, cut to its shapes, with its values.

    Args:
        path: the directory.
        model: a freshly built network of full size, from the same code and arguments as the one that was shrunk; its
            values do not matter. It is not changed.

    The result has the file's values and dtypes; all else (device, mode, `requires_grad`, ties, hooks, buffers that are
    not part of the state) is that of `model`.

    Raises `FileNotFoundError`, `FileFormatError` for files that are damaged, altered, or of another version, and
    `SparsewoodError` if `model` is another network.
    """
    require_model(model)
    directory = Path(path)
    data = _read_plan(directory / PLAN)
    tensors = _read_weights(directory / WEIGHTS, data)
    _refuse_unreal(model)
    shapes = {name: tuple(sizes) for name, sizes in data["shapes"].items()}
    require_shapes(model, shapes, f"'{directory}' was made from another network than this")
    plan = planfile.plan_of(data)
    _check_places(directory / PLAN, model, plan)
    copied = duplicate(model, double=False)
    try:
        cut(copied, plan)
    except SparsewoodError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        _refuse(directory / PLAN, f"it cannot be carried out on {type(model).__name__} ({error})", error)
    _fill(copied, tensors, directory)
    attach(copied, plan)
    return copied


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


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of the tensors in the model's state.

    >>> layer = nn.Linear(1, 1)
    >>> before = fingerprint(layer)
    >>> _ = layer.bias.data.add_(1)
    >>> fingerprint(layer) == before
    False
    """
    state = model.state_dict()
    return checkpoint.digest({name: value for name, value in state.items() if isinstance(value, Tensor)}, {})


# ---------------------------------------------------------------- saving


def _model_and_plan(shrunk: Any) -> tuple[nn.Module, ShrinkPlan]:
    if isinstance(shrunk, nn.Module):
        model, plan = shrunk, attached(shrunk)
    else:
        model, plan = getattr(shrunk, "model", None), getattr(shrunk, "plan", None)
        if not isinstance(model, nn.Module) or not isinstance(plan, ShrinkPlan):
            raise SparsewoodError(f"save takes a network, or what shrink returned. Got {type(shrunk).__name__}.")
    _refuse_unreal(model)
    if plan is None:
        kind = type(model)
        return model, ShrinkPlan(f"{kind.__module__}.{kind.__qualname__}", shapes_of(model), {})
    require_left(model, plan)
    return model, plan


def _refuse_unreal(model: nn.Module) -> None:
    """Lazy parameters have no shapes, meta tensors no values, and of subclasses nobody knows what they hold."""
    for name, value in model.state_dict(keep_vars=True).items():
        plain = isinstance(value, Tensor) and type(value) in (Tensor, nn.Parameter, nn.Buffer)
        if not plain or value.is_meta or value.layout is not torch.strided or value.is_quantized:
            kind = f"{type(value).__name__} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise SparsewoodError(
                f"The state of {type(model).__name__} holds {name!r}, a {kind}; only plain dense tensors with values "
                "can be saved and loaded. Give the network its values first, and keep all else out of its state."
            )


def _stored(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to write, each once, and for its other names the one that it is written under."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    places: dict[tuple[Any, ...], str] = {}
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.dtype is torch.complex128:
            raise SparsewoodError(f"{name!r} is complex128, which safetensors cannot hold. Use complex64.")
        storage = tensor.untyped_storage()._cdata
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in places:
            aliases[name] = places[place]
        else:
            places[place] = name
            tensors[name] = tensor.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous()
    return tensors, aliases


# ---------------------------------------------------------------- loading


def _refuse(where: Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    raise FileFormatError(
        f"'{where}' cannot be used: {reason}. Put back a good copy, or save the network again."
    ) from (cause)


def _read_plan(where: Path) -> dict[str, Any]:
    if not where.is_file():
        raise FileNotFoundError(f"No saved network at '{where.parent}': it has no {PLAN}.")
    if where.stat().st_size > _LARGEST_PLAN:
        _refuse(where, f"it has {where.stat().st_size} bytes, more than a plan takes")
    try:
        data = planfile.read(where.read_bytes())
        planfile.checked(data)
    except planfile.InvalidPlan as error:
        _refuse(where, str(error), error)
    aliases = data.get("aliases")
    if not isinstance(aliases, dict) or not all(isinstance(name, str) for name in aliases.values()):
        _refuse(where, "its field 'aliases' is damaged")
    for name, key in data["replaced"].items():
        if key not in CLASSES:
            _refuse(where, f"it replaces module {name!r} by {key[:60]!r}, a class that this release does not know")
    return data


def _read_weights(where: Path, data: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under all of their names."""
    if not where.is_file():
        raise FileNotFoundError(f"No saved network at '{where.parent}': it has no {WEIGHTS}.")
    content = where.read_bytes()
    if hashlib.sha256(content).hexdigest() != data.get("weights"):
        _refuse(where, f"its checksum is not the one in {PLAN}: it is damaged, altered, or of another network")
    try:
        tensors = load_bytes(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        _refuse(where, f"it is not a complete safetensors file ({error})", error)
    aliases: Mapping[str, str] = data["aliases"]
    wrong = [name for name, stored in aliases.items() if name in tensors or stored not in tensors]
    if wrong:
        _refuse(
            where.with_name(PLAN), f"its field 'aliases' does not fit the tensors of {WEIGHTS}, as for {wrong[0]!r}"
        )
    return {**tensors, **{name: tensors[stored] for name, stored in aliases.items()}}


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
            _refuse(where, f"it scales {one.param!r}, which is no real parameter of {type(model).__name__}")
    for edit in plan.edits:
        _check_edit(where, model, edit)


def _check_edit(where: Path, model: nn.Module, edit: Edit) -> None:
    for depth in range(len(edit.path)):
        holder = attribute(model, Edit(edit.module, edit.name, edit.path[:depth], None, None))
        if isinstance(holder, (*OPAQUE, nn.Module, Tensor)):
            _refuse(where, f"it changes something in {edit.name!r}, which holds no settings")
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


def _fill(model: nn.Module, tensors: MutableMapping[str, Tensor], directory: Path) -> None:
    """Give the state of a network the values, and dtypes, of the file."""
    state = model.state_dict(keep_vars=True)
    if state.keys() != tensors.keys():
        different = sorted(state.keys() ^ tensors.keys())
        raise SparsewoodError(
            f"'{directory / WEIGHTS}' and the state of {type(model).__name__} hold different tensors: {different[:6]}. "
            "Build the network with the arguments that it was built with then."
        )
    held: dict[int, str] = {}
    for name, tensor in state.items():
        values, other = tensors[name], held.setdefault(id(tensor), name)
        if values.shape != tensor.shape:
            _refuse(directory / WEIGHTS, f"{name!r} has shape {list(values.shape)}, its plan says {list(tensor.shape)}")
        if values.dtype != tensor.dtype and not (values.is_floating_point() and tensor.is_floating_point()):
            raise SparsewoodError(
                f"{name!r} is {values.dtype} in '{directory / WEIGHTS}' and {tensor.dtype} in {type(model).__name__}."
            )
        if other != name and not _equal(values, tensors[other]):
            raise SparsewoodError(
                f"{name!r} and {other!r} are one tensor in {type(model).__name__}, and differ in "
                f"'{directory / WEIGHTS}'. Build the network with the ties that it had then."
            )
    for name, tensor in state.items():
        if tensor.dtype != tensors[name].dtype:
            tensor.data = tensor.data.to(tensors[name].dtype)
    model.load_state_dict(tensors)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself."""
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
