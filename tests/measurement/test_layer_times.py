"""Times of single layers: tables between measured widths, and the file that keeps them."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.measurement.layer_times import (
    Convolution,
    Layer,
    Product,
    TimeFile,
    TimeTable,
    best_of,
    cache_directory,
    fitting_step,
    levels,
    machine,
    time_eagerly,
)
from sparsewood.measurement.onnx_times import in_onnxruntime, time_in_onnxruntime

LINEAR = Product(linear=True, bias=True, dtype=torch.float32, device="cpu")
ABOUT = {"engine": "eager", "processor": "a"}


def convolution(**other: Any) -> Convolution:
    plain: dict[str, Any] = {
        "space": (8, 8), "kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1,
        "channels": 16, "inner": 8, "transposed": False, "bias": True, "channels_last": False,
        "dtype": torch.float32, "device": "cpu",
    }  # fmt: skip
    return Convolution(**{**plain, **other})


class Recorded:
    """A timer that says how long: the number of products, and notes what it was asked."""

    def __init__(self, seconds: Any = None) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.seconds = seconds or (lambda sizes: float(prod(sizes)))

    def __call__(self, layer: Layer, sizes: tuple[int, ...]) -> float:  # noqa: ARG002
        self.asked.append(sizes)
        return self.seconds(sizes)


# ---------------------------------------------------------------- clocks


def test_the_best_of_repeats_stops_after_so_many_seconds() -> None:
    ticks = iter([0.0, *(tick for i in range(9) for tick in (i, i + 0.5))])
    calls: list[int] = []
    assert best_of(lambda: calls.append(1), minimum=2, seconds=3.0, clock=lambda: next(ticks)) == 0.5
    assert len(calls) == 1 + 4  # the first is not timed; the fourth ends 3.5 s after the start


def test_at_most_so_many_repeats() -> None:
    ticks = iter([0.0, *(float(number) for number in range(20))])
    calls: list[int] = []
    best_of(lambda: calls.append(1), repeats=5, seconds=1e9, clock=lambda: next(ticks))
    assert len(calls) == 1 + 5


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize(("size", "step"), [(1, 16), (3, 16), (17, 4), (64, 8), (100, 16), (1000, 16), (4096, 16)])
def test_levels_ascend_to_the_size_in_multiples_of_the_step(size: int, step: int) -> None:
    step = fitting_step(size, step)
    found = levels(size, step)
    assert found[-1] == size
    assert (np.diff(found) > 0).all()
    assert (found[:-1] % step == 0).all()
    assert len(found) <= 16 + 9
    assert found[0] == min(step, size)


# ---------------------------------------------------------------- tables


def test_a_table_is_exact_where_time_is_bilinear() -> None:
    timer = Recorded(lambda sizes: 5.0 + 2 * sizes[1] + 3 * sizes[2] + sizes[1] * sizes[2])
    table = TimeTable(LINEAR, (1, 512, 1024), {1: 16, 2: 16}, timer)
    for reads, makes in ((512, 1024), (16, 16), (48, 80), (208, 1008), (496, 16)):
        assert table.seconds((1, reads, makes)) == pytest.approx(5 + 2 * reads + 3 * makes + reads * makes)


def test_only_what_is_asked_for_is_measured_and_once() -> None:
    timer = Recorded()
    table = TimeTable(LINEAR, (1, 64, 64), {1: 8, 2: 8}, timer)
    assert timer.asked == []
    table.seconds((1, 32, 64))
    table.seconds((1, 32, 64))
    table.seconds((1, 25, 64))  # as long as 32
    assert timer.asked == [(1, 32, 64)]
    assert table.dense == 64 * 64


def test_odd_widths_take_as_long_as_the_next_multiple() -> None:
    table = TimeTable(LINEAR, (1, 64, 60), {1: 8, 2: 4}, Recorded())
    assert table.seconds((1, 33, 60)) == table.seconds((1, 40, 60)) == 40 * 60
    assert table.seconds((1, 1, 59)) == 8 * 60  # below the first level, and up to the size itself


def test_other_factors_count_in_proportion_and_nothing_takes_no_time() -> None:
    timer = Recorded()
    table = TimeTable(LINEAR, (10, 64, 64), {1: 8}, timer)
    assert table.seconds((5, 32, 16)) == pytest.approx(5 * 32 * 16)
    assert timer.asked == [(10, 32, 64)]
    assert table.seconds((10, 0, 64)) == 0


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("layer", "sizes", "widths"),
    [
        (convolution(), (2, 64, 16, 8, 9), (1, 8, 16)),
        (convolution(), (2, 64, 5, 3, 9), (1, 3, 5)),
        (convolution(groups=16, inner=1), (2, 64, 10, 1, 9), (10, 10, 10)),  # depthwise
        (convolution(groups=8, inner=1), (2, 64, 10, 1, 9), (5, 5, 10)),  # with two outputs each
        (convolution(groups=4, inner=4), (2, 64, 8, 4, 9), (2, 8, 8)),  # whole groups go
        (convolution(groups=4, inner=4), (2, 64, 8, 2, 9), (4, 8, 8)),  # groups get narrower
        (convolution(transposed=True), (2, 64, 10, 6, 9), (1, 10, 6)),
        (convolution(transposed=True, groups=4, inner=2), (2, 64, 8, 2, 9), (2, 8, 4)),
    ],
)
def test_a_convolution_at_other_widths(layer: Convolution, sizes: tuple[int, ...], widths: tuple[int, ...]) -> None:
    assert layer.widths(sizes) == widths
    run, tensors = layer.build(sizes)
    assert tensors[0].shape == (2, widths[1], 8, 8)
    assert run(*tensors).shape == (2, widths[2], 8, 8)


def test_a_convolution_is_the_modules() -> None:
    module = nn.Conv2d(8, 16, 5, stride=2, padding=1, dilation=2, groups=2)
    layer = convolution(
        space=(20, 30), kernel=(5, 5), stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2, inner=4
    )
    run, (x, weight, bias) = layer.build((3, 1, 16, 4, 25))
    expected = torch.nn.functional.conv2d(x, weight, bias, (2, 2), (1, 1), (2, 2), 2)
    torch.testing.assert_close(run(x, weight, bias), expected)
    assert weight.shape == module.weight.shape
    assert expected.shape == module(x).shape


def test_channels_last_is_kept() -> None:
    _, (x, weight, _) = convolution(channels_last=True).build((2, 64, 16, 8, 9))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_products() -> None:
    run, tensors = LINEAR.build((3, 5, 7))
    assert run(*tensors).shape == (3, 7)
    assert [tuple(one.shape) for one in tensors] == [(3, 5), (7, 5), (7,)]
    run, tensors = Product(False, False, torch.float64, "cpu").build((2, 4, 3, 5, 7))
    assert run(*tensors).shape == (2, 4, 3, 7)
    assert run(*tensors).dtype == torch.float64


def test_keys_tell_apart_what_takes_different_times() -> None:
    sizes = (1, 64, 16, 8, 9)
    layers = [
        convolution(), convolution(space=(4, 4)), convolution(stride=(2, 2)), convolution(padding=(0, 0)),
        convolution(dilation=(2, 2)), convolution(bias=False), convolution(channels_last=True),
        convolution(dtype=torch.float64), convolution(transposed=True), convolution(device="cuda"),
        convolution(groups=2),
    ]  # fmt: skip
    keys = {layer.key(sizes) for layer in layers}
    assert len(keys) == len(layers)
    assert convolution().key((2, 64, 16, 8, 9)) not in keys
    assert convolution(channels=99).key(sizes) == convolution().key(sizes)  # the same layer cut from a larger one
    assert LINEAR.key((1, 2, 3)) == "linear 1x2 3 bias=True float32 cpu"


@pytest.mark.parametrize("layer", [convolution(), convolution(groups=16, inner=1), convolution(transposed=True)])
def test_real_layers_take_time(layer: Convolution) -> None:
    assert 0 < time_eagerly(layer, (1, 64, 16, layer.inner, 9)) < 1
    assert 0 < time_eagerly(LINEAR, (2, 8, 8)) < 1


# ---------------------------------------------------------------- onnxruntime


@pytest.mark.parametrize("layer", [convolution(), convolution(groups=16, inner=1), convolution(transposed=True)])
def test_layers_in_onnxruntime(layer: Convolution) -> None:
    pytest.importorskip("onnxruntime")
    assert 0 < time_in_onnxruntime(layer, (1, 64, 16, layer.inner, 9)) < 1


@pytest.mark.parametrize("sizes", [(2, 3, 4), (2, 5, 3, 4)])
def test_products_in_onnxruntime(sizes: tuple[int, ...]) -> None:
    pytest.importorskip("onnxruntime")
    assert 0 < time_in_onnxruntime(Product(False, False, torch.float32, "cpu"), sizes) < 1
    assert 0 < time_in_onnxruntime(LINEAR, (2, 3, 4)) < 1


def test_onnxruntime_refuses_other_types() -> None:
    pytest.importorskip("onnxruntime")
    layer = Product(False, False, torch.bfloat16, "cpu")
    with pytest.raises(SparsewoodError, match="float32, float16 and float64"):
        time_in_onnxruntime(layer, (2, 3, 4))


def test_a_network_in_onnxruntime() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).train()
    assert 0 < best_of(in_onnxruntime(model, torch.zeros(2, 4)), repeats=2) < 1
    assert model.training


# ---------------------------------------------------------------- on disk


def test_times_are_found_again(tmp_path: Path) -> None:
    timer = Recorded()
    times = TimeFile(timer, ABOUT, tmp_path)
    assert [times(LINEAR, (1, 2, 3)), times(LINEAR, (1, 2, 3)), times(LINEAR, (1, 2, 4))] == [6.0, 6.0, 8.0]
    times.save()
    again = TimeFile(timer, ABOUT, tmp_path)
    assert again(LINEAR, (1, 2, 3)) == 6.0
    assert again(LINEAR, (9, 9, 9)) == 729.0
    assert timer.asked == [(1, 2, 3), (1, 2, 4), (9, 9, 9)]
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_other_machines_have_other_files(tmp_path: Path) -> None:
    for about in (ABOUT, {**ABOUT, "processor": "b"}, {**ABOUT, "threads": "2"}):
        timer = Recorded()
        times = TimeFile(timer, about, tmp_path)
        times(LINEAR, (1, 2, 3))
        times.save()
        assert timer.asked == [(1, 2, 3)]
    assert len(list(tmp_path.iterdir())) == 3


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    times = TimeFile(Recorded(), ABOUT, None)
    assert times(LINEAR, (1, 2, 3)) == 6.0
    times.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "",
        lambda content: json.dumps(content)[:40],
        lambda _: "[1, 2]",
        lambda content: json.dumps({**content, "format": 2}),
        lambda content: json.dumps({**content, "machine": {}}),
        lambda content: json.dumps({**content, "seconds": {"a": "fast"}}),
        lambda content: json.dumps({**content, "seconds": {"a": -1.0}}),
        lambda content: json.dumps({**content, "seconds": {"a": float("nan")}}),
        lambda content: json.dumps({**content, "seconds": [1.0]}),
    ],
)
def test_spoilt_files_are_measured_again_and_replaced(tmp_path: Path, spoil: Any) -> None:
    first = TimeFile(Recorded(), ABOUT, tmp_path)
    first(LINEAR, (1, 2, 3))
    first.save()
    assert first.path is not None
    first.path.write_text(spoil(json.loads(first.path.read_text())))
    timer = Recorded()
    second = TimeFile(timer, ABOUT, tmp_path)
    assert second(LINEAR, (1, 2, 3)) == 6.0
    assert timer.asked == [(1, 2, 3)]
    second.save()
    assert json.loads(first.path.read_text())["seconds"] == {LINEAR.key((1, 2, 3)): 6.0}


def test_what_others_wrote_meanwhile_stays(tmp_path: Path) -> None:
    one, other = (TimeFile(Recorded(), ABOUT, tmp_path) for _ in range(2))
    one(LINEAR, (1, 2, 3))
    other(LINEAR, (1, 2, 4))
    one.save()
    other.save()
    timer = Recorded()
    both = TimeFile(timer, ABOUT, tmp_path)
    assert (both(LINEAR, (1, 2, 3)), both(LINEAR, (1, 2, 4)), timer.asked) == (6.0, 8.0, [])


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    times = TimeFile(Recorded(), ABOUT, tmp_path / "file")
    assert times(LINEAR, (1, 2, 3)) == 6.0
    times.save()
    assert "not kept" in caplog.text


def test_where_times_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARSEWOOD_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("SPARSEWOOD_CACHE")
    assert cache_directory() == Path.home() / ".cache" / "sparsewood"


def test_a_machine_is_told_by_what_times_depend_on() -> None:
    about = machine("eager", {"torch": "1"})
    assert about == {**about, "engine": "eager", "versions": "torch 1", "device": "cpu", "threads": "1"}
    assert about["processor"]
