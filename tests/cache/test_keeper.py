"""What is kept stays within its limits: on a real store and a real inventory, with a clock that is moved."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.cache import passes
from mirror.cache.collecting import Collector
from mirror.cache.eviction import Disk, Held, Limits, needed, surplus
from mirror.cache.evictor import Evictor, Freed
from mirror.cache.freshness import Rule
from mirror.cache.keeper import Keeper
from mirror.cache.lock import HeldError, Lock
from mirror.cache.memory import Memory
from mirror.cache.scrubber import Scrubber
from mirror.cache.spool import Spool
from mirror.cache.surveyor import Surveyor
from mirror.drivers.base import StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger.facts import Candidate
from mirror.ledger.inventory import Inventory
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError
from mirror.store.booked import BookedStore
from mirror.store.links import Links
from mirror.store.tree import Tree
from tests.cache.kit import A, B, Clock, whole

HOUR = 3600.0
KIB = 1024
HANGS = 30.0  # seconds; who waits longer for what never comes, waits for ever


@dataclass(frozen=True, slots=True)
class Shop:
    """A store with all that looks after it."""

    root: Path
    clock: Clock
    store: BookedStore
    inventory: Inventory
    keeper: Keeper
    collector: Collector
    surveyor: Surveyor
    reserved: dict[Digest, int]
    evictor: Evictor
    memory: Memory
    lock: Lock
    spool: Spool
    scrubber: Scrubber

    async def blob(self, data: bytes, *repositories: Repository) -> Digest:
        """Keep a blob, linked in these repositories."""
        digest = Digest.of(data)
        source = self.root / f"source-{digest.hex}"
        source.write_bytes(data)
        await self.store.adopt_blob(repositories[0], digest, source)
        for other in repositories[1:]:
            await self.store.link_blob(other, digest)
        return digest

    async def image(self, repository: Repository, tag: str, *blobs: bytes) -> Digest:
        """Keep an image with its blobs, and use it now."""
        layers = [_descriptor(await self.blob(data, repository), len(data)) for data in blobs]
        config = _descriptor(await self.blob(b"{}", repository), 2)
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
        return await self.manifest(repository, tag, {**document, "annotations": {"tag": tag}})

    async def manifest(self, repository: Repository, tag: str, document: dict[str, Any]) -> Digest:
        body = json.dumps(document).encode()
        digest = Digest.of(body)
        raw = RawManifest(Descriptor(digest, len(body), document["mediaType"]), body)
        await self.store.put_manifest(repository, raw)
        if tag:
            await self.store.tag(repository, Tag(tag), digest)
        self.use(repository, digest)
        return digest

    def use(self, repository: Repository, digest: Digest) -> None:
        self.inventory.note_use(digest, repository, self.clock())

    async def has(self, repository: Repository, digest: Digest) -> bool:
        try:
            await self.store.manifest(repository, digest)
        except RegistryError:
            return False
        return True

    async def kept(self, data: bytes) -> bool:
        return await self.store.blob_size(Digest.of(data)) is not None

    def bytes_on_disk(self) -> int:
        """Those that are there; what is deleted meanwhile may count or not, folders too."""
        size = 0
        # NB: not `glob`, which fails where a folder goes that it is about to look into.
        for folder, _, files in os.walk(self.root / "docker/registry/v2/blobs"):
            if "data" in files:
                with suppress(FileNotFoundError):
                    size += Path(folder, "data").stat().st_size
        return size

    def folders(self) -> set[str]:
        """All folders of repositories."""
        below = self.root / "docker/registry/v2/repositories"
        return {str(path.relative_to(below)) for path in below.rglob("*") if path.is_dir()}


def _descriptor(digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": "application/octet-stream", "digest": str(digest), "size": size}


@asynccontextmanager
async def shop(
    root: Path,
    limits: Limits,
    *,
    disk: Disk | Callable[[], Disk] | None = None,
    clock: Clock | None = None,
    namespace: str = "docker.io",
    driver: StorageDriver | None = None,
    survey: bool = True,
    ago: Callable[[float], float] | None = None,
) -> AsyncIterator[Shop]:
    """Everything joined, and surveyed, unless the keeper is to do that."""
    clock = clock or Clock()
    driver = driver or FilesystemDriver(root, 4)
    inventory = Inventory(root / "mirror" / "inventory.sqlite")
    await inventory.open()
    store, tree, memory = BookedStore(driver, inventory, clock), Tree(driver), Memory(100, 10.0)
    reserved: dict[Digest, int] = {}
    evictor = Evictor(tree, inventory, memory, reserved.keys, store.turns, clock)
    surveyor = Surveyor(tree, inventory, root, clock)
    lock, spool = Lock(root / "mirror" / "keeper.lock"), Spool(root / "mirror" / "spool")
    keeper = Keeper(
        inventory,
        evictor,
        surveyor,
        limits,
        lock,
        reserved=reserved,
        disk=(lambda: disk) if isinstance(disk, Disk) else disk,
        namespace_of=lambda _repository: namespace,
        spool=spool,
        clock=clock,
        ago=ago,
    )
    aside = root / "mirror" / "quarantine"
    scrubber = Scrubber(tree, inventory, memory, aside, interval=0, rate=1e9, clock=clock)
    collector = Collector(store, tree, inventory, memory, evictor, scrubber, reserved.keys, clock, ago)
    try:
        if survey:
            await surveyor.survey()
        yield Shop(
            root,
            clock,
            store,
            inventory,
            keeper,
            collector,
            surveyor,
            reserved,
            evictor,
            memory,
            lock,
            spool,
            scrubber,
        )
    finally:
        await inventory.close()
        await driver.close()


def held(kept: int, disk: Disk | None = None, coming: int = 0, there: int = 0, left: int = 0) -> Held:
    """`there`: bytes of what is coming that are written; `left`: those that a broken fill has left."""
    blob, other = Digest.of(b"blob"), Digest.of(b"other")
    return Held(kept, disk, {blob: coming}, {blob: there, other: left})


@pytest.mark.parametrize(
    ("there_is", "over"),
    [
        (held(50, None, 50), 0),
        (held(50, None, 51), 1),
        (held(200), 100),
        (held(50, Disk(1000, 100), 10), 0),
        (held(50, Disk(1000, 20), 10), 10),
        (held(50, Disk(1000, 30), 10), 0),
        (held(50, None, 51, 30), 1),
        (held(50, None, 50, 50), 0),
        (held(50, None, 30, 10, 25), 5),
        (held(50, Disk(1000, 25), 10, 5), 0),
        (held(50, Disk(1000, 24), 10, 5), 1),
        (held(50, Disk(1000, 20), 10, 10), 0),
    ],
)
def test_how_much_has_to_go(there_is: Held, over: int) -> None:
    assert needed(there_is, Limits(maxsize=100, minfree=20)) == over


@pytest.mark.parametrize(
    ("kept", "disk", "over"),
    [(90, None, 0), (91, None, 1), (50, Disk(1000, 25), 0), (50, Disk(1000, 22), 3), (95, Disk(1000, 24), 5)],
)
def test_a_pass_goes_some_way_below_the_limits(kept: int, disk: Disk | None, over: int) -> None:
    assert surplus(held(kept, disk), Limits(maxsize=100, minfree=20)) == over


def test_shares_are_of_the_disk() -> None:
    limits = Limits(maxsize_share=0.5, minfree_share=0.1)
    assert limits.most(Disk(1000, 500)) == 500
    assert limits.reserve(Disk(1000, 500)) == 100
    assert limits.most(None) is None
    assert limits.reserve(None) == 0


async def test_the_longest_unused_image_goes_whole_and_no_empty_folder_stays(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=30 * KIB)) as at:
        old = await at.image(A, "old", b"a" * 10 * KIB)
        at.clock.now += HOUR
        new = await at.image(B, "new", b"b" * 10 * KIB)
        at.clock.now += HOUR
        assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert not await at.has(A, old)
        assert not await at.kept(b"a" * 10 * KIB)
        assert await at.has(B, new)
        assert await at.kept(b"b" * 10 * KIB)
        assert not any(folder.startswith("library/a") for folder in at.folders())
        with pytest.raises(RegistryError):
            await at.store.manifest(A, Tag("old"))


async def test_a_use_saves_an_image(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=30 * KIB)) as at:
        first = await at.image(A, "first", b"a" * 10 * KIB)
        at.clock.now += HOUR
        second = await at.image(B, "second", b"b" * 10 * KIB)
        at.clock.now += HOUR
        at.use(A, first)
        at.clock.now += HOUR
        assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert await at.has(A, first)
        assert not await at.has(B, second)


async def test_a_blob_that_a_live_image_names_stays_and_is_never_served_empty(tmp_path: Path) -> None:
    """registry:2's bug: a blob of two repositories expires in one, and the other serves 200 with nothing."""
    shared = b"s" * 10 * KIB
    async with shop(tmp_path, Limits(ttl=10 * HOUR)) as at:
        old = await at.image(A, "1", shared, b"a" * KIB)
        at.clock.now += 8 * HOUR
        live = await at.image(B, "1", shared)
        at.clock.now += 4 * HOUR
        await at.keeper._look()
        assert not await at.has(A, old)
        assert await at.has(B, live)
        assert await whole(await at.store.blob(B, Digest.of(shared))) == shared
        with pytest.raises(RegistryError):
            await at.store.blob(A, Digest.of(shared))
        assert not await at.kept(b"a" * KIB)
        at.clock.now += 3 * HOUR
        await at.keeper._look()
        at.clock.now += 4 * HOUR
        await at.keeper._look()
        assert at.bytes_on_disk() == 0
        assert at.folders() == set()


async def test_a_pinned_image_and_what_it_names_stay(tmp_path: Path) -> None:
    pins = (Rule("docker.io/library/a:keep", 0),)
    async with shop(tmp_path, Limits(ttl=HOUR, pins=pins)) as at:
        child = await at.image(A, "", b"a" * KIB)
        entry = {**_descriptor(child, 300), "mediaType": OCI_MANIFEST}
        index = await at.manifest(
            A, "keep", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        )
        gone = await at.image(A, "gone", b"b" * KIB)
        at.clock.now += 5 * HOUR
        await at.keeper._look()
        assert await at.has(A, index)
        assert await at.has(A, child)
        assert await at.kept(b"a" * KIB)
        assert not await at.has(A, gone)


async def test_a_pin_names_a_registry_with_its_port_as_people_type_it(tmp_path: Path) -> None:
    pins = (Rule("localhost:5000/app:keep", 0),)
    app = Repository("localhost_5000/app")
    async with shop(tmp_path, Limits(ttl=HOUR, pins=pins), namespace="localhost:5000") as at:
        kept, gone = await at.image(app, "keep", b"a" * KIB), await at.image(app, "gone", b"b" * KIB)
        at.clock.now += 5 * HOUR
        await at.keeper._look()
        assert await at.has(app, kept)
        assert not await at.has(app, gone)


async def test_what_was_used_a_moment_ago_stays_though_there_is_no_room(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        image = await at.image(A, "1", b"a" * 15 * KIB)
        assert not await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert await at.has(A, image)
        assert at.reserved == {}


async def test_a_blob_larger_than_the_limit_is_not_kept_and_evicts_little(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        assert not await at.keeper.make_room(Digest.of(b"c"), 21 * KIB)


async def test_reserved_room_counts_until_it_is_released(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        assert await at.keeper.make_room(Digest.of(b"1"), 12 * KIB)
        assert not await at.keeper.make_room(Digest.of(b"2"), 12 * KIB)
        at.keeper.release(Digest.of(b"1"), 12 * KIB)
        assert await at.keeper.make_room(Digest.of(b"2"), 12 * KIB)


async def test_nothing_is_evicted_while_another_process_deletes(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        image = await at.image(A, "1", b"a" * 15 * KIB)
        at.clock.now += HOUR
        other = Lock(tmp_path / "mirror" / "keeper.lock")
        async with other.held():
            assert not await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
            with pytest.raises(HeldError):
                async with Lock(tmp_path / "mirror" / "keeper.lock").held():
                    pass
        assert await at.has(A, image)
        assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)


async def test_an_adopted_folder_is_surveyed_and_its_unused_images_go_first(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * 10 * KIB)
        await at.image(B, "1", b"b" * 10 * KIB)
    for file in (tmp_path / "mirror").glob("inventory.sqlite*"):
        file.unlink()
    clock = Clock()
    clock.now = 5e9  # long after the files were written
    async with shop(tmp_path, Limits(maxsize=25 * KIB), clock=clock) as at:
        total = await at.inventory.total()
        assert total.bytes == at.bytes_on_disk()
        for repository in (B,):
            at.use(repository, (await at.store.resolve(repository, Tag("1"))).descriptor.digest)
        clock.now += HOUR
        assert await at.keeper.make_room(Digest.of(b"c"), 10 * KIB)
        assert not await at.kept(b"a" * 10 * KIB)
        assert await at.kept(b"b" * 10 * KIB)


async def test_a_collection_takes_what_nothing_names_and_a_dry_run_takes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 5e9
    async with shop(tmp_path, Limits(), clock=clock) as at:
        image = await at.image(A, "1", b"a" * KIB)
        orphan = await at.blob(b"orphan" * 100, B)
        dry = [event async for event in at.collector.collect(dry_run=True)]
        assert await at.kept(b"orphan" * 100)
        assert dry[-1]["dry_run"]
        found = {event["name"] for event in dry if event["event"] == "found"}
        assert str(orphan) in found
        wet = [event async for event in at.collector.collect()]
        assert {event["name"] for event in wet if event["event"] == "removed"} == found
        assert not await at.kept(b"orphan" * 100)
        assert await at.has(A, image)
        assert await at.kept(b"a" * KIB)
        assert (await at.inventory.total()).bytes == at.bytes_on_disk()
        again = [event async for event in at.collector.collect()]
        assert again[-1]["removed"] == 0


async def test_a_collection_of_untagged_images_keeps_what_a_tagged_index_names(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 5e9
    async with shop(tmp_path, Limits(), clock=clock) as at:
        child = await at.image(A, "", b"a" * KIB)
        entry = {**_descriptor(child, 300), "mediaType": OCI_MANIFEST}
        await at.manifest(A, "1", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
        untagged = await at.manifest(
            A,
            "",
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(await at.blob(b"x" * KIB, A), KIB),
            },
        )
        async for _ in at.collector.collect(untagged=True):
            pass
        assert await at.has(A, child)
        assert not await at.has(A, untagged)
        assert not await at.kept(b"x" * KIB)


async def test_a_bad_blob_is_found_moved_aside_and_not_served(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * KIB, b"b" * KIB)
        digest = Digest.of(b"a" * KIB)
        path = tmp_path / f"docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"
        path.write_bytes(b"X" + b"a" * (KIB - 1))
        events = [event async for event in at.collector.verify()]
        assert [event["name"] for event in events if event["event"] == "bad"] == [str(digest)]
        counts = {"checked": 4, "bytes": events[-1]["bytes"], "bad": 1}
        # A layer link leads to nothing now: no damage of its own.
        assert events[-1] == {"event": "summary", **counts, "links": 5, "broken": 0, "nowhere": 1}
        assert not await at.kept(b"a" * KIB)
        assert await at.kept(b"b" * KIB)
        aside = list((tmp_path / "mirror" / "quarantine").iterdir())
        assert [file.read_bytes()[:1] for file in aside] == [b"X"]


async def test_a_verification_finds_broken_links_and_takes_them_away(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * KIB)
        other = await at.image(B, "1", b"b" * KIB)
        base = tmp_path / "docker/registry/v2/repositories/library"
        (layer,) = base.glob(f"a/_layers/sha256/{Digest.of(b'a' * KIB).hex}/link")
        (revision,) = base.glob("a/_manifests/revisions/sha256/*/link")
        (tag,) = base.glob("a/_manifests/tags/1/current/link")
        layer.write_bytes(b"")  # a power cut
        revision.write_text(f"sha256:{'0' * 64}")
        tag.write_bytes(b"nonsense")
        events = [event async for event in at.collector.verify()]
        bad = {event["name"] for event in events if event["event"] == "bad"}
        assert bad == {path.relative_to(tmp_path).as_posix() for path in (layer, revision, tag)}
        assert {event["kind"] for event in events if event["event"] == "bad"} == {"link"}
        told = events[-1]
        assert (told["bad"], told["links"], told["broken"], told["nowhere"]) == (0, 8, 3, 0)
        assert not layer.exists()
        assert not revision.exists()
        assert not tag.parent.parent.exists()
        assert await at.inventory.images(A) == []
        assert await at.has(B, other)
        again = [event async for event in at.collector.verify()]
        assert (again[-1]["links"], again[-1]["broken"]) == (5, 0)


async def test_a_link_that_goes_while_it_is_read_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * KIB)
        read_many = Links.read_many

        async def after_a_purge(links: Links, wanted: Any) -> Any:
            shutil.rmtree(tmp_path / "docker/registry/v2/repositories/library/a")
            return await read_many(links, wanted)

        monkeypatch.setattr(Links, "read_many", after_a_purge)
        events = [event async for event in at.collector.verify()]
        assert events[-1]["links"] > 0
        assert events[-1]["broken"] == 0
        assert not [event for event in events if event["event"] == "bad"]


async def test_a_broken_link_behind_a_symbolic_link_stays(tmp_path: Path) -> None:
    """It may be another's folder."""
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * KIB)
        base = tmp_path / "docker/registry/v2/repositories/library"
        (tmp_path / "elsewhere").mkdir()
        (base / "a").rename(tmp_path / "elsewhere/a")
        (base / "a").symlink_to(tmp_path / "elsewhere/a")
        (tag,) = base.glob("a/_manifests/tags/1/current/link")
        tag.write_bytes(b"nonsense")
        events = [event async for event in at.collector.verify()]
        assert [event["stays"] for event in events if event["event"] == "bad"] == [True]
        assert tag.exists()


@pytest.mark.parametrize("by", ["tag", "digest", "repository"])
async def test_a_purge_takes_an_image_and_what_no_other_names(tmp_path: Path, by: str) -> None:
    async with shop(tmp_path, Limits()) as at:
        shared = b"s" * KIB
        image = await at.image(A, "1", b"a" * KIB, shared)
        other = await at.image(B, "1", shared)
        reference: Tag | Digest | None = Tag("1") if by == "tag" else image if by == "digest" else None
        events = [event async for event in at.collector.purge(A, reference)]
        assert events[-1]["images"] == 1
        assert not await at.has(A, image)
        assert not await at.kept(b"a" * KIB)
        assert await at.has(B, other)
        assert await at.kept(shared)


async def test_purging_one_of_two_tags_leaves_the_image(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        image = await at.image(A, "1", b"a" * KIB)
        await at.store.tag(A, Tag("2"), image)
        assert [event async for event in at.collector.purge(A, Tag("1"))][-1]["images"] == 0
        with pytest.raises(RegistryError):
            await at.store.resolve(A, Tag("1"))
        assert (await at.store.resolve(A, Tag("2"))).descriptor.digest == image
        assert [event async for event in at.collector.purge(A, Tag("2"))][-1]["images"] == 1
        assert at.bytes_on_disk() == 0
        assert at.folders() == set()


async def test_purging_an_index_takes_the_images_that_nothing_else_leads_to(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        left, tagged = await at.image(A, "", b"a" * KIB), await at.image(A, "stays", b"b" * KIB)
        entries = [{**_descriptor(each, 300), "mediaType": OCI_MANIFEST} for each in (left, tagged)]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        await at.manifest(A, "1", index)
        events = [event async for event in at.collector.purge(A, Tag("1"))]
        assert events[-1]["images"] == 2
        assert not await at.has(A, left)
        assert not await at.kept(b"a" * KIB)
        assert await at.has(A, tagged)
        assert await at.kept(b"b" * KIB)


async def test_an_adopted_folder_and_a_lost_inventory_expire_nothing_that_may_be_in_use(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with shop(tmp_path, Limits(), clock=clock) as at:
        image = await at.image(A, "1", b"a" * KIB)
    for file in (tmp_path / "mirror").glob("inventory.sqlite*"):
        file.unlink()
    clock.now = 5e9  # the files are years old by now
    async with shop(tmp_path, Limits(ttl=10 * HOUR), clock=clock) as at:
        await at.keeper._look()
        assert await at.has(A, image)
        for hours in (5, 4):
            clock.now += hours * HOUR
            await at.keeper._look()
        assert await at.has(A, image)
        clock.now += 2 * HOUR
        await at.keeper._look()
        assert not await at.has(A, image)


async def test_a_fill_waits_for_its_own_bytes_only_and_the_rest_goes_behind_it(tmp_path: Path) -> None:
    limit = 100 * KIB
    async with shop(tmp_path, Limits(maxsize=limit)) as at:
        images = []
        for number in range(9):
            images.append(await at.image(A, f"v{number}", bytes([number]) * 10 * KIB))
            at.clock.now += HOUR
        assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert [await at.has(A, image) for image in images] == [False] + [True] * 8
        await at.keeper._look()
        assert at.bytes_on_disk() + 12 * KIB <= 0.9 * limit
        assert await at.has(A, images[-1])
        left = at.bytes_on_disk()
        await at.keeper._look()
        assert at.bytes_on_disk() == left


async def test_room_is_made_beside_a_collection_of_this_process(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        await at.image(A, "1", b"a" * 15 * KIB)
        at.clock.now += HOUR
        async with at.lock.held():
            assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
            with pytest.raises(HeldError):  # a fill has let go of its part only
                async with Lock(tmp_path / "mirror" / "keeper.lock").held():
                    pass
        async with Lock(tmp_path / "mirror" / "keeper.lock").held():
            pass


async def test_room_is_made_beside_a_long_pass_over_ages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(maxsize=40 * KIB, ttl=10 * HOUR)) as at:
        await at.image(A, "1", b"a" * 15 * KIB)
        await at.image(B, "1", b"b" * 15 * KIB)
        at.clock.now += 11 * HOUR
        held, go_on = asyncio.Event(), asyncio.Event()
        evict = Evictor.evict

        async def slow(evictor: Evictor, candidate: Candidate, freed: Freed, since: float) -> bool:
            if not held.is_set():
                held.set()
                await go_on.wait()
            return await evict(evictor, candidate, freed, since)

        monkeypatch.setattr(Evictor, "evict", slow)
        ages = asyncio.create_task(at.keeper._look())
        await held.wait()
        assert await at.keeper.make_room(Digest.of(b"c"), 20 * KIB)
        go_on.set()
        await ages
        assert at.bytes_on_disk() == 0


async def test_where_nothing_is_limited_no_fill_waits_for_the_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(ttl=HOUR)) as at:

        async def hangs(_inventory: Inventory) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(Inventory, "total", hangs)
        async with asyncio.timeout(HANGS):
            assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert at.reserved == {Digest.of(b"c"): 12 * KIB}


async def test_many_pinned_images_are_passed_over_a_slice_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is asked for once, and the unpinned one behind all of them goes."""
    monkeypatch.setattr(passes, "CANDIDATES", 2)
    async with shop(tmp_path, Limits(ttl=HOUR, pins=(Rule("library/a:*", 0),))) as at:
        for number in range(15):
            await at.image(A, f"v{number}", b"a" * KIB)
        at.clock.now += 5 * HOUR
        gone = await at.image(B, "1", b"b" * KIB)
        at.clock.now += 5 * HOUR
        asked: list[Candidate] = []
        oldest = Inventory.oldest

        async def listed(*args: Any) -> list[Candidate]:
            found = await oldest(*args)
            assert len(found) <= 2
            asked.extend(found)
            return found

        monkeypatch.setattr(Inventory, "oldest", listed)
        await at.keeper._look()
        assert not await at.has(B, gone)
        assert len(asked) == len({(each.repository, each.digest) for each in asked}) == 16


async def test_a_fill_gets_its_room_though_a_smaller_one_takes_what_was_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(maxsize=50 * KIB)) as at:
        for number in range(4):
            await at.image(A, f"v{number}", bytes([number]) * 10 * KIB)
        at.clock.now += HOUR
        evict, thief = Evictor.evict, Digest.of(b"thief")

        async def robbed(evictor: Evictor, candidate: Candidate, freed: Freed, since: float) -> bool:
            gone = await evict(evictor, candidate, freed, since)
            if thief not in at.reserved:
                assert await at.keeper.make_room(thief, 5 * KIB)
            return gone

        monkeypatch.setattr(Evictor, "evict", robbed)
        assert await at.keeper.make_room(Digest.of(b"c"), 18 * KIB)
        assert at.bytes_on_disk() + sum(at.reserved.values()) <= 50 * KIB


async def test_the_keeper_ends_also_at_the_moment_when_a_survey_does(tmp_path: Path) -> None:
    """What waits for the survey must not take its end for an answer to being cancelled."""
    async with shop(tmp_path, Limits(), survey=False) as made:
        keeping = asyncio.create_task(made.keeper.run())
        tried = made.surveyor.tried
        real = tried.set

        def at_once() -> None:
            real()
            keeping.cancel()

        tried.set = at_once  # type: ignore[method-assign] # the moment
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(10):
                await keeping


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(maxsize=30 * KIB), "room"),
        (Limits(maxsize=21 * KIB), "limit"),
        (Limits(ttl=1.5 * HOUR), "ttl"),
    ],
)
async def test_the_log_and_the_counts_say_what_went_and_why(
    tmp_path: Path, limits: Limits, reason: str
) -> None:
    async with shop(tmp_path, limits) as at:
        old = await at.image(A, "old", b"a" * 10 * KIB)
        at.clock.now += HOUR
        await at.inventory.known_since(at.clock(), HOUR)
        await at.image(B, "new", b"b" * 10 * KIB)
        at.clock.now += HOUR
        await at.inventory.known_since(at.clock(), HOUR)
        with capture_logs() as logs:
            if reason == "room":
                assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
            else:
                await at.keeper._look()
        (line,) = [line for line in logs if line["event"] == "eviction.image"]
        told = {"reason": reason, "repository": "library/a", "tags": ["old"], "more": 0, "digest": str(old)}
        assert told.items() <= line.items()
        assert line["unused"] == 2 * HOUR
        assert line["bytes"] > 10 * KIB
        counted = {why: (each.images, each.blobs, each.bytes) for why, each in at.evictor.total.items()}
        nothing = dict.fromkeys(("ttl", "limit", "room", "purge"), (0, 0, 0))
        assert counted == {**nothing, reason: (1, line["blobs"], line["bytes"])}


async def test_an_operator_is_told_how_long_an_image_stays(tmp_path: Path) -> None:
    limits = Limits(maxsize=100 * KIB, ttl=10 * HOUR, pins=(Rule("library/b:*", 0.0),))
    async with shop(tmp_path, limits) as at:
        older = await at.image(A, "1", b"a" * KIB)
        at.clock.now += HOUR
        await at.inventory.known_since(at.clock(), 5 * HOUR)
        pinned = await at.image(B, "1", b"b" * KIB)
        at.clock.now += HOUR
        told = (await at.keeper.outlook.explain(A, Tag("1"), older))["keeping"]
        # Nothing was known of uses before the inventory was begun, which was when it came.
        assert (told["used_ago"], told["expires_in"], told["pin"]) == (2 * HOUR, 8 * HOUR, None)
        assert (told["unused_longer"], told["hits"], told["maxsize"]) == (0, 1, 100 * KIB)
        assert told["kept_bytes"] == at.bytes_on_disk()
        other = await at.keeper.outlook.explain(B, Tag("1"), pinned)
        assert (other["keeping"]["pin"], other["keeping"]["expires_in"]) == ("library/b:*", None)
        assert other["keeping"]["unused_longer"] == 1
        assert [move["digest"] for move in other["history"]] == [str(pinned)]
        assert await at.keeper.outlook.explain(A, Tag("none"), None) == {"keeping": None, "history": []}
        # What was said is what happens.
        at.clock.now += 8 * HOUR - 1
        await at.inventory.known_since(at.clock(), 20 * HOUR)
        await at.keeper._look()
        assert await at.has(A, older)
        at.clock.now += 2
        await at.keeper._look()
        assert not await at.has(A, older)
