"""Plans as text: JSON that has one spelling only, with positions as ranges, checked on the way back.

Nothing in a text is trusted: wrong types, positions that are no positions and places that no plan changes are refused,
and positions are made only once it is known how many there can be.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.shrinking.plan import Edit, Scaling, ShrinkPlan

__all__ = [
    "FORMAT",
    "VERSION",
    "InvalidPlan",
    "checked",
    "digest",
    "from_json",
    "parsed",
    "plan_of",
    "read",
    "render",
    "to_dict",
    "to_json",
]

FORMAT = "sparsewood plan"
VERSION = 1

_DEEPEST = 40
_MOST_SCALED = 2**26
_LARGEST = 2**63
_HASH = re.compile(r"[0-9a-f]{64}")
_RANGES = re.compile(r"(?:[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)?")
_INTERNAL = frozenset(vars(nn.Module()))
"""What a module holds of itself: its parameters, hooks, mode; no plan changes these."""


class InvalidPlan(ValueError):
    """A text is no plan; the message says why."""


def to_json(plan: ShrinkPlan) -> str:
    """The plan as one line of JSON; equal plans, equal text.

    >>> plan = ShrinkPlan("Linear", {"weight": (4, 2)}, {"weight": {0: torch.tensor([0, 1, 3])}})
    >>> json.loads(to_json(plan))["kept"]
    {'weight': {'0': '0-1,3'}}
    """
    return _canonical(_as_dict(plan))


def from_json(text: str) -> ShrinkPlan:
    """The plan that `to_json` wrote. Raises `FileFormatError` for any other text."""
    try:
        data = parsed(text)
        checked(data)
        return plan_of(data)
    except InvalidPlan as error:
        raise FileFormatError(f"The text is no plan of this library: {error}. Use one that to_json wrote.") from error


def to_dict(plan: ShrinkPlan) -> dict[str, Any]:
    """What JSON can hold of a plan, which is all of it. Raises `SparsewoodError` if the plan holds anything else."""
    data = _as_dict(plan)
    try:
        checked(data)
    except InvalidPlan as error:
        raise SparsewoodError(f"This plan cannot be written: {error}.") from error
    return data


def _as_dict(plan: ShrinkPlan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": plan.model,
        "source": plan.source,
        "shapes": {name: list(shape) for name, shape in plan.shapes.items()},
        "kept": {
            name: {str(axis): _ranges(kept) for axis, kept in axes.items()} for name, axes in plan.kept.items() if axes
        },
        "edits": [_edit_to_dict(edit) for edit in sorted(plan.edits, key=_order)],
        "replaced": dict(plan.replaced),
        "added": sorted(plan.added),
        "steps": [_plain(step, "steps") for step in plan.steps],
        "scalings": [_scaling_to_dict(one) for one in plan.scalings],
    }


def plan_of(data: Mapping[str, Any]) -> ShrinkPlan:
    """The plan in an object that `checked` accepts. Takes as much memory as the sizes in `shapes` say."""
    shapes = {name: tuple(sizes) for name, sizes in data["shapes"].items()}
    kept = {
        name: {int(axis): _positions(text, _sizes(data, name)[int(axis)], name) for axis, text in axes.items()}
        for name, axes in data["kept"].items()
    }
    edits = tuple(
        Edit(one["module"], one["name"], tuple(one["path"]), _frozen(one["before"]), _frozen(one["after"]))
        for one in data["edits"]
    )
    added, steps = tuple(data["added"]), tuple(data["steps"])
    scalings = tuple(
        Scaling(
            one["param"], one["axis"], _positions(one["positions"], _left(data, one), one["param"]), one["factor"],
            one["offset"],
        )
        for one in data["scalings"]
    )  # fmt: skip
    return ShrinkPlan(
        data["model"], shapes, kept, edits, dict(data["replaced"]), added, data["source"], steps, scalings
    )


def read(content: bytes) -> dict[str, Any]:
    """The object in a plan file, once its version, spelling and checksum are found right."""
    data = parsed(content)
    if data.get("sha256") != digest(data) or render(data).encode() != content:
        raise InvalidPlan("its checksum differs from its content, so it was altered or damaged")
    return data


def digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of an object without its field "sha256"."""
    return hashlib.sha256(_canonical({k: v for k, v in data.items() if k != "sha256"}).encode()).hexdigest()


def render(data: Mapping[str, Any]) -> str:
    """The object as indented JSON: keys sorted, what holds no further objects in one line.

    >>> print(render({"b": [1, 2], "a": [{"x": 1, "y": [2]}], "c": {"d": "0-3"}}), end="")
    {
     "a": [
      {"x": 1, "y": [2]}
     ],
     "b": [1, 2],
     "c": {
      "d": "0-3"
     }
    }
    """
    return _rendered(data, "\n") + "\n"


def checked(data: Mapping[str, Any]) -> None:
    """Raise `InvalidPlan` if the fields of a plan do not hold what they should."""
    for key, right in _FIELDS.items():
        if key not in data:
            raise InvalidPlan(f"it has no field {key!r}")
        if not right(data[key]):
            raise InvalidPlan(f"its field {key!r} is damaged: {_shown(data[key])}")
    for name, axes in data["kept"].items():
        sizes = _sizes(data, name)
        for axis, text in axes.items():
            if not (re.fullmatch("0|[1-9][0-9]?", axis) and int(axis) < len(sizes)):
                raise InvalidPlan(f"{name!r} of shape {sizes} has no axis {_shown(axis)}")
            _bounds(text, sizes[int(axis)], name)
    for edit in data["edits"]:
        _check_edit(edit)
    scaled = 0
    for one in data["scalings"]:
        scaled += _count(_bounds(one["positions"], _left(data, one), one["param"]))
        if scaled > _MOST_SCALED:
            raise InvalidPlan(f"it scales more than {_MOST_SCALED} positions")


# ---------------------------------------------------------------- positions


def _sizes(data: Mapping[str, Any], name: str) -> list[int]:
    """How many positions a tensor has along its axes, or, of a bias that is made, can have at most."""
    if name in data["shapes"]:
        return data["shapes"][name]
    if name not in data["added"]:
        raise InvalidPlan(f"it names positions of {_shown(name)}, which has no shape")
    owner = name[: name.rfind(".") + 1]
    return [max((math.prod(sizes) for other, sizes in data["shapes"].items() if other.startswith(owner)), default=0)]


def _ranges(kept: Tensor) -> str:
    """Ascending positions as a text such as "0-3,5,8-15"."""
    values = torch.as_tensor(kept).to("cpu", torch.int64)
    if not len(values):
        return ""
    if bool((values.diff() <= 0).any()) or int(values[0]) < 0:
        raise SparsewoodError(f"Kept positions must be ascending, from 0 on. Got {values.tolist()[:20]}.")
    breaks = (values.diff() > 1).nonzero().flatten()
    starts = values[torch.cat([torch.zeros(1, dtype=torch.int64), breaks + 1])].tolist()
    ends = values[torch.cat([breaks, torch.tensor([len(values) - 1])])].tolist()
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _bounds(text: str, size: int, name: str) -> list[tuple[int, int]]:
    """First and last position of every range; there is only one way to write a set of positions."""
    bounds: list[tuple[int, int]] = []
    previous = -2
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        bound = (int(first), int(last or first))
        if not previous + 1 < bound[0] <= bound[1] < size or part != _range(bound):
            raise InvalidPlan(f"the positions kept of {name!r}, {_shown(text)}, are not ascending ranges below {size}")
        bounds.append(bound)
        previous = bound[1]
    return bounds


def _range(bound: tuple[int, int]) -> str:
    return str(bound[0]) if bound[0] == bound[1] else f"{bound[0]}-{bound[1]}"


def _positions(text: str, size: int, name: str) -> Tensor:
    parts = [torch.arange(first, last + 1) for first, last in _bounds(text, size, name)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _count(bounds: list[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in bounds)


# ---------------------------------------------------------------- scalings


def _scaling_to_dict(one: Scaling) -> dict[str, Any]:
    positions, factor, offset = _ranges(one.positions), float(one.factor), float(one.offset)
    return {"param": one.param, "axis": one.axis, "positions": positions, "factor": factor, "offset": offset}


def _left(data: Mapping[str, Any], scaling: Mapping[str, Any]) -> int:
    """How many positions the axis that is scaled has in the small network, or, of a bias that is made, at most."""
    name, axis = scaling["param"], scaling["axis"]
    sizes = _sizes(data, name)
    if axis >= len(sizes):
        raise InvalidPlan(f"{name!r} of shape {sizes} has no axis {axis}")
    kept = data["kept"].get(name, {}).get(str(axis))
    return sizes[axis] if kept is None else _count(_bounds(kept, sizes[axis], name))


# ---------------------------------------------------------------- edits


def _edit_to_dict(edit: Edit) -> dict[str, Any]:
    where = ".".join(map(str, (edit.module, edit.name, *edit.path))).lstrip(".")
    before, after = _plain(edit.before, where), _plain(edit.after, where)
    return {"module": edit.module, "name": edit.name, "path": list(edit.path), "before": before, "after": after}


def _order(edit: Edit) -> tuple[Any, ...]:
    return edit.module, edit.name, tuple((isinstance(step, str), str(step).zfill(9)) for step in edit.path)


def _check_edit(edit: Mapping[str, Any]) -> None:
    where = _shown(".".join(map(str, (edit["module"], edit["name"], *edit["path"]))))
    names = [edit["name"], *(step for step in edit["path"] if isinstance(step, str))]
    if edit["name"] in _INTERNAL or any(name.startswith("__") for name in names):
        raise InvalidPlan(f"it changes {where}, which no plan changes")
    if not _same_kind(edit["before"], edit["after"]):
        changed = f"{_shown(edit['before'])} to {_shown(edit['after'])}"
        raise InvalidPlan(f"it changes {where} from {changed}, which is another kind of value")


def _same_kind(before: Any, after: Any) -> bool:
    if isinstance(before, list) or isinstance(after, list):
        both = isinstance(before, list) and isinstance(after, list) and len(before) == len(after)
        return both and all(map(_same_kind, before, after))
    numbers = [one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in (before, after)]
    return all(numbers) or type(before) is type(after)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


# ---------------------------------------------------------------- JSON


def _canonical(data: Mapping[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parsed(content: str | bytes) -> dict[str, Any]:
    """The object in a text, of this format and version."""
    try:
        text = content.decode() if isinstance(content, bytes) else content
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidPlan(f"it is not complete JSON ({error})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InvalidPlan(f"it has no field 'format' that says {FORMAT!r}")
    if type(data.get("version")) is not int or data["version"] != VERSION:
        raise InvalidPlan(f"it has format version {_shown(data.get('version'))}, and this release reads {VERSION}")
    if not _shallow(data, _DEEPEST):
        raise InvalidPlan(f"it has more than {_DEEPEST} levels")
    return data


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _shallow(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_shallow(item, levels - 1) for item in items)


def _rendered(value: Any, newline: str) -> str:
    if not value or not isinstance(value, dict | list) or _flat(value):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    deeper = newline + " "
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_rendered(value[key], deeper)}" for key in sorted(value)]
        return "{" + deeper + ("," + deeper).join(items) + newline + "}"
    items = [
        json.dumps(item, sort_keys=True, ensure_ascii=False)
        if isinstance(item, dict) and all(_flat(one) for one in item.values())
        else _rendered(item, deeper)
        for item in value
    ]
    return "[" + deeper + ("," + deeper).join(items) + newline + "]"


def _flat(value: Any) -> bool:
    return not isinstance(value, dict) and not (
        isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    )


def _plain(value: Any, where: str) -> Any:
    """The value in types of JSON: sequences become lists, integers of other libraries integers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, where) for key, item in value.items()}
    try:
        return operator.index(cast(Any, value))
    except TypeError:
        raise SparsewoodError(
            f"A plan holds None, texts, finite numbers, and lists and mappings by name of these. Got {value!r} in "
            f"{where}."
        ) from None


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


# ---------------------------------------------------------------- what each field holds


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _by_name(right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(right, value.values()))


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_size, value))


def _is_ranges(value: object) -> bool:
    return isinstance(value, str) and _RANGES.fullmatch(value) is not None and _short_numbers(value)


def _short_numbers(text: str) -> bool:
    return max(map(len, re.split("[-,]", text))) <= len(str(_LARGEST))


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_value, value))
    if isinstance(value, int):
        return -_LARGEST < value < _LARGEST
    return value is None or isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _is_path(value: object) -> bool:
    return isinstance(value, list) and all(_is_size(step) or _is_text(step) for step in value)


def _is_edit(value: object) -> bool:
    fields = {"module": _is_text, "name": _is_text, "path": _is_path, "before": _is_value, "after": _is_value}
    return isinstance(value, dict) and value.keys() == fields.keys() and all(fields[key](value[key]) for key in fields)


def _are_edits(value: object) -> bool:
    if not isinstance(value, list) or not all(map(_is_edit, value)):
        return False
    places = [json.dumps([one["module"], one["name"], one["path"]]) for one in value]
    return len(set(places)) == len(places)


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _is_scaling(value: object) -> bool:
    fields: dict[str, Callable[[Any], bool]] = {
        "param": _is_text,
        "axis": _is_size,
        "positions": _is_ranges,
        "factor": lambda factor: _is_number(factor) and factor > 0,
        "offset": _is_number,
    }
    return isinstance(value, dict) and value.keys() == fields.keys() and all(fields[key](value[key]) for key in fields)


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_text,
    "source": lambda value: value == "" or (isinstance(value, str) and _HASH.fullmatch(value) is not None),
    "shapes": _by_name(_is_shape),
    "kept": _by_name(_by_name(_is_ranges)),
    "edits": _are_edits,
    "replaced": _by_name(_is_text),
    "added": _texts,
    "steps": lambda value: isinstance(value, list) and all(isinstance(step, dict) for step in value),
    "scalings": lambda value: isinstance(value, list) and all(map(_is_scaling, value)),
}
