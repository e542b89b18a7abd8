"""From YAML to typed values and back. [002-01] Any combination of parts can be written in a configuration."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from sparsewood.allocation import ERK, LAMP, Named, PerLayer, Scope
from sparsewood.criteria import Criterion, LpNorm, Magnitude
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.run.annotations import MISSING, UNHASHED, Form, OfKind, check, form_of, parameters
from sparsewood.run.calls import Call, imported
from sparsewood.run.canonical import canonical, digest, written
from sparsewood.run.catalogue import KINDS, components, kind_of
from sparsewood.run.components import INVALID, Reader, RecipeError
from sparsewood.run.yamlfile import Node, merge, override, plain, read, write
from sparsewood.schedules import OneShot, Schedule, Soft
from sparsewood.types import Amount, AmountLike, Compression, Count, Sparsity


@dataclass(frozen=True)
class Inner:
    weight: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class Section:
    """One field of everything."""

    count: int = 1
    share: float = 0.5
    on: bool = False
    text: str = "a"
    kind: Literal["fast", "slow"] = "fast"
    file: Path | None = None
    pair: tuple[float, float] = (0.1, 0.2)
    numbers: tuple[int, ...] = ()
    rows: str | Sequence[Sequence[int]] = ()
    listed: list[int] = field(default_factory=list)
    small: Annotated[int, Field(ge=1, le=9)] = 1
    table: Mapping[str, int] = field(default_factory=dict)
    inner: Inner | None = None
    criterion: Criterion = Magnitude()
    schedules: tuple[Schedule, ...] = ()
    amount: AmountLike = 0.5
    strict_amount: Amount = field(default_factory=lambda: Sparsity(0.5))
    scope: Scope | None = None
    generator: torch.Generator | None = None
    hook: Callable[[], None] | None = None
    either: bool | int = 1
    note: str = field(default="", metadata=UNHASHED)


def resolve(text: str, hint: Any = Section) -> Any:
    reader = Reader()
    value = reader.value(read(text, "r.yaml"), hint)
    assert (value is INVALID) == bool(reader.problems)
    if reader.problems:
        raise RecipeError(reader.problems)
    return value


@pytest.fixture
def methods(tmp_path: Path) -> Iterator[Path]:
    """A directory with a module of somebody's own components."""
    (tmp_path / "own_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from sparsewood.criteria import Criterion\n"
        "@dataclass(frozen=True)\n"
        "class Own(Criterion):\n"
        "    power: float = 1.0\n"
        "    def __post_init__(self):\n"
        "        if self.power < 0: raise ValueError('power below 0')\n"
        "    def __call__(self, inputs): return inputs.weight.abs() ** self.power\n"
        "@dataclass\n"
        "class Melting(Criterion):\n"
        "    def __call__(self, inputs): return inputs.weight\n"
        "def net(width: int, depth: int = 2, generator=None): return width * depth\n"
        "def loose(**settings): return settings\n"
    )
    (tmp_path / "broken_methods.py").write_text("raise RuntimeError('no luck')\n")
    yield tmp_path
    sys.modules.pop("own_methods", None)
    sys.modules.pop("broken_methods", None)


# ---------------------------------------------------------------- YAML


def test_scalars_are_those_of_yaml_1_2() -> None:
    tree = read("[1e-3, 1.2e-3, 010, 0x1F, yes, off, true, ~, .inf, '3', 2020-01-01, 1.0]", "r.yaml")
    assert plain(tree) == [0.001, 0.0012, 10, 31, "yes", "off", True, None, math.inf, "3", "2020-01-01", 1.0]
    assert [type(node.value) for node in tree.value[:3]] == [float, float, int]


def test_every_value_knows_line_and_field() -> None:
    tree = read("a: 1\nb:\n  - x: 2\n  - 3\n'a.b': {0: *z}\n".replace("*z", "1"), "r.yaml")
    assert tree.value["b"].value[0].value["x"] == Node(2, "r.yaml, line 3", "b[0].x")
    assert tree.value["b"].value[1] == Node(3, "r.yaml, line 4", "b[1]")
    assert list(tree.value["a.b"].value) == ["0"]  # a layer's name, not a number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml, line 3: key 'a' is there twice, first in r.yaml, line 1"),
        ("a:\n\t- x", "r.yaml, line 2: not YAML: while scanning for the next token"),
        ("a:\n\t- x", "Indent with spaces."),
        ("a: 1\nb: c: d", "r.yaml, line 2: not YAML"),
        ("a: [1", "r.yaml, line 1: not YAML: while parsing a flow sequence"),
        ("a: *nobody", "undefined alias"),
        ("a: !thing 1", "r.yaml, line 1: the tag '!thing' means nothing here"),
        ("\na: !!int x", "r.yaml, line 2: 'x' is not a value of"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: \x00", "r.yaml: not YAML: unacceptable character"),
        ("# nothing", "r.yaml: is empty"),
        ("[a]: 1", "a key must be text"),
        ("a: &x [*x]", "levels deep, or an alias"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        read(text, "r.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a=2", {"a": 2, "m": "net", "l": [1, 2], "n": None}),
        ("new.deep.key=[1, x]", {"a": 1, "m": "net", "l": [1, 2], "n": None, "new": {"deep": {"key": [1, "x"]}}}),
        ("m.depth=56", {"a": 1, "m": {"name": "net", "depth": 56}, "l": [1, 2], "n": None}),
        ("l.1=5", {"a": 1, "m": "net", "l": [1, 5], "n": None}),
        ("l.2=5", {"a": 1, "m": "net", "l": [1, 2, 5], "n": None}),
        ('n."conv1.weight"=0.5', {"a": 1, "m": "net", "l": [1, 2], "n": {"conv1.weight": 0.5}}),
        ("a=", {"a": None, "m": "net", "l": [1, 2], "n": None}),
        ("a=x=y", {"a": "x=y", "m": "net", "l": [1, 2], "n": None}),
    ],
)
def test_overrides_change_one_value(setting: str, expected: object) -> None:
    tree = override(read("{a: 1, m: net, l: [1, 2], n: null}", "r.yaml"), setting)
    assert plain(tree) == expected


def test_an_override_says_that_it_is_one() -> None:
    tree = override(read("a: 1", "r.yaml"), "b.c={d: [1]}")
    assert tree.value["b"].value["c"].value["d"].value[0] == Node(1, "--set b.c={d: [1]}", "b.c.d[0]")
    assert tree.value["a"].where == "r.yaml, line 1"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a", "--set a: must be key=value"),
        ("=1", "must be key=value"),
        ("a.b=1", "--set a.b=1: a is 1, which has no part 'b'"),
        ("l.7=1", "--set l.7=1: l is a list: '7' must be an index from 0 to 2"),
        ("l.x=1", "'x' must be an index"),
        ("a=[1", "--set a=[1, line 1: not YAML"),
    ],
)
def test_overrides_that_do_not_fit_name_themselves(setting: str, message: str) -> None:
    with pytest.raises(SparsewoodError) as caught:
        override(read("{a: 1, l: [1, 2]}", "r.yaml"), setting)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ("{a: 1, b: {c: 2}}", "{b: {d: 3}}", {"a": 1, "b": {"c": 2, "d": 3}}),
        ("{name: X, p: 1}", "{p: 2}", {"name": "X", "p": 2}),
        ("{name: X, p: 1}", "{name: Y}", {"name": "Y"}),
        ("X", "{p: 2}", {"name": "X", "p": 2}),
        ("{a: {b: 1}}", "{a: null}", {"a": None}),
        ("{a: [1, 2]}", "{a: [3]}", {"a": [3]}),
    ],
)
def test_merging(base: str, over: str, expected: object) -> None:
    assert plain(merge(read(base, "a"), read(over, "b"))) == expected


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@example("\x85 \u2028")
@example(["?0"])
@example({"\u2029": [[], {}, "- x", "1", "null", "a\nb ", "#"]})
@given(plain_values)
def test_what_is_written_reads_back(value: object) -> None:
    text = write({"value": value})
    found = plain(read(text, "r.yaml"))["value"]
    assert json.dumps(found) == json.dumps(value)  # as text, since 1 == 1.0 == True


# ---------------------------------------------------------------- values


def test_defaults_and_every_field() -> None:
    assert resolve("{}") == Section()
    text = """
count: 3
share: 1
on: true
kind: slow
file: a/b
pair: [1, 0.5]
numbers: [1, 2]
rows: [[1], [2, 3]]
listed: [4]
table: {x: 1}
inner: {weight: 2}
criterion: {name: LpNorm, p: 1}
schedules: [{name: OneShot, amount: 3}, {name: Soft, schedule: {name: Linear, final: 0.5}}]
amount: 7
strict_amount: 7
scope: {conv*: 0.2, 0: 3, fc: null, x: {name: Compression, ratio: 8}}
"""
    found = resolve(text)
    assert found.share == 1.0
    assert type(found.share) is float
    assert found.file == Path("a/b")
    assert found.pair == (1.0, 0.5)
    assert (found.numbers, found.rows, found.listed) == ((1, 2), ((1,), (2, 3)), [4])
    assert found.table == {"x": 1}
    assert found.inner == Inner(2.0)
    assert found.criterion == LpNorm(1.0)
    assert found.schedules[0] == OneShot(3)
    assert isinstance(found.schedules[1], Soft)
    assert found.amount == 7
    assert found.strict_amount == Count(7)
    assert found.scope == Named({"conv*": 0.2, "0": 3, "fc": None, "x": Compression(8.0)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: '3'", "r.yaml, line 1: count: must be a whole number. Got '3'."),
        ("count: true", "count: must be a whole number. Got true."),
        ("count: 3.0", "count: must be a whole number. Got 3.0."),
        ("count: null", "count: must be a whole number. Got null."),
        ("share: true", "share: must be a number. Got true."),
        ("share: .nan", "share: must be a number. Got nan."),
        ("on: 1", "on: must be true or false. Got 1."),
        ("on: yes", "on: must be true or false. Got 'yes'."),
        ("text: 3", "text: must be text. Got 3."),
        ("kind: slwo", "kind: must be 'fast' or 'slow'. Got 'slwo'. Did you mean 'slow'?"),
        ("pair: [1]", "pair: must be a list, each a number. Got [1]."),
        ("\npair:\n  - 1\n  - x", "r.yaml, line 4: pair[1]: must be a number. Got 'x'."),
        ("numbers: 1", "numbers: must be a list, each a whole number. Got 1."),
        ("small: 10", "small: must be a whole number >= 1 and <= 9. Got 10."),
        ("table: {x: y}", "table.x: must be a whole number. Got 'y'."),
        ("inner: 3", "inner: must be a mapping of the fields of Inner or null. Got 3."),
        ("inner: {wieght: 3}", "inner.wieght: Unknown key 'wieght'. Did you mean 'weight'?"),
        ("cuont: 3", "cuont: Unknown key 'cuont'. Did you mean 'count'?"),
        ("criterion: Magnitud", "Unknown criterion 'Magnitud'. Did you mean 'Magnitude'? 'sparsewood list criteria'"),
        ("criterion: 3", "criterion: must be a criterion (its name, or a mapping with 'name'). Got 3."),
        ("criterion: null", "criterion: must be a criterion (its name, or a mapping with 'name'). Got null."),
        ("criterion: {name: 3}", "criterion.name: must be the name of a criterion. Got 3."),
        ("criterion: ERK", "Unknown criterion 'ERK'"),
        ("criterion: {name: LpNorm, q: 1}", "criterion.q: Unknown parameter of LpNorm 'q'. Known: 'p', 'normalized'."),
        ("\ncriterion: {name: LpNorm, p: -1}", "r.yaml, line 2: criterion: LpNorm needs p > 0"),
        ("schedules: [OneShot]", "schedules[0]: OneShot needs 'amount': an amount"),
        ("schedules: OneShot", "schedules: must be a list. Got 'OneShot'."),
        ("amount: 1.5", "amount: Sparsity must be a number in [0, 1]. Got 1.5 instead."),
        ("amount: x", "Unknown amount 'x'"),
        ("strict_amount: -1", "strict_amount: Count must be a whole number >= 0. Got -1 instead."),
        ("scope: {conv*: 1.5}", "scope.conv*: Sparsity must be a number in [0, 1]. Got 1.5"),
        ("scope: {}", ""),
        ("generator: 1", "Unknown key 'generator'"),
        ("hook: x", "Unknown key 'hook'"),
    ],
)
def test_mistakes_name_line_field_and_what_would_do(text: str, message: str) -> None:
    if not message:
        assert resolve(text).scope == Named({})
        return
    with pytest.raises(RecipeError) as caught:
        resolve(text)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("\n".join(["share: x", "count: x", *(f"k{i}: 1" for i in range(52))]))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines[:50]] == [f"r.yaml, line {n}" for n in range(1, 51)]
    assert lines[50:] == ["... and 4 more."]
    assert len(caught.value.problems) == 54


def test_a_mapping_without_a_name_changes_the_default() -> None:
    @dataclass(frozen=True)
    class WithDefault:
        criterion: Criterion = field(default_factory=lambda: LpNorm(3.0, normalized=True))

    reader = Reader()
    found = reader.value(read("criterion: {p: 1}", "r"), WithDefault)
    assert (found, reader.problems) == (WithDefault(LpNorm(1.0, normalized=True)), [])


def test_a_union_of_components_and_mappings_takes_both() -> None:
    assert resolve("{name: PerLayer, allocation: ERK}", Scope) == PerLayer(ERK())
    assert resolve("{name: PerLayer, allocation: LAMP}", Scope) == PerLayer(LAMP())
    assert resolve("{name: PerLayer, allocation: {conv*: 0.5}}", Scope) == PerLayer({"conv*": 0.5})
    with pytest.raises(
        RecipeError, match=re.escape("allocation: Unknown allocation 'Unifrom'. Did you mean 'Uniform'?")
    ):
        resolve("{name: PerLayer, allocation: Unifrom}", Scope)


# ---------------------------------------------------------------- one's own


def _reader(methods: Path, text: str, hint: Any) -> tuple[Any, list[str]]:
    reader = Reader([methods])
    return reader.value(read(text, "r.yaml"), hint), reader.problems


def test_own_components_are_imported_and_named_by_their_module(methods: Path) -> None:
    before = list(sys.path)
    found, problems = _reader(methods, "{name: 'own_methods:Own', power: 2}", Criterion)
    assert problems == []
    assert (type(found).__name__, found.power) == ("Own", 2.0)
    assert written(found, Criterion) == {"name": "own_methods:Own", "power": 2.0}
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Own", "Cannot import 'no_such_module': ModuleNotFoundError: No module named"),
        ("broken_methods:Own", "Cannot import 'broken_methods': RuntimeError: no luck."),
        ("own_methods:Meltin", "Unknown name in 'own_methods' 'Meltin'. Did you mean 'Melting'?"),
        ("own_methods:net", "is a function. A criterion is a frozen dataclass derived from Criterion."),
        ("own_methods:Melting", "'own_methods:Melting' is another kind of class. A criterion is a frozen dataclass"),
        ("sparsewood.schedules:OneShot", "is another kind of class. A criterion is a frozen dataclass derived from"),
        ("{name: own_methods:Own, power: -1}", "r.yaml, line 1: power below 0"),
        ("'own_methods:'", "Unknown name in 'own_methods' ''"),
        ("':Own'", "Cannot import ''"),
    ],
)
def test_what_is_no_component_is_refused(methods: Path, name: str, message: str) -> None:
    found, problems = _reader(methods, name, Criterion)
    assert found is INVALID
    assert message in problems[0]


MODEL = Annotated[Call, OfKind("models")]


def test_calls_hold_checked_parameters_and_every_default(methods: Path) -> None:
    call, problems = _reader(methods, "{name: own_methods:net, width: 3}", MODEL)
    assert problems == []
    assert dict(call.parameters) == {"width": 3, "depth": 2}
    assert canonical(call, MODEL) == {"name": "own_methods:net", "width": 3}
    assert written(call, MODEL) == {"name": "own_methods:net", "width": 3, "depth": 2}
    _, problems = _reader(methods, "{name: own_methods:net, width: x, detph: 3, generator: 1}", MODEL)
    assert [problem.partition(": ")[2] for problem in problems] == [
        "width: must be a whole number. Got 'x'.",
        "detph: Unknown parameter of net 'detph'. Did you mean 'depth'?",
        "generator: Unknown parameter of net 'generator'. Known: 'width', 'depth'.",
    ]
    loose, problems = _reader(methods, "{name: own_methods:loose, any: [1, {a: b}]}", MODEL)
    assert (problems, dict(loose.parameters)) == ([], {"any": [1, {"a": "b"}]})


def test_models_of_libraries_are_left_to_the_library() -> None:
    call, problems = _reader(Path(), "{name: torchvision:resnet18, classes: 7, strange: x}", MODEL)
    assert problems == []
    assert dict(call.parameters) == {"pretrained": False, "classes": 7, "strange": "x"}
    assert canonical(call, MODEL) == {"name": "torchvision:resnet18", "classes": 7, "strange": "x"}


def test_a_call_draws_from_its_generator_alone() -> None:
    def takes_one(generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.rand(3, generator=generator)

    def takes_none() -> torch.Tensor:
        return torch.rand(3)

    for function in (takes_one, takes_none):
        call = Call("f", {}, function)
        first, again, other = (call.build(generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_calls_are_values() -> None:
    given = {"a": 1}
    call = Call("dict", given, dict)
    given["a"] = 2
    assert call == Call("dict", {"a": 1}, dict) != Call("dict", {"a": 2}, dict)
    again = pickle.loads(pickle.dumps(call))
    assert again == call
    assert again.build() == {"a": 1}
    assert imported("os.path:join", [])("a", "b") == str(Path("a/b"))


# ---------------------------------------------------------------- canonical


SAME = [
    ("{}", "{count: 1, share: 0.50, inner: null}"),
    ("criterion: LpNorm", "criterion: {name: LpNorm, p: 2, normalized: false}"),
    ("{count: 2, share: 1}", "{share: 1.0, count: 2}"),
    ("amount: 0.25", "amount: {name: Sparsity, fraction: 0.25}"),
    ("amount: 3", "amount: {name: Count, n: 3}"),
    ("scope: {a: 0.10}", "scope: {name: Named, amounts: {a: {name: Sparsity, fraction: 0.1}}}"),
    ("note: x", "note: y"),
    ("share: 0.0", "share: -0.0"),
    ("pair: [1, 2]", "pair: [1.0, 2.0]"),
]
DIFFERENT = [
    ("amount: 1", "amount: 1.0"),
    ("inner: {}", "inner: null"),
    ("numbers: [1, 2]", "numbers: [2, 1]"),
    ("scope: {a: 1, b: 2}", "scope: {b: 2, a: 1}"),  # the first pattern that fits wins
    ("criterion: Magnitude", "criterion: LAMP"),
    ("criterion: LpNorm", "criterion: {name: LpNorm, p: 1}"),
    ("file: a", "file: b"),
    ("either: 1", "either: true"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_meaning_has_an_equal_hash(one: str, other: str) -> None:
    assert digest(canonical(resolve(one), Section)) == digest(canonical(resolve(other), Section))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_meaning_has_another_hash(one: str, other: str) -> None:
    assert digest(canonical(resolve(one), Section)) != digest(canonical(resolve(other), Section))


def test_a_new_field_with_a_default_keeps_every_hash() -> None:
    @dataclass(frozen=True)
    class Before:
        rate: float
        steps: tuple[int, ...] = (1, 2)

    @dataclass(frozen=True)
    class After:
        rate: float
        added: str = "new"
        steps: tuple[int, ...] = (1, 2)
        inner: Inner = Inner()
        more: Criterion = Magnitude()

    for text in ("rate: 1", "{rate: 0.5, steps: [3]}"):
        old, new = resolve(text, Before), resolve(text, After)
        assert digest(canonical(old, Before)) == digest(canonical(new, After))
    changed = resolve("{rate: 1, added: other}", After)
    assert digest(canonical(changed, After)) != digest(canonical(resolve("rate: 1", Before), Before))


def test_what_no_file_can_say_is_refused() -> None:
    odd = Section(generator=torch.Generator())
    for function in (canonical, written):
        with pytest.raises(SparsewoodError, match=r"'generator' is .* which no recipe can say"):
            function(odd, Section)
        with pytest.raises(SparsewoodError, match="A recipe cannot say the key"):
            function(PerLayer({torch.nn.Linear: 0.5}), Scope)
        with pytest.raises(SparsewoodError, match="recipe"):
            function(Section(text=torch.nn.Linear), Section)  # pyright: ignore[reportArgumentType]


def test_values_made_in_python_are_checked() -> None:
    check(Section(pair=(1, 2)))
    with pytest.raises(
        SparsewoodError, match=re.escape("Section: 'small' must be a whole number >= 1 and <= 9. Got 0.")
    ):
        check(Section(small=0))
    with pytest.raises(SparsewoodError, match="'kind' must be 'fast' or 'slow'"):
        check(Section(kind="other"))  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- every component


COMPONENTS = [(kind, name) for kind in KINDS if not kind_of(kind).deferred for name in components(kind)]
POOLS: dict[Any, list[Any]] = {
    bool: [True, False],
    int: [0, 1, 2, 3, 4, 8],
    float: [0.0, 0.1, 0.25, 0.5, 0.9, 1.0, 2.0, 1e-5],
    str: ["conv1", "fc*", "0"],
}


def _leaves(leaf: Any) -> st.SearchStrategy[Any]:
    return st.from_type(leaf) if leaf not in POOLS else st.sampled_from(POOLS[leaf])


def _plain_leaf(draw: st.DrawFn, leaf: Any) -> Any:
    """A value for an annotation of plain values, mostly from the pools."""
    from typing import Union, get_args, get_origin

    inside = get_args(leaf)
    if get_origin(leaf) is Annotated:
        return _plain_leaf(draw, inside[0])
    if get_origin(leaf) is Literal:
        return draw(st.sampled_from(inside))
    if get_origin(leaf) is Union or isinstance(leaf, type(int | str)):
        return _plain_leaf(draw, draw(st.sampled_from(inside)))
    if (inside and inside[-1] is ...) or len(inside) == 1:
        return tuple(_plain_leaf(draw, inside[0]) for _ in range(draw(st.integers(0, 3))))
    if inside:
        mapping = get_origin(leaf) is Mapping
        return _mapping(draw, inside[1]) if mapping else tuple(_plain_leaf(draw, part) for part in inside)
    return None if leaf is type(None) else draw(_leaves(leaf))


def _mapping(draw: st.DrawFn, values: Any) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(POOLS[str]), min_size=1, max_size=2, unique=True))
    return {key: _plain_leaf(draw, values) for key in keys}


def _drawn(draw: st.DrawFn, form: Form, depth: int) -> Any:
    if form.nullable and draw(st.booleans()):
        return None
    if form.choices and depth:
        return draw(instances(draw(st.sampled_from(sorted(form.choices.values(), key=str))), depth - 1))
    if form.sections:
        return draw(instances(form.sections[0], depth))
    if form.items:
        return tuple(_drawn(draw, form_of(form.items[0]), depth) for _ in range(draw(st.integers(1, 3))))
    if form.values is not None:
        keys = draw(st.lists(st.sampled_from(POOLS[str]), min_size=1, max_size=2, unique=True))
        return {key: _drawn(draw, form_of(form.values), depth) for key in keys}
    assume(form.leaf is not None)
    return _plain_leaf(draw, form.leaf)


@st.composite
def instances(draw: st.DrawFn, target: Any, depth: int = 2) -> Any:
    """Components with some of their parameters changed; what they refuse is drawn anew."""
    known = {name: p for name, p in parameters(target).items() if p.settable}
    for _ in range(30):
        names = [name for name, p in known.items() if p.default is MISSING or draw(st.booleans())]
        try:
            return target(**{name: _drawn(draw, form_of(known[name].hint), depth) for name in names})
        except (SparsewoodError, TypeError):
            continue
    assume(False)
    return None


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=st.data())
def test_every_component_reads_back_as_it_was_written(kind: str, name: str, data: st.DataObject) -> None:
    """[002-01] Everything in the catalogues can be said in a recipe, with every parameter."""
    value = data.draw(instances(components(kind)[name]))
    hint = Annotated[Any, OfKind(kind)]
    tree = read(write({"it": written(value, hint)}), "r.yaml").value["it"]
    reader = Reader()
    again = reader.value(tree, hint)
    assert reader.problems == []
    assert again == value
    assert digest(canonical(again, hint)) == digest(canonical(value, hint))


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_no_component_takes_what_no_recipe_can_say(kind: str, name: str) -> None:
    unsayable = [p.name for p in parameters(components(kind)[name]).values() if not p.settable]
    assert unsayable == []
