"""Images and blobs out of the store: the tree, the inventory and the memory agree afterwards.

Names go before data, so that whatever stops this leaves nothing that can be found and is not there: what is
left over is taken by the next collection. Those who read on read on; whoever comes next fetches again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from mirror.cache.memory import Memory
from mirror.ledger.facts import Candidate, Loose
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store.errors import StoreError
from mirror.store.tree import Tree
from mirror.store.turns import Turns

log = structlog.get_logger()


@dataclass(slots=True)
class Freed:
    """What went, so far."""

    images: int = 0
    blobs: int = 0
    bytes: int = 0


class Evictor:
    """`busy`: digests that are being filled, and stay. `turns`: those of who writes into the same tree."""

    def __init__(
        self,
        tree: Tree,
        inventory: Inventory,
        memory: Memory,
        busy: Callable[[], Collection[Digest]],
        turns: Turns,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tree = tree
        self._inventory = inventory
        self._memory = memory
        self._busy = busy
        self.turns = turns
        self._clock = clock

    def hold_what_comes(self) -> None:
        """What is being filled is in use, and so is the image that is being pulled: it stays whole."""
        now = self._clock()
        for digest in self._busy():
            self._inventory.note_coming(digest, now)

    async def evict(self, candidate: Candidate, freed: Freed, unused_since: float) -> bool:
        """Delete it, unless it was used meanwhile; whether it went. Raises NotKept, StoreError.

        What it leaves goes with it, but for blobs used after `unused_since`: they go by their own age.
        """
        if candidate.repository is None:
            return await self._blob(candidate.digest, freed, candidate.used)
        return await self.image(
            candidate.repository, candidate.digest, freed, candidate.used, blobs_unused_since=unused_since
        )

    async def image(
        self,
        repository: Repository,
        digest: Digest,
        freed: Freed,
        unused_since: float = math.inf,
        *,
        blobs_unused_since: float = math.inf,
    ) -> bool:
        """An image with its tags, and all that no other image names; unless they were used later."""
        async with self.turns.of(digest):
            dropped = await self._inventory.drop_image(repository, digest, unused_since)
            if dropped is None:
                return False
            try:
                for tag in dropped.tags:
                    await self._tag_to(repository, tag, digest)
                await self._tree.drop_image(repository, digest)
            finally:  # not before: a client might have it read, and held for kept, once more
                self._memory.forget_image(repository, digest)
        for link in dropped.links:
            await self._link(repository, link)
        for loose in dropped.blobs:
            await self._blob(loose.digest, freed, blobs_unused_since)
        freed.images += 1
        return True

    async def tag(self, repository: Repository, tag: Tag) -> bool:
        """Only the name; what it pointed to stays. Whether there was one."""
        async with self.turns.of((repository, tag)):
            found = await self._tree.drop_tag(repository, tag)
            self._memory.forget_tag(repository, tag)
            self._inventory.note_tag_gone(repository, tag, self._clock())
        return found

    async def _tag_to(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        """A tag, unless it has moved."""
        async with self.turns.of((repository, tag)):
            if await self._tree.drop_tag_to(repository, tag, digest):
                self._memory.forget_tag(repository, tag)
                self._inventory.note_tag_gone(repository, tag, self._clock())

    async def _blob(self, digest: Digest, freed: Freed, unused_since: float = math.inf) -> bool:
        """A blob that no image names, with its links."""
        if digest in self._busy():
            return False
        async with self.turns.of(digest):
            loose = await self._inventory.drop_blob(digest, unused_since)
            if loose is None:
                return False
            await self._data(loose)
        freed.blobs += 1
        freed.bytes += loose.size
        return True

    async def _data(self, loose: Loose) -> None:
        """The links, then the bytes. In the digest's turn."""
        try:
            for repository in loose.repositories:
                await self._link(repository, loose.digest)
            await self._tree.drop_blob(loose.digest)
        except StoreError:  # what may still be there counts, and goes first the next time
            self._inventory.note_blob(None, loose.digest, loose.size, 0.0)
            raise
        finally:
            self._memory.forget_blob(loose.digest)

    async def _link(self, repository: Repository, digest: Digest) -> None:
        try:
            await self._tree.drop_layer(repository, digest)
        finally:
            self._memory.forget_link(repository, digest)
        self._inventory.note_layer_gone(repository, digest)


def failed(what: str, error: Exception) -> None:
    """Say that the disk, or the inventory, did not let something go."""
    reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
    log.warning("eviction.failed", what=what, reason=reason)
