"""State dicts are those of plain networks, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sparsewood as sw

Built = tuple[nn.Module, Any]
Unchanged = Callable[[nn.Module], AbstractContextManager[None]]


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_state_dicts_are_those_of_plain_networks(
    built: Built, unchanged: Unchanged, ending: str, tmp_path: Path
) -> None:
    """Masks and parametrizations are carried out, all names of tied weights are there."""
    model, inputs = built
    with unchanged(model):
        report = sw.export(model, tmp_path / f"net.{ending}", inputs)
    path = tmp_path / f"net.{ending}"
    found = load_file(path) if ending == "safetensors" else torch.load(path, weights_only=True)
    assert report.tensors == len(found)
    assert all(one.absolute == 0 for one in report.differences)
    state = model.state_dict()
    names = {name.removesuffix("_orig").replace("parametrizations.weight.original0", "weight") for name in state}
    assert found.keys() == {name for name in names if not name.endswith(("_mask", "_u", "_v", "original1"))}
    for name in found.keys() & state.keys():
        assert torch.equal(found[name], state[name])
        assert found[name].dtype == state[name].dtype


def test_a_masked_layer_is_written_as_its_product(network: Callable[[str], Built], tmp_path: Path) -> None:
    model, _ = network("masked")
    report = sw.export(model, tmp_path / "net.pt")  # without inputs: compared bit by bit alone
    assert "bit by bit" in str(report)
    found = torch.load(tmp_path / "net.pt", weights_only=True)
    assert torch.equal(found["weight"], model.weight_orig * model.weight_mask)  # pyright: ignore
    assert int((found["weight"] == 0).sum()) == 12
    nn.Linear(6, 4).load_state_dict(found)


def test_removing_a_parametrization_from_a_copy_leaves_the_network_its_own(
    network: Callable[[str], Built], tmp_path: Path
) -> None:
    """PyTorch removes the weight from the class, which copies share."""
    model, x = network("weight norm")
    expected = model(x)
    sw.export(model, tmp_path / "net.pt", x)
    assert torch.equal(model(x), expected)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
