"""An image, or all of a repository, deleted because somebody says so; told step by step.

It goes by the inventory, which knows what other images name. All of a repository goes by the tree as well:
what nobody knows an image of must not be left. What cannot be deleted is told, and the rest goes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from mirror.cache.evictor import Evictor, Freed, failed
from mirror.cache.memory import Memory
from mirror.ledger.facts import Candidate, Place
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import RegistryError
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError
from mirror.store.marks import Named
from mirror.store.survey import ImageFact, RepositoryFact, TagFact
from mirror.store.tree import Tree

Event = dict[str, Any]

UNSURVEYED = (
    "the mirror has not looked at all that is kept yet, and cannot tell which blobs other images need: try"
    " again when its log says survey.done"
)
SURVEY_SECONDS = 10.0  # how long a purge waits for the first survey; one of 20,000 blobs takes less
SURVEY_LOOK = 0.05  # seconds between two looks at whether it has ended
TAGS_NAMED = 10  # of a repository that has not the one that is meant


class Purger:
    """See the module's text. Raises NotKept, RegistryError."""

    def __init__(
        self,
        store: ContentStore,
        tree: Tree,
        inventory: Inventory,
        memory: Memory,
        evictor: Evictor,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._tree = tree
        self._inventory = inventory
        self._memory = memory
        self._evictor = evictor
        self._clock = clock

    async def purge(self, repository: Repository, reference: Reference | None) -> AsyncGenerator[Event, None]:
        """Delete an image, or all of a repository, with what no other image names.

        By a tag: only the tag, where the image has another one. An index takes the images along that nothing
        else leads to.
        """
        if not await self._is_surveyed():
            yield {"event": "error", "error": UNSURVEYED}
            return
        freed, count, failures = Freed(told=[]), 0, 0
        async with aclosing(self._steps(repository, reference, freed)) as steps:
            async for step in steps:
                if step is None:
                    failures += 1
                else:
                    count += 1
                    yield step
        yield {
            "event": "summary",
            "images": freed.images,
            "blobs": freed.blobs,
            "bytes": freed.bytes,
            "failed": failures,
            "absent": "" if count or failures else await self._absent(repository, reference),
        }

    async def _is_surveyed(self) -> bool:
        """Whether all that is kept has been looked at, or is within SURVEY_SECONDS, as after a start."""
        try:
            async with asyncio.timeout(SURVEY_SECONDS):
                while not self._inventory.complete:  # noqa: ASYNC110 - it may end without anybody telling
                    await asyncio.sleep(SURVEY_LOOK)
        except TimeoutError:
            return False
        return True

    async def _steps(
        self, repository: Repository, reference: Reference | None, freed: Freed
    ) -> AsyncGenerator[Event | None, None]:
        """What went; None for what did not."""
        meant = await self._meant(repository, reference)
        if isinstance(reference, Tag) and meant and await self._has_others(repository, meant[0], reference):
            # Also when somebody has deleted the tag meanwhile: the image belongs to the other tags.
            if await self._evictor.tag(repository, reference):
                yield _removed("tag", f"{repository}:{reference}")
            return
        while meant:
            digest = meant.pop(0)
            named = await self._named(repository, digest)
            try:
                gone = await self._evictor.image(repository, digest, freed)
            except StoreError as error:
                failed(f"{repository}@{digest}", error)
                for event in _taken(freed):
                    yield event
                yield None
                continue
            for event in _taken(freed):
                yield event
            if not gone:
                continue
            known = set(await self._inventory.images(repository))
            for child in sorted(known & named.parts if named else (), key=str):
                if child not in meant and await self._is_left(repository, child):
                    meant.append(child)
        if reference is None:
            async with aclosing(self._remains(repository, freed)) as remains:
                async for step in remains:
                    yield step

    async def _remains(self, repository: Repository, freed: Freed) -> AsyncGenerator[Event | None, None]:
        """What the tree has of it still."""
        async with aclosing(self._tree.survey_repositories(repository)) as batches:
            async for batch in batches:
                for fact in batch:
                    try:
                        event = await self._drop(fact, freed)
                    except StoreError as error:
                        failed(str(fact), error)
                        yield None
                    else:
                        if event is not None:
                            yield event
                    for each in _taken(freed):
                        yield each

    async def _drop(self, fact: RepositoryFact, freed: Freed) -> Event | None:
        """One link; and what it led to, where no other leads there and no image names it."""
        repository = fact.repository
        if isinstance(fact, TagFact):
            gone = await self._evictor.tag(repository, fact.tag)
            return _removed("tag", f"{repository}:{fact.tag}") if gone else None
        digest = fact.digest
        async with self._evictor.turns.of(digest):
            if isinstance(fact, ImageFact):
                gone = await self._tree.drop_image(repository, digest)
                self._memory.forget_image(repository, digest)
                self._inventory.note_image_gone(repository, digest)
            else:
                gone = await self._tree.drop_layer(repository, digest)
                self._memory.forget_link(repository, digest)
                self._inventory.note_layer_gone(repository, digest)
        kind = "image" if isinstance(fact, ImageFact) else "link"
        blob = await self._inventory.blob(digest)
        if blob is not None and not blob.repositories:
            loose = Candidate(None, digest, blob.size, math.inf, 0, (), Place(0.0, is_image=False, number=0))
            await self._evictor.evict(loose, freed, math.inf)
        return _removed(kind, f"{repository}@{digest}") if gone else None

    async def _named(self, repository: Repository, digest: Digest) -> Named | None:
        """What it names; None also where it cannot be read: it is to go all the same."""
        try:
            return await self._tree.named(repository, digest)
        except RegistryError:
            return None

    async def _has_others(self, repository: Repository, digest: Digest, tag: Tag) -> bool:
        """Whether other tags point to the image too."""
        return any(each != tag for each in await self._inventory.tags_of(repository, digest))

    async def _is_left(self, repository: Repository, digest: Digest) -> bool:
        """Whether no tag and no index leads to an image any more."""
        tags = await self._inventory.tags_of(repository, digest)
        return not tags and not await self._inventory.is_named(repository, digest)

    async def _absent(self, repository: Repository, reference: Reference | None) -> str:
        """What it is that is not kept, and what is kept instead."""
        try:
            page = await self._store.tags(repository, TAGS_NAMED, "")
        except RegistryError as error:
            if error.status == 404:
                return f"no repository {repository} is kept"
            raise
        if reference is None:
            return f"no image of {repository} is kept"
        tags = f"{', '.join(page.names)}{', …' if page.more else ''}" or "none"
        what = "tag" if isinstance(reference, Tag) else "image"
        return f"{repository} has no {what} {reference}; its tags: {tags}"

    async def _meant(self, repository: Repository, reference: Reference | None) -> list[Digest]:
        if isinstance(reference, Digest):
            return [reference]
        if reference is not None:
            try:
                return [(await self._store.resolve(repository, reference)).descriptor.digest]
            except RegistryError as error:
                if error.status == 404:
                    return []
                raise
        return await self._inventory.images(repository)


def _removed(kind: str, name: str, size: int = 0) -> Event:
    return {"event": "removed", "kind": kind, "name": name, "size": size}


def _taken(freed: Freed) -> list[Event]:
    """What has gone since the last time."""
    told, freed.told = freed.told or [], []
    return [_removed(*each) for each in told]
