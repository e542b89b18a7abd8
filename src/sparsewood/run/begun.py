"""What a run's directory was begun with, so that a run that goes on is the same run."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from sparsewood.data.split import Split
from sparsewood.errors import SparsewoodError
from sparsewood.run.calls import Call, own_file
from sparsewood.run.directory import read_json, write_json
from sparsewood.run.recipe import Recipe

__all__ = ["require_same_inputs"]


def require_same_inputs(root: Path, recipe: Recipe, split: Split, device: torch.device) -> str | None:
    """Note what goes in; of a directory that was begun before, compare it.

    Data, initial weights and the files of functions and classes of one's own must be the same, bit for bit: stages of
    one run belong together. (What such a file imports is not looked at.) Other threads, another device or release may
    change the last bits: all are noted, and a sentence that says so is returned.

    Raises `SparsewoodError` if one of them differs.
    """
    path = root / "inputs.json"
    code = [call.source for call in (recipe.data, recipe.model) if call.source is not None]
    parts = {module: _digest(file) for module, file in _own_parts(recipe) if file not in code}
    inputs = {
        "data": split.digest(),
        "weights": _digest(recipe.weights),
        "code of its own": [_digest(file) for file in code] or None,
    }
    conditions: dict[str, Any] = {
        "threads": recipe.threads,
        "device": device.type,
        "torch": str(torch.__version__),
        "processor": platform.machine(),
    }
    if not path.is_file():
        write_json(path, {**inputs, "parts": parts, "conditions": [conditions]})
        return None
    before = read_json(path)
    known, noted = before.get("parts", {}), before["conditions"]
    changed = [name for name, digest in inputs.items() if before.get(name) != digest]
    changed += [f"code of {name}" for name, digest in parts.items() if known.get(name, digest) != digest]
    if changed:
        raise SparsewoodError(
            f"'{root}' was begun with other {' and other '.join(changed)}: what is in it belongs to those. Give this "
            "run another directory (--set output=DIR), put the old ones back, or remove the directory."
        )
    others = [] if conditions in noted else [conditions]
    if others or parts.keys() - known.keys():
        write_json(path, {**before, "parts": {**known, **parts}, "conditions": [*noted, *others]})
    if not others:
        return None
    last = noted[-1]
    differing = [f"{key} {now}, before {last[key]}" for key, now in conditions.items() if last[key] != now]
    return (
        f"This run goes on under other conditions ({'; '.join(differing)}): its last bits may differ from those of a "
        "run that was not stopped."
    )


def _own_parts(value: Any) -> Iterator[tuple[str, Path]]:
    """The modules of one's own functions and classes with their files, in a recipe or a part of one."""
    module, parts = "", value if isinstance(value, list | tuple) else ()
    if isinstance(value, Call):
        module, parts = value.module, value.parameters.values()
    elif is_dataclass(value) and not isinstance(value, type):
        module, parts = type(value).__module__, [getattr(value, one.name) for one in fields(value)]
    elif isinstance(value, Mapping):
        parts = value.values()
    file = own_file(module)
    if file is not None:
        yield module, file
    for part in parts:
        yield from _own_parts(part)


def _digest(path: Path | None) -> str | None:
    return None if path is None or not path.is_file() else hashlib.sha256(path.read_bytes()).hexdigest()
