"""A local file as a request's body: read, and hashed, in threads, piece by piece."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from pathlib import Path

HASH_PIECE = 1 << 20  # bytes


class Source:
    """An open file, which is closed when nobody holds it any more.

    NB: a thread may read it for longer than anybody waits for that; with the file closed it would read
    whatever file got the same descriptor next.
    """

    def __init__(self, path: Path) -> None:
        """Blocks. Raises OSError."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.descriptor).st_size

    def __deepcopy__(self, _memo: object) -> Source:
        """Itself. NB: Microsoft's library copies what it sends again; a copy would close our descriptor."""
        return self

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class Slice(io.RawIOBase):
    """A part of an open file, read as if it were all of one; leaves the file's own position alone."""

    def __init__(self, source: Source, offset: int, count: int) -> None:
        super().__init__()
        self._source, self._offset, self._count, self._at = source, offset, count, 0

    def __len__(self) -> int:
        return self._count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._count}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._count - self._at)
        data = os.pread(
            self._source.descriptor, left if size < 0 else min(size, left), self._offset + self._at
        )
        self._at += len(data)
        return data

    def md5(self) -> str:
        """Of all of it, as Content-MD5 has it. Blocks."""
        return base64.b64encode(self.digest()).decode("ascii")

    def digest(self) -> bytes:
        """The MD5 of all of it. Blocks."""
        hasher = hashlib.md5(usedforsecurity=False)
        while piece := self.read(HASH_PIECE):
            hasher.update(piece)
        self.seek(0)
        return hasher.digest()
