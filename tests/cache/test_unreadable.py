"""Files that the disk cannot read, or does not let go: one of them ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from structlog.testing import capture_logs

from mirror.cache import scrubber, surveyor
from mirror.cache.eviction import Limits
from mirror.cache.memory import Memory
from mirror.cache.scrubber import Scrubber
from mirror.drivers.base import DeniedError, DriverError, OpenFile, ThrottledError, UnreachableError
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import RegistryError
from mirror.store import collect
from mirror.store.errors import StorageAway, StoreError
from mirror.store.tree import Tree
from tests.cache.kit import A, B, Clock, until
from tests.cache.test_keeper import KIB, Shop, shop
from tests.store.faulty import FaultyDriver

LATE = 5e9  # seconds since the epoch: all files are old then


class BadSectors(FaultyDriver):
    """Opens all files, and fails where one is read whose path has one of `bad` in it; in `all` of them."""

    def __init__(self, root: Path) -> None:
        super().__init__(FilesystemDriver(root, 4))
        self.bad: set[str] = set()
        self.all = False
        self.error: type[DriverError] = DriverError
        self.reads = 0  # that failed

    async def open(self, path: str, start: int = 0) -> OpenFile:
        file = await super().open(path, start)
        return _Spoilt(self, file, path) if self.all or any(bad in path for bad in self.bad) else file


class BadManifests(BadSectors):
    """Cannot read those of which the data is asked for at once."""

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        found = await super().get_many(wanted, limit, total)
        return [
            DriverError(path, "Input/output error") if path.endswith("data") and self._is_bad(path) else body
            for path, body in zip(wanted, found, strict=False)
        ]

    def _is_bad(self, path: str) -> bool:
        return any(bad in path for bad in self.bad)


class _Spoilt:
    def __init__(self, driver: BadSectors, inner: OpenFile, path: str) -> None:
        self._driver = driver
        self._inner = inner
        self._path = path

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def local(self) -> BinaryIO | None:
        return None

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        self._driver.reads += 1
        async with aclosing(self._inner.chunks(start, stop)) as chunks:
            async for _ in chunks:
                raise self._driver.error(self._path, "Input/output error")
        yield b""

    async def close(self) -> None:
        await self._inner.close()


async def _blobs(at: Shop, count: int) -> list[Digest]:
    return [await at.blob(bytes([number]) * KIB, A) for number in range(count)]


async def _verified(at: Shop) -> list[dict[str, Any]]:
    return [event async for event in at.collector.verify()]


def _scrubber(at: Shop, driver: BadSectors) -> Scrubber:
    aside = at.root / "mirror" / "quarantine"
    memory = Memory(100, 0.0)
    return Scrubber(Tree(driver), at.inventory, memory, aside, interval=1.0, rate=1e9, clock=at.clock)


async def test_a_file_that_cannot_be_read_is_moved_aside_and_the_others_are_read(tmp_path: Path) -> None:
    driver = BadSectors(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        digests = await _blobs(at, 5)
        driver.bad = {digests[2].hex}
        events = await _verified(at)
        summary = {"event": "summary", "checked": 5, "bytes": 5 * KIB, "bad": 1}
        assert summary.items() <= events[-1].items()
        (bad,) = [event for event in events if event["event"] == "bad"]
        assert (bad["name"], bad["unreadable"], bad["repositories"]) == (
            str(digests[2]),
            True,
            ["library/a"],
        )
        (aside,) = (tmp_path / "mirror" / "quarantine").iterdir()
        assert (bad["moved_to"], aside.read_bytes()) == (str(aside), b"\2" * KIB)
        assert [await at.store.blob_size(each) for each in digests] == [KIB, KIB, None, KIB, KIB]


async def test_a_storage_that_cannot_be_asked_says_nothing_about_its_blobs(tmp_path: Path) -> None:
    """A bucket that is away for a moment must not cost what is in it."""
    driver = BadSectors(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        digests = await _blobs(at, 3)
        for kind in (UnreachableError, ThrottledError, DeniedError):
            driver.bad, driver.error = {digests[1].hex}, kind
            with pytest.raises(StorageAway):
                await _verified(at)
        assert [await at.store.blob_size(each) for each in digests] == [KIB] * 3
        assert not (tmp_path / "mirror" / "quarantine").exists()


async def test_the_scrub_goes_on_after_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = BadSectors(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(1.0)) as at:
        await _blobs(at, 5)
        at.clock.now = LATE
        first, *others = [blob.digest for blob in await at.inventory.unscrubbed(9, LATE - 1)]
        driver.bad = {first.hex}
        scrubbed: list[Digest] = []
        monkeypatch.setattr(Inventory, "note_scrubbed", lambda _self, digest, _now: scrubbed.append(digest))
        with capture_logs() as logs:
            running = asyncio.create_task(_scrubber(at, driver).run())
            await until(lambda: set(scrubbed) == set(others))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert [entry["digest"] for entry in logs if entry["event"] == "scrub.bad"] == [str(first)]
        assert await at.store.blob_size(first) is None
        assert [await at.store.blob_size(each) for each in others] == [KIB] * 4


async def test_a_file_that_can_be_read_the_second_time_stays(tmp_path: Path) -> None:
    driver = BadSectors(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        (digest,) = await _blobs(at, 1)
        driver.bad, rehash = {digest.hex}, Tree.rehash

        async def once(*args: Any) -> bool | None:
            try:
                return await rehash(*args)
            finally:
                driver.bad.clear()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tree, "rehash", once)
            assert (await _verified(at))[-1]["bad"] == 0
        assert driver.reads == 1
        assert await at.store.blob_size(digest) == KIB


async def test_a_disk_that_can_be_read_no_more_costs_little_of_what_is_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "IN_A_ROW", 2)
    driver = BadSectors(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        digests = await _blobs(at, 6)
        driver.all = True
        with pytest.raises(RegistryError, match="2 blobs in a row"):
            await _verified(at)
        assert [await at.store.blob_size(each) for each in digests].count(KIB) == 4


async def test_a_folder_that_cannot_be_read_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = BadSectors(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        (digest,) = await _blobs(at, 1)
        driver.all = True

        async def away(_driver: object, path: str, _patterns: object) -> AsyncGenerator[None, None]:
            for _ in path:
                raise DriverError(path, "Stale file handle")
            yield

        with monkeypatch.context() as patch:
            patch.setattr(BadSectors, "find", away)
            with pytest.raises(RegistryError):
                await _scrubber(at, driver).check(digest)
        assert await at.store.blob_size(digest) == KIB


async def test_what_can_be_neither_read_nor_moved_nor_deleted_ends_no_scrub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = BadSectors(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(1.0)) as at:
        digests = await _blobs(at, 3)
        driver.bad = {digests[0].hex}

        async def refuses(*_args: object) -> None:
            raise StoreError("Operation not permitted")

        monkeypatch.setattr(Tree, "set_aside", refuses)
        monkeypatch.setattr(Tree, "drop_blob", refuses)
        at.clock.now = LATE
        events = await _verified(at)
        assert (events[-1]["checked"], events[-1]["bad"]) == (3, 1)
        (bad,) = [event for event in events if event["event"] == "bad"]
        assert (bad["stays"], bad["moved_to"]) == (True, None)
        assert await at.inventory.unscrubbed(9, LATE - 1) == []
        assert (await at.inventory.total()).bytes == 3 * KIB


def _one_stays(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The first file that is to be deleted cannot be, alone or with others; or the first sweep fails."""
    if what == "sweep":
        sweep, swept = Tree.sweep, list[Any]()

        async def refuses_the_first(*args: Any) -> Any:
            swept.append(args[1:])
            if swept[0] == args[1:]:
                raise StoreError("Operation not permitted")
            return await sweep(*args)

        monkeypatch.setattr(Tree, what, refuses_the_first)
        return
    remove, refused = FilesystemDriver.remove, list[str]()

    async def refuses_one(driver: FilesystemDriver, doomed: Sequence[str], *args: Any, **named: Any) -> Any:
        refused.append(doomed[0])
        if refused[0] in doomed:
            raise DriverError(refused[0], "Operation not permitted")
        return await remove(driver, doomed, *args, **named)

    monkeypatch.setattr(FilesystemDriver, "remove", refuses_one)


@pytest.mark.parametrize("what", ["drop", "sweep"])
async def test_what_cannot_be_deleted_ends_no_collection_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        digests = await _blobs(at, 5)
        _one_stays(monkeypatch, what)
        with capture_logs() as logs:
            events = [event async for event in at.collector.collect()]
        assert events[-1]["failed"] == 1
        (reason,) = (entry["reason"] for entry in logs if entry["event"] == "eviction.failed")
        assert reason.endswith("Operation not permitted")
        assert [await at.store.blob_size(each) for each in digests] == [None] * 5
        assert (await at.inventory.total()).bytes == 0


async def test_a_manifest_that_cannot_be_read_ends_no_collection_and_holds_back_its_repository_only(
    tmp_path: Path,
) -> None:
    driver = BadManifests(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(LATE)) as at:
        bad = await at.image(A, "bad", b"named by it, for all that is known")
        mine, stray = await at.blob(b"linked beside it", A), await at.blob(b"s" * KIB, B)
        at.clock.now += 7200
        driver.bad = {bad.hex}
        with capture_logs() as logs:
            events = [event async for event in at.collector.collect(untagged=True)]
        assert (events[-1]["removed"], events[-1]["unreadable"], events[-1]["failed"]) == (2, 1, 0)
        assert {event["name"] for event in events[:-1]} == {f"library/b@{stray}", str(stray)}
        told = [entry["repository"] for entry in logs if entry["event"] == "collection.unreadable"]
        assert told == ["library/a"]
        assert await at.store.blob_size(mine) is not None
        driver.bad = set()
        assert await at.has(A, bad)
        assert await at.kept(b"named by it, for all that is known")
        at.clock.now += 7200
        events = [event async for event in at.collector.collect()]
        assert (events[-1]["removed"], events[-1]["unreadable"]) == (2, 0)
        assert await at.store.blob_size(mine) is None


async def test_a_disk_that_can_be_read_no_more_ends_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "UNREADABLE", 1)
    driver = BadManifests(tmp_path)
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(LATE)) as at:
        driver.bad = {(await at.image(each, "1", b"a" * KIB)).hex for each in (A, B)}
        stray = await at.blob(b"stray", Repository("team/c"))
        with pytest.raises(RegistryError):
            _ = [event async for event in at.collector.collect()]
        assert await at.store.blob_size(stray) is not None


def _forget(root: Path) -> None:
    for file in (root / "mirror").glob("inventory*"):
        file.unlink()


async def test_a_manifest_that_cannot_be_read_ends_no_survey_and_holds_back_its_repository_only(
    tmp_path: Path,
) -> None:
    layer, stray = b"x" * KIB, b"s" * KIB
    async with shop(tmp_path, Limits()) as at:
        bad = await at.image(A, "bad", layer)
        good = await at.image(B, "1", b"b" * 40 * KIB)
        await at.blob(stray, B)
    _forget(tmp_path)
    driver = BadManifests(tmp_path)
    driver.bad = {bad.hex}
    with capture_logs() as logs:
        async with shop(tmp_path, Limits(maxsize=50 * KIB), driver=driver, clock=Clock(LATE)) as at:
            at.use(A, bad)
            assert at.inventory.complete
            assert [loose.digest for loose in await at.inventory.loose(9, LATE)] == [Digest.of(stray)]
            at.clock.now += 3600
            assert await at.keeper.make_room(Digest.of(b"new"), 25 * KIB)
            assert not await at.has(B, good)
    assert [entry["digest"] for entry in logs if entry["event"] == "survey.unreadable"] == [str(bad)]


async def test_a_disk_that_reads_no_manifests_ends_a_survey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveyor, "UNREADABLE", 1)
    async with shop(tmp_path, Limits()) as at:
        images = [await at.image(A, f"v{number}", bytes([number]) * KIB) for number in range(2)]
    _forget(tmp_path)
    driver = BadManifests(tmp_path)
    driver.bad = {image.hex for image in images}
    with pytest.raises(RegistryError):
        async with shop(tmp_path, Limits(), driver=driver):
            pass
