"""What an event loop reads by itself: the same as a thread would, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mirror.drivers.base import PathNotFoundError
from mirror.drivers.cached import MOST, Cached
from mirror.drivers.filesystem import FilesystemDriver
from tests.support.memory import memory_folder
from tests.support.programs import missing

PATH = "docker/registry/v2/a/data"
TRIES = 20  # what somebody mounts or renames meanwhile may be in the way for once


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
async def driver(root: Path) -> AsyncIterator[FilesystemDriver]:
    """Its folder has one file, which was just written: the kernel has it in memory."""
    driver = FilesystemDriver(root, threads=1)
    await driver.put(PATH, b"content")
    yield driver
    await driver.close()


@pytest.fixture
def cached(driver: FilesystemDriver, root: Path) -> Iterator[Cached]:
    cached, looking = Cached(root), Cached(root)
    if cached._device is None:
        pytest.skip("this file system is none of those that the loop reads")
    if not any(looking.stat((PATH,)) for _ in range(TRIES)):
        missing("no openat2(2) with RESOLVE_CACHED here (Linux 5.12), or a filter of system calls refuses it")
    looking.close()
    if not any(cached.read(PATH, 100) for _ in range(TRIES)):
        pytest.skip("this file system knows no RWF_NOWAIT, as tmpfs does not")
    yield cached
    cached.close()


def test_what_was_written_just_now_is_read(cached: Cached) -> None:
    assert cached.read(PATH, 100) == b"content"
    found = cached.stat((PATH,))
    assert found is not None
    assert found[0] is not None
    assert (found[0].size, found[0].is_folder) == (7, False)


async def test_a_driver_whose_only_thread_is_busy_reads_and_looks_all_the_same(
    driver: FilesystemDriver, cached: Cached, root: Path
) -> None:
    fifo = root / "fifo"
    os.mkfifo(fifo)
    busy = driver._threads._executor.submit(fifo.read_bytes)  # ends when somebody has written
    try:
        assert await driver.get(PATH, 100) == b"content"
        assert (await driver.stat(PATH)).size == 7
        assert not busy.done()
    finally:
        fifo.write_bytes(b"")


def test_what_is_not_in_memory_is_left_to_a_thread(cached: Cached, root: Path) -> None:
    with (root / PATH).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    shown = cached.read(PATH, 100)
    (root / PATH).read_bytes()
    if shown is not None:
        pytest.skip("this file system is one of memory alone")
    assert cached.read(PATH, 100) == b"content"


async def test_the_driver_reads_what_is_not_in_memory(
    driver: FilesystemDriver, cached: Cached, root: Path
) -> None:
    with (root / PATH).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert await driver.get(PATH, 100) == b"content"


def test_what_is_not_there_is_said_once_it_is_known(cached: Cached, root: Path) -> None:
    assert not (root / "docker/none").exists()  # now the kernel knows
    with pytest.raises(PathNotFoundError):
        cached.read("docker/none", 100)
    found = cached.stat(("docker/none", PATH))
    assert found is not None
    assert found[0] is None
    assert found[1] is not None


@pytest.mark.parametrize("other", ["link", "folder", "fifo", "large"])
def test_what_is_no_small_file_is_left_to_a_thread(cached: Cached, root: Path, other: str) -> None:
    path = root / other
    match other:
        case "link":
            path.symlink_to(root / PATH)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.write_bytes(bytes(MOST + 1))
    assert cached.read(other, MOST * 2) is None
    assert other == "large" or cached.stat((PATH, other)) is None


def test_more_than_the_limit_is_left_to_a_thread(cached: Cached) -> None:
    assert cached.read(PATH, 6) is None


def test_the_root_itself_is_left_to_a_thread(cached: Cached) -> None:
    assert cached.read("", 100) is None
    assert cached.stat(("",)) is None


async def test_another_file_system_below_the_root_is_left_to_a_thread(
    driver: FilesystemDriver, cached: Cached, root: Path
) -> None:
    with memory_folder() as other:
        if os.stat(other).st_dev == os.stat(root).st_dev:  # noqa: PTH116
            missing("there is no other file system: neither /tmp nor /dev/shm is one of its own")
        (other / "data").write_bytes(b"elsewhere")
        (root / "elsewhere").symlink_to(other)
        assert cached.read("elsewhere/data", 100) is None
        assert await driver.get("elsewhere/data", 100) == b"elsewhere"


def test_nothing_is_read_by_the_loop_of_a_file_system_that_is_not_known() -> None:
    assert Path("/proc/version").exists()
    assert Cached(Path("/proc")).read("version", 1000) is None


async def test_what_comes_in_the_place_of_the_root_is_found_at_once(
    driver: FilesystemDriver, cached: Cached, root: Path
) -> None:
    assert await driver.get(PATH, 100) == b"content"
    shutil.rmtree(root)
    with pytest.raises(PathNotFoundError):
        await driver.get(PATH, 100)
    await driver.put(PATH, b"another")
    assert await driver.get(PATH, 100) == b"another"


def test_a_time_of_last_access_stays(cached: Cached, root: Path) -> None:
    os.utime(root / PATH, (1, 2))
    assert cached.read(PATH, 100) == b"content"
    assert (root / PATH).stat().st_atime == 1


def test_nothing_is_said_once_it_is_closed(cached: Cached) -> None:
    cached.close()
    cached.close()
    assert cached.read(PATH, 100) is None
