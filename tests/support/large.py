"""A blob that is large to send, and small to make and to keep: a sparse file with a stamp in each block."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 64 << 10  # bytes; each begins with its number, so that one in a wrong place is another blob


@contextmanager
def large_blob(path: Path, size: int) -> Iterator[memoryview]:
    """`size` bytes in a file at `path`; no copy of them is made in memory."""
    with path.open("w+b") as file:
        file.truncate(size)
        for start in range(0, size - 8, BLOCK):
            file.seek(start)
            file.write((start // BLOCK + 1).to_bytes(8))
        file.flush()
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view


class Digesting:
    """What a client makes of a body that is too large to hold: its length and its digest."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    def take(self, data: bytes) -> None:
        """The next bytes."""
        self.size += len(data)
        self._hash.update(data)

    @property
    def digest(self) -> str:
        """Of all that was taken."""
        return "sha256:" + self._hash.hexdigest()
