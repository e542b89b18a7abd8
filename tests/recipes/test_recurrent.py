"""[004-35] Recurrent layers and embeddings pruned while they train, by the thresholds of Narang et al."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.schedules import RNNRamp
from sparsewood.types import Threshold

WORDS, STEPS = 40, 60
CELLS = {"lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3), "rnn": (nn.RNN, 1)}
PRUNED = ["embedding.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0"]
RAMP = RNNRamp(0.3, start=10, ramp=20, end=40, every=5)


class Tagger(nn.Module):
    """The next word of a text: an embedding, a recurrent layer, scores of all words."""

    def __init__(self, cell: str, *, tied: bool = False, sparse: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 12, sparse=sparse)
        self.recurrent = CELLS[cell][0](12, 12, batch_first=True)
        self.out = nn.Linear(12, WORDS, bias=False)
        with torch.no_grad():
            self.embedding.weight.mul_(0.3)  # as large as the other weights, among which one threshold decides
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.recurrent(self.embedding(words))[0])


def settings(**more: Any) -> sw.Pruning:
    given: dict[str, Any] = {"include": ("embedding", "recurrent"), "schedule": RAMP, "rounds": RAMP.fixed_rounds}
    return sw.Pruning(**given | {"unit": "step", "start": RAMP.start, "every": RAMP.every} | more)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: sw.Pruner, watch: Any) -> sw.Masks:
    """Words follow one another by a rule; `watch(step, weights)` sees weights before every call of the pruner."""
    text = (torch.arange(STEPS * 32) * 7 + torch.arange(STEPS * 32) // 5) % WORDS
    for step, words in enumerate(text.view(STEPS, 4, 8), start=1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(words)[:, :-1].flatten(0, 1), words[:, 1:].flatten()).backward()
        optimizer.step()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        earlier = pruner.masks
        pruner.step()
        watch(step, before, earlier)
    return pruner.finish()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("algorithm", [torch.optim.Adam, torch.optim.RMSprop])
def test_at_every_event_what_is_below_the_threshold_goes(cell: str, algorithm: Any) -> None:
    torch.manual_seed(0)
    model = Tagger(cell)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = algorithm(model.parameters(), lr=0.01)
    pruner = sw.Pruner(model, optimizer, settings())
    events, shares = [], []

    def watch(step: int, before: dict[str, Tensor], earlier: sw.Masks) -> None:
        for name, mask in earlier.items():
            assert not before[name][~mask].any(), f"{name} in step {step}"
        due = RAMP.start <= step <= RAMP.end and (step - RAMP.start) % RAMP.every == 0
        if not due:
            assert pruner.masks == earlier
            return
        below = {name: before[name].abs() < RAMP.at(step) for name in PRUNED}
        assert pruner.masks == sw.Masks({name: ~one for name, one in below.items()})
        events.append(step)
        total = sum(one.numel() for one in below.values())
        shares.append(sum(int(one.sum()) for one in below.values()) / total)
        assert pruner.sparsity == shares[-1]

    masks = train(model, optimizer, pruner, watch)
    assert events == [10, 15, 20, 25, 30, 35, 40]
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] > 0.35
    assert list(masks) == PRUNED
    assert min(masks.layer_sparsity().values()) > 0.2
    for name in PRUNED:
        weight = model.get_parameter(name)
        assert torch.equal(weight != 0, masks[name])
        assert not torch.equal(weight[masks[name]], start[name][masks[name]]), "what stays learns"
    others = [name for name, _ in model.named_parameters() if name not in PRUNED]
    assert all(bool((model.get_parameter(name) != 0).all()) for name in others), "biases and classifier stay"


def test_every_gate_is_pruned() -> None:
    """Weights of all gates lie in one tensor, and every one of them loses some."""
    torch.manual_seed(0)
    for cell, (_, gates) in CELLS.items():
        model = Tagger(cell)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        masks = train(model, optimizer, sw.Pruner(model, optimizer, settings()), lambda *_: None)
        for name in PRUNED[1:]:
            parts = masks[name].chunk(gates)
            assert all(part.shape == (12, 12) and bool(part.any()) and not bool(part.all()) for part in parts)


def test_thresholds_rise_and_have_no_jump_at_the_ramp() -> None:
    """Events see the formula; from one step to the next it rises by the first slope, later by the second."""
    plan = settings().plan
    thresholds = [event.amount.value for event in plan if isinstance(event.amount, Threshold)]
    assert thresholds == [RAMP.at(step) for step in range(10, 41, 5)]
    assert all(earlier < later for earlier, later in pairwise(thresholds))
    slope = 2 * 0.3 / (2 * 10 + 3 * 20)
    jumps = {step: RAMP.at(step) - RAMP.at(step - 1) for step in range(11, 41)}
    assert all(jumps[step] == pytest.approx(slope) for step in range(11, 20))
    assert jumps[20] == pytest.approx((1 + 1.5) * slope)  # one step of each line
    assert all(jumps[step] == pytest.approx(1.5 * slope) for step in range(21, 41))


def test_an_embedding_stays_unless_it_is_named() -> None:
    model = Tagger("lstm")
    for include, names in (((), PRUNED[1:]), (("recurrent",), PRUNED[1:]), (("*embed*",), PRUNED[:1])):
        chosen = settings(include=include).parameters(model)
        assert [entry.name for entry in chosen] == names


def test_an_embedding_tied_to_the_output_is_one_parameter() -> None:
    """It is named by either name; zeros are those of both."""
    for name in ("embedding", "out"):
        torch.manual_seed(0)
        model = Tagger("gru", tied=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        masks = train(model, optimizer, sw.Pruner(model, optimizer, settings(include=(name,))), lambda *_: None)
        assert list(masks) == ["embedding.weight"]
        assert masks.sparsity > 0.2
        assert torch.equal(model.out.weight != 0, masks["embedding.weight"])


def test_embeddings_with_sparse_gradients() -> None:
    torch.manual_seed(0)
    model = Tagger("lstm", sparse=True)
    optimizer = torch.optim.SparseAdam([model.embedding.weight], lr=0.01)
    pruner = sw.Pruner(model, optimizer, settings(include=("embedding",)))
    masks = train(model, optimizer, pruner, lambda *_: None)
    assert torch.equal(model.embedding.weight != 0, masks["embedding.weight"])
    assert masks.sparsity > 0.2


RECIPE = """
name: digits_rows
data: digits
model: {name: row_rnn, hidden: 16, embedding: null, size: 8, cell: CELL}
training: {epochs: 3, batch_size: 64, optimizer: {name: Adam, lr: 0.01}}
pruning: {recovery: {name: Rewind, step: 0}, include: [recurrent], unit: step, rounds: 5, start: 4, every: 6}
variants:
  ramp: {pruning: {schedule: {name: RNNRamp, q: 0.3, start: 4, ramp: 10, end: 28, every: 6}}}
  agp: {pruning: {schedule: {name: Cubic, final: 0.75}}}
"""


@pytest.mark.parametrize("cell", CELLS)
def test_a_recipe_prunes_a_recurrent_network_while_it_trains(cell: str, tmp_path: Path) -> None:
    from sparsewood.run.command import run_recipe

    path = tmp_path / "digits_rows.yaml"
    path.write_text(RECIPE.replace("CELL", cell))
    root = run_recipe(path, [f"output={tmp_path}"], quiet=True)
    ends = {note.parts[-3]: note.parent for note in sorted(root.rglob("training/done.json"))}
    assert ends.keys() == {"ramp", "agp"}
    for name, directory in ends.items():
        masks = sw.Masks.load(directory / "masks.safetensors")
        assert list(masks) == ["recurrent.weight_ih_l0", "recurrent.weight_hh_l0"]
        notes = json.loads((directory / "done.json").read_text())
        assert notes["sparsity"] == masks.sparsity
        assert masks.sparsity == 0.75 if name == "agp" else 0.3 < masks.sparsity < 1
        assert min(masks.layer_sparsity().values()) > 0.1
