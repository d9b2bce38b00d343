"""The driver that keeps copies on a local disk: over the one in memory, and over a bucket."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.drivers import hot, tiered
from mirror.drivers.base import DriverError, Elsewhere, Info, OpenFile, StorageDriver, UnreachableError
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.hot import Hot
from mirror.drivers.inmemory import InMemoryDriver
from mirror.drivers.s3 import S3Driver
from mirror.drivers.tiered import TieredDriver
from tests.drivers.conformance import MIB, DriverConformance, content
from tests.support.buckets import Bucket

EVERYTHING = ["/".join(["*"] * depth) for depth in range(1, 8)]
LIMIT = 1000  # bytes
WITHIN = 60.0  # seconds


class Below(InMemoryDriver):
    """The one in memory, which notes what is opened, and can be away, or send clients elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.away = False
        self.sends = False

    async def open(self, path: str, start: int = 0) -> OpenFile:
        self.opened.append(path)
        self._check(path)
        return await super().open(path, start)

    async def stat(self, path: str) -> Info:
        self._check(path)
        return await super().stat(path)

    async def elsewhere(self, path: str) -> Elsewhere | None:  # type: ignore[override]  # there it is None
        info = await self.stat(path)
        return Elsewhere("http://there", info.size, 0.0) if self.sends else None

    def _check(self, path: str) -> None:
        if self.away:
            raise UnreachableError(path, "away")


Make = Callable[..., TieredDriver]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def below() -> Below:
    return Below()


@pytest.fixture
async def make(folder: Path, below: Below) -> AsyncIterator[Make]:
    """Makes the driver, as often as a process starts."""
    made: list[TieredDriver] = []

    def begin(
        limit: int = LIMIT, patterns: list[str] = EVERYTHING, over: StorageDriver = below
    ) -> TieredDriver:
        disk = FilesystemDriver(folder, 25)
        made.append(TieredDriver(over, Hot(disk, folder, limit), patterns))
        return made[-1]

    yield begin
    for driver in made:
        await driver.close()


def files(folder: Path) -> dict[str, int]:
    """What lies on the disk, by its path there."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


async def move_in(driver: StorageDriver, path: str, data: bytes, tmp_path: Path) -> None:
    source = tmp_path / f"source-{os.urandom(4).hex()}"
    source.write_bytes(data)
    await driver.move_in(source, path)
    assert not source.exists()


async def settled(driver: TieredDriver) -> None:
    """Wait until nothing is being copied."""
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*driver._copying)


async def is_local(driver: StorageDriver, path: str) -> bool:
    file = await driver.open(path)
    await file.close()
    return file.local is not None


class TestConformance(DriverConformance):
    @pytest.fixture
    async def driver(self, make: Make) -> StorageDriver:
        driver = make(64 * MIB, over=InMemoryDriver())
        await driver.start()
        return driver


class TestConformanceOnABucket(DriverConformance):
    often, walked, many = 5, 7, 5  # the bucket's own suite asks for more

    @pytest.fixture
    async def driver(self, make: Make, bucket: Bucket) -> StorageDriver:
        driver = make(64 * MIB, over=S3Driver(bucket.settings(part_size=5 * MIB)))
        await driver.start()
        return driver


async def test_what_is_moved_in_is_read_from_the_disk(
    make: Make, below: Below, folder: Path, tmp_path: Path
) -> None:
    driver = make(patterns=["blobs/*/data"])
    await move_in(driver, "blobs/a/data", b"content", tmp_path)
    await move_in(driver, "links/a/data", b"link", tmp_path)
    assert files(folder) == {"blobs/a/data/7": 7}
    assert await content(driver, "blobs/a/data") == b"content"
    assert await content(driver, "links/a/data") == b"link"
    assert await is_local(driver, "blobs/a/data")
    assert below.opened == ["links/a/data"]
    assert driver.reads.values == {("hit",): 2, ("miss",): 0}


async def test_on_one_file_system_it_is_a_second_name_of_the_same_bytes(
    make: Make, folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    number = source.stat().st_ino
    await make().move_in(source, "file")
    assert (folder / "file" / "7").stat().st_ino == number


async def test_on_another_file_system_it_is_copied(
    make: Make, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    driver = make()
    monkeypatch.setattr(os, "link", link)
    await move_in(driver, "file", b"content", tmp_path)
    assert files(folder) == {"file/7": 7}
    assert await is_local(driver, "file")


async def test_what_is_wanted_again_is_copied_in_the_background(make: Make, below: Below) -> None:
    driver = make()
    await below.put("file", b"content")
    assert not await is_local(driver, "file")
    await settled(driver)
    assert not await is_local(driver, "file")
    await settled(driver)
    assert await is_local(driver, "file")
    assert await content(driver, "file") == b"content"
    assert len(below.opened) == 3, "two readers, and the copy"


async def test_what_was_wanted_long_ago_is_not_wanted_again(
    make: Make, below: Below, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scrub reads everything, but not twice a day."""
    driver = make()
    now = [1000.0]
    monkeypatch.setattr(driver, "_clock", lambda: now[0])
    await below.put("file", b"content")
    for _ in range(3):
        assert not await is_local(driver, "file")
        await settled(driver)
        now[0] += tiered.WINDOW + 1
    assert not files(folder)


async def test_where_clients_are_sent_elsewhere_a_copy_is_made_too_and_then_they_are_not(
    make: Make, below: Below
) -> None:
    driver = make()
    below.sends = True
    await below.put("file", b"content")
    for _ in range(2):
        assert await driver.elsewhere("file") is not None
        await settled(driver)
    assert await driver.elsewhere("file") is None
    assert await is_local(driver, "file")


async def test_what_was_used_longest_ago_makes_room(make: Make, folder: Path, tmp_path: Path) -> None:
    driver = make()
    for name in "abc":
        await move_in(driver, name, b"x" * 300, tmp_path)
    assert await is_local(driver, "a")
    await move_in(driver, "d", b"x" * 300, tmp_path)
    assert set(files(folder)) == {"a/300", "c/300", "d/300"}, "b went, down to nine tenths"
    assert driver.hot.bytes == 900
    await move_in(driver, "large", b"x" * (LIMIT // 2 + 1), tmp_path)
    assert "large/501" not in files(folder), "it would drive out too much"
    assert (await driver.stat("large")).size == 501


async def test_what_is_being_sent_when_it_makes_room_is_sent_to_its_end(make: Make, tmp_path: Path) -> None:
    driver = make()
    await move_in(driver, "a", b"a" * 400, tmp_path)
    file = await driver.open("a")
    for name in "bcd":
        await move_in(driver, name, b"x" * 400, tmp_path)
    assert driver.hot.held("a") is None
    assert file.local is not None
    assert os.pread(file.local.fileno(), 1000, 0) == b"a" * 400
    await file.close()


async def test_a_restart_finds_it_again_and_nothing_that_is_broken(
    make: Make, below: Below, folder: Path, tmp_path: Path
) -> None:
    first = make()
    await move_in(first, "deep/good", b"content", tmp_path)
    await move_in(first, "deep/short", b"content", tmp_path)
    (folder / "deep/short/7").write_bytes(b"con")
    (folder / "strange").write_bytes(b"x")
    (folder / ".tmp-00000000000000000000000000000000").write_bytes(b"half")
    second = make()
    await second.start()
    assert files(folder) == {"deep/good/7": 7, ".tmp-00000000000000000000000000000000": 4}
    assert second.hot.bytes == 7
    assert await is_local(second, "deep/good")
    assert await content(second, "deep/short") == b"content"
    assert below.opened == ["deep/short"]
    assert await second.sweep(2e10) == 1, "it could be another process's"
    assert files(folder) == {"deep/good/7": 7}


async def test_a_smaller_limit_holds_from_the_start(make: Make, folder: Path, tmp_path: Path) -> None:
    driver = make()
    for number, name in enumerate("abc"):
        await move_in(driver, name, b"x" * 300, tmp_path)
        os.utime(folder / name / "300", (number, number))
    await make(limit=700).start()
    assert set(files(folder)) == {"b/300", "c/300"}


async def test_a_file_that_shrinks_or_goes_under_it_is_read_from_below(
    make: Make, folder: Path, tmp_path: Path
) -> None:
    driver = make()
    for name in "abc":
        await move_in(driver, name, b"content", tmp_path)
    (folder / "a/7").write_bytes(b"con")
    (folder / "b/7").unlink()
    for name in "ab":
        assert not await is_local(driver, name)
        assert await content(driver, name) == b"content"
    assert driver.hot.bytes == 7


@pytest.mark.parametrize("verb", ["delete", "remove", "tree", "move_out", "put"])
async def test_what_goes_below_goes_here(
    make: Make, below: Below, folder: Path, tmp_path: Path, verb: str
) -> None:
    driver, other = make(), make()  # of another process
    for path in ("f/a", "f/b"):
        await move_in(driver, path, b"content", tmp_path)
    for each in (driver, other):
        match verb:
            case "delete":
                await each.delete("f/a")
            case "remove":
                await each.remove(["f/a"], "", durable=True)
            case "tree":
                await each.delete("f")
            case "move_out":
                await each.move_out("f/a", tmp_path / "out")
            case "put":
                await each.put("f/a", b"changed")
        left = {"f/b/7"} if verb != "tree" else set()
        if verb != "put" or each is driver:
            assert set(files(folder)) == left
        if verb != "put":
            with pytest.raises(DriverError):
                await driver.open("f/a")
            await move_in(driver, "f/a", b"content", tmp_path)
            if verb == "tree":
                await move_in(driver, "f/b", b"content", tmp_path)
        else:
            assert await content(driver, "f/a") == b"changed"


async def test_what_goes_while_it_is_copied_is_not_held(make: Make, below: Below, folder: Path) -> None:
    driver = make()
    await below.put("f/file", b"content")
    for _ in range(2):
        assert not await is_local(driver, "f/file")
    await driver.delete("f")
    await settled(driver)
    assert files(folder) == {}
    assert driver.hot.bytes == 0
    with pytest.raises(DriverError):
        await driver.open("f/file")


async def test_what_could_not_be_moved_in_is_not_held(make: Make, folder: Path, tmp_path: Path) -> None:
    driver = make(over=InMemoryDriver(limit=5))
    source = tmp_path / "source"
    source.write_bytes(b"content")
    with pytest.raises(DriverError, match="more than 5"):
        await driver.move_in(source, "file")
    assert source.read_bytes() == b"content"
    assert files(folder) == {}
    assert driver.hot.held("file") is None


async def test_a_disk_that_fails_means_that_there_are_no_copies(
    make: Make, below: Below, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full, say; a file stands here where the folder should be. After a pause it is tried again."""
    folder.write_bytes(b"")  # noqa: ASYNC240
    driver = make()
    now = [1000.0]
    monkeypatch.setattr(driver.hot, "_clock", lambda: now[0])
    await driver.start()
    now[0] += hot.PAUSE
    await move_in(driver, "a", b"content", tmp_path)
    assert await content(driver, "a") == b"content"
    folder.unlink()  # noqa: ASYNC240
    await move_in(driver, "b", b"content", tmp_path)
    assert files(folder) == {}, "it is left alone for a while"
    now[0] += hot.PAUSE
    await move_in(driver, "c", b"content", tmp_path)
    assert files(folder) == {"c/7": 7}


async def test_while_what_is_below_is_away_copies_are_read(make: Make, below: Below, tmp_path: Path) -> None:
    driver = make()
    await move_in(driver, "a", b"content", tmp_path)
    await below.put("b", b"content")
    below.away = True
    assert (await driver.stat("a")).size == 7
    assert await driver.elsewhere("a") is None
    assert await content(driver, "a") == b"content"
    for verb in (driver.stat, driver.open, driver.elsewhere):
        with pytest.raises(UnreachableError):
            await verb("b")


NAMES = st.sampled_from(["f/a", "f/b", "g/c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("in"), NAMES, st.integers(0, 600)),
        st.tuples(st.just("put"), NAMES, st.integers(0, 600)),
        st.tuples(st.just("read"), NAMES, st.just(0)),
        st.tuples(st.just("delete"), st.sampled_from(["f", "f/a", "g/c"]), st.just(0)),
        st.tuples(st.just("restart"), st.just(""), st.just(0)),
        st.tuples(st.just("settle"), st.just(""), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_it_always_reads_what_was_written_last_and_never_holds_too_much(
    steps: list[tuple[str, str, int]],
) -> None:
    """Beside a model: a dict of what is there. Copies are made in between, whenever that is."""

    async def run(folder: Path) -> None:
        below, model = Below(), dict[str, bytes]()

        def make() -> TieredDriver:
            place = folder / "disk"
            return TieredDriver(below, Hot(FilesystemDriver(place, 25), place, LIMIT), EVERYTHING)

        driver = make()
        for number, (verb, path, size) in enumerate(steps):
            data = number.to_bytes(2) * (size // 2)
            match verb:
                case "in":
                    await move_in(driver, path, data, folder)
                    model[path] = data
                case "put":
                    await driver.put(path, data)
                    model[path] = data
                case "read" if path in model:
                    assert await content(driver, path) == model[path]
                case "delete" if any(each == path or each.startswith(f"{path}/") for each in model):
                    await driver.delete(path)
                    model = {
                        each: data
                        for each, data in model.items()
                        if each != path and not each.startswith(f"{path}/")
                    }
                case "restart":
                    await settled(driver)
                    driver = make()
                    await driver.start()
                case "settle":
                    await settled(driver)
            assert driver.hot.bytes <= LIMIT
        await settled(driver)
        for path, data in model.items():
            assert await content(driver, path) == data
        await settled(driver)
        lying = {path.rpartition("/")[0]: size for path, size in files(folder / "disk").items()}
        assert set(lying) <= set(model)
        assert sum(lying.values()) == driver.hot.bytes <= LIMIT

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_a_copy_that_is_given_up_goes_though_whoever_gave_it_up_is_cancelled(folder: Path) -> None:
    """While all threads are busy, at a stop for one."""
    copy = hot.Copy(folder / ".tmp-copy", 2)
    assert await copy.write(b"x")
    loop, done = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, done.wait, WITHIN)
    discarding = asyncio.create_task(copy.discard())
    await asyncio.sleep(0)
    discarding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await discarding
    done.set()
    assert await busy
    await asyncio.to_thread(lambda: None)  # what waited before this has been done
    assert files(folder) == {}
