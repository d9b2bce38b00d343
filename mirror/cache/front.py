"""The digest of what has come in order. One thread at a time has the hasher; who has begun, ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mirror.cache.spool import SpoolFile
from mirror.oci.digest import Digest

Chunk = bytes | memoryview


class Front:
    """All before `hashed` was hashed; what comes next begins there."""

    def __init__(self, digest: Digest) -> None:
        self.hashed = 0
        self.is_busy = False
        self._digest = digest
        self._hasher = digest.hasher()
        self._lock = threading.Lock()  # of `is_busy`

    def start_over(self) -> None:
        """Nothing was hashed."""
        self.hashed = 0
        self._hasher = self._digest.hasher()

    def matches(self) -> bool:
        """Whether what was hashed has the digest."""
        return self._hasher.copy().hexdigest() == self._digest.hex

    def begin(self, start: int) -> bool:
        """Whether bytes from `start` on come next, and nobody else is at it: then the caller is.

        For any thread.
        """
        with self._lock:
            if self.is_busy or start != self.hashed:
                return False
            self.is_busy = True
            return True

    def end(self, _done: object = None) -> None:
        """The caller is no more at it; it may be told as a future's callback."""
        self.is_busy = False

    # In the thread of who has begun.

    def feed(self, batch: Sequence[Chunk]) -> None:
        """These came next, and are where they belong."""
        for chunk in batch:
            self._hasher.update(chunk)
        self.hashed += sum(map(len, batch))

    def read(self, file: SpoolFile, stop: int) -> OSError | None:
        """One piece of what stands in the file, before `stop`; or why it cannot be read."""
        hasher = self._hasher.copy()
        try:
            self.hashed = file.rehash(hasher, self.hashed, stop)
        except OSError as error:
            return error
        self._hasher = hasher
        return None
