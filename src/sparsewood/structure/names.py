"""How places, operations and numbers are called in what people read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sparsewood.structure.labels import Split
from sparsewood.structure.record import Record
from sparsewood.structure.structure import Slice

__all__ = [
    "Places",
    "braced",
    "bundled",
    "collapsed",
    "fitted",
    "pattern",
    "percent",
    "place",
    "ranged",
    "short",
]


def place(one: Slice) -> str:
    """An axis of a parameter.

    >>> place(Slice("conv1.weight", 0, np.zeros(1)))
    'conv1.weight[0]'
    """
    return f"{one.param}[{one.axis}]"


def bundled(slices: Iterable[Slice]) -> list[tuple[str, int]]:
    """Places and how many slices each stands for; several tensors of one module along one axis are one place.

    >>> bundled([Slice("bn.weight", 0, np.zeros(1)), Slice("bn.bias", 0, np.zeros(1)), Slice("w", 1, np.zeros(1))])
    [('bn.*[0]', 2), ('w[1]', 1)]
    """
    found: dict[tuple[str, int], list[Slice]] = {}
    for one in slices:
        found.setdefault((one.param.rpartition(".")[0], one.axis), []).append(one)
    return [
        (place(ones[0]) if len(ones) == 1 or not module else f"{module}.*[{axis}]", len(ones))
        for (module, axis), ones in found.items()
    ]


def braced(places: Iterable[str]) -> list[str]:
    """Places, those of one module along one axis together.

    >>> braced(["conv.weight[0]", "bn.weight[0]", "bn.bias[0]", "the 2 blocks of bn.bias[0]"])
    ['conv.weight[0]', 'bn.{weight,bias}[0]', 'the 2 blocks of bn.bias[0]']
    """
    found: dict[tuple[str, str], list[str]] = {}
    for one in dict.fromkeys(places):
        module, dot, rest = one.rpartition(".")
        leaf, _, axis = rest.partition("[")
        plain = dot and " " not in one
        found.setdefault((module, axis) if plain else (one, ""), []).append(leaf if plain else "")
    names = []
    for (module, axis), leaves in found.items():
        inside = leaves[0] if len(leaves) == 1 else "{" + ",".join(leaves) + "}"
        names.append(f"{module}.{inside}[{axis}" if axis else module)
    return names


def percent(share: float) -> str:
    """A share in per cent that says 0 and 100 only where it is that.

    >>> percent(1), percent(0.99999), percent(0.5), percent(1e-6)
    ('100 %', '> 99.9 %', '50.0 %', '< 0.1 %')
    """
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return "> 99.9 %" if share > 0.999 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def middle(text: str, width: int) -> str:
    """`text` in at most `width` characters; what does not fit is left out of its middle.

    >>> middle("features.denseblock1.conv1", 17)
    'feature...1.conv1'
    """
    if len(text) <= width:
        return text
    width = max(width, 5)
    return f"{text[: (width - 3) // 2]}...{text[len(text) - (width - 2) // 2 :]}"


def _ending(text: str, width: int) -> str:
    """The last `width` characters of `text`, if it has more, with dots for what is left out."""
    return text if len(text) <= width else f"...{text[len(text) - max(width - 3, 1) :]}"


def relative(name: str, group: str) -> str:
    """A name that begins with the same module as a group's, from the dot on.

    >>> relative("layer1.0.conv2.weight[1]", "layer1.0.conv1"), relative("fc.weight[1]", "layer1.0.conv1")
    ('.conv2.weight[1]', 'fc.weight[1]')
    """
    module = group.rpartition(".")[0]
    return name[len(module) :] if module and name.startswith(f"{module}.") else name


def fitted(places: Sequence[tuple[str, int]], width: int) -> str:
    """As many places as fit into `width` characters, and how many slices are left; only how many, if not even the first
    fits.

    >>> fitted([("conv1.weight[0]", 1), ("bn1.*[0]", 4), ("conv2.weight[1]", 1)], 30)
    'conv1.weight[0], bn1.*[0] +1'
    """
    left = sum(count for _, count in places)
    text = ""
    for number, (one, count) in enumerate(places):
        more = f" +{left - count}" if left > count else ""
        longer = f"{text}, {one}" if number else _ending(one, width - len(more))
        if not number and more and len(longer) < min(len(one), 20):
            return f"{left} axes"
        if number and len(longer) + len(more) > width:
            return f"{text} +{left}"
        text, left = longer, left - count
    return text


_NUMBER = re.compile(r"(?<![\w\]])\d+(?=\.)|(?<=\.)\d+(?![\w\]])|(?<=\bin )\d+(?=[:)]|$)")


def pattern(name: str) -> str:
    """A name without the numbers of its layers, the same for all layers.

    >>> pattern("h.11.mlp.c_fc.weight[1] and layer1.0"), pattern("add in 2: 1.weight[0]")
    ('h.*.mlp.c_fc.weight[1] and layer1.*', 'add in *: *.weight[0]')
    """
    return _NUMBER.sub("*", name)


def general(names: Sequence[str]) -> str:
    """What names of one pattern have in common, with a star for each number in which they differ.

    >>> general(["stages.0.blocks.1.fc1", "stages.0.blocks.2.fc1"])
    'stages.0.blocks.*.fc1'
    """
    numbers = iter([set(one) for one in zip(*map(_NUMBER.findall, names), strict=True)])
    return _NUMBER.sub(lambda match: match[0] if len(next(numbers)) == 1 else "*", names[0])


def collapsed(lines: Iterable[str], prefix: str = "") -> list[str]:
    """Lines that differ in numbers of layers as one, with how many there are, where the first one stood.

    >>> collapsed(["add in h.0", "out", "add in h.1", "add in h.2"])
    ['add in h.*  x3', 'out']
    """
    found: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        found.setdefault(pattern(line), []).append(line)
    return [prefix + (same[0] if len(same) == 1 else f"{general(same)}  x{len(same)}") for same in found.values()]


def short(number: float) -> str:
    """A number in three digits.

    >>> short(999), short(1234), short(4_089_184_256)
    ('999', '1.23 k', '4.09 G')
    """
    unit = 0
    while number >= 999.5 and unit < 5:
        number, unit = number / 1000, unit + 1
    if not unit:
        return f"{number:.4g}"
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f} {' kMGTP'[unit]}"


def counted(number: int, what: str) -> str:
    """A number and what there are so many of.

    >>> counted(1, "group"), counted(2880, "unit")
    ('1 group', '2,880 units')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def ranged(counts: np.ndarray, number: Callable[[int], str] = "{:,}".format) -> str:
    """The number, or the least and the greatest.

    >>> ranged(np.array([2, 2])), ranged(np.array([2000, 30]))
    ('2', '30..2,000')
    """
    low, high = int(counts.min()), int(counts.max())
    return number(low) if low == high else f"{number(low)}..{number(high)}"


class Places:
    """What labels are called: the axis of the parameter that they were given to, or their side of a rectangle."""

    def __init__(self, record: Record) -> None:
        self.spans = [span for span in record.spans if span.size]
        self.starts = np.array([span.start for span in self.spans], np.int64)
        self.splits: list[Split] = [split for split, _ in record.splits]
        first_new = max((span.start + span.size for span in self.spans), default=1)
        self.first_new = first_new
        self.side = np.full(len(record.component), -1)
        for number, split in enumerate(self.splits):
            for which, row in enumerate((split.left, split.right, split.parent)):
                new = row[row >= first_new]
                self.side[new] = np.where(self.side[new] < 0, 3 * number + which, self.side[new])

    def of(self, labels: np.ndarray, most: int = 3, depth: int = 0) -> str:
        """The places of labels, `most` of them by name."""
        labels = labels[labels > 0]
        own = labels[labels < self.first_new]
        spans = np.unique(np.searchsorted(self.starts, own, "right") - 1).tolist()
        names = [f"{self.spans[index].param}[{self.spans[index].axis}]" for index in spans]
        sides = np.unique(self.side[labels[labels >= self.first_new]]).tolist()
        names += [self._of_side(one, depth) for one in sides]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    def _of_side(self, side: int, depth: int) -> str:
        if side < 0 or depth > 2:
            return "an axis made on the way"
        split, which = self.splits[side // 3], side % 3
        a, b = len(split.left), len(split.right)
        if which == 2:
            return f"{a} x {b} positions of {self.of(split.left, 1, depth + 1)} x {self.of(split.right, 1, depth + 1)}"
        of = self.of(split.parent, 1, depth + 1)
        return f"the {a} blocks of {of}" if which == 0 else f"the {b} places in each block of {of}"
