"""Real processes and real disks: a kill in the middle, two at once, no room, no writing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.ledger.kit import ask, note, record, rows, running, set_aside
from tests.support.procs import Workspace
from tests.support.programs import find, require, require_root

ROOT = Path(__file__).resolve().parents[2]
DISK = 512 << 10  # bytes
# Writes `record(number)` of the tag `number` in batches, from FIRST on in steps of STEP; says up to which.
CHILD = """
import asyncio, sys
from pathlib import Path
from tests.ledger.kit import note, running

async def main(path, first, step, batches):
    async with running(path) as ledger:
        for batch in range(batches):
            for number in range(100 * batch, 100 * batch + 100):
                note(ledger, first + step * number)
            for _ in range(60):  # each waits a second for the other's write, which waits for the disk
                if await ledger.settle():
                    break
            else:
                sys.exit("not written")
            print(100 * batch + 100, flush=True)

asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
"""


@contextmanager
def child(path: Path, first: int, step: int, batches: int) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", CHILD, str(path), str(first), str(step), str(batches)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("lines", [1, 7, 20])
async def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_written(
    tmp_path: Path, lines: int
) -> None:
    path = tmp_path / "ledger.sqlite"
    with child(path, 0, 1, 100_000) as process:
        assert process.stdout is not None
        written = max(int(process.stdout.readline()) for _ in range(lines))
        process.kill()
        assert process.wait() == -9
    with capture_logs() as logs:
        async with running(path) as ledger:
            for number in range(written):
                assert await ask(ledger, number) == record(number)
            note(ledger, 10_000_000)
    assert logs == []
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert len(rows(path)) % 100 == 1  # whole batches, and one


async def test_two_processes_on_one_file_write_all_that_both_have(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with child(path, 0, 2, 40) as one, child(path, 1, 2, 40) as other:
        assert (one.wait(100), other.wait(100)) == (0, 0)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT count(*) FROM tags") == [(8000,)]
    assert set_aside(path) == []


async def test_a_full_disk_costs_nothing_once_there_is_room_again(space: Workspace) -> None:
    require_root()
    require("mount")
    root = space.folder("full-ledger")
    space.mount_tmpfs(root, DISK)
    path = root / "ledger.sqlite"
    async with running(path) as ledger:
        note(ledger, 0)
        assert await ledger.settle()
        _fill(root / "filler")
        with capture_logs() as logs:
            for number in range(1, 2000):
                note(ledger, number)
            assert not await ledger.settle()
            assert not await ledger.settle()
            assert await ask(ledger, 1999) == record(1999)
            (root / "filler").unlink()
            assert await ledger.settle()
        assert [line["event"] for line in logs] == ["ledger.not_kept", "ledger.kept"]
        assert logs[1]["lost"] == 0
    assert len(rows(path)) == 2000
    assert set_aside(path) == []


async def test_a_disk_that_is_full_from_the_start_keeps_nobody_from_starting(space: Workspace) -> None:
    require_root()
    require("mount")
    root = space.folder("full-from-the-start")
    space.mount_tmpfs(root, DISK)
    _fill(root / "filler")
    with capture_logs() as logs:
        async with running(root / "ledger.sqlite") as ledger:
            note(ledger, 1)
            assert not await ledger.settle()
            assert await ask(ledger, 1) == record(1)
            (root / "filler").unlink()
            assert await ledger.settle()
    (told,) = [line["reason"] for line in logs if line["event"] == "ledger.not_kept"]
    assert "No space left on device" in told
    assert len(rows(root / "ledger.sqlite")) == 1


async def test_on_a_disk_that_cannot_be_written_it_works_from_memory(space: Workspace) -> None:
    require_root()
    require("mount")
    root = space.folder("read-only-ledger")
    space.mount_tmpfs(root, DISK)
    path = root / "ledger.sqlite"
    async with running(path) as ledger:
        note(ledger, 1)
    _make_read_only(root)
    with capture_logs() as logs:
        async with running(path) as ledger:
            note(ledger, 2)
            assert not await ledger.settle()
            assert await ask(ledger, 2) == record(2)
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("ledger.not_kept", "Read-only file system")
    ]


def _make_read_only(mount: Path) -> None:
    argv = [find("mount"), "-o", "remount,ro", str(mount)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


def _fill(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
