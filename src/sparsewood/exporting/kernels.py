"""Layers that compute with the weights that are not zero: in compressed rows, in blocks, or two of every four.

For inference: they have no backward pass.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.errors import SparsewoodError

__all__ = ["SemiStructuredLinear", "SparseConv2d", "SparseLinear", "conv_padding"]


class _Compressed(nn.Module):
    """A matrix of weights in compressed rows, of numbers or of blocks: what both sparse layers hold.

    Its state is `crow`, `column` and `values`, plain tensors; `bias` as it was.
    """

    crow: Tensor
    column: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, matrix: Tensor, bias: Tensor | None, block: int | None) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls compressed rows a beta, once in each process
            sparse: Any = matrix.to_sparse_csr() if block is None else matrix.to_sparse_bsr((block, block))
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.layout = sparse.layout
        # What multiplies on the CPU takes 32 bits, and converts others in every call.
        self.register_buffer("crow", sparse.crow_indices().to(torch.int32))
        self.register_buffer("column", sparse.col_indices().to(torch.int32))
        self.register_buffer("values", sparse.values().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._matrix: tuple[Tensor, Tensor] | None = None

    def matrix(self) -> Tensor:
        """The weights as a sparse matrix, which has the memory of `values`."""
        if self._matrix is None or self._matrix[0] is not self.values:
            made = torch.sparse_compressed_tensor(
                self.crow, self.column, self.values, self.shape, layout=self.layout, check_invariants=True
            )
            self._matrix = (self.values, made)
        return self._matrix[1]

    def product(self, columns: Tensor) -> Tensor:
        """The weights times a dense matrix of columns, and the bias: [outputs, columns]."""
        if torch.is_grad_enabled() and columns.requires_grad:
            raise SparsewoodError(
                "Sparse kernels are for inference and have no backward pass. Run the network under torch.no_grad(), "
                "and train the dense one."
            )
        if columns.shape[1] == 1:  # a product with a vector does not pay for what it prepares for many
            vector = torch.mv(self.matrix(), columns[:, 0])
            return (vector if self.bias is None else vector.add_(self.bias))[:, None]
        if self.bias is None:
            return self.matrix() @ columns
        return torch.addmm(self.bias[:, None], self.matrix(), columns)

    def dense(self) -> Tensor:
        """The weights as a dense matrix, made anew: [outputs, inputs]."""
        return self.matrix().to_dense()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_matrix": None}  # in a copy it would have memory of its own

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **keywords: Any) -> None:
        for name in ("column", "values"):
            given, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if isinstance(given, Tensor) and given.dim() and given.shape[1:] == own.shape[1:]:
                self._buffers[name] = own.new_empty(given.shape)  # as many as are not zero there
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)
        self._matrix = None


class SparseLinear(_Compressed):
    """`nn.Linear` with compressed rows, or blocks of `block` x `block`: y = x W^T + b.

    >>> layer = nn.Linear(6, 4)
    >>> _ = layer.weight.data[:, ::2].zero_()
    >>> sparse, x = SparseLinear(layer), torch.randn(3, 6)
    >>> with torch.no_grad():
    ...     torch.allclose(sparse(x), layer(x), atol=1e-6), len(sparse.values)
    (True, 12)
    """

    def __init__(self, layer: nn.Linear, block: int | None = None) -> None:
        super().__init__(layer.weight.detach(), layer.bias, block)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew; writing to it changes nothing."""
        return self.dense()

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., inputs] -> [..., outputs]."""
        rows = x.reshape(-1, self.in_features)
        return self.product(rows.T).T.contiguous().view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {_described(self)}"


class SparseConv2d(_Compressed):
    """`nn.Conv2d` of one group, padded with zeros, as a product with the patches of its input.

    A kernel of 1 x 1 reads the input as it lies; others are unfolded first, which costs as much as it costs when the
    weights are dense.

    >>> layer = nn.Conv2d(2, 3, 3, padding=1)
    >>> _ = layer.weight.data[:, 0].zero_()
    >>> sparse, x = SparseConv2d(layer), torch.randn(2, 2, 5, 5)
    >>> with torch.no_grad():
    ...     torch.allclose(sparse(x), layer(x), atol=1e-5)
    True
    """

    def __init__(self, layer: nn.Conv2d, block: int | None = None) -> None:
        super().__init__(layer.weight.detach().flatten(1), layer.bias, block)
        padding = conv_padding(layer)
        if padding is None or layer.groups != 1:
            raise SparsewoodError(
                f"SparseConv2d takes one group, padded with as many zeros on both sides. Got {layer}."
            )
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride = _pair(layer.kernel_size), _pair(layer.stride)
        self.padding, self.dilation, self.groups = padding, _pair(layer.dilation), 1

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew; writing to it changes nothing."""
        return self.dense().view(self.out_channels, self.in_channels, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, channels, height, width], or without a batch -> the same of the outputs."""
        images = x if x.dim() == 4 else x[None]
        patches = self._patches(images)
        batch, _, places = patches.shape
        columns = patches[0] if batch == 1 else patches.transpose(0, 1).reshape(patches.shape[1], -1)
        y = self.product(columns).view(self.out_channels, batch, places).transpose(0, 1).contiguous()
        y = y.view(batch, self.out_channels, *self._sizes(images))
        return y if x.dim() == 4 else y[0]

    def _patches(self, images: Tensor) -> Tensor:
        """[batch, inputs of one output, places]."""
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            down, across = self.stride
            return images[:, :, ::down, ::across].flatten(2)
        return F.unfold(images, self.kernel_size, self.dilation, self.padding, self.stride)

    def _sizes(self, images: Tensor) -> list[int]:
        each = zip(images.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return [
            (size + 2 * pad - dilation * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, dilation in each
        ]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, {_described(self)}"
        )


class SemiStructuredLinear(nn.Linear):
    """`nn.Linear` with at most two of every four weights, as NVIDIA's tensor cores multiply them.

    Needs a CUDA device of compute capability 8.0 and float16 or bfloat16. Its state is that of the dense layer.
    Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", https://arxiv.org/abs/2104.08378.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight = _two_of_four(layer.weight)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.detach().to_dense()

    def _load_from_state_dict(  # noqa: PLR0917  (PyTorch's)
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: Any,
    ) -> None:
        name = f"{prefix}weight"
        rest = {key: value for key, value in state_dict.items() if key != name}
        held = self._parameters.pop("weight")  # cannot be copied into
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        self._parameters["weight"] = held
        if name in state_dict:
            self._parameters["weight"] = _two_of_four(state_dict[name].to(self.weight.device, self.weight.dtype))
        elif strict:
            missing_keys.append(name)


def conv_padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """The zeros that a convolution puts on each side; None if it pads with something else, or unevenly.

    >>> conv_padding(nn.Conv2d(1, 1, 3, padding="same")), conv_padding(nn.Conv2d(1, 1, 2, padding="same"))
    ((1, 1), None)
    """
    if layer.padding_mode != "zeros":
        return None
    if layer.padding == "valid":
        return 0, 0
    if isinstance(layer.padding, str):
        whole = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return None if any(number % 2 for number in whole) else (whole[0] // 2, whole[1] // 2)
    return _pair(layer.padding)


def _two_of_four(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.sparse.to_sparse_semi_structured(weight.detach().contiguous()), requires_grad=False)


def _pair(sizes: Any) -> tuple[int, int]:
    return int(sizes[0]), int(sizes[1])


def _described(layer: _Compressed) -> str:
    name = str(layer.layout).removeprefix("torch.sparse_")
    return f"{name}, {layer.values.numel()} of {layer.shape[0] * layer.shape[1]} weights, bias={layer.bias is not None}"
