import pickle

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.measurement import Latency, Measurement, Work, measure
from sparsewood.measurement.summary import _scaled


def toy() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    with torch.no_grad():
        model[0].weight[:2] = 0
    return model


def test_mental_arithmetic():
    measured = measure(toy(), torch.ones(5, 6), repeats=0)
    assert measured == Measurement(
        params=24 + 4 + 8,
        nonzero=36 - 12,
        prunable=32,
        prunable_nonzero=20,
        bytes=36 * 4,
        macs=5 * 32,
        macs_nonzero=5 * 20,
        per_parameter={"0.weight": Work(120, 60), "2.weight": Work(40, 40)},
        uncounted=(),
        latency=None,
    )


def test_latency_comes_with_it():
    measured = measure(toy(), torch.ones(5, 6), repeats=3)
    assert isinstance(measured.latency, Latency)
    assert measured.latency.repeats == 3


def test_printed():
    measured = measure(toy(), torch.ones(5, 6), repeats=0)
    assert str(measured).splitlines() == [
        "parameters          36  non-zero         24 (66.7 %)",
        "prunable            32  non-zero         20 (62.5 %)",
        "size             144 B",
        "MACs               160  non-zero        100 (62.5 %)",
    ]


def test_printed_with_latency_and_what_was_not_counted():
    shown = str(Measurement(0, 0, 0, 0, 0, 0, 0, {}, ("aten._trilinear",), Latency(0.0125, 0.012, 0.0131, 20)))
    assert "not counted: aten._trilinear" in shown
    assert shown.splitlines()[-1] == "latency        12.5 ms  quartiles 12.0 ms to 13.1 ms, 20 passes"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.00 k"), (25_557_032, "25.6 M"), (4_089_000_000, "4.09 G")]
)
def test_units(number, text):
    assert _scaled(number, 1000, ("", "k", "M", "G")) == text


def test_negative_repeats():
    with pytest.raises(SparsewoodError, match=r"repeats >= 0 .*Got -1"):
        measure(toy(), torch.ones(5, 6), repeats=-1)


def test_survives_pickling():
    measured = measure(toy(), torch.ones(5, 6), repeats=1)
    assert pickle.loads(pickle.dumps(measured)) == measured


def test_model_is_left_as_it_was():
    model = toy()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, torch.ones(5, 6), repeats=2)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
