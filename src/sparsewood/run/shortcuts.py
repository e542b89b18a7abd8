"""Options of `sparsewood run` that stand for settings of a recipe, under the names that older scripts used."""

from __future__ import annotations

import json
from pathlib import Path

from sparsewood.errors import SparsewoodError
from sparsewood.run.methods import level_settings

__all__ = ["SHORTCUTS", "overrides"]

SHORTCUTS = {
    "arch": "model",
    "data": "data",
    "data_dir": "data.root",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "test_batch_size": "test_batch_size",
    "optimizer": "training.optimizer",
    "lr": "training.optimizer.lr",
    "momentum": "training.optimizer.momentum",
    "weight_decay": "training.optimizer.weight_decay",
    "init_model": "weights",
    "seed": "seeds",
    "output": "output",
    "lvl": "train_dense",
}
"""Option -> the setting that it changes."""


def overrides(options: dict[str, object]) -> list[str]:
    """`--set` assignments for the options that were given (those that are not None), in the order of `SHORTCUTS`.

    `max_lr` (with `lr`) asks for one cycle up to that rate. `x` are levels that each take x % of what is left; `lvl` is
    where older scripts began: -1 trains the dense network, 0 reads its weights. Raises `SparsewoodError` if `max_lr` is
    not above `lr`, and for another `lvl`, or 0 without `init_model`.

    >>> overrides({"arch": "resnet20", "lr": 0.01, "seed": 7, "epochs": None})
    ['model=resnet20', 'training.optimizer.lr=0.01', 'seeds=[7]']
    """
    given = {name: value for name, value in options.items() if value is not None}
    _require_level(given)
    found = [f"{setting}={_text(name, given[name])}" for name, setting in SHORTCUTS.items() if name in given]
    if "x" in given:
        found += level_settings(float(str(given["x"])))
    if "max_lr" in given:
        found.append(_one_cycle(given))
    if given.get("pretrained"):
        found.append("model.pretrained=true")
    return found


def _text(name: str, value: object) -> str:
    if isinstance(value, Path):
        return json.dumps(str(value))  # a path is a text, whatever YAML would make of it
    if name == "lvl":
        return "true" if value == -1 else "false"
    return f"[{value}]" if name == "seed" else str(value)


def _require_level(given: dict[str, object]) -> None:
    level = given.get("lvl", -1)
    if level not in (-1, 0) or (level == 0 and "init_model" not in given):
        raise SparsewoodError(
            f"--lvl is -1 (train the dense network) or 0 (read its weights: --init-model FILE). Got {level}. "
            "A run that was stopped goes on at its level by itself."
        )


def _one_cycle(given: dict[str, object]) -> str:
    start, peak = given.get("lr"), given["max_lr"]
    if not isinstance(start, float) or not isinstance(peak, float) or not 0 < start < peak:
        raise SparsewoodError(
            f"--max-lr is the peak of one cycle that starts at --lr, below it. Got {peak} and {start}."
        )
    return f"training.rate={{name: OneCycle, peak: {peak / start!r}}}"
