"""Rows, rectangles and the decision which side of a rectangle shrinks: mental arithmetic, no network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.structure.labels import Labels, Split
from sparsewood.structure.split import decide


def test_what_meets_a_position_that_nobody_owns_must_stay() -> None:
    labels = Labels()
    row = labels.fresh(3)
    assert labels.unite(row, None) is None
    (frozen, number), *_ = labels.frozen
    assert frozen.tolist() == [1, 2, 3]
    assert labels.reasons[number].why == "it meets an axis that no parameter owns"


def test_single_positions_that_nobody_owns_freeze_only_what_they_meet() -> None:
    labels = Labels()
    row = labels.fresh(3)
    united = labels.unite(row, np.array([0, 7, 8]))
    assert united is not None
    assert united.tolist() == [0, 2, 3]
    assert [frozen.tolist() for frozen, _ in labels.frozen] == [[1]]
    assert [(a.tolist(), b.tolist()) for a, b, _ in labels.edges] == [([2, 3], [7, 8])]


def test_rows_of_different_length_are_refused() -> None:
    labels = Labels()
    with pytest.raises(ValueError, match="3 and 2 positions"):
        labels.unite(labels.fresh(3), labels.fresh(2))


def test_flattened_space_repeats_the_channel_and_comes_back() -> None:
    labels = Labels()
    row = labels.fresh(2)
    flat = labels.merge([row, None, None], [2, 2, 2])
    assert flat is not None
    assert flat.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    channel, *space = labels.split(flat, [2, 2, 2])
    assert channel is not None
    assert channel.tolist() == [1, 2]
    assert space == [None, None]
    assert not labels.splits


def test_channels_last_tile() -> None:
    labels = Labels()
    flat = labels.merge([None, labels.fresh(2)], [3, 2])
    assert flat is not None
    assert flat.tolist() == [1, 2, 1, 2, 1, 2]


def test_a_rectangle_is_noted_once_and_put_together_again_either_way_round() -> None:
    labels = Labels()
    row = labels.fresh(6)
    left, right = labels.split(row, [2, 3])
    again = labels.split(row, [2, 3])
    assert again[0] is left
    assert again[1] is right
    assert labels.merge([left, right], [2, 3]) is row
    turned = labels.merge([right, left], [3, 2])
    assert turned is not None
    assert turned.tolist() == [1, 4, 2, 5, 3, 6]
    assert len(labels.splits) == 1


def test_three_factors_are_nested() -> None:
    labels = Labels()
    rows = labels.split(labels.fresh(24), [2, 3, 4])
    assert [len(row) for row in rows if row is not None] == [2, 3, 4]
    assert [len(split.parent) for split in labels.splits] == [24, 12]


@pytest.mark.parametrize(
    ("shape", "new", "rows"),
    [
        ((2, 3), (2, 1, 3), (None, None, "a")),
        ((2, 3), (6,), ("a tiled",)),
        ((1, 3), (3,), ("a",)),
        ((4, 3), (2, 2, 3), (None, None, "a")),
        ((4, 3), (4, 3, 1), (None, "a", None)),
    ],
)
def test_views(shape: tuple[int, ...], new: tuple[int, ...], rows: tuple[str | None, ...]) -> None:
    labels = Labels()
    row = labels.fresh(3)
    expected = {"a": row.tolist(), "a tiled": row.tolist() * 2, None: None}
    out = labels.regroup([None, row], shape, new)
    assert [None if one is None else one.tolist() for one in out] == [expected[name] for name in rows]


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), st.data())
def test_a_view_and_its_inverse_give_the_rows_back(shape: list[int], data: st.DataObject) -> None:
    labels = Labels()
    owned = data.draw(st.integers(0, len(shape) - 1))
    rows = [labels.fresh(size) if axis == owned and size > 1 else None for axis, size in enumerate(shape)]
    flat = labels.regroup(rows, shape, [int(np.prod(shape))])
    back = labels.regroup(flat, [int(np.prod(shape))], shape)
    assert [None if row is None else row.tolist() for row in back] == [
        None if row is None else row.tolist() for row in rows
    ]


def test_an_empty_tensor_freezes() -> None:
    labels = Labels()
    assert labels.regroup([labels.fresh(3), None], [3, 0], [0]) == [None]
    assert [row.tolist() for row, _ in labels.frozen] == [[1, 2, 3]]


# ---------------------------------------------------------------- which side shrinks


def _decide(labels: Labels, frozen: list[int], heads: list[int] = (), *, keep: bool = True) -> list[str]:  # pyright: ignore
    component = np.arange(labels.count)
    flags, head_flags = np.zeros(labels.count, bool), np.zeros(labels.count, bool)
    flags[[0, *frozen]] = True
    head_flags[list(heads)] = True
    return list(decide(labels.splits, component, flags, head_flags, keep_head_size=keep))


def test_the_side_with_more_units_shrinks() -> None:
    labels = Labels()
    labels.split(labels.fresh(6), [2, 3])
    labels.split(labels.fresh(6), [3, 2])
    assert _decide(labels, []) == ["right", "left"]


def test_a_frozen_side_leaves_the_other() -> None:
    labels = Labels()
    _, right = labels.split(labels.fresh(6), [2, 3])
    assert right is not None
    assert _decide(labels, right.tolist()) == ["left"]


def test_a_frozen_parent_leaves_neither() -> None:
    labels = Labels()
    row = labels.fresh(6)
    labels.split(row, [2, 3])
    assert _decide(labels, row.tolist()) == ["none"]


def test_heads_go_whole_unless_asked_otherwise() -> None:
    labels = Labels()
    heads, _ = labels.split(labels.fresh(6), [2, 3])
    assert heads is not None
    assert _decide(labels, [], heads.tolist()) == ["left"]
    assert _decide(labels, [], heads.tolist(), keep=False) == ["right"]


def test_one_decision_does_for_all_rectangles_that_share_a_side() -> None:
    """Query and key share the places in a head; the value's are its own, but its heads are theirs."""
    labels = Labels()
    left, right = np.array([1, 2]), np.array([3, 4, 5])
    labels.count = 24
    query, key, value = np.arange(6, 12), np.arange(12, 18), np.arange(18, 24)
    labels.splits = [Split(query, left, right, 0), Split(key, left, right, 1)]
    own = labels.fresh(3)
    labels.splits.append(Split(value, left, own, 2))
    component = np.arange(labels.count)
    frozen = np.zeros(labels.count, bool)
    frozen[[0, *right.tolist()]] = True
    heads = np.zeros(labels.count, bool)
    assert decide(labels.splits, component, frozen, heads, keep_head_size=True) == ["left", "left", "left"]
