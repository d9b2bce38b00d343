"""The filesystem driver: the conformance suite, and what only a real file system has."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

import pytest

from mirror.drivers import base, files, walking
from mirror.drivers.base import DriverError, NoSpaceError, PathNotFoundError, StorageDriver
from mirror.drivers.cached import MOST
from mirror.drivers.filesystem import FilesystemDriver
from tests.drivers.conformance import DriverConformance, find, walk
from tests.drivers.syscalls import Syscalls
from tests.support.memory import memory_folder
from tests.support.programs import find as find_program
from tests.support.programs import require, require_root


def left_behind(root: Path) -> list[Path]:
    """Temporary files anywhere below `root`."""
    return [path for path in root.rglob("*") if path.name.startswith(".tmp-")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
async def driver(root: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(root, threads=4)
    yield driver
    await driver.close()


class TestConformance(DriverConformance):
    @pytest.fixture
    async def driver(self) -> AsyncIterator[StorageDriver]:
        """Nothing temporary is left after any test."""
        with memory_folder() as base:
            driver = FilesystemDriver(base / "root", threads=4)
            yield driver
            await driver.close()
            assert left_behind(base) == []


async def test_a_write_is_durable_before_it_is_visible_and_its_name_before_it_returns(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.put("a/file", b"old")
    calls = Syscalls()
    calls.install(monkeypatch)
    await driver.put("a/file", b"new")
    done = [name for name in calls.seen if name != "open"]
    assert done == ["write", "fsync", "replace", "fsync", "unlink"]  # the last finds nothing


async def test_new_folders_are_made_durable_from_the_top(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Syscalls()
    calls.install(monkeypatch)
    await driver.put("a/b/file", b"new")
    assert [name for name in calls.seen if name != "open"][:6] == ["mkdir", "fsync"] * 3  # root, a, b


async def count_calls(verb: str, base: Path) -> int:
    """How many calls a write makes when nothing fails."""
    with pytest.MonkeyPatch.context() as patch:
        calls = Syscalls()
        calls.install(patch)
        await write(verb, base, b"new" * 1000)
        return len(calls.seen)


async def write(verb: str, base: Path, data: bytes) -> None:
    """Write a/b/file with a driver of its own, by `put` or by `move_in` of base/source."""
    driver = FilesystemDriver(base / "root", threads=1)
    try:
        if verb == "put":
            await driver.put("a/b/file", data)
        else:
            (base / "source").write_bytes(data)
            await driver.move_in(base / "source", "a/b/file")
    finally:
        await driver.close()


async def failing_write(verb: str, base: Path, data: bytes, calls: Syscalls) -> DriverError | None:
    """How `write` fails with these faults."""
    with pytest.MonkeyPatch.context() as patch:
        calls.install(patch)
        try:
            await write(verb, base, data)
        except DriverError as error:
            return error
    return None


async def look(base: Path) -> bytes | None:
    """What a driver of a later process finds; nothing temporary is ever listed."""
    driver = FilesystemDriver(base / "root", threads=1)
    try:
        found = await driver.get("a/b/file", 10_000)
        assert await driver.list("a/b") == ["file"]
    except PathNotFoundError:
        return None
    finally:
        await driver.close()
    return found


@pytest.mark.parametrize("dead", [False, True], ids=["one call fails", "the machine stops"])
@pytest.mark.parametrize("old", [None, b"old"], ids=["new path", "old file"])
@pytest.mark.parametrize("verb", ["put", "move_in"])
async def test_whatever_call_fails_there_is_the_old_file_or_the_new(
    verb: str, old: bytes | None, dead: bool, tmp_path: Path
) -> None:
    new = b"new" * 1000
    base = tmp_path / "clean"
    base.mkdir()
    if old is not None:
        await write("put", base, old)
    total = await count_calls(verb, base)
    failures = 0
    for fail_at in range(total):
        base = tmp_path / str(fail_at)
        base.mkdir()
        if old is not None:
            await write("put", base, old)
        error = await failing_write(verb, base, new, Syscalls(fail_at=fail_at, dead=dead))
        if error is None:
            assert await look(base) == new
        else:
            failures += 1
            assert error.path == "a/b/file"
            assert verb == "put" or (base / "source").read_bytes() == new
        assert await look(base) in (old, new)
        # One temporary name may stay, of the one call that was to remove it; after a power cut more.
        assert dead or len(left_behind(base)) <= 1
        await write(verb, base, new)  # a later try
        assert await look(base) == new
        assert not (base / "source").exists()
    assert failures >= 6


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EACCES, DriverError),
        (errno.EROFS, DriverError),
        (errno.EIO, DriverError),
        (errno.EMFILE, DriverError),
    ],
)
async def test_an_error_says_its_kind_its_path_and_its_cause(
    code: int, kind: type[DriverError], driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.put("a/file", b"old")
    Syscalls(fail_at=0, only="write", code=code).install(monkeypatch)
    with pytest.raises(DriverError) as caught:
        await driver.put("a/file", b"new")
    assert type(caught.value) is kind
    assert str(caught.value) == f"a/file: {os.strerror(code)}"
    assert str(root) not in str(caught.value)
    assert await driver.get("a/file", 3) == b"old"
    assert left_behind(root) == []


async def test_move_in_copies_where_a_link_is_impossible(
    driver: FilesystemDriver, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    data = os.urandom(3_000_000)
    source.write_bytes(data)
    calls = Syscalls(fail_at=0, only="link", code=errno.EXDEV)
    calls.install(monkeypatch)
    await driver.move_in(source, "a/file")
    assert calls.seen == ["link"]
    assert await driver.get("a/file", 4_000_000) == data
    assert not source.exists()
    assert left_behind(root) == []


async def test_move_in_onto_a_folder_fails_and_keeps_the_source(
    driver: FilesystemDriver, root: Path, tmp_path: Path
) -> None:
    await driver.put("folder/file", b"x")
    source = tmp_path / "source"
    source.write_bytes(b"y")
    with pytest.raises(DriverError, match="folder: "):
        await driver.move_in(source, "folder")
    assert source.read_bytes() == b"y"
    assert left_behind(root) == []


async def test_move_in_takes_no_link_as_its_source(driver: FilesystemDriver, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "source").symlink_to(tmp_path / "secret")
    with pytest.raises(DriverError):
        await driver.move_in(tmp_path / "source", "file")
    assert (tmp_path / "secret").exists()


async def test_files_get_the_permissions_of_the_umask(
    driver: FilesystemDriver, root: Path, tmp_path: Path
) -> None:
    umask = os.umask(0)
    os.umask(umask)
    await driver.put("folder/file", b"x")
    assert (root / "folder/file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (root / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.fixture
def outside(root: Path, tmp_path: Path) -> Path:
    """A folder beside the root, with a file and with links from within the root to it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"outside")
    root.mkdir()
    (root / "to-file").symlink_to(outside / "file")
    (root / "to-folder").symlink_to(outside)
    (root / "dangling").symlink_to(outside / "nothing")
    (root / "loop").symlink_to(root / "loop")
    return outside


async def test_a_link_in_place_of_a_file_is_not_followed(driver: FilesystemDriver, outside: Path) -> None:
    for name in ("to-file", "dangling", "loop"):
        for verb in (driver.open(name), driver.get(name, 100), driver.stat(name), driver.list(name)):
            with pytest.raises(PathNotFoundError):
                await verb
    await driver.put("to-file", b"inside")
    assert (outside / "file").read_bytes() == b"outside"
    assert await driver.get("to-file", 100) == b"inside"


async def test_a_link_in_place_of_a_folder_is_followed(driver: FilesystemDriver, outside: Path) -> None:
    assert (await driver.stat("to-folder")).is_folder
    assert await driver.list("to-folder") == ["file"]
    assert await driver.get("to-folder/file", 100) == b"outside"


async def test_deleting_takes_links_and_not_what_they_point_to(
    driver: FilesystemDriver, outside: Path, root: Path
) -> None:
    await driver.put("tree/file", b"x")
    (root / "tree/link").symlink_to(outside)
    for path in ("tree", "to-folder", "to-file", "dangling"):
        await driver.delete(path)
    assert await driver.list("") == ["loop"]
    assert (outside / "file").read_bytes() == b"outside"


async def test_what_is_no_regular_file_is_not_opened_and_not_waited_for(
    driver: FilesystemDriver, root: Path
) -> None:
    await driver.put("file", b"x")
    os.mkfifo(root / "fifo")
    for verb in (driver.open("fifo"), driver.get("fifo", 100), driver.stat("fifo")):
        with pytest.raises(PathNotFoundError):
            await asyncio.wait_for(verb, 10)


async def test_foreign_and_temporary_names_are_not_listed(driver: FilesystemDriver, root: Path) -> None:
    await driver.put("file", b"x")
    for name in ("lost+found", "a b", "ü", ".tmp-1"):
        (root / name).mkdir()
    (root / os.fsdecode(b"\xff")).touch()
    assert await driver.list("") == ["file"]


async def test_what_a_crash_left_is_removed_by_a_later_write(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.put("folder/file", b"x")
    for path in (root / "folder/.tmp-1", root / ".tmp-2/tree/file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    await driver.put("folder/file", b"y")
    await driver.delete("folder")
    assert left_behind(root) == [root / ".tmp-2"], "a fresh one may belong to a write of another process"
    (root / "folder").mkdir()
    (root / "folder/.tmp-1").write_bytes(b"left")
    monkeypatch.setattr(files, "STALE_AFTER", -1.0)
    await driver.put("folder/file", b"z")
    await driver.put("tree/file", b"x")
    await driver.delete("tree")
    assert left_behind(root) == []


async def test_a_tree_whose_removal_breaks_off_is_gone_for_readers(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await driver.put(f"tree/{number}/file", b"x")
    with monkeypatch.context() as patch:
        Syscalls(fail_at=1, dead=True, only="unlink").install(patch)
        with pytest.raises(DriverError, match="tree: "):
            await driver.delete("tree")
    assert await driver.list("") == []
    assert len(left_behind(root)) == 1


async def test_a_closed_driver_fails_as_a_driver_does(root: Path) -> None:
    driver = FilesystemDriver(root, threads=1)
    await driver.put("file", b"x")
    file = await driver.open("file")
    await driver.close()
    with pytest.raises(DriverError, match="closed"):
        await driver.get("file", 1)
    await file.close()
    assert file.local is not None
    assert file.local.closed


class Gate:
    """Holds back a function of `files` in the driver's thread until it is let go; keeps what it returned."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(files, name)
        self.entered, self.released = threading.Event(), threading.Event()
        self.result: list[object] = []
        self.threads: set[str] = set()

        def call(*args: object) -> object:
            self.threads.add(threading.current_thread().name)
            self.entered.set()
            assert self.released.wait(30)
            self.result.append(real(*args))
            return self.result[-1]

        patch.setattr(files, name, call)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)


async def test_a_file_opened_for_someone_who_left_is_closed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FilesystemDriver(root, threads=1)
    await driver.put("file", b"x")
    gate = Gate(monkeypatch, "open_regular")
    opening = asyncio.create_task(driver.open("file"))
    await gate.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.released.set()
    await driver.close()
    found = gate.result[0]
    assert isinstance(found, tuple)
    file: BinaryIO = found[0]
    assert file.closed


def is_closed(file: BinaryIO) -> bool:
    return file.closed


async def test_a_file_is_not_closed_under_a_thread_that_reads_it(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.put("file", b"12345")
    file = await driver.open("file")
    assert file.local is not None
    gate = Gate(monkeypatch, "read_at")
    chunks = file.chunks(0, 5)
    reading = asyncio.create_task(anext(chunks))
    await gate.wait()
    await file.close()
    local: BinaryIO = file.local
    assert not is_closed(local)
    gate.released.set()
    assert await reading == b"12345"
    assert is_closed(local)
    await chunks.aclose()


async def test_no_more_threads_work_than_were_given_and_never_the_event_loop(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what it finds in memory: see `cached`, and tests/drivers/test_cached.py."""
    driver = FilesystemDriver(root, threads=2)
    content = bytes(MOST + 1)
    await driver.put("file", content)
    gate = Gate(monkeypatch, "read_whole")
    reads = [asyncio.create_task(driver.get("file", len(content))) for _ in range(8)]
    await gate.wait()
    gate.released.set()
    assert await asyncio.gather(*reads) == [content] * 8
    assert 1 <= len(gate.threads) <= 2
    assert all(name.startswith("filesystem") for name in gate.threads)
    await driver.close()


def run(*argv: str) -> None:
    done = subprocess.run(
        [find_program(argv[0]), *argv[1:]], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    require("mount", "umount")
    require_root()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    yield disk
    run("umount", str(disk))


async def test_a_full_disk_is_no_space_and_keeps_the_old_file(small_disk: Path, tmp_path: Path) -> None:
    driver = FilesystemDriver(small_disk / "root", threads=2)
    await driver.put("a/file", b"old")
    with pytest.raises(NoSpaceError, match="a/file: No space left on device"):
        await driver.put("a/file", b"x" * (2 << 20))
    source = tmp_path / "source"
    source.write_bytes(b"y" * (2 << 20))
    with pytest.raises(NoSpaceError):
        await driver.move_in(source, "a/file")
    assert source.stat().st_size == 2 << 20
    assert await driver.get("a/file", 3) == b"old"
    assert left_behind(small_disk) == []
    await driver.put("a/other", b"z" * (1 << 19))
    await driver.close()


async def test_a_disk_that_cannot_be_written_still_serves(small_disk: Path) -> None:
    driver = FilesystemDriver(small_disk, threads=2)
    await driver.put("a/file", b"old")
    run("mount", "-o", "remount,ro", str(small_disk))
    assert await driver.get("a/file", 3) == b"old"
    file = await driver.open("a/file")
    assert file.size == 3
    await file.close()
    assert await driver.list("a") == ["file"]
    for verb in (driver.put("a/file", b"new"), driver.put("b/file", b"new"), driver.delete("a/file")):
        with pytest.raises(DriverError, match="Read-only file system"):
            await verb
    await driver.close()


def everything(root: Path) -> set[str]:
    """All files and folders below the root, also those that the driver hides."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


async def test_a_walk_gives_empty_folders_and_no_temporary_or_foreign_names(
    driver: FilesystemDriver, root: Path
) -> None:
    await driver.put("tree/file", b"x")
    for name in ("tree/empty/deep", "tree/lost+found", "tree/held", "none"):
        (root / name).mkdir(parents=True)
    (root / "tree/held/.tmp-1").touch()
    (root / "tree" / os.fsdecode(b"\xff")).touch()
    os.mkfifo(root / "tree/fifo")
    found = {entry.path: entry.is_folder for entry in await walk(driver, "tree")}
    assert found == {"tree/file": False, "tree/empty/deep": True}
    assert [entry.path for entry in await walk(driver, "none")] == ["none"]


async def test_a_walk_follows_links_to_folders_and_says_so(driver: FilesystemDriver, outside: Path) -> None:
    (outside / "deep").mkdir()
    (outside / "deep/file").touch()
    await driver.put("own", b"x")
    found = {entry.path: entry.linked for entry in await walk(driver, "")}
    assert found == {"own": False, "to-folder/file": True, "to-folder/deep/file": True}
    assert [entry.linked for entry in await walk(driver, "to-folder/deep")] == [True]
    assert await walk(driver, "to-file") == await walk(driver, "loop") == []


async def test_what_is_behind_links_to_folders_is_found_and_links_to_files_are_not(
    driver: FilesystemDriver, root: Path, outside: Path
) -> None:
    (outside / "deep").mkdir()
    (outside / "deep/file").touch()
    await driver.put("own/file", b"x")
    (root / "own/again").symlink_to(root / "own")
    (root / "other").mkdir()
    (root / "other/file").symlink_to(root / "own/file")
    entries = await find(driver, "", ["*/file", "*/*/file", "*/*/*/file"])
    assert {entry.path: entry.linked for entry in entries} == {
        "own/file": False,
        "own/again/file": True,
        "to-folder/file": True,
        "to-folder/deep/file": True,
    }


async def test_nothing_temporary_or_foreign_is_found(driver: FilesystemDriver, root: Path) -> None:
    name = ".tmp-" + "0" * 32
    await driver.put("a/file", b"x")
    (root / "a" / name).touch()
    (root / name).mkdir()
    (root / name / "file").touch()
    os.mkfifo(root / "a/fifo")
    assert [entry.path for entry in await find(driver, "", ["*", "*/*", "*/file"])] == ["a/file"]


async def test_a_folder_that_cannot_be_read_ends_a_search_with_its_path(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.put("tree/bad/deep/file", b"x")
    real = os.scandir

    def fail(place: str) -> object:
        if place.endswith("/bad"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(place)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(DriverError, match="tree/bad: Input/output error"):
        await find(driver, "tree", ["*/*/file"])


async def test_folders_of_one_known_name_are_not_listed(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred thousand blobs each has a folder of its own."""
    for index in range(20):
        await driver.put(f"tree/{index}/data", b"x")
    real = os.scandir
    listed: list[str] = []

    def count(place: str) -> object:
        listed.append(place)
        return real(place)

    monkeypatch.setattr(os, "scandir", count)
    assert len(await find(driver, "tree", ["*/data"])) == 20
    assert len(listed) == 1


async def test_names_are_gone_for_good_before_a_durable_removal_returns(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("keep/r/a/link", "keep/r/b/link", "keep/s/a/link", "keep/s/b/link", "keep/t/x/link"):
        await driver.put(path, b"x")
    calls = Syscalls()
    calls.install(monkeypatch)
    synced: list[Path] = []
    real = files.sync_folder

    def sync(folder: Path) -> None:
        real(folder)
        synced.append(folder)

    monkeypatch.setattr(files, "sync_folder", sync)
    await driver.remove(["keep/r/a/link", "keep/s/a/link", "keep/r/b/link", "keep/t"], "keep", durable=True)
    last_name = max(at for at, name in enumerate(calls.seen) if name in ("unlink", "rename", "rmdir"))
    assert calls.seen.index("fsync") > last_name
    # What went from `r` has gone with it, out of `keep`.
    assert sorted(synced) == [root / "keep", root / "keep/s"]
    await driver.put("keep/u/link", b"x")
    synced.clear()
    await driver.remove(["keep/u/link"], "keep", durable=False)
    assert synced == []


async def test_links_in_circles_end_a_walk(driver: FilesystemDriver, root: Path) -> None:
    for name in "abc":
        await driver.put(f"{name}/file", b"x")
        for other in "abc":
            (root / name / f"to-{other}").symlink_to(root / other)
    found = [entry.path for entry in await walk(driver, "")]
    assert {"a/file", "b/file", "c/file", "a/to-b/to-c/file"} <= set(found)
    assert len(found) == len(set(found)) < 60


async def test_a_chain_of_links_too_long_to_follow_is_no_end_of_a_walk(
    driver: FilesystemDriver, root: Path
) -> None:
    for index in range(walking.LINK_LIMIT + 2):
        await driver.put(f"f{index}/file", b"x")
        (root / f"f{index}/next").symlink_to(root / f"f{index + 1}")
    with pytest.raises(DriverError, match="links"):
        await walk(driver, "f0")


async def test_a_folder_that_cannot_be_read_ends_a_walk_with_its_path(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.put("tree/bad/file", b"x")
    real = os.scandir

    def fail(place: str) -> object:
        if place.endswith("/bad"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(place)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(DriverError, match="tree/bad: Input/output error"):
        await walk(driver, "tree")


async def test_a_walk_gives_its_thread_back_now_and_then(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "BATCH_TIME", -1.0)
    for index in range(5):
        await driver.put(f"tree/{index}/file", b"x")
    async with aclosing(driver.walk("tree")) as batches:
        sizes = [len(batch) async for batch in batches]
    assert sum(sizes) == 5
    assert len(sizes) > 5
    assert max(sizes) == 1


async def test_pruning_leaves_links_other_files_and_what_is_behind(
    driver: FilesystemDriver, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside/deep").mkdir(parents=True)
    (root / "keep").mkdir(parents=True)
    (root / "keep/link").symlink_to(tmp_path / "outside")
    (root / "keep/a/b").mkdir(parents=True)
    (root / "keep/a/lost+found").mkdir()
    await driver.prune("keep/link", "keep")
    await driver.prune("keep/a/b", "keep")
    await driver.put("keep/file", b"x")
    await driver.prune("keep/file", "keep")
    assert everything(root) == {"keep", "keep/link", "keep/a", "keep/a/lost+found", "keep/file"}
    assert (tmp_path / "outside/deep").is_dir()


async def test_a_sweep_takes_what_writes_left_everywhere_but_nothing_younger_or_foreign(
    driver: FilesystemDriver, root: Path, tmp_path: Path
) -> None:
    name = ".tmp-" + "0" * 32
    await driver.put("folder/deep/file", b"x")
    (root / "folder/deep" / name).write_bytes(b"left")
    (root / name / "tree").mkdir(parents=True)
    (root / name / "tree/file").write_bytes(b"left")
    (root / "folder/.tmp-notes").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / name).touch()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / name / "link").symlink_to(tmp_path / "outside")
    assert await driver.sweep((root / "folder/deep" / name).stat().st_ctime - 1) == 0
    assert await driver.sweep(time.time() + 1) == 2
    assert everything(root) == {"folder", "folder/deep", "folder/deep/file", "folder/.tmp-notes", "link"}
    assert (tmp_path / "outside" / name).exists()


@pytest.mark.parametrize("linked", [True, False], ids=["same file system", "another one"])
@pytest.mark.parametrize("dead", [False, True], ids=["one call fails", "the machine stops"])
async def test_whatever_call_fails_a_file_that_moves_out_is_at_one_of_the_two_places(
    linked: bool, dead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"bytes" * 1000
    if not linked:
        real = Path.replace

        def across(self: Path, target: Path) -> Path:
            if self.parent != target.parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return real(self, target)

        monkeypatch.setattr(Path, "replace", across)

    async def move(base: Path, calls: Syscalls | None) -> bool:
        driver = FilesystemDriver(base / "root", threads=1)
        try:
            with pytest.MonkeyPatch.context() as patch:
                if calls is not None:
                    calls.install(patch)
                await driver.move_out("a/file", base / "out/target")
        except DriverError:
            return False
        finally:
            await driver.close()
        return True

    async def make(name: str) -> Path:
        driver = FilesystemDriver(tmp_path / name / "root", threads=1)
        await driver.put("a/file", data)
        await driver.close()
        return tmp_path / name

    clean = Syscalls()
    assert await move(await make("clean"), clean)
    failures = 0
    for fail_at in range(len(clean.seen)):
        base = await make(str(fail_at))
        moved = await move(base, Syscalls(fail_at=fail_at, dead=dead))
        failures += not moved
        places = [path for path in (base / "root/a/file", base / "out/target") if path.exists()]
        assert places
        assert all(path.read_bytes() == data for path in places)
        if (base / "root/a/file").exists():
            assert await move(base, None)
        assert (base / "out/target").read_bytes() == data
    assert failures >= 5
