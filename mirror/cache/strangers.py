"""Registries that the operator has not named: their word is not enough for blobs that others have brought.

In the open mode (`*`) clients can have everybody's registry asked, also that of somebody who wants to read
what others keep here: it has whatever digest it is asked for, as it says. So:

1. A stranger must bring a blob's bytes itself before it is given what is kept. Once: then it had them.
2. What a stranger has begun to bring is no one else's, nor is what others have begun a stranger's: until the
   end of a blob nobody can tell whether its bytes are right.
"""

from __future__ import annotations

from collections.abc import Callable

from cachetools import LRUCache

from mirror.oci.digest import Digest
from mirror.oci.names import Repository

REPOSITORIES = 4096  # of which it is remembered whose they are
BROUGHT = 100_000  # blobs of strangers that are known to be theirs; others are brought once more


class Strangers:
    """`stranger`: which of them has a repository; "" for a registry that the operator has named."""

    def __init__(self, stranger: Callable[[Repository], str] = lambda _: "") -> None:
        self._stranger = stranger
        self._parties: LRUCache[Repository, str] = LRUCache(REPOSITORIES)
        self._brought: LRUCache[tuple[str, Digest], bool] = LRUCache(BROUGHT)

    def party(self, repository: Repository) -> str:
        """Who shares what is on its way to this repository: its stranger, or "" for all that are named."""
        party = self._parties.get(repository)
        if party is None:
            party = self._parties[repository] = self._stranger(repository)
        return party

    def has_brought(self, repository: Repository, digest: Digest) -> bool:
        """Whether the word of this repository's registry is enough: always, where that is no stranger."""
        party = self.party(repository)
        return not party or self._brought.get((party, digest), False)

    def brought(self, repository: Repository, digest: Digest) -> None:
        """This repository's registry has given all of the blob."""
        party = self.party(repository)
        if party:
            self._brought[party, digest] = True
