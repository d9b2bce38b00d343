"""A stream of pulls driven through the inventory, the keeper and the store, and through a plain FIFO.

The store and the inventory are real, on a disk; only the clock is not, and what stands for a client asks the
store itself. Blobs of an image are pulled a few at a time, as clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mirror.cache.eviction import Limits
from mirror.cache.evictor import Evictor
from mirror.cache.keeper import PASS, Keeper
from mirror.cache.lock import Lock
from mirror.cache.memory import Memory
from mirror.cache.surveyor import Surveyor
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger.inventory import Inventory
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST
from mirror.registry import RawManifest, RegistryError
from mirror.store.booked import BookedStore
from mirror.store.tree import Tree
from tests.bench.catalogue import Image, Layer, Pull
from tests.bench.fifo import Fifo

AT_A_TIME = 3  # blobs of one image; what docker does
LOOK = 600.0  # simulated seconds between two comparisons of the disk with the limit and the inventory
EPOCH = 1_700_000_000.0  # when the simulated time begins

THREADS = 8


@dataclass(slots=True)
class Tally:
    """What was asked for and what of it was kept, in blobs and bytes; manifests count as blobs."""

    asked: int = 0
    hits: int = 0
    asked_bytes: int = 0
    fetched_bytes: int = 0

    def count(self, size: int, *, hit: bool) -> None:
        self.asked += 1
        self.hits += hit
        self.asked_bytes += size
        self.fetched_bytes += 0 if hit else size


@dataclass(frozen=True, slots=True)
class Point:
    """How it stood at a time: seconds since the beginning, bytes."""

    at: float
    kept: int
    kept_fifo: int
    mirror: Tally
    fifo: Tally


@dataclass(slots=True)
class Outcome:
    """What came of it. `over`: the most bytes by which the limit was exceeded, and in flight at that time."""

    limit: int
    points: list[Point] = field(default_factory=list)
    mirror: Tally = field(default_factory=Tally)
    fifo: Tally = field(default_factory=Tally)
    not_kept: int = 0  # blobs for which there was no room
    over: int = 0
    in_flight: int = 0  # the most at a time


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = EPOCH

    def __call__(self) -> float:
        return self.now


class Mirror:
    """The parts of the application that keep things, joined as it joins them."""

    def __init__(self, root: Path, driver: FilesystemDriver, limit: int, outcome: Outcome) -> None:
        self.root, self.clock, self._outcome, self._limit = root, Clock(), outcome, limit
        self.inventory = Inventory(root / "mirror" / "inventory.sqlite")
        self._store, tree = BookedStore(driver, self.inventory, self.clock), Tree(driver)
        self._writing = 0  # bytes of manifests under way: they ask for no room
        self._reserved: dict[Digest, int] = {}
        evictor = Evictor(
            tree, self.inventory, Memory(1000, 10.0), self._reserved.keys, self._store.turns, self.clock
        )
        self.surveyor = Surveyor(tree, self.inventory, None, self.clock)
        self.keeper = Keeper(
            self.inventory,
            evictor,
            self.surveyor,
            Limits(maxsize=limit),
            Lock(root / "mirror" / "keeper.lock"),
            reserved=self._reserved,
            disk=None,
            namespace_of=lambda _repository: "docker.io",
            clock=self.clock,
        )

    async def pull(self, image: Image) -> None:
        """As a client does: the manifest, then the blobs that it names."""
        await self._manifest(image)
        slots = asyncio.Semaphore(AT_A_TIME)

        async def one(layer: Layer) -> None:
            async with slots:
                await self._blob(image, layer)

        await asyncio.gather(*map(one, image.layers))

    async def check(self) -> int:
        """The bytes kept, which are those on the disk and below the limit."""
        total = await self.inventory.total()
        on_disk = await asyncio.to_thread(_size_of, self.root)
        assert total.bytes == on_disk, f"{total.bytes} bytes are noted, {on_disk} are there"
        assert on_disk <= self._limit, f"{on_disk} bytes with nothing in flight, {self._limit} are allowed"
        return on_disk

    async def _manifest(self, image: Image) -> None:
        tally, size = self._outcome.mirror, len(image.body)
        try:
            await self._store.manifest(image.repository, image.digest)
            tally.count(size, hit=True)
        except RegistryError:
            tally.count(size, hit=False)
            self._writing += size
            raw = RawManifest(Descriptor(image.digest, size, OCI_MANIFEST), image.body)
            await self._store.put_manifest(image.repository, raw)
            await self._store.tag(image.repository, image.tag, image.digest)
            await self._look(0)
            self._writing -= size
        self.inventory.note_use(image.digest, image.repository, self.clock())

    async def _blob(self, image: Image, layer: Layer) -> None:
        tally = self._outcome.mirror
        if await self._store.blob_size(layer.digest) is not None:
            tally.count(layer.size, hit=True)
            if not await self._store.is_linked(image.repository, layer.digest):
                await self._store.link_blob(image.repository, layer.digest)
        else:
            tally.count(layer.size, hit=False)
            await self._fill(image, layer)
        self.inventory.note_use(layer.digest, image.repository, self.clock())

    async def _fill(self, image: Image, layer: Layer) -> None:
        if not await self.keeper.make_room(layer.digest, layer.size):
            self._outcome.not_kept += 1
            return
        source = self.root / f"source-{layer.digest.hex}"
        await asyncio.to_thread(source.write_bytes, layer.data)
        await self._look(0)
        await self._store.adopt_blob(image.repository, layer.digest, source)
        await self._look(layer.size)  # which counts twice: as kept, and as announced
        self.keeper.release(layer.digest, layer.size)

    async def _look(self, twice: int) -> None:
        """The promise: never more than the limit and what is in flight."""
        flight = sum(self._reserved.values()) + self._writing - twice
        kept = (await self.inventory.total()).bytes
        outcome = self._outcome
        outcome.in_flight = max(outcome.in_flight, flight)
        outcome.over = max(outcome.over, kept - self._limit)
        assert kept <= self._limit + flight, f"{kept} bytes of {self._limit}, with {flight} in flight"


async def simulate(root: Path, pulls: Iterable[Pull], limit: int) -> Outcome:
    """Drive the pulls through both. Raises AssertionError where the limit does not hold."""
    outcome = Outcome(limit)
    fifo, looked, passed = Fifo(limit), 0.0, 0.0
    async with _mirror(root, limit, outcome) as mirror:
        for pull in pulls:
            while pull.at >= looked + LOOK:
                looked += LOOK
                mirror.clock.now = EPOCH + looked
                kept = await mirror.check()
                outcome.points.append(
                    Point(looked, kept, fifo.bytes, _copy(outcome.mirror), _copy(outcome.fifo))
                )
            mirror.clock.now = EPOCH + pull.at
            await mirror.pull(pull.image)
            if pull.at >= passed + PASS:  # woken by a fill, or by the time: see `Keeper.run`
                passed = pull.at
                await mirror.keeper._look()
            for digest, size in _blobs(pull.image):
                outcome.fifo.count(size, hit=fifo.take(digest, size))
        await mirror.keeper._look()
        await mirror.check()
    return outcome


@asynccontextmanager
async def _mirror(root: Path, limit: int, outcome: Outcome) -> AsyncIterator[Mirror]:
    driver = FilesystemDriver(root, THREADS)
    mirror = Mirror(root, driver, limit, outcome)
    await mirror.inventory.open()
    try:
        await mirror.surveyor.survey()
        yield mirror
    finally:
        await mirror.inventory.close()
        await driver.close()


def _blobs(image: Image) -> Iterator[tuple[Digest, int]]:
    yield image.digest, len(image.body)
    for layer in image.layers:
        yield layer.digest, layer.size


def _copy(tally: Tally) -> Tally:
    return Tally(tally.asked, tally.hits, tally.asked_bytes, tally.fetched_bytes)


def _size_of(root: Path) -> int:
    """In a thread."""
    return sum(path.stat().st_size for path in root.glob("docker/registry/v2/blobs/*/*/*/data"))
