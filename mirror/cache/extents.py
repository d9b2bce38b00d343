"""Which bytes of a file are there: a set of disjoint stretches [start, stop)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Extents:
    """Stretches that touch are one. As many as there are gaps: some dozens in a fill of several segments."""

    def __init__(self) -> None:
        self.total = 0  # bytes
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    @property
    def last(self) -> int:
        """The end of all of them."""
        return self._stops[-1] if self._stops else 0

    def add(self, start: int, stop: int) -> None:
        """These are there too, or were already."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)  # those before it end before `start`
        after = bisect_right(self._starts, stop)  # those from it on begin behind `stop`
        if first < after:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[after - 1])
        gone = sum(self._stops[first:after]) - sum(self._starts[first:after])
        self._starts[first:after] = [start]
        self._stops[first:after] = [stop]
        self.total += stop - start - gone

    def end(self, position: int) -> int:
        """The end of what is there from `position` on without a gap; `position` where nothing is."""
        index = bisect_right(self._starts, position) - 1
        return max(position, self._stops[index]) if index >= 0 else position

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """What is missing of [start, stop), in order."""
        missing = []
        while (start := self.end(start)) < stop:
            index = bisect_right(self._starts, start)
            following = self._starts[index] if index < len(self._starts) else stop
            missing.append((start, min(following, stop)))
            start = following
        return missing

    def cut(self, position: int) -> None:
        """Nothing from `position` on is there any more."""
        kept = [(start, min(stop, position)) for start, stop in self if start < position]
        self._starts = [start for start, _ in kept]
        self._stops = [stop for _, stop in kept]
        self.total = sum(self._stops) - sum(self._starts)
