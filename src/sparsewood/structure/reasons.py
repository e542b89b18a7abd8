"""Reasons why units stay: how the operations are called, and what it would take to remove what a reason holds."""

from __future__ import annotations

__all__ = ["INHERENT", "NO_RULE", "RULE_FAILED", "advice", "short_op"]

NO_RULE, RULE_FAILED = "there is no rule", "its rule failed"
INHERENT = "it is a place in a kernel"
"""A reason that every convolution has, and that holds nothing else."""

_BUG = "a mended rule: this is a mistake of sparsewood, please report it"
_SIZES = "use -1 or an attribute of the module there"

_ADVICE = {
    NO_RULE: "register a rule (structure/rules), or write the operation with others that have one",
    RULE_FAILED: _BUG,
    "does not say": _BUG,
    "output of the network": "nothing: it is what the network returns; leave hidden states out of what it returns",
    "is that of another axis": "take the size from the tensor itself, x.shape[...]",
    "of an axis that no parameter owns": "use -1, or an attribute of the module, instead of that size",
    "axes of different sizes": "give the module an attribute for each of the sizes",
    "has to stay": "give the module an attribute for each of the sizes",
    "written in the forward": _SIZES,
    "sizes given as numbers": _SIZES,
    "expanded to its size": _SIZES,
    "forward depends on whether": "leave out the comparison of sizes, or compare what does not shrink",
    "value that depends on its inputs": "compute with tensors alone (torch.where) instead of Python values",
    "leave the graph": "compute with tensors alone: no .item(), .tolist() or .numpy()",
    "its elements are counted": "take the size from the tensor itself, x.shape[...]",
    "cut into parts": "cut it into parts of equal length, or keep their lengths in an attribute of the module",
    "equal parts": "use one layer for each part",
    "begins or ends at a fixed position": "cut at sizes of tensors or at attributes of the module",
    "fixed position": "nothing: a certain position is read; use a layer of its own for it",
    "fixed number of its positions": "cut at sizes of tensors or at attributes of the module",
    "first positions are indexed": "index all of the axis",
    "values would have to change": "compute the index in the forward, from sizes of tensors",
    "whose parts cannot be followed": "use a plain tensor instead",
    "constant tensor": "make a new tensor of the activations (torch.cat, torch.where) instead of writing into one",
    "strides of the caller": "use view, transpose or unfold instead of as_strided",
    "transformer layer in one operation": "trace the model in train mode, or disable its fast path",
    "does not use": "give example inputs with which the forward uses it, or delete it from the model",
    "no parameter owns": "nothing, if it is an axis of inputs, places or time; else give the axis to a layer first",
    "put in order": "nothing: a sort mixes its positions",
    "chosen by": "nothing: its positions are picked by number",
    "written by": "nothing: its positions are picked by number",
    "are positions of": "nothing: its positions are computed with as numbers",
    "positions of it": "nothing: its positions are computed with as numbers",
    "position of it": "nothing: its positions are computed with as numbers",
    "windows move": "nothing: neighbours along this axis are combined",
    "positions move": "nothing: the order along this axis matters",
    "Fourier": "nothing: every position of the result takes all of them",
    "softmax": "nothing: a softmax over units is another one without them",
    "product over": "nothing: a product over units is another one without them",
    "normalisation over": "nothing: its result is another one without them",
    "only position": "nothing: a single unit stays",
    "an axis would be empty": "nothing where an axis has one position; else explain() says what ties it together",
    INHERENT: "nothing: places in a kernel stay",
    "a place in": "nothing: places in space, windows and sequences stay",
    "gate of a recurrent": "nothing: a cell has all of its gates",
    "recurrent": "nothing: layers, directions and time steps stay",
    "one side of a rectangle": "attention='head_dims', if it is in attention and this side is the better one",
    "rectangle": "attention='head_dims', if it is in attention and removes more",
}
"""What it would take, by a part of the reason, the first that fits."""


def advice(why: str) -> str:
    """What it would take to remove what is kept because of `why`; begins with "nothing" if it cannot be had.

    >>> advice("its size 12 is written in the forward")
    'use -1 or an attribute of the module there'
    """
    return next((text for part, text in _ADVICE.items() if part in why), "")


def short_op(op: str) -> str:
    """An operation without its namespace and its usual overload.

    >>> short_op("aten.add.Tensor"), short_op("aten.convolution.default")
    ('add', 'convolution')
    """
    parts = op.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "aten" else op
