"""Numbers that are counted where something happens, and read when somebody asks.

Plain values of one thread, the event loop's: counting costs as much as an entry of a dict. How they are shown
is not known here (`metrics`). Labels are bounded by whoever counts: each new one stays for ever.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

Labels = tuple[str, ...]


class Tally:
    """Counts by labels."""

    __slots__ = ("values",)

    def __init__(self, at_zero: Iterable[Labels] = ()) -> None:
        """`at_zero`: labels that are there before anything happens, for rates count from what was there."""
        self.values: dict[Labels, float] = dict.fromkeys(at_zero, 0)

    @classmethod
    def of(cls, values: Mapping[Labels, float]) -> Tally:
        """Counts that stand already."""
        made = cls()
        made.values.update(values)
        return made

    def add(self, *labels: str, count: float = 1) -> None:
        """It happened, so often, or so much of it."""
        self.values[labels] = self.values.get(labels, 0) + count

    def __getitem__(self, labels: Labels) -> float:
        return self.values.get(labels, 0)


class Distribution:
    """How large values were: their sum, and how many were at most each of `bounds`, which rise."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # those above the last bound at the end; not cumulated
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """A value came, so often."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def cumulated(self) -> list[tuple[float, int]]:
        """(bound, how many values were at most that), the last for all of them."""
        total, found = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Distributions:
    """A distribution for each of the labels."""

    __slots__ = ("_bounds", "values")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.values: dict[Labels, Distribution] = {}

    def observe(self, labels: Labels, value: float, count: int = 1) -> None:
        """A value came, so often."""
        found = self.values.get(labels)
        if found is None:
            found = self.values[labels] = Distribution(self._bounds)
        found.observe(value, count)
