"""Seeds: each purpose its own, the same on every machine."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.errors import SparsewoodError
from sparsewood.seeds import derive, generator_for


def test_golden() -> None:
    """A change here would change the numbers of every run."""
    assert derive(1, "order", 3) == 7271220681947096770
    assert derive(0) == 3696793467068528757


def test_labels_do_not_run_together() -> None:
    assert len({derive(1, "a", 1), derive(1, "a1"), derive(1, "a/1"), derive(1, "a", "1"), derive(11, "a")}) == 5


@given(st.integers(0, 2**70), st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=3))
def test_seeds_fit_every_generator(seed: int, labels: list) -> None:
    found = derive(seed, *labels)
    assert 0 <= found < 2**63
    torch.Generator().manual_seed(found)


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "1"])
def test_what_is_no_seed_is_refused(seed: object) -> None:
    with pytest.raises(SparsewoodError, match="whole number >= 0"):
        derive(seed)  # pyright: ignore[reportArgumentType]


def test_generators_are_alike_and_apart() -> None:
    """[7.24]"""
    state = torch.get_rng_state()
    first, again, other = (torch.rand(4, generator=generator_for(5, *key)) for key in (("a",), ("a",), ("b",)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
