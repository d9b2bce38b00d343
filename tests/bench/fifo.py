"""What the mirror is held against: a cache of blobs in which whatever came first goes first."""

from __future__ import annotations

from mirror.oci.digest import Digest


class Fifo:
    """Holds `limit` bytes of blobs."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[Digest, int] = {}  # in the order in which they came
        self.bytes = 0

    def take(self, digest: Digest, size: int) -> bool:
        """Whether it is kept; if not, it is from now on, when it fits."""
        if digest in self._kept:
            return True
        if size <= self._limit:
            while self.bytes + size > self._limit:
                self.bytes -= self._kept.pop(next(iter(self._kept)))
            self._kept[digest] = size
            self.bytes += size
        return False
