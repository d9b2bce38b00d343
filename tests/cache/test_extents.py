"""Which bytes are there: against a set of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirror.cache.extents import Extents

MOST = 60
STRETCH = st.tuples(st.integers(0, MOST), st.integers(0, MOST))


@given(st.lists(STRETCH, max_size=20), st.integers(0, MOST), STRETCH)
def test_they_are_what_a_set_of_positions_would_be(
    added: list[tuple[int, int]], position: int, looked: tuple[int, int]
) -> None:
    extents, right = Extents(), set[int]()
    for start, stop in added:
        extents.add(start, stop)
        right |= set(range(start, stop))
    assert {each for start, stop in extents for each in range(start, stop)} == right
    assert extents.total == len(right)
    assert extents.last == max(right, default=-1) + 1
    assert bool(extents) == bool(right)
    ends = [stop for _, stop in extents]
    assert all(before < start for before, (start, _) in zip(ends, list(extents)[1:], strict=False)), (
        "disjoint"
    )
    end = position
    while end in right:
        end += 1
    assert extents.end(position) == end
    missing = {each for start, stop in extents.gaps(*looked) for each in range(start, stop)}
    assert missing == set(range(*looked)) - right
    extents.cut(position)
    left = {each for each in right if each < position}
    assert {each for start, stop in extents for each in range(start, stop)} == left
    assert extents.total == len(left)
