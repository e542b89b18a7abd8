"""Data sets of others, by name and wrapped. [000-11], regressions 4, 5, 24."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from sparsewood.data import Loader, Part, Split, Wrapped, digits, load_data, split_of
from sparsewood.data.part import View
from sparsewood.errors import SparsewoodError
from sparsewood.testing.checks.data import check_data

NAME = "made_for_tests"


class Listed(Dataset[Any]):
    """Examples one by one; labels cannot be had otherwise."""

    def __init__(self, examples: list[tuple[Any, Any]]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


class Trembling(Dataset[Any]):
    """A data set whose transform draws from the global random state."""

    targets = torch.arange(20) % 2

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return torch.full((1, 2, 2), float(index)) + torch.rand(1, 2, 2), int(self.targets[index])


def tensors(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(count, 3, 4, 4, generator=generator), torch.arange(count) % 5)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType(NAME)
    monkeypatch.setitem(__import__("sys").modules, NAME, made)
    return made


def provide(module: ModuleType, function: Callable[..., Any]) -> str:
    setattr(module, "function", function)  # noqa: B010 - a module made here has no such attribute to a type checker
    return f"{NAME}:function"


# ---------------------------------------------------------------- by name


def test_a_split_comes_back_as_it_is(module: ModuleType) -> None:
    split = digits()
    assert load_data(provide(module, lambda: split)) is split


def test_root_and_parameters_are_passed_on(module: ModuleType) -> None:
    given: dict[str, Any] = {}

    def function(root: str = "default", *, size: int = 3) -> Split:
        given.update(root=root, size=size)
        return digits()

    load_data(provide(module, function), root="here", size=4)
    assert given == {"root": "here", "size": 4}
    load_data(f"{NAME}:function")
    assert given == {"root": "default", "size": 3}


def by_name(parts: list[Any]) -> dict[str, Any]:
    return {"test": parts[2], "train": parts[0], "validation": parts[1]}


@pytest.mark.parametrize("wrap", [tuple, list, by_name])
def test_three_data_sets_of_torch_are_wrapped(module: ModuleType, wrap: Any) -> None:
    parts = [tensors(40, 1), tensors(10, 2), tensors(15, 3)]
    split = load_data(provide(module, lambda: wrap(parts)))
    assert split.sizes == {"train": 40, "validation": 10, "test": 15}
    assert (split.classes, split.input_shape, split.name) == (5, (3, 4, 4), f"{NAME}:function")
    check_data(split)
    assert torch.equal(split.validation[range(10)][0], parts[1].tensors[0])  # floats are what the model gets


@pytest.mark.parametrize(
    ("name", "message"),
    [("mnist", "named as 'package.module:function'. Got 'mnist'"), (":f", "Got ':f'"), ("a:", "Got 'a:'"),
     ("no_such_package.x:f", "Cannot import 'no_such_package.x'"), (f"{NAME}:other", "has no function 'other'"),
     (f"{NAME}:number", "has no function 'number'")],
)  # fmt: skip
def test_names_that_lead_nowhere(module: ModuleType, name: str, message: str) -> None:
    setattr(module, "number", 3)  # noqa: B010
    with pytest.raises(SparsewoodError, match=message):
        load_data(name)


def test_parameters_and_results_that_do_not_fit(module: ModuleType) -> None:
    name = provide(module, lambda count: [count])
    with pytest.raises(SparsewoodError, match=r"cannot be called with \(root='x', size=3\): .*It takes \(count\)"):
        load_data(name, root="x", size=3)
    with pytest.raises(SparsewoodError, match=r"must return a Split, .*Got a list of 1"):
        load_data(name, count=1)
    for result, shown in ((None, "NoneType"), ({"train": 1}, r"a mapping with keys \['train'\]"), ("abc", "str")):
        with pytest.raises(SparsewoodError, match=f"must return a Split, .*Got {shown}"):
            load_data(provide(module, lambda result=result: result))


def test_an_error_of_the_function_itself_is_not_hidden(module: ModuleType) -> None:
    def function() -> Split:
        raise TypeError("deep inside")

    with pytest.raises(TypeError, match="deep inside"):
        load_data(provide(module, function))


# ---------------------------------------------------------------- disjoint parts


def test_subsets_of_one_data_set_keep_their_indices() -> None:
    whole = tensors(30, 1)
    inner = Subset(whole, list(range(10, 30)))
    split = split_of("x", Subset(whole, list(range(10))), Subset(inner, [0, 2]), Subset(inner, [19]))
    assert {part: index.tolist() for part, index in split.indices.items()} == {
        "train": list(range(10)), "validation": [10, 12], "test": [29],
    }  # fmt: skip
    assert split.validation.labels.tolist() == [0, 2]


def test_parts_that_overlap_are_refused() -> None:
    """[000-11], regression 4: the defect built the test set from training data."""
    whole = tensors(30, 1)
    with pytest.raises(SparsewoodError, match="2 examples are in two parts"):
        split_of("x", Subset(whole, range(10)), Subset(whole, range(8, 12)), tensors(5, 2))  # type: ignore[arg-type]
    with pytest.raises(SparsewoodError, match="'train' and 'test' are the same data"):
        split_of("x", whole, tensors(30, 2), whole)
    with pytest.raises(SparsewoodError, match="'validation' and 'test' are the same data"):
        split_of("x", tensors(30, 2), whole, tensors(30, 1))  # opened twice: another object, the same files


# ---------------------------------------------------------------- wrapped examples


def byte_images(count: int, seed: int, kind: str) -> Listed:
    arrays = np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 3), np.uint8)
    make: dict[str, Callable[[Any], Any]] = {
        "PIL": Image.fromarray,
        "array": lambda array: array.transpose(2, 0, 1),
        "tensor": lambda array: torch.from_numpy(array).permute(2, 0, 1),
    }
    return Listed([(make[kind](array), number % 3) for number, array in enumerate(arrays)])


@pytest.mark.parametrize("kind", ["PIL", "array", "tensor"])
def test_bytes_are_pixels_normalised_by_the_training_part(kind: str) -> None:
    split = split_of("x", *(byte_images(count, count, kind) for count in (30, 12, 9)))
    assert split.input_shape == (3, 4, 6)
    inputs = split.train[range(30)][0]
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-5
    assert (inputs.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    expected = np.random.default_rng(30).integers(0, 256, (30, 4, 6, 3), np.uint8).transpose(0, 3, 1, 2)
    assert np.array_equal((split.train.pixels(torch.arange(30)) * 255).round().numpy(), expected)
    check_data(split)


def test_grey_images_have_one_channel() -> None:
    grey = [Listed([(Image.new("L", (3, 2), 9 * n + i), 0) for i in range(3)]) for n in range(3)]
    assert split_of("x", *grey).input_shape == (1, 2, 3)


def test_labels_are_found_where_data_sets_keep_them() -> None:
    listed = Listed([(torch.zeros(1), 4), (torch.zeros(1), torch.tensor(2))])
    named = Listed([(torch.zeros(1), None)] * 2)
    for attribute in ("targets", "labels"):
        setattr(named, attribute, [1, 0])
        assert Wrapped(named, "x").labels().tolist() == [1, 0]
        delattr(named, attribute)
    named.targets = [3, 1]  # type: ignore[attr-defined]
    assert Wrapped(listed, "x").labels().tolist() == [4, 2]
    assert Wrapped(tensors(7, 0), "x").labels().tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert Wrapped(Subset(named, [1]), "x").labels().tolist() == [1]
    assert Wrapped(Subset(listed, [1]), "x").labels().tolist() == [2]


def test_random_transforms_in_training_follow_from_seed_epoch_and_example() -> None:
    """Regression 24: unseeded randomness."""
    quiet = TensorDataset(torch.zeros(4, 1, 2, 2), torch.arange(4) % 2)
    other = TensorDataset(torch.ones(4, 1, 2, 2), torch.arange(4) % 2)
    split = split_of("x", Trembling(), quiet, other)

    def loaded(seed: int, epoch: int, size: int) -> Tensor:
        loader = Loader(split.train, size, seed=seed)
        return torch.cat([inputs for inputs, _ in loader.epoch(epoch)])[loader.order(epoch).argsort()]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = loaded(0, 1, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, loaded(0, 1, 7))
    assert not torch.equal(first, loaded(0, 2, 4))
    assert not torch.equal(first, loaded(1, 1, 4))
    assert (first.floor().flatten(1).amax(1) == torch.arange(20)).all()
    source = split.train.source
    assert torch.equal(source.read(torch.tensor([3]), View(0, 1)), first[[3]])


def test_a_seed_does_not_hide_what_is_random_in_evaluation() -> None:
    part = Part(Wrapped(Trembling(), "x"), Trembling.targets, None)
    with torch.random.fork_rng():
        first, second = (torch.cat([inputs for inputs, _ in Loader(part, 20, seed=0)]) for _ in range(2))
    assert not torch.equal(first, second)


def test_random_transforms_in_evaluation_are_found() -> None:
    """[001-06] The defect: RandomCrop on the test set."""
    with torch.random.fork_rng():
        split = split_of("x", tensors(20, 1), tensors(20, 2), Listed([(torch.rand(3, 4, 4), 0)] * 20))
        check_data(split)
        bad = split_of("x", TensorDataset(torch.zeros(20, 1, 2, 2), torch.arange(20) % 2), Trembling(), Listed(
            [(torch.zeros(1, 2, 2), 0)] * 20))  # fmt: skip
        with pytest.raises(AssertionError, match="validation"):
            check_data(bad)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [([], "Got a list of 0 of length 0"), (3, "x: train must be a data set"), (iter([1]), "must be a data set"),
     (Listed([(torch.zeros(1), 0), 7]), r"example 1 must be \(input, label\). Got int"),  # type: ignore[list-item]
     (Listed([("text", 0)]), "must have a tensor, an array or an image as input. Got str"),
     (Listed([(torch.zeros(1), 0.5)]), "whole number as the label"), (Listed([(torch.zeros(1), "a")]), "whole number"),
     (Listed([(torch.zeros(1), -1)]), "one label >= 0 for each of 1 examples")],
)  # fmt: skip
def test_what_cannot_be_wrapped_is_named(dataset: Any, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        split_of("x", dataset, tensors(4, 1), tensors(4, 2))


def test_inputs_of_different_shapes_are_refused() -> None:
    source = Wrapped(Listed([(torch.zeros(1, 2), 0), (torch.zeros(1, 3), 0)]), "x")
    with pytest.raises(SparsewoodError, match=r"inputs of shapes \[\(1, 2\), \(1, 3\)\]"):
        source.read(torch.tensor([0, 1]))
