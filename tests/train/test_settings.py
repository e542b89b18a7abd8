"""What a training goes by, and devices. Requirements 000-11, 7.19."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from sparsewood.errors import SparsewoodError
from sparsewood.train import SGD, Adam, Cosine, Training, make_fabric


def test_settings_are_a_value() -> None:
    assert Training(optimizer=Adam(lr=0.1)) == Training(optimizer=Adam(lr=0.1))
    assert hash(Training()) == hash(Training())
    assert (Training().optimizer, Training().rate) == (SGD(), Cosine())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": -1}, r"epochs must be a whole number >= 0\. Got -1"),
        ({"epochs": 1.5}, r"Got 1\.5"),
        ({"epochs": True}, "Got True"),
        ({"batch_size": 0}, "batch_size.*>= 1"),
        ({"optimizer": "sgd"}, r"optimizer must be SGD.*Got 'sgd'"),
        ({"rate": 0.1}, "rate must be a learning-rate schedule"),
        ({"label_smoothing": 1.0}, r"label_smoothing.*\[0, 1\)"),
        ({"mixup": float("inf")}, "mixup"),
        ({"mixup": -0.1}, "mixup"),
        ({"clip_norm": 0}, "clip_norm must be None or"),
        ({"precision": "16-mixed"}, "one of 32-true, bf16-mixed, 64-true"),
        ({"select": "first"}, "one of best, last"),
        ({"patience": 0}, "patience.*>= 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SparsewoodError, match=said):
        Training(**wrong)


def test_one_process_on_the_cpu_needs_no_launch() -> None:
    fabric = make_fabric("cpu")
    assert fabric.device == torch.device("cpu")
    assert fabric.world_size == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "gpu"}, r"device must be 'auto'.*Got 'gpu'"),
        ({"device": "cuda:x"}, "Got 'cuda:x'"),
        ({"device": "cpu:1"}, "Got 'cpu:1'"),
        ({"device": 0}, "Got 0"),
        ({"devices": 0}, "devices must be a whole number >= 1"),
        ({"devices": True}, "Got True"),
        ({"precision": "8"}, "precision must be one of"),
        ({"device": "cpu", "strategy": "dp?"}, r"strategy 'dp\?'.*Use strategy 'ddp'"),
    ],
)
def test_what_is_no_device_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SparsewoodError, match=said):
        make_fabric(**asked)


@pytest.mark.parametrize(("device", "devices", "there"), [("cuda", 1, 0), ("cuda:1", 1, 1), ("cuda", 3, 2)])
def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch, device: str, devices: int, there: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(SparsewoodError, match=rf"Asked for {devices} x '{device}'.*sees {there} cuda.*'cpu'"):
        make_fabric(device, devices)


def test_without_lightning_fabric_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[train\]'"):
        make_fabric("cpu")
