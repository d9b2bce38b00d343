"""The part of the composition root that looks after what is kept: limits, ages, collections, repairs.

Like `app` it reads `Config`, and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirror import appstorage
from mirror.cache.collecting import Collector
from mirror.cache.disks import measured
from mirror.cache.eviction import Limits
from mirror.cache.evictor import Evictor
from mirror.cache.freshness import Rule
from mirror.cache.housekeeping import daily, steadily
from mirror.cache.keeper import Keeper
from mirror.cache.lock import HeldError, Lock
from mirror.cache.memory import Memory
from mirror.cache.scrubber import Scrubber
from mirror.cache.spool import Spool
from mirror.cache.surveyor import Surveyor
from mirror.cache.wallclock import WallClock
from mirror.config import Config
from mirror.configvalues import Size
from mirror.drivers.base import StorageDriver
from mirror.drivers.budget import Budget, BudgetedDriver
from mirror.ledger import scheduler
from mirror.ledger.inventory import Inventory, NotKept
from mirror.oci.digest import Digest
from mirror.oci.names import InvalidNameError, Reference, Repository
from mirror.oci.reference import Image
from mirror.registry import RegistryError
from mirror.store import layout
from mirror.store.booked import BookedStore
from mirror.store.errors import StoreError
from mirror.store.tree import Tree
from mirror.upstream.routes import Routes

INVENTORY = "inventory.sqlite"  # beside the ledger, with all that is named here
LOCK = "keeper.lock"
QUARANTINE = "quarantine"
WAITING = "waiting for the collection that is under way"

Locate = Callable[[str], tuple[Repository, Reference | None]]


@dataclass(frozen=True, slots=True)
class Keeping:
    """All that looks after what is kept. To be opened, run and closed with the application."""

    inventory: Inventory
    store: BookedStore
    memory: Memory
    evictor: Evictor
    keeper: Keeper
    surveyor: Surveyor
    scrubber: Scrubber
    collector: Collector
    lock: Lock
    locate: Locate
    explained: Callable[[RegistryError | StoreError], str]  # a failure, for the operator
    clock: Callable[[], float]  # uses are noted by it, so that it sees a step between two passes, too

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Look after it until the end of the block; what is kept until then is noted."""
        await self.inventory.open()
        tasks = [
            asyncio.create_task(steadily("keeper", self.keeper.run)),
            asyncio.create_task(steadily("scrubber", self.scrubber.run)),
            asyncio.create_task(
                steadily("collection", lambda: daily(lambda: self.operate("garbage-collect", {})))
            ),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def operate(
        self, operation: str, options: Mapping[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What a command asks for, as events; the last is `summary`, or `error` with a text."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                match operation:
                    case "verify":  # which takes hours, and deletes hardly anything
                        pass
                    case "purge":  # nobody can wait for a collection with that: it goes on beside one
                        await stack.enter_async_context(self.lock.shared())
                    case _:
                        if self.lock.is_held:
                            yield {"event": "progress", "done": None, "total": None, "what": WAITING}
                        await stack.enter_async_context(self.lock.held(wait=True))
                events = await stack.enter_async_context(aclosing(self._events(operation, options)))
                async for event in events:
                    yield event
        except HeldError:
            yield {"event": "error", "error": "another process is deleting in this folder: try again later"}
        except (RegistryError, StoreError) as error:
            yield {"event": "error", "error": self.explained(error)}
        except (NotKept, OSError) as error:  # OSError: the lock's file cannot be had
            yield {"event": "error", "error": str(error)}

    def _events(self, operation: str, options: Mapping[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        match operation:
            case "garbage-collect":
                flags = {name: options.get(name) == "true" for name in ("dry_run", "delete_untagged")}
                return self.collector.collect(dry_run=flags["dry_run"], untagged=flags["delete_untagged"])
            case "verify":
                return self.collector.verify()
            case "purge":
                return self.collector.purge(*self.locate(options["what"]))
        raise ValueError(operation)


def build(config: Config, driver: StorageDriver, folder: Path, names: Routes) -> Keeping:
    """`folder`: where the mirror keeps what is its own, below the root directory."""
    root = folder.parent if config.storage.filesystem is not None else None
    reserved: dict[Digest, int] = {}
    inventory = Inventory(folder / INVENTORY)
    clock = WallClock()
    store, tree = BookedStore(driver, inventory, clock), Tree(_unhurried(config, driver))
    memory = Memory(config.storage.cache.blobdescriptorsize, config.proxy.negative)
    evictor = Evictor(Tree(driver), inventory, memory, reserved.keys, store.turns, clock)
    # Of one that kept for ever registry:3 has left no times; registry:2 knows nothing of a `ttl`.
    lifetime = config.proxy.ttl if config.proxy.ttl > 0 else scheduler.LIFETIME
    surveyor = Surveyor(tree, inventory, root, lifetime=lifetime)
    lock, spool = Lock(folder / LOCK), Spool(folder / appstorage.SPOOL.name)
    keeper = Keeper(
        inventory,
        evictor,
        surveyor,
        _limits(config),
        lock,
        reserved=reserved,
        disk=None if root is None else lambda: measured(root / layout.BLOBS, spool),
        namespace_of=lambda repository: names.split(repository).namespace,
        spool=spool,
        clock=clock,
        ago=clock.ago,
    )
    scrub = config.cache.scrub
    scrubber = Scrubber(
        tree,
        inventory,
        memory,
        folder / QUARANTINE,
        interval=scrub.interval,
        rate=scrub.rate,
        turns=store.turns,
    )
    collector = Collector(store, tree, inventory, memory, evictor, scrubber, reserved.keys, clock, clock.ago)

    def locate(what: str) -> tuple[Repository, Reference | None]:
        meant = Image.parse(what)
        is_whole = "@" not in what and ":" not in what.rpartition("/")[2]
        reference = None if is_whole else meant.reference
        try:
            return names.route(meant.host, "", meant.repository).qualified, reference
        except RegistryError as error:
            # A registry that is configured no more: what is left of it lies below its name.
            try:
                left = Repository.parse(f"{(meant.host or '').replace(':', '_')}/{meant.repository}")
            except InvalidNameError:
                raise error from None
            return left, reference

    def explained(error: RegistryError | StoreError) -> str:
        return appstorage.explained(driver, error)

    return Keeping(
        inventory,
        store,
        memory,
        evictor,
        keeper,
        surveyor,
        scrubber,
        collector,
        lock,
        locate,
        explained,
        clock,
    )


def _unhurried(config: Config, driver: StorageDriver) -> StorageDriver:
    """For what looks at all that is kept. Evictions do not wait: somebody needs the room."""
    requests = config.cache.requests
    if not requests or not config.storage.is_remote:
        return driver
    return BudgetedDriver(driver, Budget(requests))


def _limits(config: Config) -> Limits:
    most, least = config.cache.maxsize or Size(), config.cache.minfree or Size()
    return Limits(
        maxsize=most.bytes or None,
        maxsize_share=most.percent / 100 or None,
        minfree=least.bytes or None,
        minfree_share=least.percent / 100 or None,
        ttl=config.proxy.ttl if config.proxy.ttl > 0 else None,
        pins=tuple(Rule(pattern, 0.0) for pattern in config.cache.pin),
    )
