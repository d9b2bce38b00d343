"""Collection, verification and purge, asked for by an operator; told step by step as they go.

Each is a generator of events, plain values for JSON: `{"event": "progress", "done", "total", "what"}`, then
`found`, `removed` or `bad` with `kind`, `name` and `size` (and `bad` with whose it is, and where it is now),
at last `summary`. Breaking off is safe at any
step. Raises HeldError, RegistryError, StoreError.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from mirror.cache.dropping import Dropper, Outcome
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
        self._dropper = Dropper(tree, inventory, memory, evictor.turns, busy, clock)
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
                async with aclosing(self._went(step.garbage, began, dry_run)) as outcomes:
                    async for garbage, outcome in outcomes:
                        if isinstance(outcome, StoreError):
                            failures += 1
                            failed(_name(garbage), outcome)
                        elif outcome:
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

    def _young(self) -> float:
        """What bears a later time is younger than GRACE."""
        return self._clock() - GRACE if self._ago is None else self._ago(GRACE)

    def _since(self, began: _Began) -> float:
        """What bears a later time may have been used since then."""
        if self._ago is None:
            return began.wall
        return min(began.wall, self._ago(time.monotonic() - began.steady))

    async def _went(
        self, found: Sequence[Garbage], began: _Began, dry_run: bool
    ) -> AsyncGenerator[tuple[Garbage, Outcome], None]:
        """Delete it; with `dry_run` tell what would go."""
        if dry_run:
            for garbage in found:
                yield garbage, not (garbage.kind is Kind.BLOB and garbage.digest in self._busy())
            return
        async with aclosing(self._dropper.drop(found, lambda: self._since(began))) as outcomes:
            async for each in outcomes:
                yield each


def _name(garbage: Garbage) -> str:
    """What an operator calls it."""
    if garbage.kind is Kind.BLOB and garbage.digest is not None:
        return str(garbage.digest)
    if garbage.repository is not None and garbage.tag is not None:
        return f"{garbage.repository}:{garbage.tag}"
    if garbage.repository is not None and garbage.digest is not None:
        return f"{garbage.repository}@{garbage.digest}"
    return Path(garbage.path).as_posix()
