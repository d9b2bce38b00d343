"""Reading again what is kept: what is right, what is not, and how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.drivers.base import StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.hot import Hot
from mirror.drivers.inmemory import InMemoryDriver
from mirror.drivers.tiered import TieredDriver
from mirror.drivers.timed import TimedDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import Unavailable
from mirror.store import layout
from mirror.store.scrub import NAMED, Holders, Pace
from mirror.store.tree import Tree
from tests.store.faulty import FaultyDriver

MIB = 1 << 20


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, MIB, 2 * MIB + 1])
async def test_a_blob_is_right_or_wrong_or_missing(size: int, algorithm: str, driver: StorageDriver) -> None:
    data = b"x" * size
    digest = Digest.of(data, algorithm)
    tree = Tree(driver)
    read: list[int] = []

    async def wait(count: int) -> None:
        read.append(count)

    assert await tree.rehash(digest, wait) is None
    await driver.put(layout.blob_data(digest), data)
    assert await tree.rehash(digest, wait) is True
    assert sum(read) == size
    assert all(0 < count <= MIB for count in read)
    for wrong in (data + b"x", data[:-1], b"y" * size):
        if wrong != data:
            await driver.put(layout.blob_data(digest), wrong)
            assert await tree.rehash(digest, wait) is False


async def test_a_blob_that_cannot_be_read_is_neither_right_nor_wrong(driver: StorageDriver) -> None:
    await driver.put(layout.blob_data(Digest.of(b"x")), b"x")
    faulty = FaultyDriver(driver)
    faulty.fail_reading = True

    async def wait(_count: int) -> None:
        raise AssertionError("nothing was read")

    with pytest.raises(Unavailable):
        await Tree(faulty).rehash(Digest.of(b"x"), wait)


@pytest.mark.parametrize("timed", [False, True])
async def test_a_copy_and_what_it_is_of_are_looked_at_each_for_itself(tmp_path: Path, timed: bool) -> None:
    digest, path = Digest.of(b"right"), layout.blob_data(Digest.of(b"right"))
    below, folder = InMemoryDriver(), tmp_path / "disk"
    hot = Hot(FilesystemDriver(folder, 25), folder, MIB)
    tiered = TieredDriver(below, hot, [f"{layout.BLOBS}/{data}" for data in layout.DATA])
    driver: StorageDriver = TimedDriver(tiered) if timed else tiered
    tree, copy = Tree(driver), folder / path / "5"
    await driver.start()

    async def wait(_count: int) -> None:
        pass

    async def keep() -> None:
        source = tmp_path / "source"
        source.write_bytes(b"right")
        await driver.move_in(source, path)
        assert await tree.rehash(digest, wait) is True
        assert copy.exists()

    await keep()
    copy.write_bytes(b"wrong")
    assert await tree.rehash(digest, wait) is True, "what is below is right"
    assert not copy.exists()
    await keep()
    await below.put(path, b"wrong")
    assert await tree.rehash(digest, wait) is False, "though the copy is right"
    await keep()
    await below.delete(path)
    assert await tree.rehash(digest, wait) is None
    assert not copy.exists(), "what is not below is not here"
    await driver.close()


def test_a_pace_is_kept_over_all_that_is_read() -> None:
    now = 100.0
    pace = Pace(1000.0, clock=lambda: now)
    assert pace.delay(500) == pytest.approx(0.5)
    assert pace.delay(500) == pytest.approx(1.0)  # the first half second is not over
    now += 1.0
    assert pace.delay(250) == pytest.approx(0.25)


def test_time_in_which_nothing_was_read_is_not_saved_up() -> None:
    now = 100.0
    pace = Pace(1000.0, clock=lambda: now)
    pace.delay(1)
    now += 3600.0
    assert pace.delay(1000) == pytest.approx(1.0)


async def test_a_bad_blob_is_set_aside_and_reads_as_missing(driver: StorageDriver, tmp_path: Path) -> None:
    digest, tree = Digest.of(b"right"), Tree(driver)
    assert await tree.set_aside(digest, tmp_path / "quarantine") is None
    for data in (b"wrong", b"wrong again"):
        await driver.put(layout.blob_data(digest), data)
        where = await tree.set_aside(digest, tmp_path / "quarantine")
        assert where == tmp_path / "quarantine" / f"sha256-{digest.hex}"
        assert where.read_bytes() == data
        assert [batch async for batch in tree.survey_blobs() if batch] == []


async def test_whose_a_damaged_blob_is_stands_in_the_links(driver: StorageDriver) -> None:
    tree, digest = Tree(driver), Digest.of(b"x")
    assert await tree.holders(digest) == Holders(False, (), 0)
    names = [Repository(f"team/r{number:02}") for number in range(NAMED + 2)]
    for repository in reversed(names):
        await driver.put(layout.layer_link(repository, digest), layout.link_bytes(digest))
        await driver.put(layout.layer_link(repository, Digest.of(b"y")), layout.link_bytes(Digest.of(b"y")))
    await driver.put(layout.layer_link(Repository("other"), Digest.of(b"y")), b"broken")
    assert await tree.holders(digest) == Holders(False, tuple(names[:NAMED]), 2)
    manifest = Digest.of(b"y")
    await driver.put(layout.revision_link(names[3], manifest), layout.link_bytes(manifest))
    assert (await tree.holders(manifest)).is_manifest
