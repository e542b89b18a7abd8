"""What a run's directory was begun with, so that a run that goes on is the same run."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

from sparsewood.data.split import Split
from sparsewood.errors import SparsewoodError
from sparsewood.run.directory import read_json, write_json
from sparsewood.run.recipe import Recipe

__all__ = ["require_same_inputs"]


def require_same_inputs(root: Path, recipe: Recipe, split: Split, device: torch.device) -> str | None:
    """Note what goes in; of a directory that was begun before, compare it.

    Data, initial weights and the files of functions of one's own must be the same, bit for bit: stages of one run
    belong together. Other threads, another device or release may change the last bits: all are noted, and a sentence
    that says so is returned.

    Raises `SparsewoodError` if one of them differs.
    """
    path = root / "inputs.json"
    code = [call.source for call in (recipe.data, recipe.model) if call.source is not None]
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
        write_json(path, {**inputs, "conditions": [conditions]})
        return None
    before = read_json(path)
    for name, digest in inputs.items():
        if before.get(name) != digest:
            raise SparsewoodError(
                f"'{root}' was begun with other {name}: what is in it belongs to those. Give this run another "
                "directory (--set output=DIR), put the old ones back, or remove the directory."
            )
    if conditions in before["conditions"]:
        return None
    write_json(path, {**before, "conditions": [*before["conditions"], conditions]})
    changed = [
        f"{key} {conditions[key]}, before {old[key]}"
        for old in before["conditions"][-1:]
        for key in conditions
        if old[key] != conditions[key]
    ]
    return (
        f"This run goes on under other conditions ({'; '.join(changed)}): its last bits may differ from those of a run "
        "that was not stopped."
    )


def _digest(path: Path | None) -> str | None:
    return None if path is None or not path.is_file() else hashlib.sha256(path.read_bytes()).hexdigest()
