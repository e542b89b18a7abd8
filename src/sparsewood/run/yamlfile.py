"""YAML as a tree whose every value knows where it stands, so that errors can name file, line and field.

YAML 1.2: `1e-3` is a float, `yes` and `off` are text. Keys are always text, as written: `0` is the layer "0".
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from sparsewood.errors import FileFormatError, SparsewoodError

__all__ = ["Node", "merge", "override", "plain", "read", "shown", "write"]

DEEPEST = 50
LINE_BREAKS = "\x85\u2028\u2029"
SCALARS = ("null", "bool", "int", "float")
DATES = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True)
class Node:
    """One value of the file: a dict or list of nodes, or a plain scalar; `where` is file and line, `path` the field."""

    value: Any
    where: str
    path: str = ""

    def child(self, key: str | int, value: Any, where: str | None = None) -> Node:
        """A node below this one."""
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else key
        return Node(value, where or self.where, f"{self.path}{step}")


def read(text: str, source: str) -> Node:
    """The tree of a YAML text; `source` is how errors call it.

    Raises `FileFormatError` with the line for what is no YAML, for a key that is there twice, for more than one
    document, for tags and for a text that holds nothing.

    >>> read("rate: 1e-3", "recipe.yaml").value["rate"]
    Node(value=0.001, where='recipe.yaml, line 1', path='rate')
    """
    loader = YAML(typ="safe", pure=True)
    try:
        root = loader.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise FileFormatError(f"{source}{line}: not YAML: {_reason(error)}. {_advice(error)}".rstrip()) from error
    except YAMLError as error:
        raise FileFormatError(f"{source}: not YAML: {str(error).partition(chr(10))[0]}.") from error
    if root is None:
        raise FileFormatError(f"{source}: is empty. Write 'key: value' lines.")
    return _tree(root, Node(None, f"{source}, line 1"), source, loader)


def plain(node: Node) -> Any:
    """The value without places: dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def shown(node: Node) -> str:
    """The value as an error shows it: short, with null, true and false as they are written."""
    value = plain(node)
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def override(root: Node, setting: str) -> Node:
    """The tree with one value set: `training.lr=0.1`, the value in YAML.

    The path goes through keys (quoted if they hold a dot: `scope."conv1.weight"`) and list indices. What is missing is
    created, and a scalar on the way becomes a mapping with that `name`: `model.depth=56` turns `model: resnet_cifar`
    into `model: {name: resnet_cifar, depth: 56}`. Raises `SparsewoodError` that names the setting.

    >>> override(read("model: resnet_cifar", "recipe.yaml"), "model.depth=56").value["model"].value["name"].value
    'resnet_cifar'
    """
    where = f"--set {setting}"
    key, equals, text = setting.partition("=")
    steps = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^."]+)', key.strip())]
    if not equals or not steps:
        raise SparsewoodError(f"{where}: must be key=value with a dotted key, as in training.epochs=5.")
    path = ".".join(steps)
    value = read(text, where) if text.strip() else Node(None, where)
    return _set(root, steps, _moved(value, where, path), where)


def merge(base: Node | None, over: Node) -> Node:
    """`over` on top of `base`, key by key.

    A mapping changes what it names in the mapping below, or in the component of which there is only the name; one with
    a `name` of its own, and all that is no mapping, stands in place of what was there.

    >>> base = read("{name: Geometric, rate: 0.2}", "a")
    >>> sorted((key, node.value) for key, node in merge(base, read("rate: 0.3", "b")).value.items())
    [('name', 'Geometric'), ('rate', 0.3)]
    """
    if base is None or not isinstance(over.value, dict) or "name" in over.value:
        return over
    below = _as_mapping(base)
    if below is None:
        return over
    return replace(over, value=below | {key: merge(below.get(key), node) for key, node in over.value.items()})


def write(tree: Mapping[str, Any]) -> str:
    """Plain values as YAML that reads back to the same.

    >>> print(write({"seeds": [1, 2], "rate": {"name": "Step", "by": 1e-05}, "only": None}), end="")
    seeds: [1, 2]
    rate:
      name: Step
      by: 1e-05
    only: null
    """
    writer = YAML()
    writer.width = 10_000  # folding would break lines inside values
    writer.representer.ignore_aliases = lambda _: True
    writer.representer.add_representer(type(None), _null)
    stream = io.StringIO()
    writer.dump(_styled(tree), stream)
    return stream.getvalue()


# ---------------------------------------------------------------- reading


def _tree(composed: Any, place: Node, source: str, loader: YAML) -> Node:
    if place.path.count(".") + place.path.count("[") > DEEPEST:
        raise FileFormatError(f"{place.where}: more than {DEEPEST} levels deep, or an alias (*) that contains itself.")
    if isinstance(composed, ScalarNode):
        return replace(place, value=_scalar(composed, place, loader))
    if isinstance(composed, SequenceNode):
        below = [place.child(i, None, _line(source, item)) for i, item in enumerate(composed.value)]
        return replace(
            place, value=[_tree(item, at, source, loader) for item, at in zip(composed.value, below, strict=True)]
        )
    assert isinstance(composed, MappingNode)
    found: dict[str, Node] = {}
    for key, item in composed.value:
        at = _line(source, key)
        if not isinstance(key, ScalarNode):
            raise FileFormatError(f"{at}: a key must be text. Got a list or mapping.")
        if key.value in found:
            raise FileFormatError(f"{at}: key {key.value!r} is there twice, first in {found[key.value].where}.")
        found[key.value] = _tree(item, place.child(key.value, None, at), source, loader)
    return replace(place, value=found)


def _scalar(composed: ScalarNode, place: Node, loader: YAML) -> object:
    tag = str(composed.tag)
    if tag in ("tag:yaml.org,2002:str", DATES):
        return composed.value
    if tag.removeprefix("tag:yaml.org,2002:") not in SCALARS:
        raise FileFormatError(f"{place.where}: the tag {tag!r} means nothing here. Leave it out.")
    try:
        return loader.constructor.construct_object(composed)
    except (YAMLError, ValueError) as error:
        raise FileFormatError(f"{place.where}: {composed.value!r} is not a value of {tag!r}.") from error


def _line(source: str, composed: Any) -> str:
    return f"{source}, line {composed.start_mark.line + 1}" if not source.startswith("--") else source


def _reason(error: MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part)


def _advice(error: MarkedYAMLError) -> str:
    return "Indent with spaces." if "\\t" in str(error.problem) else ""


# ---------------------------------------------------------------- overriding


def _set(node: Node, steps: list[str], value: Node, where: str) -> Node:
    if not steps:
        return value
    first, *rest = steps
    if isinstance(node.value, list):
        return replace(node, value=_set_item(node, steps, value, where))
    below = _as_mapping(node)
    if below is None:
        raise SparsewoodError(f"{where}: {node.path} is {shown(node)}, which has no part {first!r}.")
    # What is created on the way belongs to the override.
    child = below.get(first) or Node(None, where, f"{node.path}.{first}".lstrip("."))
    return replace(node, value=below | {first: _set(child, rest, value, where)})


def _set_item(node: Node, steps: list[str], value: Node, where: str) -> list[Node]:
    items: list[Node] = list(node.value)
    index = int(steps[0]) if steps[0].isdecimal() else -1
    if not 0 <= index <= len(items):
        raise SparsewoodError(f"{where}: {node.path} is a list: {steps[0]!r} must be an index from 0 to {len(items)}.")
    child = items[index] if index < len(items) else Node(None, where, f"{node.path}[{index}]")
    return [*items[:index], _set(child, steps[1:], value, where), *items[index + 1 :]]


def _as_mapping(node: Node) -> dict[str, Node] | None:
    """The mapping that a node is, or stands for; None if it is a number or a list."""
    if isinstance(node.value, str):
        return {"name": node.child("name", node.value)}
    return {} if node.value is None else node.value if isinstance(node.value, dict) else None


def _moved(node: Node, where: str, path: str) -> Node:
    """The tree of an override's value, at its place."""
    place = Node(None, where, path)
    if isinstance(node.value, dict):
        below = {key: _moved(item, where, place.child(key, None).path) for key, item in node.value.items()}
        return replace(place, value=below)
    if isinstance(node.value, list):
        return replace(
            place, value=[_moved(item, where, place.child(i, None).path) for i, item in enumerate(node.value)]
        )
    return replace(place, value=node.value)


# ---------------------------------------------------------------- writing


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _styled(value: Any) -> Any:
    """Lists of scalars on one line; some text in quotes.

    That with exotic line breaks, which YAML would fold, and that with a `?` in front, which begins a key in a list.
    """
    if isinstance(value, Mapping):
        return {_styled(key): _styled(item) for key, item in value.items()}
    if isinstance(value, str) and (value.startswith("?") or any(mark in value for mark in LINE_BREAKS)):
        return DoubleQuotedScalarString(value)
    if not isinstance(value, list):
        return value
    items = CommentedSeq(_styled(item) for item in value)
    if not any(isinstance(item, Mapping | list) for item in value):
        items.fa.set_flow_style()
    return items
