"""Files about units, level by level, in the layouts that older scripts wrote; both of their spellings are read.

Level 0 is the first at which units are pruned. Levels and units are whole numbers here; in JSON, where keys are texts,
a level is "0", as it is written, or "level_0", which is read as well.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sparsewood.errors import FileFormatError

__all__ = [
    "by_level",
    "index_text",
    "read_index",
    "read_l1_scores",
    "read_memorization",
    "read_pruned_indices",
]

LEVEL = re.compile(r"(?:level_)?(\d+)")
LINES = re.compile(r"\s*Level:\s*(\d+)\s*\n\s*Sublist:\s*(\[[\d,\s]*\])\s*(?:\n|$)")

Value = TypeVar("Value")
Levels = dict[int, dict[str, Value]]
Row = tuple[float, int] | tuple[float, int, int]


def by_level(levels: Mapping[int, Mapping[str, Any]]) -> str:
    """JSON of what is known of every layer at every level; NaN becomes null.

    >>> print(by_level({0: {"conv1": [3, 5]}, 1: {}}))
    {
     "0": {
      "conv1": [3, 5]
     },
     "1": {}
    }
    """
    parts = [f' "{level}": {_layers(layers)}' for level, layers in sorted(levels.items())]
    return "{\n" + ",\n".join(parts) + "\n}" if parts else "{}"


def index_text(levels: Mapping[int, Sequence[int]]) -> str:
    """Two lines for every level: which images were looked at.

    >>> print(index_text({0: [4, 7]}), end="")
    Level: 0
    Sublist: [4, 7]
    """
    return "".join(f"Level: {level}\nSublist: {list(numbers)}\n" for level, numbers in sorted(levels.items()))


def read_pruned_indices(path: str | os.PathLike[str]) -> Levels[list[int]]:
    """`pruned_indices.json`: which units of every layer were newly pruned at every level.

    Raises `FileFormatError`, with path and place, if it is something else.
    """
    return _read(path, "a list of whole numbers", lambda value: [_whole(one) for one in _list(value)])


def read_memorization(path: str | os.PathLike[str]) -> Levels[list[Row]]:
    """`Avg_UnitMems_perlevel.json`: for every unit of every layer its score and the image that excites it most.

    Of outlier selectivity there are three numbers: the score, that image, and the one that comes second. Units that
    were not seen have NaN and -1. Raises as `read_pruned_indices` does.
    """
    what = "a list of (score, image) or (score, image, image)"
    return _read(path, what, lambda value: [_row(one) for one in _list(value)])


def read_l1_scores(path: str | os.PathLike[str]) -> Levels[dict[int, float]]:
    """`l1_scores.json`: the L1 norm of every filter, by its number. Raises as `read_pruned_indices` does."""

    def norms(value: Any) -> dict[int, float]:
        return {_number(unit): _real(norm) for unit, norm in _mapping(value).items()}

    return _read(path, "a mapping from units to numbers", norms)


def read_index(path: str | os.PathLike[str]) -> dict[int, list[int]]:
    """An index file: pairs of lines `Level: k` and `Sublist: [...]`, the numbers of the images of every level.

    Raises `FileFormatError`, with path and line, for anything else, and for a level that is there twice.
    """
    text = _text(path)
    found: dict[int, list[int]] = {}
    at = 0
    while at < len(text.rstrip()):
        match = LINES.match(text, at)
        if match is None or int(match[1]) in found:
            line = text.count("\n", 0, at) + 1
            raise FileFormatError(
                f"'{path}', line {line}: expected 'Level: k', for a level that is not there yet, and then "
                f"'Sublist: [i, ...]'. Got {text[at : at + 60]!r}."
            )
        found[int(match[1])] = json.loads(match[2])
        at = match.end()
    return found


# ---------------------------------------------------------------- JSON


def _layers(layers: Mapping[str, Any]) -> str:
    lines = [f"  {json.dumps(name)}: {json.dumps(_plain(value), allow_nan=False)}" for name, value in layers.items()]
    return "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _read(path: str | os.PathLike[str], what: str, convert: Callable[[Any], Value]) -> Levels[Value]:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise FileFormatError(f"'{path}' is no JSON file: {error}.") from error
    found: Levels[Value] = {}
    try:
        for key, layers in _mapping(content).items():
            level = _level(key)
            if level in found:
                raise FileFormatError(f"'{path}' has level {level} twice, as 'level_{level}' and as '{level}'.")
            found[level] = {}
            for name, value in _mapping(layers).items():
                try:
                    found[level][name] = convert(value)
                except (TypeError, ValueError) as error:
                    raise FileFormatError(
                        f"'{path}', level {level}, layer {name!r}: expected {what}. Got {value!r:.80}."
                    ) from error
    except TypeError as error:
        raise FileFormatError(
            f"'{path}' must map levels ('0' or 'level_0') to layers, and these to {what}. It has {error}."
        ) from error
    return dict(sorted(found.items()))


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"'{path}' is no text in UTF-8: {error}.") from error


def _level(key: str) -> int:
    match = LEVEL.fullmatch(key)
    if match is None:
        raise TypeError(f"the key {key!r}")
    return int(match[1])


def _number(key: str) -> int:
    if not key.isdecimal():
        raise TypeError(f"the key {key!r}")
    return int(key)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} in place of a mapping")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} in place of a list")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.40} in place of a whole number")
    return value


def _real(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} in place of a number")
    return float(value)


def _row(value: Any) -> Row:
    match _list(value):
        case [score, image]:
            return _real(score), _whole(image)
        case [score, image, second]:
            return _real(score), _whole(image), _whole(second)
        case _:
            raise TypeError(f"{value!r:.40} in place of a row")
