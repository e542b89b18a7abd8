"""UnitMem (000-01, 000-02, 7.5): closed forms, properties, and what reaches the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

import sparsewood as sw
from sparsewood.data.augment import CropFlip, NormalViews, StrongViews, WeakViews
from sparsewood.data.part import Normalization, Part, Pixels
from sparsewood.units import ActivationMatrix, class_selectivity, unit_memorization


class Spy(nn.Module):
    """A network that keeps all that it is run on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.inner(x)


def responding(*rows: list[float]) -> nn.Sequential:
    """Unit j responds to example i (a row of the identity) by rows[j][i]."""
    net = nn.Sequential(nn.Linear(len(rows[0]), len(rows), bias=False), nn.ReLU(), nn.Linear(len(rows), 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(rows))
    return net


def convnet(deep: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
    for _ in range(deep - 1):
        blocks += [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def pixels(count: int, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def test_000_01_closed_forms() -> None:
    net = responding([0, 0, 0, 7], [2, 2, 2, 2], [3, 1, 1, 1], [-1, -1, -1, -1])
    found = unit_memorization(net, torch.eye(4))
    assert found.scores["0"].tolist() == [1.0, 0.0, 0.5, 0.0]
    assert found.image["0"].tolist() == [3, 0, 0, 0]
    assert found.dead["0"].tolist() == [False, False, False, True]
    assert found.of_groups()["0"].tolist() == [1.0, 0.0, 0.5, 0.0]


def test_000_02_variants() -> None:
    net = responding([1, 1, 0, 0], [1, 0, 0, 0], [4, 1, 0, 1])
    found = unit_memorization(net, torch.eye(4))
    assert found.outlier["0"].tolist() == [0.0, 1.0, pytest.approx(0.6)]
    assert found.second_image["0"].tolist()[2] == 1
    median = unit_memorization(net, torch.eye(4), center="median")
    assert median.scores["0"].tolist() == [1.0, 1.0, pytest.approx(0.6)]  # of {1, 0, 0}, {0, 0, 0}, {1, 0, 1}
    classes = class_selectivity(net, [(torch.eye(4), torch.tensor([0, 0, 1, 2]))], 3)
    assert classes.scores["0"].tolist() == [1.0, 1.0, pytest.approx(2 / 3)]  # class means 2.5, 0, 1
    assert classes.best["0"].tolist() == [0, 0, 0]


@given(st.lists(st.lists(st.floats(0, 100), min_size=5, max_size=5), min_size=2, max_size=4), st.floats(0.1, 50))
def test_000_01_in_0_to_1_and_as_large_for_a_scaled_unit(rows: list[list[float]], factor: float) -> None:
    net = responding(*rows)
    found = unit_memorization(net, torch.eye(5), batch_size=2)
    assert bool(((found.scores["0"] >= 0) & (found.scores["0"] <= 1)).all())
    assert bool((found.outlier["0"] <= 1).all())
    with torch.no_grad():
        net[0].weight.mul_(factor)
    torch.testing.assert_close(
        unit_memorization(net, torch.eye(5)).scores["0"], found.scores["0"], rtol=1e-5, atol=1e-6
    )


def test_000_01_order_and_batch_size_do_not_matter() -> None:
    net, images = convnet(2), pixels(23)
    found = unit_memorization(net, images, batch_size=500)
    for size in (1, 7):
        other = unit_memorization(net, images, batch_size=size)
        torch.testing.assert_close(other.scores["2"], found.scores["2"], rtol=1e-5, atol=1e-7)
        assert torch.equal(other.image["2"], found.image["2"])
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    turned = unit_memorization(net, images[order])
    torch.testing.assert_close(turned.scores["2"], found.scores["2"], rtol=1e-5, atol=1e-7)
    assert torch.equal(order[turned.image["2"]], found.image["2"]), "images are numbered as the data are"


def test_streaming_is_what_two_passes_over_all_activations_give() -> None:
    net, images = convnet(), pixels(17)
    with torch.no_grad():
        mu = net[1](net[0](images)).double().mean((2, 3))
    largest, place = mu.max(0)
    rest = (mu.sum(0) - largest) / 16
    found = unit_memorization(net, images, batch_size=4)
    torch.testing.assert_close(found.scores["0"], (largest - rest) / (largest + rest), rtol=1e-5, atol=1e-7)
    assert torch.equal(found.image["0"], place)


@pytest.mark.parametrize(("count", "draws", "batch"), [(7, 10, 16), (7, 10, 3), (30, 4, 500), (5, 3, 4)])
@pytest.mark.parametrize("deep", [1, 3])
def test_000_01_every_augmented_image_reaches_the_network_once(count: int, draws: int, batch: int, deep: int) -> None:
    """A x N distinct tensors, in ceil(N A / B) forwards, whatever the number of layers (7.5, 7.6)."""
    spy = Spy(convnet(deep))
    unit_memorization(spy, pixels(count), CropFlip(2), draws, batch_size=batch)
    assert len(spy.seen) == -(-count * draws // batch)
    assert [len(one) for one in spy.seen[:-1]] == [batch] * (len(spy.seen) - 1)
    every = torch.cat(spy.seen)
    assert len(every) == count * draws

    noise = Spy(convnet(deep))
    unit_memorization(noise, pixels(count), lambda x, g: x + torch.rand(x.shape, generator=g), draws, batch_size=batch)
    assert len(torch.unique(torch.cat(noise.seen).flatten(1), dim=0)) == count * draws


def test_an_augmentation_that_draws_once_for_a_whole_batch_gives_different_draws() -> None:
    spy = Spy(convnet())
    unit_memorization(spy, pixels(6), lambda x: x + torch.rand(()), 5, batch_size=30)
    assert len(torch.unique(torch.cat(spy.seen).flatten(1), dim=0)) == 30


def test_the_mean_over_augmentations_is_taken_before_the_largest() -> None:
    """Two examples, two draws of which one doubles: (1 + 2) / 2 each, not 2."""
    draws = iter([1.0, 2.0, 1.0, 2.0])
    net = responding([1.0, 0.0], [0.0, 3.0])
    found = unit_memorization(net, torch.eye(2), lambda x: x * next(draws), 2, batch_size=2)
    assert found.maximum["0"].tolist() == [1.5, 4.5]


def test_7_5_augmentation_works_on_pixels_and_normalisation_follows_once() -> None:
    seen: list[Tensor] = []

    def watch(x: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(x)
        return CropFlip(1)(x, generator)

    part = Part(Pixels(pixels(4)), torch.tensor([0, 1, 0, 1]), Normalization((0.5,) * 3, (0.25,) * 3), training=True)
    spy = Spy(convnet())
    unit_memorization(spy, part, watch, 2)
    assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in seen)
    assert float(torch.cat(spy.seen).min()) == -2.0, "black is (0 - 0.5) / 0.25"


def test_same_seed_same_scores() -> None:
    net, images = convnet(), pixels(9)
    one, two = (unit_memorization(net, images, CropFlip(2), 3).scores["0"] for _ in range(2))
    assert torch.equal(one, two)
    other = unit_memorization(net, images, CropFlip(2), 3, generator=torch.Generator().manual_seed(5)).scores["0"]
    assert not torch.equal(one, other)


@pytest.mark.parametrize("views", [WeakViews(8), NormalViews(8), StrongViews(8)])
def test_the_augmentation_sets_of_the_paper_run(views: WeakViews) -> None:
    pytest.importorskip("kornia")
    found = unit_memorization(convnet(), pixels(4), views, 2)
    assert found.examples == 4
    assert found.augmentations == 2


def test_activations_that_are_not_random_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    unit_memorization(convnet(), pixels(4), lambda x: x, 3)
    assert "gave every example 3 times the same" in caplog.text


def test_negative_activations_are_refused_unless_asked_for() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(sw.SparsewoodError, match="defined for activations >= 0"):
        unit_memorization(net, x)
    found = unit_memorization(net, x, negative="skip")
    assert list(found.scores) == ["2"]
    assert "negative" in next(iter(found.skipped.values()))
    absolute = unit_memorization(net, x, negative="absolute").scores
    assert bool(((absolute["0"] >= 0) & (absolute["0"] <= 1)).all())
    assert list(unit_memorization(net, x, layers="2").scores) == ["2"]


def test_layers_are_skipped_whichever_example_is_negative() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.Identity(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(0.5)
    x = torch.tensor([[1.0], [2.0], [3.0], [-1.0], [1.0]])
    for size in (1, 3, 5):
        found = unit_memorization(net, x, batch_size=size, negative="skip")
        assert list(found.scores) == ["2"]
        assert list(found.of_groups()) == ["2"]
        assert "down to -0.5" in next(iter(found.skipped.values()))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.ones(1, 3), {}, "at least two"),
        (torch.ones(0, 3), {}, "at least two"),
        (torch.ones(4, 3), {"n_augmentations": 0}, "n_augmentations must be a whole number"),
        (torch.ones(4, 3), {"center": "mode"}, "center must be one of"),
        (torch.ones(4, 3), {"augment": lambda x: x[:1], "n_augmentations": 2}, "as many examples"),
        (torch.ones(4, 3), {"layers": "nothing"}, "Unknown layer"),
    ],
)
def test_what_means_nothing_is_refused(images: Tensor, options: dict[str, object], message: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(sw.SparsewoodError, match=message):
        unit_memorization(net, images, **options)  # type: ignore[arg-type]


def test_activations_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsewood.units.matrix.SHARD_BYTES", 60)
    net, images = convnet(), pixels(11)
    found = unit_memorization(net, images, batch_size=3, activations=tmp_path / "level_0")
    matrix = ActivationMatrix.open(tmp_path / "level_0")
    assert len(matrix.shards) > 1
    assert found.matrix is not None
    with torch.no_grad():
        expected = net[1](net[0](images)).mean((2, 3))
    torch.testing.assert_close(matrix.layer("1"), expected)
    with pytest.raises(sw.OutputError, match="holds activations already"):
        unit_memorization(net, images, activations=tmp_path / "level_0")
    with pytest.raises(sw.UnknownName):
        matrix.layer("7")
    (tmp_path / "level_0" / matrix.shards[0][0]).unlink()
    with pytest.raises(sw.FileFormatError, match="do not fit together"):
        ActivationMatrix.open(tmp_path / "level_0")
    with pytest.raises(sw.FileFormatError, match=r"holds no index\.json"):
        ActivationMatrix.open(tmp_path)


def test_the_model_is_left_as_it_was() -> None:
    net = convnet().train()
    state = torch.get_rng_state()
    unit_memorization(net, pixels(5), lambda x: x + torch.rand_like(x), 2)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_outlier_selectivity_of_a_weight_that_is_used_twice_is_the_mean_of_where_it_is_seen() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.relu, self.b = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.relu(self.a(x)) + self.relu(self.a(100 * x.flip(1))))

    torch.manual_seed(0)
    found = unit_memorization(Twice(), torch.rand(5, 3))
    first, second = found.outlier_at_sites.values()
    torch.testing.assert_close(found.outlier["a"], (first + second) / 2)


@pytest.mark.parametrize("negative", ["error", "absolute", "skip"])
def test_nan_is_no_activation(negative: Any) -> None:
    model = responding([torch.nan, 0.0], [1.0, 1.0])
    with pytest.raises(sw.SparsewoodError, match="NaN or infinite"):
        unit_memorization(model, torch.eye(2), negative=negative)


def test_a_layer_that_not_every_batch_goes_through_is_left_out() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.relu, self.head = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)
            self.other, self.relu2 = nn.Linear(3, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            h = self.relu(self.a(x))
            return self.head(self.relu2(self.other(h)) if len(x) > 2 else h)

    torch.manual_seed(0)
    model, x = Branch(), torch.rand(5, 2)
    found = unit_memorization(model, x, batch_size=3, structure=sw.trace(model, x))
    assert list(found.scores) == ["a"]
    assert "relu2" in found.skipped


def test_numbers_of_images_from_a_loader_that_shuffles_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    data: Any = list(torch.eye(3))
    model = responding([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    unit_memorization(model, DataLoader(data, 2))
    assert "shuffles" not in caplog.text
    unit_memorization(model, DataLoader(data, 2, shuffle=True))
    assert "The loader shuffles" in caplog.text


def test_nan_is_no_class_mean() -> None:
    data = [(torch.eye(2), torch.tensor([0, 1]))]
    with pytest.raises(sw.SparsewoodError, match="NaN or infinite"):
        class_selectivity(responding([torch.nan, 0.0], [1.0, 1.0]), data, 2)
