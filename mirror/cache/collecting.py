"""Collection, verification and purge, asked for by an operator; told step by step as they go.

Each is a generator of events, plain values for JSON: `{"event": "progress", "done", "total", "what"}`, then
`found`, `removed` or `bad` with `kind`, `name` and `size` (and `bad` with whose it is, and where it is now),
at last `summary`. Breaking off is safe at any
step. Raises HeldError, RegistryError, StoreError.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from mirror.cache.evictor import Evictor, failed
from mirror.cache.memory import Memory
from mirror.cache.purging import Purger
from mirror.cache.scrubber import Scrubber
from mirror.cache.verifying import Verifier
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository
from mirror.store.collect import GRACE
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError
from mirror.store.garbage import Garbage, Kind
from mirror.store.tree import Tree

Event = dict[str, Any]

log = structlog.get_logger()

TELL = 1000  # files between two words about the progress


@dataclass(frozen=True, slots=True)
class _Began:
    """When a collection did, by the wall clock and by time.monotonic()."""

    wall: float
    steady: float


class Collector:
    """What the three have to do with. `busy`: digests that are being filled, and stay.

    `ago` is `WallClock.ago`; None: the clock only runs on.
    """

    def __init__(
        self,
        store: ContentStore,
        tree: Tree,
        inventory: Inventory,
        memory: Memory,
        evictor: Evictor,
        scrubber: Scrubber,
        busy: Callable[[], Collection[Digest]],
        clock: Callable[[], float] = time.time,
        ago: Callable[[float], float] | None = None,
    ) -> None:
        self._tree = tree
        self._inventory = inventory
        self._memory = memory
        self._evictor = evictor
        self._verifier = Verifier(tree, inventory, memory, scrubber, evictor.turns, clock)
        self._busy = busy
        self._clock = clock
        self._ago = ago
        self._purger = Purger(store, tree, inventory, memory, evictor, clock)

    async def collect(self, *, dry_run: bool = False, untagged: bool = False) -> AsyncGenerator[Event, None]:
        """Delete what nothing leads to any more, and what writes that broke off have left.

        `untagged`: and manifests to which no tag leads. What cannot be deleted is told, and passed over.
        """
        seen = told = count = size = failures = unreadable = 0
        began = _Began(self._clock(), time.monotonic())
        if not dry_run:  # first: a folder with nothing else in it is empty then
            failures += not await self._sweep()
        async with aclosing(self._tree.collect(now=self._young() + GRACE, untagged=untagged)) as steps:
            async for step in steps:
                seen += step.seen
                if step.unreadable is not None:
                    unreadable += 1
                    repository, reason = step.unreadable
                    log.warning("collection.unreadable", repository=str(repository), reason=reason)
                if seen - told >= TELL:
                    told = seen
                    yield {"event": "progress", "done": seen, "total": None, "what": "files"}
                for garbage in step.garbage:
                    if garbage.kind is Kind.BLOB and garbage.digest in self._busy():
                        continue
                    try:
                        if not dry_run and not await self._drop(garbage, began):
                            continue
                    except StoreError as error:
                        failures += 1
                        failed(_name(garbage), error)
                        continue
                    count, size = count + 1, size + garbage.size
                    yield {
                        "event": "found" if dry_run else "removed",
                        "kind": garbage.kind.value,
                        "name": _name(garbage),
                        "size": garbage.size,
                    }
                await asyncio.sleep(0)
        yield {
            "event": "summary",
            "seen": seen,
            "removed": count,
            "bytes": size,
            "failed": failures,
            "unreadable": unreadable,
            "dry_run": dry_run,
        }

    def verify(self) -> AsyncGenerator[Event, None]:
        """Compare every blob with its digest, and read every link: see `verifying`."""
        return self._verifier.verify()

    def purge(self, repository: Repository, reference: Reference | None) -> AsyncGenerator[Event, None]:
        """Delete an image, or all of a repository: see `purging`."""
        return self._purger.purge(repository, reference)

    async def _sweep(self) -> bool:
        """Whether what writes that broke off have left is gone."""
        try:
            await self._tree.sweep(self._young())
        except StoreError as error:
            failed("unfinished writes", error)
            return False
        return True

    async def _drop(self, garbage: Garbage, began: _Began) -> bool:
        """Whether it went; memory and inventory know then.

        What was used or linked since the collection began stays: a file that was there is not written again,
        so that the tree does not show it. The clock may have been put back since, and uses bear its times.
        """
        async with self._turn(garbage):
            digest = garbage.digest
            if digest is not None and await self._inventory.is_used_since(digest, self._since(began)):
                return False
            if not await self._tree.drop(garbage):
                return False
            self._forget(garbage)
        return True

    def _young(self) -> float:
        """What bears a later time is younger than GRACE."""
        return self._clock() - GRACE if self._ago is None else self._ago(GRACE)

    def _since(self, began: _Began) -> float:
        """What bears a later time may have been used since then."""
        if self._ago is None:
            return began.wall
        return min(began.wall, self._ago(time.monotonic() - began.steady))

    def _turn(self, garbage: Garbage) -> AbstractAsyncContextManager[None]:
        """That of whoever writes the same."""
        turns = self._evictor.turns
        if garbage.repository is not None and garbage.tag is not None:
            return turns.of((garbage.repository, garbage.tag))
        return turns.of(garbage.digest) if garbage.digest is not None else nullcontext()

    def _forget(self, garbage: Garbage) -> None:
        """Tell memory and inventory that it went."""
        match garbage:
            case Garbage(kind=Kind.BLOB, digest=Digest() as digest):
                self._memory.forget_blob(digest)
                self._inventory.note_blob_gone(digest)
            case Garbage(repository=Repository() as repository, digest=Digest() as digest, tag=None):
                if garbage.kind is Kind.LAYER or "/_layers/" in garbage.path:
                    self._memory.forget_link(repository, digest)
                    self._inventory.note_layer_gone(repository, digest)
                else:
                    self._memory.forget_image(repository, digest)
                    self._inventory.note_image_gone(repository, digest)
            case Garbage(kind=Kind.TAG, repository=Repository() as repository) if garbage.tag is not None:
                self._memory.forget_tag(repository, garbage.tag)
                self._inventory.note_tag_gone(repository, garbage.tag, self._clock())
            case _:
                pass


def _name(garbage: Garbage) -> str:
    """What an operator calls it."""
    if garbage.kind is Kind.BLOB and garbage.digest is not None:
        return str(garbage.digest)
    if garbage.repository is not None and garbage.tag is not None:
        return f"{garbage.repository}:{garbage.tag}"
    if garbage.repository is not None and garbage.digest is not None:
        return f"{garbage.repository}@{garbage.digest}"
    return Path(garbage.path).as_posix()
