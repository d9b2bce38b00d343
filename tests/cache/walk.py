"""A mirror without its server, for random walks: every part is real but the upstream, which is in memory.

The clock is moved, and the disk can be told to end, to fail once, or to say how far something has come.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from itertools import product
from pathlib import Path

from mirror.cache.collecting import Collector
from mirror.cache.eviction import Limits
from mirror.cache.evictor import Evictor
from mirror.cache.fills import Fills
from mirror.cache.keeper import Keeper
from mirror.cache.lock import Lock
from mirror.cache.memory import Memory
from mirror.cache.pullthrough import PullThrough
from mirror.cache.scrubber import Scrubber
from mirror.cache.spool import Spool
from mirror.cache.surveyor import Surveyor
from mirror.drivers.base import DriverError, StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger.inventory import Inventory
from mirror.ledger.sqlite import Ledger
from mirror.ledger.waiting import Waiting
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import RawManifest
from mirror.store.booked import BookedStore
from mirror.store.tree import Tree
from tests.cache.kit import ALWAYS_DUE, Clock, whole
from tests.store.faulty import FaultyDriver
from tests.support.puppet import Puppet, Transfer

KIB = 1024
LIMIT = 40 * KIB  # of what is kept; the catalogue has about 90
TTL = 28 * 3600.0  # seconds
REPOSITORIES = ("library/a", "library/b", "quay.io/org/c")
TAGS = ("1", "2", "latest")
LAYERS = tuple(hashlib.sha256(bytes([n])).digest() * 64 * (n + 1) for n in range(9))  # 2 to 18 KiB
CONFIG = b"{}"


class Generous(Puppet):
    """An upstream whose transfers come at once, with everything in it: each tag has an image, or an index."""

    def __init__(self) -> None:
        super().__init__()
        self.now: dict[tuple[str, str], Digest] = {}  # (repository, tag) -> what it points to
        self.bodies: dict[Digest, bytes] = {Digest.of(data): data for data in (*LAYERS, CONFIG)}
        for number, (name, tag) in enumerate(product(REPOSITORIES, TAGS)):
            self.move(name, tag, (number, number + 1), is_index=number % 4 == 3)

    def move(self, name: str, tag: str, layers: tuple[int, ...], *, is_index: bool) -> None:
        """Let the tag point to an image of these layers, in an index or not."""
        for data in (*LAYERS, CONFIG):
            self.add(data, name)
        blobs = [_descriptor(LAYERS[number % len(LAYERS)]) for number in dict.fromkeys(layers)]
        image = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(CONFIG),
            "layers": blobs,
        }
        body = json.dumps(image).encode()
        if is_index:
            self._add(name, body)
            entry = {**_descriptor(body), "mediaType": OCI_MANIFEST}
            body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
        self.now[name, tag] = self._add(name, body, tag)

    def _add(self, name: str, body: bytes, *tags: str) -> Digest:
        digest = self.add_manifest(body, name, *tags)
        self.bodies[digest] = body
        return digest

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> Transfer:
        transfer = await super().blob(repository, digest, start=start, size=size, stop=stop)
        transfer.finish()
        return transfer


def _descriptor(data: bytes) -> dict[str, object]:
    return {"mediaType": "application/octet-stream", "digest": str(Digest.of(data)), "size": len(data)}


class Doomed(FaultyDriver):
    """A disk that ends, or fails once, as many calls from now as it is told; or sets `reached` then."""

    def __init__(self, inner: StorageDriver) -> None:
        super().__init__(inner)
        self.reached = asyncio.Event()
        self._tells_at: int | None = None

    def tell(self, calls: int) -> None:
        """Say when so many calls more are under way."""
        self.reached.clear()
        self._tells_at = self.calls + calls

    def _fails(self) -> bool:
        if self.calls == self._tells_at:
            self.reached.set()
        return super()._fails()

    def doom(self, calls: int | None, *, dead: bool = True, after: bool = False) -> None:
        """None: it is well, from now on."""
        self._fail_at = None if calls is None else self.calls + calls
        self._dead, self._after, self._failure = dead, after, DriverError


class Life:
    """One process, from its start to its end. `clock` and `upstream` outlive it."""

    def __init__(self, root: Path, upstream: Generous, clock: Clock) -> None:
        self.root, self.upstream, self.clock = root, upstream, clock
        self._surveys: asyncio.Task[None] | None = None
        self.driver = Doomed(FilesystemDriver(root, 4))
        driver: StorageDriver = self.driver
        self.inventory = Inventory(root / "mirror" / "inventory.sqlite")
        self.store, self.tree = BookedStore(driver, self.inventory, clock), Tree(driver)
        reserved: dict[Digest, int] = {}
        memory, spool = Memory(1000, 10.0), Spool(root / "mirror" / "spool")
        evictor = Evictor(self.tree, self.inventory, memory, reserved.keys, self.store.turns, clock)
        self.surveyor = Surveyor(self.tree, self.inventory, root, clock)
        self.keeper = Keeper(
            self.inventory,
            evictor,
            self.surveyor,
            Limits(maxsize=LIMIT, ttl=TTL),
            Lock(root / "mirror" / "keeper.lock"),
            reserved=reserved,
            disk=None,
            namespace_of=lambda _repository: "docker.io",
            spool=spool,
            clock=clock,
        )
        scrubber = Scrubber(self.tree, self.inventory, memory, None, interval=0, rate=1e9, clock=clock)
        self.collector = Collector(
            self.store, self.tree, self.inventory, memory, evictor, scrubber, reserved.keys, clock
        )
        self.fills = Fills(upstream, self.store, spool, None, self.keeper)
        self.ledger = Ledger(root / "mirror" / "ledger.sqlite")
        self.registry = PullThrough(
            self.store,
            upstream,
            self.fills,
            self.ledger,
            policy=ALWAYS_DUE,
            deadline=5.0,
            memory=memory,
            room=self.keeper,
            note_use=self.inventory.note_use,
            clock=clock,
        )

    async def begin(self) -> None:
        """Open what is here, and believe it as far as it was closed well."""
        await self.ledger.open()
        await self.inventory.open()

    async def start(self) -> None:
        """What the keeper begins with: a pass beside a survey of all that is here."""
        self._surveys = asyncio.create_task(self.surveyor.run())
        await asyncio.gather(self.look(), self.surveyor.tried.wait())

    async def end(self, *, killed: bool) -> None:
        """Stop; when killed, with all lost that was not written yet."""
        if killed:
            self.driver.doom(0)
        if self._surveys is not None:
            self._surveys.cancel()
            await asyncio.wait([self._surveys])
        await self.registry.close()
        await self.fills.close()
        await self.ledger.close()
        if killed:
            self.inventory._waiting = Waiting()  # a kill writes nothing more
            await asyncio.to_thread(self.inventory._stock.distrust)
        await self.inventory.close()
        await self.driver.close()

    async def pull(self, name: str, reference: str) -> None:
        """Pull an image as clients do, and see that all of it is right."""
        repository = Repository(name)
        wanted: Reference = Digest.parse(reference) if ":" in reference else Tag(reference)
        manifest = await self._manifest(repository, wanted)
        document = json.loads(manifest.body)
        for child in document.get("manifests", ()):
            document = json.loads((await self._manifest(repository, Digest.parse(child["digest"]))).body)
        for entry in (document["config"], *document["layers"]):
            digest = Digest.parse(entry["digest"])
            data = await whole(await self.registry.blob(repository, digest))
            assert data == self.upstream.bodies[digest]

    async def _manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        found = await self.registry.manifest(repository, reference)
        right = (
            reference if isinstance(reference, Digest) else self.upstream.now[repository.name, reference.name]
        )
        assert found.descriptor.digest == right
        assert found.body == self.upstream.bodies[right]
        return found

    async def settle(self) -> None:
        """Wait until all that was answered is kept, or was not to be."""
        await self.registry.settle()
        await asyncio.gather(*self.fills._tasks, return_exceptions=True)

    async def look(self) -> None:
        """What the keeper does now and then."""
        await self.keeper._look()

    async def collect(self, *, untagged: bool) -> None:
        async for _ in self.collector.collect(untagged=untagged):
            pass

    async def purge(self, name: str, reference: str) -> None:
        wanted: Reference | None = None
        if reference:
            wanted = Digest.parse(reference) if ":" in reference else Tag(reference)
        async for _ in self.collector.purge(Repository(name), wanted):
            pass


def now() -> Clock:
    """A clock that files are not younger than."""
    return Clock(time.time())
