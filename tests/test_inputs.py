from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import arguments, call, describe, map_tensors, to_model_device


class Add(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
        return a + factor * b


ONE, TWO = torch.tensor(1.0), torch.tensor(2.0)


@pytest.mark.parametrize(
    ("inputs", "result"),
    [((ONE, TWO), 3.0), ({"a": ONE, "b": TWO, "factor": 2.0}, 5.0), (UserDict(a=ONE, b=TWO), 3.0)],
)
def test_call_accepts_positional_and_keyword_inputs(inputs, result):
    assert float(call(Add(), inputs)) == result


def test_call_accepts_a_tensor_and_a_list_as_one_input():
    assert float(call(nn.Identity(), ONE)) == 1.0
    assert call(nn.Identity(), [ONE, TWO]) == [ONE, TWO]


def test_error_names_model_inputs_and_cause():
    with pytest.raises(SparsewoodError) as caught:
        call(nn.Linear(3, 2), torch.ones(4, 5))
    message = str(caught.value)
    for part in ("Linear (on cpu)", "float32[4, 5] on cpu", "mat1 and mat2", "Pass example_inputs as"):
        assert part in message
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_errors_of_the_library_and_of_memory_pass_through():
    class Raises(nn.Module):
        def forward(self, error: Exception) -> None:
            raise error

    for error in (SparsewoodError("as it is"), torch.OutOfMemoryError("full")):
        with pytest.raises(type(error)) as caught:
            call(Raises(), error)
        assert caught.value is error


def test_arguments_and_description():
    assert arguments([1]) == (([1],), {})
    assert describe({"x": torch.zeros(2, dtype=torch.int8), "y": object(), "z": 0.5}) == (
        "x=int8[2] on cpu, y=object, z=0.5"
    )


def test_map_tensors_keeps_containers():
    pair = namedtuple("pair", "a b")
    mapped = map_tensors(lambda tensor: tensor + 1, pair(ONE, (TWO, None)))
    assert mapped == pair(TWO, (torch.tensor(3.0), None))


def test_to_model_device():
    moved = to_model_device((ONE, "text"), nn.Linear(1, 1, device="meta"))
    assert moved[0].is_meta
    assert moved[1] == "text"
    assert to_model_device(ONE, nn.Identity()) is ONE
