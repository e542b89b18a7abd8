"""Attention that lost heads, places of heads, or inputs computes what the whole one does with zeros there."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.shrinking.attention import MultiheadAttention
from sparsewood.shrinking.plan import Edit
from sparsewood.shrinking.replacements import needed, refusal, replace, settings

Kept = dict[str, dict[int, Tensor]]
_CHANNELS = torch.tensor([0, 2, 3, 5, 8, 9, 11])


def _attention(**settings: Any) -> nn.MultiheadAttention:
    """Three heads of four places, with biases that are not zero."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, **settings).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def _kept(module: nn.MultiheadAttention, rows: Tensor, *, values: Tensor | None = None) -> Kept:
    """What stays if these rows of queries and keys, and of values, do."""
    values = rows if values is None else values
    packed = torch.cat([rows, rows + 12, values + 24])
    kept: Kept = {"in_proj_weight": {0: packed}} if module.in_proj_weight is not None else {}
    if not kept:
        kept = {"q_proj_weight": {0: rows}, "k_proj_weight": {0: rows}, "v_proj_weight": {0: values}}
    kept |= {"out_proj.weight": {1: values}}
    kept |= {"in_proj_bias": {0: packed}} if module.in_proj_bias is not None else {}
    return kept | ({"bias_k": {2: rows}, "bias_v": {2: values}} if module.bias_k is not None else {})


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _silenced(module: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> nn.Module:
    """A copy in which what does not stay is 0."""
    masked = copy.deepcopy(module)
    with torch.no_grad():
        for name, axes in kept.items():
            tensor = masked.get_parameter(name)
            for axis, index in axes.items():
                gone = torch.ones(tensor.shape[axis], dtype=torch.bool).index_fill(0, index, value=False)
                tensor.index_fill_(axis, gone.nonzero()[:, 0], 0)
    return masked


def _cut(module: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> Any:
    """A copy without what does not stay, of the class that it needs."""
    small, shapes = copy.deepcopy(module), _shapes(module)
    for name, axes in kept.items():
        parameter = small.get_parameter(name)
        for axis, index in axes.items():
            parameter.data = parameter.data.index_select(axis, index)
    key = needed(module, kept)
    assert key is not None
    replace(small, key, kept, shapes)
    return small


def _same(first: Any, second: Any) -> None:
    (one, its), (other, others) = first, second
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert (its is None) == (others is None)
    if its is not None:
        torch.testing.assert_close(its, others, rtol=1e-10, atol=1e-10)


def _inputs(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y, z = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return x, y, z


_HEADS = torch.arange(4, 12)
_PLACES = torch.tensor([0, 1, 3, 4, 5, 7, 8, 9, 11])
_VALUES = torch.tensor([1, 2, 5, 6, 9, 10])
_FLOAT_MASK = torch.tensor([[0.0, 1, -1, 0.5, 2]] * 5, dtype=torch.float64)
_CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
_PADDED = torch.tensor([[False, False, False, True, True], [False, False, False, False, True]])

_BUILT = [
    {},
    {"bias": False},
    {"batch_first": True},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"kdim": 12, "vdim": 12, "add_bias_kv": True, "add_zero_attn": True},
]
_CALLED: list[dict[str, Any]] = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False, "key_padding_mask": _PADDED},
    {"need_weights": False, "key_padding_mask": _PADDED, "attn_mask": _CAUSAL, "is_causal": True},
    {"need_weights": False, "attn_mask": _CAUSAL, "is_causal": True},
    {"attn_mask": _CAUSAL, "is_causal": True},
    {"attn_mask": _FLOAT_MASK},
    {"attn_mask": _FLOAT_MASK.expand(6, 5, 5), "key_padding_mask": _PADDED.double() * -3},
]


@pytest.mark.parametrize("built", _BUILT, ids=str)
@pytest.mark.parametrize("called", _CALLED, ids=lambda called: "+".join(called) or "plain")
def test_a_new_one_is_pytorchs(built: dict[str, Any], called: dict[str, Any]) -> None:
    theirs = _attention(**built)
    ours = MultiheadAttention(12, 3, **built).double()
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    x, y, z = _inputs(*((2, 5, 12) if built.get("batch_first") else (5, 2, 12)))
    _same(ours(x, x, x, **called), theirs(x, x, x, **called))
    _same(ours(x, y, z, **called), theirs(x, y, z, **called))


def test_unbatched_inputs() -> None:
    theirs, ours = _attention(), MultiheadAttention(12, 3).double()
    ours.load_state_dict(theirs.state_dict())
    x, y, z = _inputs(5, 12)
    for called in ({}, {"need_weights": False}, {"average_attn_weights": False}, {"key_padding_mask": _PADDED[0]}):
        _same(ours(x, y, z, **called), theirs(x, y, z, **called))
    _same(ours(x, y, z, attn_mask=_FLOAT_MASK.expand(3, 5, 5)), theirs(x, y, z, attn_mask=_FLOAT_MASK.expand(3, 5, 5)))


@pytest.mark.parametrize("built", _BUILT[:4], ids=str)
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("rows", [_HEADS, _PLACES], ids=["heads", "places"])
def test_without_units_as_with_zeros(built: dict[str, Any], need_weights: bool, rows: Tensor) -> None:
    """004-19: heads, or the same places of every head, go; so do inputs and outputs."""
    module = _attention(**built)
    kept = _kept(module, rows)
    kept["in_proj_weight"][1] = _CHANNELS
    kept["out_proj.weight"][0] = _CHANNELS
    if module.in_proj_bias is not None:
        kept["out_proj.bias"] = {0: _CHANNELS}
    x = _inputs(*((2, 5, 12) if built.get("batch_first") else (5, 2, 12)))[0]
    small, chosen = _cut(module, kept), x[..., _CHANNELS]
    x = torch.zeros_like(x).index_copy(-1, _CHANNELS, chosen)
    expected, _ = _silenced(module, kept)(x, x, x, need_weights=False)
    found, _ = small(chosen, chosen, chosen, need_weights=need_weights)
    torch.testing.assert_close(found, expected[..., _CHANNELS], rtol=1e-10, atol=1e-10)
    assert (small.embed_dim, small.num_heads, small.head_dim) == (7, *((2, 4) if rows is _HEADS else (3, 3)))
    assert small.scale == 0.5
    assert isinstance(small, nn.MultiheadAttention)
    assert list(small.state_dict()) == list(module.state_dict())


@pytest.mark.parametrize("packed", [True, False])
def test_values_of_another_width_than_keys(packed: bool) -> None:
    module = _attention() if packed else _attention(kdim=5, vdim=6, add_bias_kv=True)
    kept = _kept(module, _PLACES, values=_VALUES)
    x, y, z = _inputs(5, 2, 12)
    y, z = (y, z) if packed else (y[..., :5], z[..., :6])
    small = _cut(module, kept)
    for need_weights in (True, False):
        expected = _silenced(module, kept)(x, y, z, need_weights=need_weights)
        _same(small(x, y, z, need_weights=need_weights), expected)
    assert (small.head_dim, small.value_dim) == (3, 2)


def test_cut_again() -> None:
    """What was replaced loses more: as if both had gone at once."""
    module = _attention()
    once = _cut(_cut(module, _kept(module, _PLACES, values=_VALUES)), _again())
    rows, values = torch.tensor([4, 7, 8, 11]), torch.tensor([5, 6, 9, 10])
    at_once = _cut(module, _kept(module, rows, values=values))
    x, y, z = _inputs(5, 2, 12)
    _same(once(x, y, z), at_once(x, y, z))
    assert (once.num_heads, once.head_dim, once.value_dim, once.scale) == (2, 2, 2, 0.5)


def _again() -> Kept:
    """Of three heads with 3 queries and 2 values, the last two with the first and last query."""
    rows, values = torch.tensor([3, 5, 6, 8]), torch.tensor([2, 3, 4, 5])
    packed = torch.cat([rows, rows + 9, values + 18])
    return {"in_proj_weight": {0: packed}, "in_proj_bias": {0: packed}, "out_proj.weight": {1: values}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"in_proj_weight": {0: torch.arange(1, 36)}}, "Queries and keys lose different rows"),
        ({"in_proj_weight": {0: torch.cat([torch.arange(1, 12) + 12 * part for part in range(3)])}}, "in_proj_bias"),
        ({"out_proj.weight": {1: torch.arange(4)}}, "Axis 1 of out_proj.weight does not lose"),
    ],
)
def test_what_is_no_attention_is_refused(change: Kept, says: str) -> None:
    module = _attention()
    with pytest.raises(SparsewoodError, match=says):
        replace(module, "MultiheadAttention", change, _shapes(module))
    assert type(module) is nn.MultiheadAttention


def test_heads_that_differ_are_refused() -> None:
    module = _attention()
    with pytest.raises(SparsewoodError, match=r"The queries of heads \[0, 1, 2\] have \[3, 4, 4\] rows left"):
        replace(module, "MultiheadAttention", _kept(module, torch.arange(1, 12)), _shapes(module))
    kept = _kept(module, _HEADS, values=torch.arange(8))
    with pytest.raises(SparsewoodError, match=r"Queries of heads \[1, 2\] meet values of \[0, 1\]"):
        replace(module, "MultiheadAttention", kept, _shapes(module))


def test_only_what_can_be_replaced_is() -> None:
    kept: Kept = {"in_proj_weight": {1: _CHANNELS}}
    assert needed(_attention(), kept) == "MultiheadAttention"
    assert needed(_attention(), {}) is None
    assert needed(nn.Linear(2, 3), {"weight": {0: torch.arange(1)}}) is None
    with pytest.raises(UnknownName, match="'Attention'"):
        replace(_attention(), "Attention", kept, {})
    with pytest.raises(SparsewoodError, match=r"Only a module of class nn\.MultiheadAttention .* Got Linear"):
        replace(nn.Linear(2, 3), "MultiheadAttention", {}, {})


class _OwnAttention(nn.MultiheadAttention):
    pass


def test_refusal() -> None:
    own = _OwnAttention(12, 3)
    kept: Kept = {"in_proj_weight": {1: _CHANNELS}}
    assert needed(own, kept) is None
    assert refusal(own, {}, _shapes(own)) is None
    assert "_OwnAttention" in str(refusal(own, kept, _shapes(own)))
    assert refusal(_attention(), kept, {}) is None


def _narrow(lstm: nn.LSTM, hidden: int, projected: int) -> nn.LSTM:
    """The first places of the hidden state and of its projection."""
    small = copy.deepcopy(lstm)
    for name, parameter in small.named_parameters():
        if "hr" in name:
            parameter.data = parameter.data[:projected, :hidden]
        else:
            rows = parameter.data.unflatten(0, (4, -1))[:, :hidden].flatten(0, 1)
            parameter.data = rows[:, :projected] if "weight_hh" in name or name == "weight_ih_l1" else rows
    small.hidden_size, small.proj_size = hidden, projected
    small.flatten_parameters()
    return small


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("hidden", "projected"), [(8, 3), (5, 4), (4, 4), (3, 4)])
def test_lstm_with_a_projection(hidden: int, projected: int) -> None:
    """PyTorch finds out by comparing sizes whether there is a projection: only one of equal width cannot be."""
    lstm = nn.LSTM(5, 8, 2, proj_size=4)
    kept = {"weight_hr_l0": {0: torch.arange(projected), 1: torch.arange(hidden)}}
    small, x = _narrow(lstm, hidden, projected), torch.randn(3, 2, 5)
    if refusal(lstm, kept, _shapes(lstm)) is None:
        assert hidden != projected
        assert small(x)[0].shape == (3, 2, projected)
    else:
        with pytest.raises(RuntimeError):
            small(x)


# ---------------------------------------------------------------- in PyTorch's transformers


class _Encoder(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=padding))


def _halved(model: _Encoder) -> tuple[_Encoder, _Encoder]:
    """Masked and small: the second layer without its first head."""
    attention = model.encoder.layers[1].self_attn
    assert isinstance(attention, nn.MultiheadAttention)
    kept = _kept(attention, torch.arange(6, 12))
    masked, small = copy.deepcopy(model), copy.deepcopy(model)
    masked.encoder.layers[1].self_attn = _silenced(attention, kept)
    small.encoder.layers[1].self_attn = _cut(attention, kept)
    for edit in settings(small, ["encoder.layers.1.self_attn"]):
        setattr(small.get_submodule(edit.module), edit.name, edit.after)
    return masked, small


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_fast_path_is_not_taken(padded: bool, gradients: bool) -> None:
    """In eval mode PyTorch's layers bypass their attention; what is padding may be anything."""
    torch.manual_seed(0)
    masked, small = (model.double().eval() for model in _halved(_Encoder()))
    x = _inputs(2, 5, 6)[0]
    with torch.set_grad_enabled(gradients), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
        expected = masked(x, _PADDED if padded else None)
        found = small(x, _PADDED if padded else None)
    seen = ~_PADDED if padded else torch.ones_like(_PADDED)
    torch.testing.assert_close(found[seen], expected[seen], rtol=1e-10, atol=1e-10)


def test_settings_only_where_something_was_replaced() -> None:
    model = nn.Sequential(_Encoder(1), _Encoder(1))
    edit = Edit("1.encoder", "use_nested_tensor", (), before=True, after=False)
    assert settings(model, ["1.encoder.layers.0.self_attn"]) == [edit]
    assert settings(model, ["0.embed"]) == []


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.attention = _attention(batch_first=True).float()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    model = _Model().eval()
    model.attention = _cut(model.attention, _kept(model.attention, _PLACES, values=_VALUES))
    return model


def test_copies_and_files(small: nn.Module) -> None:
    x = torch.randn(2, 5, 6)
    expected = small(x)
    stream = io.BytesIO()
    torch.save(small, stream)
    stream.seek(0)
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), torch.load(stream, weights_only=False)):
        assert torch.equal(other(x), expected)


def test_gradients_reach_all_parameters(small: nn.Module) -> None:
    small.train()(torch.randn(2, 5, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_dropout_in_training() -> None:
    module = MultiheadAttention(12, 3, dropout=0.5)
    x = torch.randn(4, 2, 12)
    for need_weights in (True, False):
        torch.manual_seed(0)
        first = module(x, x, x, need_weights=need_weights)[0]
        assert not torch.equal(first, module(x, x, x, need_weights=need_weights)[0])
    module.eval()
    assert torch.equal(module(x, x, x)[0], module(x, x, x)[0])


def test_export(small: nn.Module) -> None:
    x = torch.randn(2, 5, 6)
    exported = torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim("batch"), 1: None},))
    y = torch.randn(3, 5, 6)
    torch.testing.assert_close(exported.module()(y), small(y))


def test_compile(small: nn.Module) -> None:
    x = torch.randn(2, 5, 6)
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), small(x))


def test_traced_again(small: nn.Module) -> None:
    """Its sizes are attributes that follow; its scale does not depend on them, so that places go exactly."""
    x = torch.randn(2, 5, 6)
    heads = sw.trace(small, x).group_of("attention.in_proj_weight")
    assert [(group.units, group.exact) for group in heads] == [(3, True)]
    places = sw.trace(small, x, attention="head_dims").group_of("attention.in_proj_weight")
    assert {(group.units, group.exact) for group in places} == {(3, True), (2, True)}


def test_masks_of_another_shape_are_refused(small: nn.Module) -> None:
    x = torch.randn(2, 5, 12)
    attention: Any = small.get_submodule("attention")
    with pytest.raises(SparsewoodError, match=r"2 sequences x 3 heads. Got \(8, 5, 5\)"):
        attention(x, x, x, attn_mask=torch.zeros(8, 5, 5))
    with pytest.raises(SparsewoodError, match=r"truth values or floating-point numbers\. Got torch\.int64"):
        attention(x, x, x, key_padding_mask=torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(SparsewoodError, match="attn_mask has to be given"):
        attention(x, x, x, is_causal=True)


def test_weights_are_probabilities(small: nn.Module) -> None:
    attention: Any = small.get_submodule("attention")
    x = torch.randn(2, 5, 12)
    _, weights = attention(x, x, x, average_attn_weights=False)
    assert weights.shape == (2, 3, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
    assert F.relu(weights).equal(weights)
