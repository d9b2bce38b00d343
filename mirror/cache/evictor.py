"""Images and blobs out of the store: the tree, the inventory and the memory agree afterwards.

Names go before data, so that whatever stops this leaves nothing that can be found and is not there: what is
left over is taken by the next collection. Those who read on read on; whoever comes next fetches again.

The inventory forgets first, because it decides. So what was begun is brought to its end, whoever leaves; what
the disk does not let go is noted again; and after anything else the inventory is in doubt.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import structlog

from mirror.cache.memory import Memory
from mirror.ledger.facts import Candidate, Dropped, Loose
from mirror.ledger.inventory import Inventory, NotKept
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store.errors import StoreError
from mirror.store.tree import Tree
from mirror.store.turns import Turns

AT_ONCE = 100  # blobs that go together, with one or two requests of a bucket
FINISH = 2.0  # seconds that one deletion has to end when the process does; dozens of files take a tenth

# Its age; more is kept than may be; somebody waits for room; somebody said so.
Reason = Literal["ttl", "limit", "room", "purge"]

log = structlog.get_logger()


@dataclass(slots=True)
class Freed:
    """What went so far, and why. `told`: kind, name, bytes of each, for who wants to know, and takes them."""

    reason: Reason
    images: int = 0
    blobs: int = 0
    bytes: int = 0
    told: list[tuple[str, str, int]] | None = None

    def tell(self, kind: str, name: str, size: int = 0) -> None:
        """This went."""
        if self.told is not None:
            self.told.append((kind, name, size))

    def add(self, other: Freed) -> None:
        """And what went there."""
        self.images += other.images
        self.blobs += other.blobs
        self.bytes += other.bytes


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
        self.total: dict[Reason, Freed] = {each: Freed(each) for each in get_args(Reason)}  # since the start
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
            return await self._to_the_end(self._blob(candidate.digest, freed, candidate.used))
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
        return await self._to_the_end(
            self._image(repository, digest, freed, unused_since, blobs_unused_since)
        )

    async def tag(self, repository: Repository, tag: Tag) -> bool:
        """Only the name; what it pointed to stays. Whether there was one."""
        return await self._to_the_end(self._tag(repository, tag))

    async def _to_the_end(self, deletion: Coroutine[Any, Any, bool]) -> bool:
        """Its result. When nobody waits for that any more it has FINISH seconds."""
        doing = asyncio.create_task(deletion)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            try:
                await asyncio.wait([doing], timeout=FINISH)
            finally:
                doing.cancel()
            await asyncio.wait([doing], timeout=FINISH)
            raise

    @contextmanager
    def _wholly(self) -> Iterator[None]:
        """After what a disk says all is noted that is left; after anything else nobody knows what that is."""
        try:
            yield
        except (StoreError, NotKept):
            raise
        except BaseException:
            self._inventory.doubt("a deletion was broken off")
            raise

    async def _image(
        self,
        repository: Repository,
        digest: Digest,
        freed: Freed,
        unused_since: float,
        blobs_unused_since: float,
    ) -> bool:
        async with self.turns.of(digest):
            dropped = await self._inventory.drop_image(repository, digest, unused_since)
            if dropped is None:
                return False
            with self._wholly():
                await self._manifest(repository, digest, dropped, freed)
        with self._wholly():
            await self._links([(repository, link) for link in dropped.links])
        await self._loose([loose.digest for loose in dropped.blobs], freed, blobs_unused_since)
        freed.images += 1
        self.total[freed.reason].images += 1
        return True

    async def _manifest(self, repository: Repository, digest: Digest, dropped: Dropped, freed: Freed) -> None:
        """Its tags, then its link. In the digest's turn."""
        left = list(dropped.tags)
        try:
            while left:
                if await self._tag_to(repository, left[0], digest):
                    freed.tell("tag", f"{repository}:{left[0]}")
                left.pop(0)
            await self._tree.drop_image(repository, digest)
            freed.tell("image", f"{repository}@{digest}")
        except StoreError:
            self._inventory.note_image_back(repository, digest, replace(dropped, tags=tuple(left)))
            raise
        finally:  # not before: a client might have it read, and held for kept, once more
            self._memory.forget_image(repository, digest)

    async def _tag(self, repository: Repository, tag: Tag) -> bool:
        async with self.turns.of((repository, tag)):
            with self._wholly():
                found = await self._tree.drop_tag(repository, tag)
                self._memory.forget_tag(repository, tag)
                self._inventory.note_tag_gone(repository, tag, self._clock())
        return found

    async def _tag_to(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """A tag, unless it has moved; whether it went."""
        async with self.turns.of((repository, tag)):
            if not await self._tree.drop_tag_to(repository, tag, digest):
                return False
            self._memory.forget_tag(repository, tag)
            self._inventory.note_tag_gone(repository, tag, self._clock())
            return True

    async def _blob(self, digest: Digest, freed: Freed, unused_since: float = math.inf) -> bool:
        """A blob that no image names, with its links."""
        return bool(await self._blobs([digest], freed, unused_since))

    async def _loose(self, digests: Collection[Digest], freed: Freed, unused_since: float) -> None:
        """What an image has left, together; what somebody writes meanwhile holds up nothing but itself."""
        free = [digest for digest in digests if not self.turns.of(digest).locked()]
        for start in range(0, len(free), AT_ONCE):
            await self._blobs(free[start : start + AT_ONCE], freed, unused_since)
        for digest in set(digests).difference(free):
            await self._blobs([digest], freed, unused_since)

    async def _blobs(self, digests: Collection[Digest], freed: Freed, unused_since: float) -> int:
        """Blobs that no image names, with their links; how many went.

        NB: one at a time, or such as nobody has the turn of: then all turns are had without a wait.
        """
        doomed: list[Loose] = []
        async with AsyncExitStack() as turns:
            for digest in digests:
                await turns.enter_async_context(self.turns.of(digest))
            try:
                for digest in digests:
                    if digest not in self._busy():
                        loose = await self._inventory.drop_blob(digest, unused_since)
                        doomed += [] if loose is None else [loose]
            finally:  # what the inventory has forgotten goes
                with self._wholly():
                    await self._data(doomed)
        total = self.total[freed.reason]
        for loose in doomed:
            freed.blobs += 1
            freed.bytes += loose.size
            freed.tell("blob", str(loose.digest), loose.size)
            total.blobs += 1
            total.bytes += loose.size
        return len(doomed)

    async def _data(self, doomed: Collection[Loose]) -> None:
        """The links of all, then the bytes of all. In the digests' turns."""
        left = {loose.digest: loose.repositories for loose in doomed}
        try:
            await self._links([(each, loose.digest) for loose in doomed for each in loose.repositories])
            left = dict.fromkeys(left, ())
            if left:
                await self._tree.drop_blobs(left)
        except StoreError:  # what may still be there counts, and goes first the next time
            for loose in doomed:
                self._inventory.note_blob(None, loose.digest, loose.size, 0.0)
                for repository in left[loose.digest]:
                    self._inventory.note_blob(repository, loose.digest, loose.size, 0.0)
            raise
        finally:
            for loose in doomed:
                self._memory.forget_blob(loose.digest)

    async def _links(self, linked: Collection[tuple[Repository, Digest]]) -> None:
        try:
            if linked:
                await self._tree.drop_layers(linked)
        finally:
            for repository, digest in linked:
                self._memory.forget_link(repository, digest)
        for repository, digest in linked:
            self._inventory.note_layer_gone(repository, digest)


def failed(what: str, error: Exception) -> None:
    """Say that the disk, or the inventory, did not let something go."""
    reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
    log.warning("eviction.failed", what=what, reason=reason)
