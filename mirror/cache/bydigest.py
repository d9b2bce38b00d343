"""A table that forgets what was unused for longest, and finds what is in it by the digest alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cachetools import LRUCache

from mirror.oci.digest import Digest
from mirror.oci.names import Repository

Key = tuple[Repository, Digest]
_T = TypeVar("_T")


class ByDigest(LRUCache[Key, _T]):
    """An LRUCache that knows of each digest in which repositories it is: 300 bytes more for each digest.

    All that removes a key, also for want of room, comes by `__delitem__`.
    """

    def __init__(self, size: float, size_of: Callable[[_T], float] | None = None) -> None:
        """`size`: how many, or how much where `size_of` says how much each is."""
        super().__init__(size, getsizeof=size_of)
        self._repositories: dict[Digest, set[Repository]] = {}

    def __setitem__(self, key: Key, value: _T) -> None:
        super().__setitem__(key, value)
        repository, digest = key
        self._repositories.setdefault(digest, set()).add(repository)

    def __delitem__(self, key: Key) -> None:
        super().__delitem__(key)
        repository, digest = key
        repositories = self._repositories[digest]
        repositories.discard(repository)
        if not repositories:
            del self._repositories[digest]

    def forget(self, digest: Digest) -> None:
        """Remove it, of all repositories. Takes as long as there are repositories that have it here."""
        for repository in tuple(self._repositories.get(digest, ())):
            del self[repository, digest]

    def clear(self) -> None:
        super().clear()
        self._repositories.clear()
