"""Connections beside each fill's first one: shared fairly by the fills that want them. Decides only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Spare:
    """Those of all upstreams, by namespace. How many an upstream has is said with each question."""

    def __init__(self) -> None:
        self._wanting: dict[str, int] = {}  # fills
        self._taken: dict[str, int] = {}  # connections

    @contextlib.contextmanager
    def wanting(self, namespace: str) -> Iterator[None]:
        """A fill that wants some takes part in the sharing."""
        _count(self._wanting, namespace, 1)
        try:
            yield
        finally:
            _count(self._wanting, namespace, -1)

    def take(self, namespace: str) -> None:
        """A connection that was allowed is used."""
        _count(self._taken, namespace, 1)

    def give_back(self, namespace: str) -> None:
        """It is not used any more."""
        _count(self._taken, namespace, -1)

    def allows(self, namespace: str, own: int, most: int) -> bool:
        """Whether a fill that has `own` may have one more, where the upstream has `most` for all."""
        return self._taken.get(namespace, 0) < most and own < self._each(namespace, most)

    def leaves(self, namespace: str, own: int, most: int) -> bool:
        """Whether a fill may keep the `own` that it has: others may have come since."""
        return self._taken.get(namespace, 0) <= most and own <= self._each(namespace, most)

    def _each(self, namespace: str, most: int) -> int:
        """Of more fills than connections, those that come first have one."""
        return max(1, most // max(1, self._wanting.get(namespace, 0)))


def _count(counts: dict[str, int], key: str, more: int) -> None:
    counts[key] = counts.get(key, 0) + more
    if not counts[key]:
        del counts[key]
