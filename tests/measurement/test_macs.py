import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from sparsewood.errors import SparsewoodError
from sparsewood.measurement import Work, count_macs
from sparsewood.measurement.multiply_adds import Macs


class Calls(nn.Module):
    """A forward given as a function of (module, input), with parameters by keyword."""

    def __init__(self, function: Callable[..., Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def half_zero(*shape: int) -> Tensor:
    """Every other element is zero."""
    return (torch.arange(torch.Size(shape).numel()) % 2).float().reshape(shape)


def halve(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(half_zero(*parameter.shape))
    return model


def check(model: nn.Module, inputs: object, macs: int, nonzero: int | None = None) -> Macs:
    counted = count_macs(model, inputs)
    assert counted.uncounted == ()
    assert counted.macs == macs
    assert counted.macs_nonzero == (macs if nonzero is None else nonzero)
    for parts in (counted.per_parameter, counted.per_operation):
        assert sum(work.macs for work in parts.values()) == counted.macs
        assert sum(work.macs_nonzero for work in parts.values()) == counted.macs_nonzero
    return counted


# ---------------------------------------------------------------- convolutions


def test_grouped_dilated_strided_convolution():
    conv = halve(nn.Conv2d(8, 12, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(1, 0), groups=4))
    # output (9 + 2 - 3) // 2 + 1 = 5 by 7 - 2 = 5; each output sums 2 channels x 6 taps
    counted = check(conv, torch.randn(3, 8, 9, 7), macs := 3 * 12 * 5 * 5 * 2 * 6, macs // 2)
    assert dict(counted.per_parameter) == {"weight": Work(macs, macs // 2)}


def test_grouped_transposed_convolution():
    conv = halve(nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, output_padding=1, groups=2))
    check(conv, torch.randn(3, 8, 5, 4), macs := 3 * (5 * 4) * 8 * 6 * 9, macs // 2)


@pytest.mark.parametrize(("kind", "dims"), [(nn.Conv1d, 1), (nn.Conv3d, 3)])
def test_other_dimensions(kind, dims):
    check(
        kind(2, 3, 3, padding="same"), torch.randn(2, 2, *(4, 5, 6)[:dims]), 2 * 3 * 2 * 3**dims * [4, 0, 120][dims - 1]
    )


@settings(max_examples=40)
@given(st.data())
def test_convolutions_against_counting_by_convolving(data):
    """Without padding, ones convolved with the pattern of non-zeros count the products."""
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    dims, groups, transposed = draw(1, 3), draw(1, 3), data.draw(st.booleans())
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    sizes = {"kernel_size": draw(1, 3), "stride": draw(1, 3), "dilation": draw(1, 2), "groups": groups, "bias": False}
    conv = kind(groups * draw(1, 2), groups * draw(1, 2), **sizes).requires_grad_(False)
    conv.weight.copy_(torch.randint(0, 2, conv.weight.shape))
    ones = torch.ones(draw(1, 2), conv.in_channels, *[draw(5, 6) for _ in range(dims)])
    dense = copy.deepcopy(conv)
    nn.init.ones_(dense.weight)
    check(conv, ones, round(float(dense(ones).sum())), round(float(conv(ones).sum())))


def test_weight_made_from_the_input_is_dense():
    model = Calls(lambda _, x, w: F.conv2d(x, w))
    counted = check(model, (torch.randn(1, 2, 4, 4), torch.zeros(3, 2, 1, 1)), 3 * 2 * 16)
    assert set(counted.per_parameter) == {""}


# ---------------------------------------------------------------- products


def test_linear_on_three_axes():
    check(halve(nn.Linear(6, 4)), torch.randn(2, 5, 6), 2 * 5 * 24, 2 * 5 * 12)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_on_one_axis(bias):
    check(halve(nn.Linear(6, 4, bias=bias)), torch.randn(6), 24, 12)


@pytest.mark.parametrize(
    ("function", "uses"),
    [
        (lambda m, x: x @ m.w, 10),  # (2, 5, 6) x (6, 4)
        (lambda m, x: m.w.t() @ x.transpose(1, 2), 10),
        (lambda m, x: torch.einsum("bij,jk->bik", x, m.w), 10),
        (lambda m, x: torch.bmm(x, m.w.expand(2, 6, 4)), 10),
        (lambda m, x: torch.baddbmm(torch.ones(4), x, m.w.unsqueeze(0).repeat(2, 1, 1)[:, :, :]), 0),
        (lambda m, x: torch.addmm(torch.ones(4), x[0], m.w), 5),
        (lambda m, x: x.flatten(0, 1) @ m.w.clone().contiguous(), 10),
        (lambda m, x: x.double() @ m.w.double(), 10),
        (lambda m, x: m.w.t() @ x[0, 0], 1),
        (lambda m, x: x[0] @ (m.w * 2), 5),
        (lambda m, x: x[0] @ m.w.reshape(4, 6).reshape(6, 4), 5),
    ],
)
def test_raw_products_with_a_parameter(function, uses):
    model = Calls(function, w=half_zero(6, 4))
    counted = count_macs(model, torch.randn(2, 5, 6))
    if uses:
        assert counted.per_parameter == {"w": Work(24 * uses, 12 * uses)}
    else:  # a copy larger than the parameter is no longer it
        assert counted.per_parameter == {"": Work(240, 240)}


@pytest.mark.parametrize("mix", [lambda w, x: w * x, lambda w, x: (w * 2).add_(x), lambda w, x: x.clone().mul_(w)])
def test_a_parameter_mixed_with_the_input_is_an_activation(mix):
    model = Calls(lambda m, x: mix(m.w, x) @ x, w=half_zero(4, 4))
    assert count_macs(model, torch.ones(4, 4)).per_parameter == {"": Work(64, 64)}


def test_part_of_a_weight_counts_the_zeros_of_that_part():
    weight = torch.ones(6, 4)
    weight[:3] = 0
    model = Calls(lambda m, x: x[:, :3] @ m.w[:3] + x[:, 2:] @ m.w[2:], w=weight)
    check(model, torch.randn(5, 6), 5 * 12 + 5 * 16, 5 * 12)


def test_products_of_vectors():
    check(Calls(lambda m, x: x.dot(m.w), w=half_zero(6)), torch.randn(6), 6, 3)
    check(Calls(lambda _, x: torch.addmv(x, torch.ones(6, 6), x)), torch.randn(6), 36)


def test_activations_alone():
    counted = check(Calls(lambda _, x: x @ x.t()), torch.zeros(5, 6), 150)
    assert counted.per_parameter == {"": Work(150, 150)}


def test_of_two_parameters_the_right_one_counts():
    model = Calls(lambda m, x: x + m.left @ m.right, left=half_zero(3, 4), right=torch.ones(4, 5))
    assert count_macs(model, torch.zeros(1)).per_parameter == {"right": Work(60, 60)}


def test_a_constant_input_does_not_hide_the_weight():
    """Learned queries: what goes in is computed from parameters alone, and larger than the weight."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.queries = nn.Parameter(torch.ones(9, 2))
    model.forward = lambda x: x + nn.Sequential.forward(model, model.queries * 2)  # type: ignore[method-assign]
    assert count_macs(model, torch.zeros(1)).per_parameter == {"0.weight": Work(36, 36), "1.weight": Work(36, 36)}


def test_parameter_given_as_input_is_still_the_parameter():
    model = Calls(lambda m, x: m.w @ x, w=half_zero(2, 2))
    assert count_macs(model, model.w).macs_nonzero == 4


def test_shared_storage_is_told_apart_by_place():
    flat = torch.cat([torch.ones(6), torch.zeros(6)])
    model = Calls(lambda m, x: x @ m.a + x @ m.b, a=flat[:6].view(2, 3), b=flat[6:].view(2, 3))
    assert count_macs(model, torch.ones(4, 2)).per_parameter == {"a": Work(24, 24), "b": Work(24, 0)}


def test_weight_changed_during_the_forward_is_counted_as_it_is_when_used():
    def function(m: Calls, x: Tensor) -> Tensor:
        first = x @ m.w
        m.w.mul_(0)
        second = first + x @ m.w
        m.w.fill_(1)
        return second

    check(Calls(function, w=torch.ones(2, 2)), torch.ones(3, 2), 24, 12)


def test_empty_weights_and_empty_batches():
    check(Calls(lambda m, x: x @ m.w, w=torch.ones(3, 0)), torch.ones(2, 3), 0)
    check(nn.Linear(3, 2), torch.ones(0, 3), 0)


# ---------------------------------------------------------------- recurrent layers and attention


@pytest.mark.parametrize("batch_first", [True, False])
def test_lstm_two_layers_bidirectional_with_projections(batch_first):
    T, B, D, H, P = 5, 3, 4, 6, 2
    lstm = halve(nn.LSTM(D, H, num_layers=2, bidirectional=True, proj_size=P, batch_first=batch_first))
    x = torch.randn(*((B, T) if batch_first else (T, B)), D)
    layer = lambda inputs: 2 * T * B * (4 * H * inputs + 4 * H * P + P * H)  # noqa: E731
    macs = layer(D) + layer(2 * P)
    counted = check(lstm, x, macs, macs // 2)
    assert counted.per_parameter["weight_hr_l1_reverse"] == Work(T * B * P * H, T * B * P * H // 2)


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.RNN, 1), (nn.LSTM, 4)])
def test_recurrent_layers(kind, gates):
    T, B, D, H = 5, 3, 4, 6
    check(halve(kind(D, H)), torch.randn(T, B, D), macs := T * B * gates * H * (D + H), macs // 2)


def test_packed_sequences_count_their_steps():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.lstm(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1][0]

    check(Packed(), (torch.randn(2, 5, 4), torch.tensor([5, 2])), 7 * 24 * (4 + 6))


def test_recurrent_cells():
    check(nn.LSTMCell(4, 6), torch.randn(3, 4), 3 * 24 * 10)
    check(nn.GRUCell(4, 6), torch.randn(3, 4), 3 * 18 * 10)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("dimensions", [{}, {"kdim": 5, "vdim": 7}])
def test_multihead_attention(need_weights, dimensions):
    B, L, S, E = 2, 3, 4, 8
    K, V = dimensions.get("kdim", E), dimensions.get("vdim", E)
    attention = nn.MultiheadAttention(E, 2, batch_first=True, **dimensions)
    inputs = {"query": torch.randn(B, L, E), "key": torch.randn(B, S, K), "value": torch.randn(B, S, V)}
    products = B * L * S * E * 2
    macs = B * (L * E * E + S * E * K + S * E * V + L * E * E) + products
    counted = check(attention, inputs | {"need_weights": need_weights}, macs)
    assert counted.per_parameter[""] == Work(products, products)


@pytest.mark.parametrize("causal", [True, False])
def test_grouped_query_attention(causal):
    B, H, G, L, E, V = 2, 6, 2, 5, 4, 3
    model = Calls(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True))
    inputs = (torch.randn(B, H, L, E), torch.randn(B, G, L, E), torch.randn(B, G, L, V))
    check(model, inputs, B * H * L * L * (E + V))


def test_transformer_encoder_with_padding_mask():
    B, L, E, D = 2, 5, 8, 16
    layer = nn.TransformerEncoderLayer(E, 2, D, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    mask = torch.zeros(B, L, dtype=torch.bool)
    mask[1, 3:] = True
    macs = 2 * B * (L * E * E * 4 + 2 * L * L * E + 2 * L * E * D)
    check(model, {"src": torch.randn(B, L, E), "src_key_padding_mask": mask}, macs)


# ---------------------------------------------------------------- computed weights


def test_pruned_layer_with_a_mask_in_forward():
    layer = nn.Linear(6, 4)
    prune.l1_unstructured(layer, "weight", amount=18)
    assert count_macs(layer, torch.ones(5, 6)).per_parameter == {"weight_orig": Work(120, 30)}


@pytest.mark.parametrize(
    ("parametrize", "original", "own"),
    # spectral_norm multiplies the weight by a vector to find its largest singular value
    [(parametrizations.weight_norm, "original1", 0), (parametrizations.spectral_norm, "original", 24)],
)
def test_normalised_weight(parametrize, original, own):
    layer = halve(nn.Linear(6, 4))
    counted = count_macs(parametrize(layer), torch.ones(5, 6))
    assert counted.per_parameter[f"parametrizations.weight.{original}"] == Work(120 + own, 60 + own // 2)


def test_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        check(halve(nn.Linear(6, 4)), torch.ones(5, 6), 120, 60)


def test_meta_device_has_no_zeros():
    layer = nn.Linear(6, 4, device="meta")
    check(layer, torch.ones(5, 6), 120)


# ---------------------------------------------------------------- what is not understood is said


@torch.library.custom_op("sparsewood_tests::times", mutates_args=())
def foreign_times(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda m, x: F.bilinear(x, x, m.w.expand(2, 4, 4)), "aten._trilinear"),
        (lambda m, x: x @ m.w.to_sparse(), "aten."),
        (lambda _, x: torch._int_mm(x.to(torch.int8), torch.ones(4, 8, dtype=torch.int8)), "aten._int_mm"),
        (
            lambda _, x: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*[x[None, None]] * 3)[0],
            "aten._scaled_dot",
        ),
        (lambda m, x: foreign_times(x, m.w), "sparsewood_tests.times"),
        (lambda _, x: torch.cdist(x, x, p=1.0), "aten._cdist_forward"),
        (lambda m, x: F.linear(x.to_mkldnn(), m.w.to_mkldnn()).to_dense(), "mkldnn_linear"),
    ],
)
def test_unknown_contractions_are_reported(function, operation):
    counted = count_macs(Calls(function, w=torch.ones(4, 4)), torch.ones(32, 4))
    assert any(operation in name for name in counted.uncounted), counted.uncounted


def test_what_comes_out_of_control_flow_is_an_activation():
    def function(m: Calls, x: Tensor) -> Tensor:
        hidden = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
        return (hidden * m.w) @ hidden

    assert count_macs(Calls(function, w=half_zero(4, 4)), torch.ones(4, 4)).per_parameter == {"": Work(64, 64)}


def test_fused_encoder_layer_called_directly_is_reported():
    layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def function(_: Calls, x: Tensor) -> Tensor:
        out = layer.out_proj
        weights = (layer.in_proj_weight, layer.in_proj_bias, out.weight, out.bias)
        return torch._native_multi_head_attention(x, x, x, 4, 2, *weights)[0]

    assert count_macs(Calls(function), torch.ones(1, 3, 4)).uncounted == ("aten._native_multi_head_attention",)


def test_flex_attention_is_reported():
    from torch.nn.attention.flex_attention import flex_attention

    model = Calls(lambda _, x: flex_attention(x, x, x))
    with pytest.warns(UserWarning, match="flex_attention called without torch.compile"):
        counted = count_macs(model, torch.ones(1, 1, 16, 16))
    assert counted.uncounted == ("flex_attention",)


@pytest.mark.parametrize("control", ["cond", "nested", "sparse"])
def test_what_runs_out_of_sight_is_reported(control):
    def function(m: Calls, x: Tensor) -> Tensor:
        if control == "cond":
            return torch.cond(x.sum() > 0, lambda x: x @ m.w, lambda x: x @ m.w, (x,))
        if control == "nested":
            return F.linear(torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged), m.w).values()
        return torch.eye(3).to_sparse() @ x

    reported = {"cond": "cond", "nested": "aten.linear", "sparse": "aten.mm"}[control]
    assert reported in count_macs(Calls(function, w=torch.ones(4, 4)), torch.ones(3, 4)).uncounted


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_script_modules():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    check(torch.jit.script(model), torch.ones(4, 3), 24)


def test_models_made_in_inference_mode():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    check(model, torch.ones(4, 3), 24)


def test_nothing_to_count():
    model = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.GroupNorm(1, 2), nn.GELU(), nn.AvgPool2d(2))
    assert count_macs(model, torch.ones(1, 2, 4, 4)).per_operation == {}
    check(model, torch.ones(1, 2, 4, 4), 0)


# ---------------------------------------------------------------- how it is run


def test_inference_mode_and_compiled_models_count_alike():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(2, 5, 8)
    expected = count_macs(model, x)
    with torch.inference_mode():
        assert count_macs(model, x).macs == expected.macs
        assert dict(count_macs(model, x).per_parameter) == dict(expected.per_parameter)
    assert count_macs(torch.compile(model, backend="eager"), x).macs == expected.macs


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_left_as_it_was(fails):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    model[0].weight.grad = torch.ones(3, 3)
    seen = []
    handle = model[0].register_forward_hook(lambda module, *_: seen.append(module.training))
    flags = lambda: (  # noqa: E731
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.is_grad_enabled(),
    )
    state, before, random = copy.deepcopy(model.state_dict()), flags(), torch.get_rng_state()
    if fails:
        with pytest.raises(SparsewoodError, match=r"Sequential \(on cpu\) failed on the inputs"):
            count_macs(model, torch.ones(4, 5))
    else:
        count_macs(model, torch.ones(4, 3))
        assert seen == [False]
    assert flags() == before
    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(3, 3))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(model[0]._forward_hooks) == [handle.id]


def test_twice_the_batch_is_twice_the_work():
    model = halve(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ConvTranspose2d(3, 2, 2)))
    once, twice = count_macs(model, torch.ones(1, 2, 5, 5)), count_macs(model, torch.ones(2, 2, 5, 5))
    assert (twice.macs, twice.macs_nonzero) == (2 * once.macs, 2 * once.macs_nonzero)


def test_tied_weight_goes_by_its_first_name():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert count_macs(model, torch.ones(2, 3)).per_parameter == {"0.weight": Work(36, 36)}
