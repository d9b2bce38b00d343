"""The inventory, made true by the tree: at each start, each week, and soon after it was in doubt.

At each start, because nobody knows what was done to the folder meanwhile: another registry had it, a backup
was restored, a file deleted by hand. An inventory that was closed well is believed until then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

import structlog

from mirror.cache.pace import Pace
from mirror.ledger import scheduler
from mirror.ledger.facts import SeenBlob, SeenLink, SeenParts, SeenTag, Use
from mirror.ledger.inventory import Inventory, NotKept, SurveyLost
from mirror.registry import RegistryError
from mirror.store.marks import Named
from mirror.store.survey import ImageFact, LayerFact, RepositoryFact, TagFact
from mirror.store.tree import Tree

TELL = 10.0  # seconds between two lines about the progress
WEEK = 7 * 86400.0  # seconds between two surveys of an inventory that nobody doubts
AGAIN = 600.0  # seconds between two of one that is in doubt, or after one that failed
LOOK = 10.0  # seconds between two looks at whether it is time
LOOKS = 50  # manifests read and told at once: 10 ms
UNREADABLE = 100  # manifests that a survey goes on without; more are the disk's
STATE_LIMIT = 256 << 20  # bytes of registry:2's memory; a million entries

log = structlog.get_logger()


class Surveyor:
    """`root`: the folder in which registry:2 may have left its state; None where there is none. What it has
    kept was to live for `lifetime` seconds.

    `clock` is the wall clock, `monotonic` one that only runs on; both in seconds.
    """

    def __init__(
        self,
        tree: Tree,
        inventory: Inventory,
        root: Path | None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        lifetime: float = scheduler.LIFETIME,
    ) -> None:
        self._tree = tree
        self._inventory = inventory
        self._root = root
        self._clock = clock
        self._monotonic = monotonic
        self._lifetime = lifetime
        self._pace = Pace()
        self._seen = 0  # files
        self._unreadable: list[SeenLink] = []  # images of the survey under way
        self._told = 0.0  # by `monotonic`
        self._due = self._at_doubt = 0.0  # by `monotonic`: when the next is due, all being well or not
        self._replaced = 0  # inventories that were taken away, when the last one began
        self.tried = asyncio.Event()  # a survey has ended, well or not; for who waits to clear

    @property
    def seen(self) -> int:
        """Files that the survey under way, or the last one, has seen."""
        return self._seen

    async def run(self) -> None:
        """Survey whenever it is time, until cancelled."""
        while True:
            now = self._monotonic()
            if self._inventory.replaced != self._replaced:  # nothing is known: limits cannot wait
                self._at_doubt = now
            if now >= (self._due if self._inventory.complete else self._at_doubt):
                self._due, self._at_doubt, self._replaced = now + AGAIN, now + AGAIN, self._inventory.replaced
                if await self._try():
                    self._due = now + WEEK
                self.tried.set()
            await asyncio.sleep(LOOK)

    async def _try(self) -> bool:
        try:
            await self.survey()
        except (RegistryError, NotKept, SurveyLost) as error:
            log.warning("survey.failed", reason=str(error) or type(error).__name__, again=f"{AGAIN:g}s")
            return False
        return True

    async def survey(self) -> None:
        """See all of the tree. Raises RegistryError where that fails, NotKept and SurveyLost."""
        began = self._told = self._monotonic()
        self._seen, self._pace = 0, Pace()
        self._unreadable.clear()
        log.info("survey.started")
        await self._inventory.begin_survey(self._clock())
        async with aclosing(self._tree.survey_blobs()) as blobs:
            async for batch in blobs:
                await self._inventory.seen_blobs(
                    [SeenBlob(fact.digest, fact.size, fact.modified) for fact in batch]
                )
                await self._step(len(batch))
        async with aclosing(self._tree.survey_repositories()) as facts:
            async for found in facts:
                await self._repository_facts(found)
                await self._step(len(found))
        await self._hold_back()
        await self._remember()
        removed = await self._inventory.end_survey()
        total = await self._inventory.total()
        log.info(
            "survey.done",
            blobs=total.blobs,
            bytes=total.bytes,
            forgotten=removed.blobs + removed.images + removed.links + removed.tags,
            seconds=round(self._monotonic() - began, 3),
        )

    async def _repository_facts(self, facts: Sequence[RepositoryFact]) -> None:
        layers = [SeenLink(fact.repository, fact.digest) for fact in facts if isinstance(fact, LayerFact)]
        images = [SeenLink(fact.repository, fact.digest) for fact in facts if isinstance(fact, ImageFact)]
        tags = [
            SeenTag(fact.repository, fact.tag, fact.digest, fact.modified)
            for fact in facts
            if isinstance(fact, TagFact)
        ]
        await self._inventory.seen_layers(layers)
        unread = await self._inventory.seen_images(images)
        for at in range(0, len(unread), LOOKS):
            await self._parts(unread[at : at + LOOKS])
            await self._pace.rest()
        await self._inventory.seen_tags(tags)

    async def _parts(self, images: Sequence[SeenLink]) -> None:
        """Read them, and tell what they name."""
        try:
            named = await self._tree.named_each([(image.repository, image.digest) for image in images])
        except RegistryError:
            named = [await self._named(image) for image in images]
        await self._inventory.seen_parts(
            [
                SeenParts(image.repository, image.digest, tuple(found.parts))
                for image, found in zip(images, named, strict=True)
                if found is not None
            ]
        )

    async def _named(self, image: SeenLink) -> Named | None:
        """What one of them names; None also where it cannot be read. Raises RegistryError for too many."""
        try:
            return await self._tree.named(image.repository, image.digest)
        except RegistryError:
            self._unreadable.append(image)
            if len(self._unreadable) > UNREADABLE:
                raise
            return None

    async def _hold_back(self) -> None:
        """A manifest that cannot be read may name anything of its repository: that stays while it does."""
        for image in self._unreadable:
            log.warning("survey.unreadable", repository=str(image.repository), digest=str(image.digest))
            parts = tuple(await self._inventory.layers(image.repository))
            await self._inventory.seen_parts([SeenParts(image.repository, image.digest, parts)])

    async def _remember(self) -> None:
        """What registry:2 remembers of uses, once; its file stays as it is.

        Afterwards the inventory knows better, and reading a large one takes seconds.
        """
        if self._root is not None and not await self._inventory.surveyed():
            path = self._root / scheduler.FILE
            file = await asyncio.to_thread(_open, path)
            if file is None:
                return
            with file:
                batches = scheduler.uses(file, self._clock(), self._lifetime)
                while (uses := await asyncio.to_thread(_next, batches, path)) is not None:
                    await self._inventory.used(uses)
                    await self._pace.rest()

    async def _step(self, count: int) -> None:
        self._seen += count
        now = self._monotonic()
        if now - self._told > TELL:
            self._told = now
            log.info("survey.going_on", files=self._seen)
        await self._pace.rest()


def _open(path: Path) -> BinaryIO | None:
    """The file that registry:2 has left; None: none that can be read. In a thread."""
    try:
        if path.stat().st_size > STATE_LIMIT:
            raise OSError("it is too large")
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("scheduler.ignored", file=str(path), reason=error.strerror or str(error))
        return None


def _next(batches: Iterator[list[Use]], path: Path) -> list[Use] | None:
    """The next of them; None: there are no more. In a thread."""
    try:
        return next(batches, None)
    except OSError as error:
        log.warning("scheduler.ignored", file=str(path), reason=error.strerror or str(error))
        return None
