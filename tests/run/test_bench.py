"""Where a run begins: weights from files, one process or several."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.run.command import run_recipe
from sparsewood.run.recipe import parse_recipe
from sparsewood.run.runner import Ticker, units
from sparsewood.run.weights import load_weights
from sparsewood.state import TrainingState, capture
from sparsewood.types import Masks


def network(seed: int) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(seed))
    return model


def saved(model: nn.Module, path: Path, form: str) -> Path:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if form == "run":
        capture(model, step=3).save(path)
    elif form == "safetensors":
        save_file(state, path)
    else:
        torch.save(
            {
                "bare": state,
                "state_dict": {"state_dict": state},
                "model_state_dict": {"model_state_dict": state, "optimizer_state_dict": {}},
            }[form],
            path,
        )
    return path


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("run", "final.safetensors"),
        ("safetensors", "w.safetensors"),
        ("bare", "w.pt"),
        ("state_dict", "model_best.pth.tar"),
        ("model_state_dict", "pruned_retrained_model_3"),
    ],
)
def test_weights_are_read_from_what_people_have(tmp_path: Path, form: str, name: str) -> None:
    """[000-10] [004-13] A run's own files, safetensors, and the dictionaries that older scripts saved."""
    source, target = network(1), network(2)
    load_weights(target, saved(source, tmp_path / name, form))
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_weights_that_do_not_fit_or_would_run_code_are_refused(tmp_path: Path) -> None:
    path = saved(network(1), tmp_path / "w.pt", "bare")
    with pytest.raises(SparsewoodError, match=r"w\.pt' does not fit Linear"):
        load_weights(nn.Linear(3, 4), path)
    with (tmp_path / "bad.pt").open("wb") as stream:
        pickle.dump(print, stream)
    with pytest.raises(SparsewoodError, match=r"bad\.pt' holds more than tensors, or is damaged"):
        load_weights(network(1), tmp_path / "bad.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SparsewoodError, match=r"list\.pt"):
        load_weights(network(1), tmp_path / "list.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(SparsewoodError, match=r"bad\.safetensors"):
        load_weights(network(1), tmp_path / "bad.safetensors")


RECIPE = """
name: begin
data: digits
model: {name: small_conv, widths: [4, 8], hidden: 32}
training: {epochs: 2, batch_size: 64, optimizer: {name: SGD, lr: 0.05}}
pruning: {schedule: {name: Geometric, rate: 0.5}, rounds: 2, recovery: Rewind}
variants:
  ticket: {}
  snip: {pruning: {criterion: WeightTimesGradient, recovery: FineTune, score_batches: 3}}
  gradual: {pruning: {schedule: {name: Cubic, final: 0.9}, rounds: 3, unit: step, every: 5, recovery: FineTune}}
seeds: 2
device: cpu
"""


def written(where: Path) -> Path:
    where.mkdir(exist_ok=True)
    path = where / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_pretrained_network_is_not_trained_again(tmp_path: Path) -> None:
    """[000-10] Level 0 of the original: load, do not pretrain."""
    overrides = [f"output={tmp_path}", "seeds=1"]
    first = run_recipe(written(tmp_path), overrides, quiet=True)
    weights = first / "seed-1/dense/final.safetensors"
    loaded = [*overrides, "name=loaded", f"weights={weights}", "train_dense=false"]
    root = run_recipe(written(tmp_path), loaded, quiet=True)
    one, other = (TrainingState.load(d / "seed-1/dense/final.safetensors").part("model") for d in (first, root))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (root / "seed-1/dense/logs.csv").exists()
    assert Masks.load(root / "seed-1/ticket/round-02/masks.safetensors").sparsity == pytest.approx(0.75, abs=1e-3)


def test_004_22_the_first_weights_can_be_drawn(tmp_path: Path) -> None:
    """The dense network begins with them, others for each seed; and weights are either drawn or read."""
    drawn = [f"output={tmp_path}", "initial={name: Orthogonal, gain: 2.0}", "train_dense=false"]
    matrices = []
    for seed in (1, 2):
        root = run_recipe(written(tmp_path), [*drawn, f"seeds=[{seed}]"], dry_run=True, quiet=True)
        state = TrainingState.load(root / f"seed-{seed}/dense/final.safetensors").part("model")
        weights = [tensor for name, tensor in state.items() if name.endswith("weight")]
        assert len(weights) == 4
        for weight in weights:
            values = torch.linalg.svdvals(weight.flatten(1))
            assert torch.allclose(values, torch.full_like(values, 2.0), atol=1e-5)
        matrices.append(weights[0])
    assert not torch.equal(*matrices)
    for setting in ("weights=file.pt", "initial=Original"):
        with pytest.raises(SparsewoodError, match="'initial' draws the first weights"):
            parse_recipe(RECIPE, overrides=["initial=Orthogonal", setting])


def test_the_test_part_comes_after_everything_else() -> None:
    """[7.4]"""
    found = units(parse_recipe(RECIPE))
    names = [unit.name for unit in found]
    assert names[:2] == ["dense", "dense"]
    assert names[-2:] == ["evaluation", "evaluation"]
    assert set(found[-1].after) == {unit.key for unit in found[:-2]}


def test_reports_are_gathered() -> None:
    sent: list[tuple[str, int]] = []
    ticker = Ticker(sent.append)
    for _ in range(1000):
        ticker("training", 1)
    assert 1 <= len(sent) < 100
    assert sum(steps for _, steps in sent) <= 1000


def command(recipe: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "sparsewood",
        "run",
        str(recipe),
        "--quiet",
        "--set",
        f"output={recipe.parent}",
        *more,
    ]


@pytest.mark.slow
def test_jobs_find_components_beside_the_recipe(tmp_path: Path) -> None:
    recipe = written(tmp_path / "beside")
    (recipe.parent / "mynet.py").write_text(
        "from sparsewood.models import small_conv\n"
        "def build(classes: int = 10):\n    return small_conv((4,), hidden=16)\n"
    )
    ran = subprocess.run(
        command(recipe, "--jobs", "2", "--set", "model=mynet:build", "--set", "seeds=1", "--dry-run"),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--jobs", "2"), ("--set", "devices=2")], ids=["jobs", "devices"])
def test_several_processes_give_the_same_masks_and_accuracies(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Jobs: every bit. Devices, which share each batch: sums in another order, so weights only nearly."""
    alone = run_recipe(written(tmp_path / "alone"), [f"output={tmp_path / 'alone'}"], quiet=True)
    ran = subprocess.run(
        command(written(tmp_path / "more"), *more), capture_output=True, text=True, check=False, timeout=240
    )
    assert ran.returncode == 0, ran.stderr
    (other,) = (tmp_path / "more").glob("begin-*")
    masks = sorted(path.relative_to(alone) for path in alone.glob("seed-*/*/*/masks.safetensors"))
    assert len(masks) == 10
    for path in masks:
        assert Masks.load(alone / path) == Masks.load(other / path)
    for path in alone.glob("seed-*/**/final.safetensors"):
        one, two = (TrainingState.load(d / path.relative_to(alone)).part("model") for d in (alone, other))
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
            assert "devices" in str(more) or torch.equal(one[name], two[name])
    if "--jobs" in more:
        assert (alone / "results.csv").read_bytes() == (other / "results.csv").read_bytes()
