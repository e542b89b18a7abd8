"""Multi-head attention whose sizes need not fit one another: what `nn.MultiheadAttention` becomes when it shrinks.

Shape suffixes: B sequences, L places of the query, S places of the key, h heads, d width of a head's queries and keys,
v width of a head's values, E width of an input.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.errors import SparsewoodError

__all__ = ["MultiheadAttention"]


class MultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with any number of heads, of any width, and a scale that does not depend on it.

        out = concat_h(softmax(scale * q_h k_h^T + mask) v_h) out_proj

    Parameters have the same names, and a forward the same arguments and results. `num_heads` heads have `head_dim`
    queries and keys and `value_dim` values each; `in_proj_weight` holds `num_heads * head_dim` rows that make queries,
    as many that make keys, and `num_heads * value_dim` that make values. `scale` is that of the network before it
    shrank: without some of a head's queries and keys the scores are those of the network where these are 0.

    A new one computes what `nn.MultiheadAttention` does. PyTorch's fused transformer layers, which know only sizes that
    fit, are not taken with it.

    >>> _ = torch.manual_seed(0)
    >>> ours, x = MultiheadAttention(8, 2), torch.ones(5, 3, 8)
    >>> ours(x, x, x)[0].shape, ours.value_dim, ours.scale
    (torch.Size([5, 3, 8]), 4, 0.5)
    """

    value_dim: int
    scale: float

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.sized(num_heads=self.num_heads, head_dim=self.head_dim, value_dim=self.head_dim)
        self.scale = 1 / math.sqrt(self.head_dim)

    def sized(self, *, num_heads: int, head_dim: int, value_dim: int) -> None:
        """Set the sizes of heads, and take the widths of the inputs from the weights."""
        self.num_heads, self.head_dim, self.value_dim = num_heads, head_dim, value_dim
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        self.embed_dim, self.kdim, self.vdim = (
            (self.in_proj_weight if weight is None else weight).shape[1] for weight in weights
        )
        self._qkv_same_embed_dim = False  # by this, fused layers know that they cannot be used

    def forward(  # noqa: PLR0917  (as the class that it stands for)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        if is_causal and attn_mask is None:
            raise SparsewoodError("is_causal only says that attn_mask is causal: attn_mask has to be given, too.")
        batched = query.dim() == 3
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask[None]
        q, k, v = self._heads(*self._projected(query, key, value))
        if is_causal and key_padding_mask is None and not need_weights:
            attn_mask = None
        else:
            is_causal = False
            attn_mask = self._mask(attn_mask, key_padding_mask, query.dtype, batch=q.shape[0], more=self._added())
        weights = None
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores_BhLS = (q * self.scale) @ k.transpose(-2, -1)
            weights = F.dropout((scores_BhLS if attn_mask is None else scores_BhLS + attn_mask).softmax(-1), dropout)
            out_BhLv = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            out_BhLv = F.scaled_dot_product_attention(
                q, k, v, attn_mask=attn_mask, dropout_p=dropout, is_causal=is_causal, scale=self.scale
            )
        out_BLE = F.linear(out_BhLv.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if not batched:
            return out_BLE[0], None if weights is None else weights[0]
        return out_BLE if self.batch_first else out_BLE.transpose(0, 1), weights

    # ------------------------------------------------------------ queries, keys and values

    def _added(self) -> int:
        """How many places keys and values get in addition."""
        return int(self.bias_k is not None) + int(self.add_zero_attn)

    def _sequences(self, x: Tensor) -> Tensor:
        """[B, places, E], however the input is laid out."""
        if x.dim() == 2:
            return x[None]
        return x if self.batch_first else x.transpose(0, 1)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values of all heads beside one another."""
        scored = self.num_heads * self.head_dim
        sizes = [scored, scored, self.num_heads * self.value_dim]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if weight is not None and query is key and key is value:
            return list(F.linear(self._sequences(query), weight, bias).split(sizes, -1))
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = separate if weight is None else weight.split(sizes)
        biases = (None, None, None) if bias is None else bias.split(sizes)
        return [
            F.linear(self._sequences(x), w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)
        ]

    def _heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heads before places; keys and values with what is added to them."""
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], -1, -1)], 1)
        q_BhLd = q.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        k_BhSd = k.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        v_BhSv = v.unflatten(-1, (self.num_heads, self.value_dim)).transpose(1, 2)
        if self.add_zero_attn:
            k_BhSd, v_BhSv = (F.pad(x, (0, 0, 0, 1)) for x in (k_BhSd, v_BhSv))
        return q_BhLd, k_BhSd, v_BhSv

    # ------------------------------------------------------------ masks

    def _mask(
        self, scores: Tensor | None, padding: Tensor | None, dtype: torch.dtype, *, batch: int, more: int
    ) -> Tensor | None:
        """What is added to the scores [B, h, L, S]; both masks see nothing of the `more` places at the end."""
        found: Tensor | None = None
        if scores is not None:
            found = F.pad(_additive(scores, dtype), (0, more))
            if found.dim() == 3:
                if found.shape[0] != batch * self.num_heads:
                    raise SparsewoodError(
                        f"An attn_mask with three axes holds one mask for each of {batch} sequences x {self.num_heads} "
                        f"heads. Got {tuple(scores.shape)}."
                    )
                found = found.unflatten(0, (batch, self.num_heads))
        if padding is not None:
            hidden = F.pad(_additive(padding, dtype), (0, more))[:, None, None]
            found = hidden if found is None else found + hidden
        return found


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Where a truth value hides a place: -inf; numbers are added as they are."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise SparsewoodError(f"A mask of attention holds truth values or floating-point numbers. Got {mask.dtype}.")
    return mask
