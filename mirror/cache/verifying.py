"""All that is kept, looked at because somebody says so: every blob read, and every link; told step by step.

A bad blob is moved aside, and fetched again when wanted. A broken link reads as missing, and is deleted. One
that leads to nothing is no damage: its blob was moved aside, or a deletion broken off. Collections take it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from mirror.cache.evictor import failed
from mirror.cache.memory import Memory
from mirror.cache.scrubber import Scrubber
from mirror.ledger.inventory import Inventory
from mirror.ledger.inventoryschema import raw
from mirror.store.errors import StoreError
from mirror.store.places import CurrentLink, LayerLink, RevisionLink
from mirror.store.tree import Tree
from mirror.store.turns import Turns
from mirror.store.verify import LinkFact

Event = dict[str, Any]


class Verifier:
    """See the module's text. Of each blob some 100 bytes are in memory."""

    def __init__(
        self,
        tree: Tree,
        inventory: Inventory,
        memory: Memory,
        scrubber: Scrubber,
        turns: Turns,
        clock: Callable[[], float],
    ) -> None:
        self._tree = tree
        self._inventory = inventory
        self._memory = memory
        self._scrubber = scrubber
        self._turns = turns
        self._clock = clock

    async def verify(self) -> AsyncGenerator[Event, None]:
        """The events. Raises RegistryError."""
        done = bad = size = 0
        here: set[bytes] = set()
        async with aclosing(self._tree.survey_blobs()) as batches:
            async for batch in batches:
                for fact in batch:
                    found = await self._scrubber.check(fact.digest)
                    done, size = done + 1, size + fact.size
                    if found is None:
                        here.add(raw(fact.digest))
                    else:
                        bad += 1
                        yield {"event": "bad", "name": str(fact.digest), "size": fact.size, **found.told()}
                    yield {"event": "progress", "done": done, "total": None, "what": "blobs"}
        links = broken = nowhere = 0
        async with aclosing(self._tree.survey_links()) as facts:
            async for found_links in facts:
                links += len(found_links)
                for link in found_links:
                    if link.names is None:
                        event = await self._broken(link)
                        if event is not None:
                            broken += 1
                            yield event
                    elif raw(link.names) not in here and not await self._tree.has_blob(link.names):
                        nowhere += 1  # nor has it come since
                yield {"event": "progress", "done": links, "total": None, "what": "links"}
        yield {
            "event": "summary",
            "checked": done,
            "bytes": size,
            "bad": bad,
            "links": links,
            "broken": broken,
            "nowhere": nowhere,
        }

    async def _broken(self, link: LinkFact) -> Event | None:
        """What became of a link that is broken; None: somebody has deleted it, or written it again."""
        stays = link.is_linked
        try:
            if not (await self._tree.is_broken(link) if stays else await self._drop(link)):
                return None
        except StoreError as error:
            failed(link.path, error)
            stays = True
        return {
            "event": "bad",
            "kind": "link",
            "name": link.path,
            "size": 0,
            "repositories": [str(link.place.repository)],
            "more": 0,
            "moved_to": None,
            "stays": stays,
        }

    async def _drop(self, link: LinkFact) -> bool:
        """In the turn of whoever writes the same; whether it went."""
        gone = False
        match link.place:
            case CurrentLink(repository, tag):
                async with self._turns.of((repository, tag)):
                    gone = await self._tree.drop_broken(link)
                    if gone:
                        self._memory.forget_tag(repository, tag)
                        self._inventory.note_tag_gone(repository, tag, self._clock())
            case LayerLink(repository, digest):
                async with self._turns.of(digest):
                    gone = await self._tree.drop_broken(link)
                    if gone:
                        self._memory.forget_link(repository, digest)
                        self._inventory.note_layer_gone(repository, digest)
            case RevisionLink(repository, digest):
                async with self._turns.of(digest):
                    gone = await self._tree.drop_broken(link)
                    if gone:
                        self._memory.forget_image(repository, digest)
                        self._inventory.note_image_gone(repository, digest)
            case _:
                pass
        return gone
