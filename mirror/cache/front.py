"""The digest of what has come in order. One thread at a time has the hasher; who has begun, ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirror.cache.spool import SpoolFile
from mirror.oci.digest import Digest, Hasher


class Front:
    """All before `hashed` was hashed; what comes next begins there."""

    def __init__(self, digest: Digest) -> None:
        self.hashed = 0
        self.is_busy = False
        self._digest = digest
        self._hasher = digest.hasher()

    def start_over(self) -> None:
        """Nothing was hashed."""
        self.hashed = 0
        self._hasher = self._digest.hasher()

    def matches(self) -> bool:
        """Whether what was hashed has the digest."""
        return self._hasher.copy().hexdigest() == self._digest.hex

    def begin(self, start: int) -> bool:
        """Whether bytes from `start` on come next, and nobody else is at it: then the caller is."""
        if self.is_busy or start != self.hashed:
            return False
        self.is_busy = True
        return True

    def end(self, _done: Any = None) -> None:
        """The caller's thread has ended; it may be told as a future's callback."""
        self.is_busy = False

    # In the thread of who has begun.

    def feed(self, batch: Sequence[bytes]) -> None:
        """These came next."""
        self.advance(self.after(batch), sum(map(len, batch)))

    def after(self, batch: Sequence[bytes]) -> Hasher:
        """As it would be after these; for `advance`, once they are where they belong."""
        hasher = self._hasher.copy()
        for chunk in batch:
            hasher.update(chunk)
        return hasher

    def advance(self, hasher: Hasher, count: int) -> None:
        """What `after` gave is so: so many bytes more."""
        self._hasher = hasher
        self.hashed += count

    def read(self, file: SpoolFile, stop: int) -> OSError | None:
        """One piece of what stands in the file, before `stop`; or why it cannot be read."""
        hasher = self._hasher.copy()
        try:
            self.hashed = file.rehash(hasher, self.hashed, stop)
        except OSError as error:
            return error
        self._hasher = hasher
        return None
