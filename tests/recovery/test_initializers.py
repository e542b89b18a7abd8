"""New weights: closed forms of their distribution, and what a layer does with them."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsewood.errors import SparsewoodError
from sparsewood.recovery import (
    ConvolutionOrthogonal,
    DeltaOrthogonal,
    Initializer,
    LayerDefault,
    Normal,
    Original,
    Orthogonal,
    Reinitialize,
    VarianceScaling,
    snapshot,
)
from sparsewood.recovery.drawing import LayerWeights


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def identity(matrix: Tensor) -> bool:
    return bool((matrix - torch.eye(len(matrix), dtype=matrix.dtype)).abs().max() < 1e-6)


# ---------------------------------------------------------------- variance scaling


class Fans(NamedTuple):
    """How many inputs an output sees, and how many outputs see an input."""

    fan_in: int
    fan_out: int


SHAPES = [(512, 400), (128, 64, 3, 3), (600, 300, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("how", "variance"),
    [
        (VarianceScaling.he(), lambda f: 2 / f.fan_in),
        (VarianceScaling.lecun(), lambda f: 1 / f.fan_in),
        (VarianceScaling.glorot(), lambda f: 2 / (f.fan_in + f.fan_out)),
        (VarianceScaling(3.0, "out"), lambda f: 3 / f.fan_out),
        (Normal(0.3), lambda _: 0.09),
    ],
    ids=["he", "lecun", "glorot", "out", "normal"],
)
def test_weights_have_the_variance_that_was_asked_for(how: LayerWeights, variance, shape) -> None:  # type: ignore[no-untyped-def]
    """[004-21] The empirical standard deviation is within 1 %; normal, not truncated."""
    weights = how.draw(shape, seeded())
    expected = math.sqrt(variance(Fans(math.prod(shape[1:]), shape[0] * math.prod(shape[2:]))))
    assert float(weights.std()) == pytest.approx(expected, rel=0.01)
    assert abs(float(weights.mean())) < 0.01 * expected
    beyond = (weights.abs() > 3 * expected).double().mean()
    assert float(beyond) == pytest.approx(0.0027, abs=0.0006)


def test_fans_are_at_least_one() -> None:
    """[004-21]"""
    assert VarianceScaling(1.0, "in").std((5, 0)) == 1.0
    assert VarianceScaling(4.0, "average").std((1, 1)) == 2.0


def test_fans_of_grouped_and_transposed_convolutions_are_those_of_a_group() -> None:
    how = VarianceScaling.lecun()
    grouped = nn.Conv2d(128, 128, 5, groups=4)  # fan_in 32 * 25
    transposed = nn.ConvTranspose2d(64, 256, 5, groups=2)  # fan_in 32 * 25, weight [64, 128, 5, 5]
    for layer, fan in ((grouped, 800), (transposed, 800)):
        how(layer, {}, seeded())
        assert float(layer.weight.detach().std()) == pytest.approx(fan**-0.5, rel=0.01)
        assert layer.bias is not None
        assert bool((layer.bias == 0).all())


# ---------------------------------------------------------------- orthogonal


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (8, 3, 3, 3), (8, 1, 3, 3), (40, 2, 3, 3)], ids=str)
@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_rows_or_columns_are_orthonormal(shape: tuple[int, ...], gain: float) -> None:
    """[004-22] W W^T = I or W^T W = I to 1e-6."""
    w = Orthogonal(gain).draw(shape, seeded()).flatten(1) / gain
    assert w.dtype == torch.float64
    assert identity(w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w)


def test_signs_are_those_of_a_uniform_orthogonal_matrix() -> None:
    """[004-22] Without the fix by the diagonal of R, entry (0, 0) of Q would always be of one sign."""
    corners = torch.stack([Orthogonal().draw((3, 3), seeded(seed))[0, 0] for seed in range(400)])
    assert abs(float(corners.mean())) < 4 * 3**-0.5 / 20
    assert float(corners.square().mean()) == pytest.approx(1 / 3, rel=0.2)


@pytest.mark.parametrize(
    "shape", [(8, 3, 3, 3), (8, 8, 5, 5), (6, 4, 4, 2), (5, 2, 3), (4, 4, 1, 3, 3), (6, 4)], ids=str
)
def test_delta_orthogonal_is_a_matrix_at_the_centre(shape: tuple[int, ...]) -> None:
    """[004-22]"""
    w = DeltaOrthogonal().draw(shape, seeded())
    centre = w[(..., *(size // 2 for size in shape[2:]))]
    assert identity(centre.T @ centre)
    assert int(w.count_nonzero()) == int(centre.count_nonzero())


def test_delta_orthogonal_falls_back_where_no_such_matrix_exists() -> None:
    """[004-22] More inputs than outputs: 512 -> 256 is no error."""
    w = DeltaOrthogonal().draw((4, 8, 3, 3), seeded())
    assert torch.equal(w, Orthogonal().draw((4, 8, 3, 3), seeded()))
    flat = w.flatten(1)
    assert identity(flat @ flat.T)


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (5, 1), (4, 1), (3, 2), (3, 4)])
def test_delta_orthogonal_convolutions_keep_the_norm(kernel: int, groups: int) -> None:
    """[004-22] With circular padding, whatever the input."""
    layer = nn.Conv2d(4, 12, kernel, padding="same", padding_mode="circular", groups=groups).double()
    DeltaOrthogonal()(layer, {}, seeded())
    x = torch.randn(5, 4, 6, 7, dtype=torch.float64, generator=seeded(1))
    assert torch.allclose(layer(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-12)


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 5, padding="same", padding_mode="circular"),
    nn.Conv1d(3, 7, 2, padding="same", padding_mode="circular"),
    nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular", dilation=2),
    nn.Conv2d(3, 8, (3, 5), padding="same", padding_mode="circular"),
    nn.Conv2d(4, 12, (1, 4), padding="same", padding_mode="circular", groups=2),
    nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular", groups=4),
    nn.Conv3d(2, 3, (3, 2, 3), padding="same", padding_mode="circular"),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=repr)
def test_004_22_convolution_orthogonal_layers_keep_the_norm(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    """With circular padding, whatever the input; and no tap of the kernel is left out, unlike delta-orthogonal."""
    layer = layer.double()
    ConvolutionOrthogonal(2.0)(layer, {}, seeded())
    x = torch.randn(
        3, layer.in_channels, *[7, 6, 5][: len(layer.kernel_size)], dtype=torch.float64, generator=seeded(1)
    )
    assert torch.allclose(layer(x).flatten(1).norm(dim=1), 2 * x.flatten(1).norm(dim=1), rtol=1e-12)
    taps = layer.weight.detach().abs().sum((0, 1))
    assert bool((taps > 1e-3).all()) or layer.groups == layer.in_channels == layer.out_channels


@pytest.mark.parametrize("shape", [(6, 4, 5), (8, 8, 3, 3), (5, 5, 2, 3, 4)], ids=str)
def test_004_22_convolution_orthogonal_kernels_are_paraunitary(shape: tuple[int, ...]) -> None:
    """sum_t W(t)' W(t + s) is I for s = 0 and 0 for every other shift: the definition, by autocorrelation."""
    w = ConvolutionOrthogonal().draw(shape, seeded())
    space = [2 * size - 1 for size in shape[2:]]
    axes = tuple(range(2, len(shape)))
    spectrum = torch.fft.fftn(w, space, axes).movedim((0, 1), (-2, -1))  # [*frequencies, outputs, inputs]
    gram = spectrum.mH @ spectrum
    assert torch.allclose(gram, torch.eye(shape[1], dtype=gram.dtype).expand_as(gram), atol=1e-12)


def test_convolution_orthogonal_kernels_of_single_channels_are_centred() -> None:
    w = ConvolutionOrthogonal().draw((1, 1, 3, 5), seeded())
    assert int(w.count_nonzero()) == 1
    assert abs(float(w[0, 0, 1, 2])) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(4, 8, 3, 3), (5, 9), (9, 5)], ids=str)
def test_004_22_convolution_orthogonal_falls_back_to_flat_orthogonal(shape: tuple[int, ...]) -> None:
    assert torch.equal(ConvolutionOrthogonal().draw(shape, seeded()), Orthogonal().draw(shape, seeded()))


def test_orthogonal_chains_keep_the_norm() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 30)).double()
    Orthogonal()(model, {}, seeded())
    x = torch.randn(3, 20, dtype=torch.float64, generator=seeded(1))
    assert torch.allclose(model(x).norm(dim=1), x.norm(dim=1))


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 8, 3, groups=2), nn.ConvTranspose2d(6, 8, 3, groups=2)], ids=repr)
def test_groups_are_drawn_as_layers_of_their_own(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    layer = layer.double()
    Orthogonal()(layer, {}, seeded())
    parts = layer.weight.detach().chunk(2)
    for part in parts:
        matrix = (part.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else part).flatten(1)
        assert identity(matrix @ matrix.T)
    assert not torch.equal(parts[0], parts[1])


# ---------------------------------------------------------------- networks

DRAWN: list[Initializer] = [Normal(0.5), VarianceScaling(), Orthogonal(), DeltaOrthogonal(), ConvolutionOrthogonal()]


class Mixed(nn.Module):
    """Every kind of layer that has weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.lstm = nn.LSTM(6, 6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.conv = nn.Conv1d(6, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 4)


@pytest.mark.parametrize("how", [LayerDefault(), *DRAWN], ids=repr)
def test_everything_is_new_and_depends_on_the_generator_alone(how: Initializer) -> None:
    """[004-12] [7.24]"""
    model = Mixed()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(9)
    state, drawn = torch.get_rng_state(), []
    for seed in (1, 1, 2):
        how(model, {}, seeded(seed))
        drawn.append(snapshot(model))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in drawn[0].items():
        assert torch.equal(tensor, drawn[1][name])
        assert not bool((tensor == 9).any()), name
        if tensor.ndim > 1:
            assert not torch.equal(tensor, drawn[2][name]), name
    assert bool((model.norm.weight == 1).all())
    assert int(model.norm.num_batches_tracked or 0) == 0


@pytest.mark.parametrize("how", DRAWN, ids=repr)
def test_biases_of_drawn_layers_are_zero(how: Initializer) -> None:
    model = Mixed()
    how(model, {}, seeded())
    assert model.conv.bias is not None
    assert bool((model.conv.bias == 0).all())
    assert bool((model.out.bias == 0).all())


@pytest.mark.parametrize("how", DRAWN, ids=repr)
def test_parameters_stay_the_same_objects(how: Initializer) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).bfloat16()
    before = list(model.parameters())
    how(model, {})
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.dtype == torch.bfloat16 and p.requires_grad for p in before)


def test_original_is_the_snapshot() -> None:
    """[004-12]"""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    start = snapshot(model)
    Reinitialize(VarianceScaling())(model, start, seeded())
    Reinitialize(Original())(model, start)
    assert all(torch.equal(tensor, start[name]) for name, tensor in model.state_dict().items())
    assert Reinitialize(Original()).snapshots == (0,)
    assert Reinitialize().snapshots == Original().snapshots[1:] == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Orthogonal(0), "Orthogonal: gain must be a number above 0. Got 0"),
        (lambda: DeltaOrthogonal(float("inf")), "DeltaOrthogonal: gain"),
        (lambda: ConvolutionOrthogonal(-1.0), "ConvolutionOrthogonal: gain"),
        (lambda: Normal(float("nan")), "Normal: std"),
        (lambda: VarianceScaling(True), "VarianceScaling: scale"),
        (lambda: VarianceScaling(1.0, "both"), r"fan must be one of \('in', 'out', 'average'\). Got 'both'"),  # type: ignore[arg-type]
        (lambda: Reinitialize("orthogonal"), r"Reinitialize\(Orthogonal\(\)\). Got 'orthogonal'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SparsewoodError, match=message):
        make()


@pytest.mark.parametrize("how", [LayerDefault(), *DRAWN], ids=repr)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_are_computed_are_refused(how: Initializer) -> None:
    """Their layer's reset_parameters would set what the next forward pass computes anew."""
    pruned = prune.random_unstructured(nn.Linear(3, 3), "weight", 0.5)
    for model in (pruned, nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))):
        with pytest.raises(SparsewoodError, match="computed from other parameters"):
            how(nn.Sequential(model), {})
