"""Bytes of a fill that cannot be kept: the stretch between its slowest and its fastest reader, in memory."""

from __future__ import annotations

from bisect import bisect_right

WINDOW_LIMIT = 8 << 20  # bytes held per fill: enough to keep several readers busy, small enough to have many


class Window:
    """A sliding stretch of bytes [base, end) in chunks; every reader reads at its own position."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.end = base
        self._starts: list[int] = []
        self._chunks: list[bytes] = []

    def append(self, chunk: bytes) -> None:
        """Add a chunk at the end; the caller has made room."""
        if chunk:
            self._starts.append(self.end)
            self._chunks.append(chunk)
            self.end += len(chunk)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes fit (an empty window takes any chunk)."""
        return not self._chunks or self.end - self.base + size <= WINDOW_LIMIT

    def drop_before(self, position: int) -> None:
        """Forget whole chunks that end at or before `position`."""
        count = 0
        while count < len(self._chunks) and self._starts[count] + len(self._chunks[count]) <= position:
            count += 1
        del self._starts[:count], self._chunks[:count]
        self.base = self._starts[0] if self._starts else self.end

    def drop_oldest(self) -> None:
        """Forget the oldest chunk, whoever may still want it."""
        if self._chunks:
            self.drop_before(self._starts[0] + len(self._chunks[0]))

    def read(self, position: int, stop: int) -> bytes:
        """Some bytes from `position` on, before `stop`; base <= position < end."""
        index = bisect_right(self._starts, position) - 1
        offset = position - self._starts[index]
        return self._chunks[index][offset : offset + stop - position]
