"""What a thread takes straight from an upstream's connection, piece by piece, into a buffer of its own."""

from __future__ import annotations

import threading

from mirror.cache.front import Chunk
from mirror.registry import Inlet

PIECE = 1 << 20  # bytes: with half of it a pull takes a quarter longer
DRAWN = 16 << 20  # bytes that are taken until the event loop hears of it

_own = threading.local()  # a buffer for each thread that fills have


class Drawing:
    """[start, stop) of a blob, which the inlet gives after `skip` bytes that nobody wants."""

    def __init__(self, inlet: Inlet, start: int, stop: int, skip: int) -> None:
        self.position = start  # all before it was taken
        self.skipped = 0  # bytes
        self._inlet = inlet
        self._stop = stop
        self._skip = skip

    def more(self) -> tuple[int, list[Chunk]]:
        """In a thread: where the next piece begins, and the piece, if any is there. It is good until the
        thread asks for another.
        """
        buffer = _buffer()
        while self.skipped < min(self._skip, DRAWN):
            count = self._inlet.take(buffer[: self._skip - self.skipped])
            if not count:
                return self.position, []
            self.skipped += count
        start = self.position
        if self.skipped < self._skip:
            return start, []
        count = self._inlet.take(buffer[: self._stop - start]) if start < self._stop else 0
        self.position += count
        return start, [buffer[:count]] if count else []


def piece(inlet: Inlet) -> bytes:
    """In a thread: what is there, PIECE at most."""
    buffer = _buffer()
    return bytes(buffer[: inlet.take(buffer)])


def _buffer() -> memoryview:
    buffer: memoryview | None = getattr(_own, "buffer", None)
    if buffer is None:
        buffer = _own.buffer = memoryview(bytearray(PIECE))
    return buffer
