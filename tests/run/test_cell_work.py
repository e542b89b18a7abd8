"""Cells carried out: what is measured is of the network that was trained, and nothing is done twice."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparsewood.criteria import Magnitude
from sparsewood.inputs import to_model_device
from sparsewood.masks import apply_masks, not_held
from sparsewood.measurement import evaluate
from sparsewood.measurement.counting import count
from sparsewood.models import small_conv
from sparsewood.packing import pack
from sparsewood.run import cell_work, experiment
from sparsewood.run.bench import Bench, Trained, load_split
from sparsewood.run.cells import Cell, Plan, cells_of
from sparsewood.run.grid import load_grid
from sparsewood.run.progress import no_progress
from sparsewood.run.store import COLUMNS, Store
from sparsewood.shrinking import shrink
from sparsewood.shrinking.unit_masks import prune_units
from sparsewood.state import TrainingState, restore
from sparsewood.types import Masks

small_sweep = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_sweep.py"))))

EXAMPLE = torch.zeros(1, 1, 8, 8)
Key = tuple[str, float]


class Swept:
    """A sweep that was carried out: its cells, and what each noted."""

    def __init__(self, directory: Path) -> None:
        self.place = directory / "small"
        (self.plan,) = cells_of(load_grid(directory / "grid.yaml", [f"output={directory}"]))
        self.cells = {(cell.method, cell.amount): cell for cell in self.plan.cells}
        self.rows = {key: json.loads((self.at(key) / "cell.json").read_text()) for key in self.cells}
        self.split = load_split(self.plan.recipe)

    def at(self, key: Key) -> Path:
        cell = self.cells[key]
        return self.plan.directory / f"seed-{cell.seed}" / cell.stage

    def state(self, key: Key) -> TrainingState:
        (path,) = [*self.at(key).glob("final.safetensors"), *self.at(key).glob("*/final.safetensors")]
        return TrainingState.load(path)

    def masks(self, key: Key) -> Masks | None:
        found = [*self.at(key).glob("masks.safetensors"), *self.at(key).glob("*/masks.safetensors")]
        return Masks.load(found[0]) if found else None

    def network(self, key: Key) -> nn.Module:
        """A network of the shapes that were saved, with the weights that were saved."""
        state = self.state(key)
        part = state.part("model")
        widths = [part[f"features.{i}.weight"].shape[0] for i in (0, 2)]
        model = small_conv(widths, hidden=part["hidden.weight"].shape[0])
        restore(state, model)
        return model

    def bench(self) -> Bench:
        return Bench(self.plan.recipe, self.split, self.plan.directory, 1, None, no_progress)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    directory = tmp_path_factory.mktemp("cells")
    code, place = small_sweep.sweep(directory)
    assert code == 0
    assert place == directory / "small"
    return Swept(directory)


def of_kind(swept: Swept, *kinds: str) -> Iterator[tuple[Key, dict[str, Any]]]:
    found = [(key, row) for key, row in swept.rows.items() if row["kind"] in kinds]
    assert found
    yield from found


# ---------------------------------------------------------------- what is noted


def test_every_cell_is_noted_in_full(swept: Swept) -> None:
    for key, row in swept.rows.items():
        assert (row["method"], row["amount"]) == key
        assert row["hash"] == swept.cells[key].hash
        assert (swept.plan.directory / row["stage"]) == swept.at(key)
        assert set(COLUMNS) - {"status", "error"} <= set(row)
        assert (row["problem"], row["dataset"], row["model"], row["seed"]) == ("digits", "digits", "small_conv", 1)
        assert 0 < row["seconds"] < 60
    stored = {row["hash"]: row for row in Store(swept.place).rows()}
    assert {row["hash"]: row["accuracy"] for row in swept.rows.values()} == {
        h: r["accuracy"] for h, r in stored.items()
    }


def test_accuracy_is_that_of_the_saved_weights_on_the_test_part(swept: Swept) -> None:
    """[000-11, 002] The test part is opened for finished networks, and what is told is of them."""
    test = swept.bench().plain(swept.split.test.open())
    for key, row in swept.rows.items():
        found = evaluate(swept.network(key), test, topk=(1, 5))
        assert (row["accuracy"], row["accuracy5"]) == (found.top[1], found.top[5]), key
        assert row["loss"] == pytest.approx(found.loss, rel=1e-6), key
    assert len({row["accuracy"] for row in swept.rows.values()}) > 10


def test_sizes_are_those_of_the_saved_weights(swept: Swept) -> None:
    """[8.2] Compression is size / size_nz and speed-up flops / flops_nz: what came of it, not what was asked for."""
    whole = swept.rows["dense", 1.0]
    for key, row in swept.rows.items():
        network = swept.network(key)
        assert row["size_nz"] == sum(int(p.count_nonzero()) for p in network.parameters()), key
        assert row["flops_nz"] == swept.bench().macs(network).macs_nonzero, key
        assert (row["size"], row["flops"]) == (2570, whole["flops"]), key
        assert row["compression"] == row["size"] / row["size_nz"], key
        assert row["speedup"] == row["flops"] / row["flops_nz"], key
        layers = {one["layer"]: one for one in row["layers"]}
        assert {name: one["kept"] for name, one in layers.items()} == {
            name: int(p.count_nonzero()) for name, p in network.named_parameters()
        }, key
        assert sum(one["kept"] for one in row["layers"]) == row["size_nz"]


def test_pruned_networks_keep_what_the_compression_says(swept: Swept) -> None:
    for (method, amount), row in of_kind(swept, "pruned"):
        masks = swept.masks((method, amount))
        assert masks is not None
        assert row["kept"] == pytest.approx(1 - masks.sparsity)
        if "filters" not in method:
            prunable = masks.total
            assert prunable - masks.removed == round(prunable / amount), method


def test_masks_hold_in_the_saved_weights(swept: Swept) -> None:
    """[7-1, 7-8] What was masked is exactly zero after training, and all the rest is not."""
    for key, _ in of_kind(swept, "pruned", "layers"):
        masks = swept.masks(key)
        assert masks is not None
        assert masks.removed > 0
        assert not_held(swept.network(key), masks) is None, key
    for method in ("magnitude", "snip"):
        key = (f"scratch_of_{method}", 8.0)
        masks = swept.masks(key)
        assert masks is not None
        assert not_held(swept.network(key), masks) is None


def test_all_of_a_seed_begin_with_the_same_weights(swept: Swept) -> None:
    """[8.3] Initial weights are identical for all methods."""
    first = TrainingState.load(swept.at(("dense", 1.0)) / "snapshot-0.safetensors").fingerprint()
    for (method, _), row in swept.rows.items():
        own = method.startswith(("small_dense", "scratch"))  # these have weights of their own
        assert row["first_weights"] == (None if own else first), method


def test_how_long_each_was_trained(swept: Swept) -> None:
    for (method, amount), row in swept.rows.items():
        whole = 2 if row["kind"] in ("narrow", "scratch") and "snip" not in method else 1
        assert row["epochs"] == whole, (method, amount)


def test_before_is_the_masked_network_before_it_was_trained_on(swept: Swept) -> None:
    test = swept.bench().plain(swept.split.test.open())
    for method, start in (("magnitude", "final"), ("snip", "snapshot-0")):
        key = (method, 2.0)
        model = small_conv((4, 8), hidden=16)
        restore(TrainingState.load(swept.at(("dense", 1.0)) / f"{start}.safetensors"), model)
        masks = swept.masks(key)
        assert masks is not None
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_parameter(name).mul_(mask)
        assert swept.rows[key]["before"] == evaluate(model, test, topk=(1,)).top[1], method
    for key, row in of_kind(swept, "dense", "tuned", "narrow", "scratch"):
        assert row["before"] is None, key


# ---------------------------------------------------------------- controls


def test_controls_by_layer_lose_as_many_in_every_layer(swept: Swept) -> None:
    """[8.3] Random and magnitude with the method's layer-wise proportions."""
    for key, row in of_kind(swept, "layers"):
        own, theirs = swept.masks(key), swept.masks((row["of"], key[1]))
        assert own is not None
        assert theirs is not None
        if row["of"] == "filters":
            assert row["size_nz"] == pytest.approx(swept.rows["filters", key[1]]["size_nz"], rel=0.02)
            small = [count(shrink(small_conv((4, 8), hidden=16), EXAMPLE, masks=m).model).params for m in (own, theirs)]
            assert small[0] == small[1]
            continue
        assert {n: int(m.sum()) for n, m in own.items()} == {n: int(m.sum()) for n, m in theirs.items()}
        assert any(not torch.equal(own[name], theirs[name]) for name in own), key


def test_magnitude_by_layer_keeps_the_largest_of_what_the_method_chose_on(swept: Swept) -> None:
    for method, start in (("snip", "snapshot-0"),):
        first = TrainingState.load(swept.at(("dense", 1.0)) / f"{start}.safetensors").part("model")
        masks = swept.masks((f"magnitude_layers_of_{method}", 2.0))
        assert masks is not None
        for name, mask in masks.items():
            if 0 < int(mask.sum()) < mask.numel():
                size = first[name].abs()
                assert size[mask].min() >= size[~mask].max(), name


def test_the_trained_on_dense_network_is_another_than_the_dense_one(swept: Swept) -> None:
    dense, tuned = swept.rows["dense", 1.0], swept.rows["dense_tuned", 1.0]
    assert dense["size_nz"] == tuned["size_nz"] == 2570
    assert swept.state(("dense", 1.0)).fingerprint() != swept.state(("dense_tuned", 1.0)).fingerprint()


def test_the_smaller_dense_network_has_as_many_parameters(swept: Swept) -> None:
    """[8.1] A smaller dense network at equal parameter count."""
    for amount in (2.0, 8.0):
        small, pruned = swept.rows["small_dense", amount], swept.rows["magnitude", amount]
        assert small["size_nz"] <= pruned["size_nz"]
        assert small["size_nz"] > 0.7 * pruned["size_nz"]
        assert small["kept"] is None


def test_networks_from_scratch_have_the_masks_and_new_weights(swept: Swept) -> None:
    for method in ("magnitude", "snip"):
        own, theirs = swept.masks((f"scratch_of_{method}", 8.0)), swept.masks((method, 8.0))
        assert own is not None
        assert theirs is not None
        assert {name: mask.tolist() for name, mask in own.items()} == {n: m.tolist() for n, m in theirs.items()}
        assert swept.state((f"scratch_of_{method}", 8.0)).fingerprint() != swept.state((method, 8.0)).fingerprint()


def test_whole_units_are_removed_before_they_are_trained_from_scratch(swept: Swept) -> None:
    for amount in (2.0, 8.0):
        masks = swept.masks(("filters", amount))
        assert masks is not None
        small = shrink(small_conv((4, 8), hidden=16), EXAMPLE, masks=masks).model
        scratch = swept.network(("scratch_of_filters", amount))
        assert [p.shape for p in scratch.parameters()] == [p.shape for p in small.parameters()]
        assert swept.rows["scratch_of_filters", amount]["size_nz"] == pytest.approx(count(small).params, rel=0.01)


# ---------------------------------------------------------------- files and latency


def test_bytes_are_those_of_what_is_stored(swept: Swept, tmp_path: Path) -> None:
    for key, more in ((("dense", 1.0), 0), (("magnitude", 8.0), 0), (("scratch_of_filters", 2.0), 400)):
        alone = pack(swept.network(key), tmp_path / "network.swp").bytes
        assert alone <= swept.rows[key]["bytes"] <= alone + more, key  # a network that was cut says what it lost


def test_a_cut_network_takes_no_more_bytes_than_a_masked_one(swept: Swept) -> None:
    """Beside the few hundred bytes that say what was cut: zeros of whole units cost a packed file next to nothing."""
    model = small_conv((32, 64), hidden=128)
    masks = prune_units(model, EXAMPLE, Magnitude(), 0.5)
    apply_masks(model, masks)
    trained = Trained(swept.bench().stage("dense"), {})
    cut, masked = (
        cell_work._physical(swept.bench(), cell_work._Network(model, trained, masks, coupled=coupled))
        for coupled in (True, False)
    )
    assert masked is model
    assert sum(p.numel() for p in cut.parameters()) < 0.5 * sum(p.numel() for p in masked.parameters())
    assert cell_work._bytes(cut) < cell_work._bytes(masked) + 400
    torch.testing.assert_close(cut.eval()(EXAMPLE), model.eval()(EXAMPLE))


def test_whole_units_are_removed_before_they_are_stored(swept: Swept, tmp_path: Path) -> None:
    for amount in (2.0, 8.0):
        row, network = swept.rows["filters", amount], swept.network(("filters", amount))
        masks = swept.masks(("filters", amount))
        small = shrink(network, EXAMPLE, masks=masks).model
        assert row["bytes"] == pack(small, tmp_path / "small.swp").bytes
        assert row["bytes"] != pack(network, tmp_path / "masked.swp").bytes
        assert sum(p.numel() for p in small.parameters()) < row["size"] / (amount / 2)


def test_more_compression_takes_fewer_bytes(swept: Swept) -> None:
    for method in ("magnitude", "snip", "filters", "random", "small_dense"):
        two, eight = (swept.rows[method, amount]["bytes"] for amount in (2.0, 8.0))
        assert eight < two < swept.rows["dense", 1.0]["bytes"], method


def test_scores_are_counted_where_single_weights_were_chosen_once(swept: Swept) -> None:
    for key, row in swept.rows.items():
        has = row["kind"] == "pruned" and "filters" not in row["method"]
        assert bool(row["bins"]) == has, key
    whole = next(one for one in swept.rows["magnitude", 2.0]["bins"] if one["layer"] == "")
    masks = swept.masks(("magnitude", 2.0))
    assert masks is not None
    assert sum(whole["removed"]) + sum(whole["kept"]) + whole["zeros"] == masks.total
    assert sum(whole["removed"]) == masks.removed
    assert whole["threshold"] is not None
    assert {one["layer"] for one in swept.rows["magnitude", 2.0]["bins"]} == {"", *masks}


def test_scores_of_gradients_are_those_that_were_chosen_by(swept: Swept) -> None:
    """All that went lies below all that stayed, in the scores that are counted anew."""
    for method in ("snip", "magnitude", "random", "magnitude_as_snip", "random_as_snip"):
        whole = next(one for one in swept.rows[method, 8.0]["bins"] if one["layer"] == "")
        assert whole["threshold"] is not None, method


# ---------------------------------------------------------------- once


def one_cell(swept: Swept, key: Key) -> tuple[Plan, Cell, Bench]:
    return swept.plan, swept.cells[key], swept.bench()


def test_done_cells_are_not_done_again(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be carried out")

    monkeypatch.setattr(cell_work._Work, "carry_out", refused)
    monkeypatch.setattr(cell_work, "evaluate", refused)
    for key, row in swept.rows.items():
        assert cell_work.carry_out_cell(*one_cell(swept, key), latency=False) == row


def test_what_was_noted_of_another_cell_is_measured_again(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained network is measured without another training."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(experiment, "train", refused)
    monkeypatch.setattr(cell_work, "train", refused)
    for key in (
        *(("dense", 1.0), ("dense_tuned", 1.0), ("snip", 8.0), ("filters", 2.0), ("random_layers_of_filters", 8.0)),
        *(
            ("small_dense", 8.0),
            ("scratch_of_snip", 8.0),
            ("scratch_of_filters", 8.0),
            ("magnitude_layers_of_snip", 2.0),
        ),
    ):
        path = swept.at(key) / "cell.json"
        text = path.read_text()
        try:
            path.write_text(json.dumps({**json.loads(text), "hash": "another", "accuracy": 2.0}))
            again = json.loads(json.dumps(cell_work.carry_out_cell(*one_cell(swept, key), latency=False)))
        finally:
            path.write_text(text)
        same = {name: value for name, value in swept.rows[key].items() if name != "seconds"}
        assert {name: value for name, value in again.items() if name != "seconds"} == same, key


def test_what_was_noted_of_another_dense_network_is_not_taken(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that were pruned before the dense one was trained again are no part of the comparison."""
    measured = []
    monkeypatch.setattr(cell_work._Work, "carry_out", lambda _: measured.append("carried out"))
    monkeypatch.setattr(cell_work, "_measured", lambda *_, **__: {"accuracy": 0.5})
    path = swept.at(("magnitude", 2.0)) / "cell.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(text), "dense": "another"}))
        row = cell_work.carry_out_cell(*one_cell(swept, ("magnitude", 2.0)), latency=False)
    finally:
        path.write_text(text)
    assert measured == ["carried out"]
    assert (row["accuracy"], row["dense"]) == (0.5, swept.rows["magnitude", 2.0]["dense"])


def test_a_damaged_note_is_written_again(swept: Swept) -> None:
    path = swept.at(("random", 2.0)) / "cell.json"
    text = path.read_text()
    try:
        path.write_text(text[: len(text) // 2])
        row = cell_work.carry_out_cell(*one_cell(swept, ("random", 2.0)), latency=False)
        assert json.loads(path.read_text())["hash"] == json.loads(text)["hash"] == row["hash"]
        assert row["accuracy"] == json.loads(text)["accuracy"]
    finally:
        path.write_text(text)


def test_a_sweep_that_is_done_again_trains_nothing(swept: Swept) -> None:
    directory = swept.place.parent
    marks = {path: path.stat().st_mtime_ns for path in directory.rglob("done.json")}
    code, _ = small_sweep.sweep(directory)
    assert code == 0
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("done.json")} == marks


def test_latency_is_measured_if_it_is_asked_for(swept: Swept) -> None:
    key = ("magnitude", 8.0)
    assert (swept.rows[key]["latency"], swept.rows[key]["latency_ratio"]) == (None, None)
    model = swept.network(key)
    found = cell_work._latencies(swept.bench(), swept.network(("dense", 1.0)), to_model_device(model, model))
    assert found["latency"] > 0
    assert 0.1 < found["latency_ratio"] < 10


def test_what_each_is_can_be_read(swept: Swept) -> None:
    told = swept.rows["magnitude_layers_of_snip", 8.0]["recipe"]
    for words in ("magnitude_layers_of_snip, 8x, seed 1", "control: layers", "at_step: 0", "Rewind", "epochs: 1"):
        assert words in told
    assert "control" not in swept.rows["snip", 8.0]["recipe"]
