"""Attention, LSTM and embeddings in 8 bits (001-11): where onnxruntime can, else with the reason."""

from __future__ import annotations

import torch
from torch import nn

import sparsewood as sw
from sparsewood.exporting import Dynamic
from sparsewood.quantization import affine_of, quantize


class Words(nn.Module):
    """An embedding, an encoder layer, an LSTM, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.lstm, self.head = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.encoder(self.embedding(ids)))[0][:, -1])


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def ids() -> torch.Tensor:
    return torch.randint(0, 20, (16, 6), generator=torch.Generator().manual_seed(1))


def test_words() -> None:
    """Attention and LSTM: in 8 bits where onnxruntime can, else with the reason."""
    model = seeded(Words)
    linear = {f"encoder.{name}.weight" for name in ("self_attn.out_proj", "linear1", "linear2")}
    linear |= {"encoder.self_attn.in_proj_weight", "head.weight"}
    lstm = {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    static, dynamic = sw.quantize_int8(model, [ids()]), sw.quantize_int8(model, [ids()], activations=Dynamic())
    assert {row.name for row in static.layers if row.quantized} == linear
    assert "activations=Dynamic()" in static.layer("lstm.weight_hh_l0").reason
    assert {row.name for row in dynamic.layers if row.quantized} == linear | lstm
    for small in (static, dynamic):
        assert "include" in small.layer("embedding.weight").reason
        assert "normalisations" in small.layer("encoder.norm1").reason
        assert {row.name for row in small.layers} == linear | lstm | {
            "embedding.weight",
            "encoder.norm1",
            "encoder.norm2",
        }
        assert small.agreement(model, [ids()]).relative < 0.05
        for name, integers in small.integers.items():
            weight = model.get_parameter(name).detach()
            assert torch.equal(integers, quantize(weight, affine_of(weight, symmetric=True, axis=0))) or name in lstm
    # onnxruntime orders the gates of an LSTM otherwise: the same rows, each with its scale.
    row, weight = dynamic.layer("lstm.weight_ih_l0"), model.get_parameter("lstm.weight_ih_l0").detach()
    assert row.kernel == "DynamicQuantizeLSTM"
    assert row.weight is not None
    gates = [part for number in (0, 3, 1, 2) for part in weight[8 * number : 8 * number + 8]]
    assert float((row.weight - torch.stack(gates)).abs().max()) <= float(weight.abs().max()) / 254 * 1.001


class Tied(nn.Module):
    """The classifier has the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.embedding(ids)).relu())


def test_embeddings_are_quantised_where_named() -> None:
    torch.manual_seed(0)
    model, words = Tied(), [torch.randint(0, 10, (8, 5), generator=torch.Generator().manual_seed(1))]
    plain = sw.quantize_int8(model, words)
    assert {row.name: row.quantized for row in plain.layers} == {
        "embedding.weight": False,
        "hidden.weight": True,
        "head.weight": True,
    }
    named = sw.quantize_int8(model, words, include=[nn.Embedding])
    assert [row.name for row in named.layers if row.quantized] == ["embedding.weight", "head.weight"]
    assert named.integers["embedding.weight"].dtype is torch.uint8
    assert "not included" in named.layer("hidden.weight").reason
    assert named.bytes < plain.bytes
    assert named.agreement(model, words).relative < 0.03


def test_an_lstm_of_both_directions() -> None:
    torch.manual_seed(0)
    model = nn.LSTM(5, 6, bidirectional=True, batch_first=True)
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
    for per_channel in (True, False):
        small = sw.quantize_int8(model, example_inputs=x, activations=Dynamic(), per_channel=per_channel)
        first, second = small.layers
        assert first.name == "weight_ih_l0 and weight_ih_l0_reverse"
        assert second.name == "weight_hh_l0 and weight_hh_l0_reverse"
        assert first.integers is not None
        assert first.integers.shape == (48, 5)
        assert first.integers.dtype is torch.int8
        output, (hidden, cell) = small(x)
        expected = model(x)
        for got, wanted in ((output, expected[0]), (hidden, expected[1][0]), (cell, expected[1][1])):
            torch.testing.assert_close(got, wanted, atol=0.02, rtol=0)


def test_layers_that_are_copies_have_their_own_names() -> None:
    """The exporter keeps one of constants with equal values, as the copies in an encoder have before a training."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    small = sw.quantize_int8(model, [torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1))])
    names = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    assert set(small.integers) == names
    assert len(names) == 8
