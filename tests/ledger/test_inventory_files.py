"""Files of the inventory that are damaged, locked, full or cannot be there, and processes that are killed."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.ledger import file as file_module
from mirror.ledger import inventory as module
from mirror.ledger import recall as recall_module
from mirror.ledger import stock as stock_module
from mirror.ledger import survey as survey_module
from mirror.ledger.facts import Total
from mirror.ledger.file import DatabaseFile, NotKept
from mirror.ledger.inventory import Inventory
from mirror.ledger.inventoryschema import INVENTORY, INVENTORY_SCHEMA
from mirror.ledger.rows import Rows
from mirror.ledger.stock import Stock
from mirror.oci.names import Tag
from tests.ledger.inventorykit import APP, SIZE, T0, Tree, digest, names, pull, rows, running
from tests.support.procs import Workspace
from tests.support.programs import find, require, require_root

ROOT = Path(__file__).resolve().parents[2]
DISK = 2 << 20  # bytes
# Pulls images of two layers, one of them shared, from FIRST on in steps of STEP; says up to which.
CHILD = """
import asyncio, sys
from pathlib import Path
from mirror.ledger.rows import Rows
from mirror.ledger.stock import Stock
from mirror.oci.names import Tag
from tests.ledger.inventorykit import pull, running

async def main(path, first, step, batches):
    async with running(path) as inventory:
        for batch in range(batches):
            for number in range(20 * batch, 20 * batch + 20):
                own = first + step * number
                pull(inventory, f"i{own}", [f"l{own}", "shared"], tag=str(own))
            for _ in range(60):  # each waits a second for the other's write, which waits for the disk
                if await inventory.flush():
                    break
            else:
                sys.exit("not written")
            print(20 * batch + 20, flush=True)

asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inventory.sqlite"


def state(inventory: Inventory) -> bool:
    return inventory.complete


async def fill(path: Path) -> None:
    """A file that is complete, with an image `i` of `a` and `b`."""
    async with running(path) as inventory:
        await inventory.begin_survey(T0)
        await Tree().add("i", "ab", tag="1").show(inventory)
        await inventory.end_survey()


@contextmanager
def child(path: Path, first: int, step: int, batches: int) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", CHILD, str(path), str(first), str(step), str(batches)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def check(path: Path) -> None:
    """The file is sound, and what triggers keep is what there is."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    counted = rows(path, "SELECT count(size), ifnull(sum(size), 0) FROM blob")
    assert rows(path, "SELECT blobs, bytes FROM state") == counted
    loose = """SELECT id FROM blob WHERE loose <> (id NOT IN (SELECT blob FROM part)
        AND id NOT IN (SELECT blob FROM image))"""
    assert rows(path, loose) == []
    unknown = """SELECT blob FROM part WHERE blob NOT IN (SELECT id FROM blob)
        UNION SELECT blob FROM image WHERE blob NOT IN (SELECT id FROM blob)
        UNION SELECT blob FROM layer WHERE blob NOT IN (SELECT id FROM blob)
        UNION SELECT blob FROM tag WHERE blob NOT IN (SELECT id FROM blob)"""
    assert rows(path, unknown) == []


def _everything(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1000)


def _pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _change(statement: str) -> object:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(statement)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _everything,
        _pages,
        _half,
        _change(f"PRAGMA user_version = {INVENTORY_SCHEMA + 1}"),
        _change("ALTER TABLE layer RENAME TO layers"),
        _change("ALTER TABLE blob RENAME COLUMN hits TO strikes"),
    ],
)
async def test_a_file_that_cannot_be_used_is_set_aside_and_surveyed_anew(path: Path, damage: object) -> None:
    await fill(path)
    assert callable(damage)
    damage(path)
    with capture_logs() as logs:
        async with running(path) as inventory:
            assert not state(inventory)
            pull(inventory, "j", "a")
            assert await names(inventory, "j") == ["j"]
    assert [line["event"] for line in logs] == ["ledger.set_aside"]
    assert len(list(path.parent.glob("inventory.sqlite.broken-*Z"))) == 1
    check(path)


async def test_a_file_that_was_closed_well_is_complete_at_the_next_start(path: Path) -> None:
    await fill(path)
    async with running(path) as inventory:
        assert state(inventory)
        inventory.note_use(digest("i"), APP, T0 + 1)
    async with running(path) as inventory:
        assert state(inventory)


async def test_a_file_that_was_not_closed_is_not_complete_before_another_survey(path: Path) -> None:
    await fill(path)
    crashed = Inventory(path)
    await crashed.open()
    assert state(crashed)
    copy = _copy(path)
    await crashed.close()
    for _ in range(2):
        async with running(copy) as inventory:
            assert not state(inventory)
            assert await inventory.total() == Total(3, 3 * SIZE)
    await fill(copy)
    async with running(copy) as inventory:
        assert state(inventory)


@pytest.mark.parametrize("lines", [1, 5, 12])
async def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_written(path: Path, lines: int) -> None:
    with child(path, 0, 1, 100_000) as process:
        assert process.stdout is not None
        written = max(int(process.stdout.readline()) for _ in range(lines))
        process.kill()
        assert process.wait() == -9
    with capture_logs() as logs:
        async with running(path) as inventory:
            assert not state(inventory)
            kept = {candidate.digest: candidate for candidate in await inventory.oldest(1_000_000, T0)}
            for number in range(written):
                assert [tag.name for tag in kept[digest(f"i{number}")].tags] == [str(number)]
                assert await inventory.blob(digest(f"l{number}")) is not None
    assert logs == []
    check(path)


async def test_two_processes_on_one_file_write_all_that_both_have(path: Path) -> None:
    with child(path, 0, 2, 25) as one, child(path, 1, 2, 25) as other:
        assert (one.wait(100), other.wait(100)) == (0, 0)
    check(path)
    async with running(path) as inventory:
        assert await inventory.total() == Total(2001, 2001 * SIZE)
        dropped = await inventory.drop_image(APP, digest("i7"))
        assert dropped is not None
        assert [loose.digest for loose in dropped.blobs] == [digest("i7"), digest("l7")]


async def test_while_another_process_writes_nothing_is_answered_and_nothing_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "BUSY_SECONDS", 0.02)
    await fill(path)
    async with running(path) as inventory:
        with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
            other.execute("BEGIN IMMEDIATE")
            pull(inventory, "j", "b")
            inventory.note_use(digest("i"), APP, T0 + 5)
            inventory.note_use(digest("i"), APP, T0 + 4)
            assert not await inventory.flush()
            inventory.note_use(digest("i"), APP, T0 + 3)
            with pytest.raises(NotKept, match="locked"):
                await inventory.oldest(10, T0)
            with pytest.raises(NotKept, match="locked"):
                await inventory.drop_image(APP, digest("i"))
            other.execute("ROLLBACK")
        assert await names(inventory, "ij") == ["j", "i"]
        assert (await inventory.oldest(2, T0))[1].hits == 3
        assert state(inventory)
    assert logs == []


async def test_notes_that_could_not_be_written_before_the_end_make_the_file_incomplete(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    async with running(path) as inventory:
        monkeypatch.setattr(stock_module.Stock, "write", _refuse)
        pull(inventory, "j", "b")
    monkeypatch.undo()
    async with running(path) as inventory:
        assert not state(inventory)


async def test_the_end_of_a_survey_that_was_held_up_removes_all_that_it_has_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "CHANGED_AT_ONCE", 1)
    await fill(path)
    step, steps = survey_module.Sweep.step, []

    def fail_once(sweep: survey_module.Sweep, rows: Rows) -> bool:
        more = step(sweep, rows)
        steps.append(more)
        if len(steps) == 3:  # a layer was removed, and is there again
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return more

    monkeypatch.setattr(survey_module.Sweep, "step", fail_once)
    async with running(path) as inventory:
        await inventory.begin_survey(T0 + 1)
        with pytest.raises(NotKept, match="locked"):
            await inventory.end_survey()
        await inventory.end_survey()
        assert await inventory.total() == Total(0, 0)
    for table in ("blob", "image", "part", "layer", "tag"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_without_a_folder_it_works_from_memory_and_keeps_all_once_there_is_one(
    tmp_path: Path,
) -> None:
    obstacle = tmp_path / "mirror"
    _obstruct(obstacle)
    with capture_logs() as logs:
        async with running(obstacle / "inventory.sqlite") as inventory:
            await inventory.begin_survey(T0)
            await Tree().add("i", "ab").show(inventory)
            await inventory.end_survey()
            assert state(inventory)
            assert await names(inventory, "i") == ["i"]
            _make_way(obstacle)
    told = [line["event"] for line in logs if line["event"] != "inventory.not_read"]
    assert told == ["inventory.not_kept", "inventory.kept"]
    check(obstacle / "inventory.sqlite")
    async with running(obstacle / "inventory.sqlite") as inventory:
        assert state(inventory)
        assert await names(inventory, "i") == ["i"]


async def test_a_memory_that_is_not_complete_does_not_replace_a_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    away = _take_away(path)
    async with running(path) as inventory:
        pull(inventory, "j", "c")
        assert await names(inventory, "j") == ["j"]
        _bring_back(path, away)
    async with running(path) as inventory:
        assert not state(inventory)  # what was noted meanwhile is not in it
        assert await names(inventory, "i") == ["i"]


async def test_a_file_that_was_deleted_while_in_use_is_begun_anew(path: Path) -> None:
    await fill(path)
    async with running(path) as inventory:
        _delete(path)
        pull(inventory, "j", "a")
        assert await names(inventory, "j") == ["j"]
        assert not state(inventory)
    check(path)


async def test_a_full_disk_is_answered_from_memory_and_written_once_there_is_room(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    require("mount")
    root = space.folder("full-inventory")
    space.mount_tmpfs(root, DISK)
    path = root / "inventory.sqlite"
    await fill(path)
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    async with running(path) as inventory:
        _fill(root / "filler")
        with capture_logs() as logs:
            for number in range(200):
                pull(inventory, f"j{number}", "b", T0 + 1)
            assert (await inventory.total()).blobs == 203
            assert state(inventory)
            dropped = await inventory.drop_image(APP, digest("i"))
            assert dropped is not None
            assert [loose.digest for loose in dropped.blobs] == [digest("i"), digest("a")]
            assert await inventory.drop_blob(digest("i")) is not None
            (root / "filler").unlink()
            async with asyncio.timeout(30):
                while len(logs) < 2:  # it is told after it was done
                    inventory.note_use(digest("j1"), APP, T0 + 2)
                    await inventory.flush()
        assert [line["event"] for line in logs] == ["inventory.not_kept", "inventory.kept"]
        assert not inventory._stock.in_memory
        assert state(inventory)
    check(path)
    assert rows(path, "SELECT count(*) FROM image") == [(200,)]


async def test_on_a_disk_that_is_full_from_the_start_what_was_kept_is_known(space: Workspace) -> None:
    require_root()
    require("mount")
    root = space.folder("full-from-the-start-inventory")
    space.mount_tmpfs(root, DISK)
    path = root / "inventory.sqlite"
    await fill(path)
    _fill(root / "filler")
    with capture_logs() as logs:
        async with running(path) as inventory:
            assert state(inventory)
            assert await names(inventory, "i") == ["i"]
            assert await inventory.drop_image(APP, digest("i")) is not None
            (root / "filler").unlink()
    told = [line["reason"] for line in logs if line["event"] == "inventory.not_kept"]
    assert told
    assert all("No space left on device" in reason for reason in told)
    check(path)
    assert rows(path, "SELECT count(*) FROM image") == [(0,)]


async def test_on_a_disk_that_cannot_be_written_it_works_from_memory(space: Workspace) -> None:
    require_root()
    require("mount")
    root = space.folder("read-only-inventory")
    space.mount_tmpfs(root, DISK)
    path = root / "inventory.sqlite"
    await fill(path)
    _make_read_only(root)
    with capture_logs() as logs:
        async with running(path) as inventory:
            assert state(inventory)
            pull(inventory, "j", "b", T0 + 1)
            assert await names(inventory, "ij") == ["i", "j"]
    told = [line["reason"] for line in logs if line["event"] == "inventory.not_kept"]
    assert told == ["Read-only file system"]


async def test_a_power_cut_leaves_no_file_that_says_it_was_closed_well(path: Path) -> None:
    """Nothing syncs the journal after a commit, so the disk may never have had it."""
    await fill(path)
    async with running(path) as inventory:
        assert state(inventory)
        pull(inventory, "j", "c")
        await inventory.flush()
        cut = _copy(path, "")
    async with running(cut) as inventory:
        assert not state(inventory)


async def test_a_file_that_cannot_be_marked_as_in_use_is_not_left_to_be_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the start, and then a kill: what was kept since then is not in the file."""
    await fill(path)
    run = DatabaseFile.run
    monkeypatch.setattr(DatabaseFile, "run", _refuse)
    inventory = Inventory(path)
    await inventory.open()
    assert state(inventory)
    assert await names(inventory, "i") == ["i"]
    pull(inventory, "j", "c")
    await inventory.flush()
    monkeypatch.setattr(DatabaseFile, "run", run)
    assert not _is_there(path)  # a kill would leave nothing, and the next start begins anew
    await inventory.close()
    async with running(path) as after:
        assert state(after)
        assert await names(after, "ij") == ["i", "j"]


async def test_a_file_that_another_process_uses_is_not_deleted_under_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    other = DatabaseFile(path, INVENTORY)
    other.open()  # and has not written yet that it is in use
    monkeypatch.setattr(DatabaseFile, "run", _refuse)
    async with running(path) as inventory:
        assert state(inventory)
    assert _is_there(path)
    other.close()


async def test_the_history_of_tags_is_bounded_between_two_surveys(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "HISTORY_ROWS", 10)
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    trimmed = asyncio.Event()
    loop, trim = asyncio.get_running_loop(), Stock.trim

    def spy(stock: Stock) -> None:
        trim(stock)
        loop.call_soon_threadsafe(trimmed.set)

    monkeypatch.setattr(Stock, "trim", spy)
    async with running(path) as inventory:
        for number in range(50):
            inventory.note_tag(APP, Tag(f"ci-{number}"), digest("i"), T0, "upstream")
        async with asyncio.timeout(30):
            await trimmed.wait()
        assert rows(path, "SELECT count(*), min(tag) FROM history") == [(10, "ci-40")]


async def test_of_a_file_whose_journal_cannot_be_read_nothing_is_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal stands for a transaction that is in the file by half."""
    await fill(path)
    crashed = Inventory(path)
    await crashed.open()
    pull(crashed, "j", "c")
    await crashed.flush()
    copy = _copy(path)
    await crashed.close()
    monkeypatch.setattr(recall_module, "_read_open", _refuse)
    file = DatabaseFile(copy, INVENTORY)
    with closing(recall_module.recall(copy, file, INVENTORY)) as memory:
        assert memory.execute("SELECT complete, blobs FROM state").fetchall() == [(0, 0)]
    copy.with_name(f"{copy.name}-wal").unlink()
    with closing(recall_module.recall(copy, file, INVENTORY)) as memory:
        assert memory.execute("SELECT complete, blobs FROM state").fetchall() == [(1, 3)]


def _refuse(*_arguments: object) -> None:
    raise NotKept("no room")


async def test_the_journal_is_emptied_between_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_module, "CHANGES_BETWEEN", 1)
    async with running(path) as inventory:
        await inventory.begin_survey(T0)
        await Tree().add("i", [str(number) for number in range(500)]).show(inventory)
        await inventory.end_survey()
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM part").fetchone()
        assert count == 500  # in the file itself


def _copy(path: Path, *ends: str) -> Path:
    """What a kill would leave now: the file and its journal. `ends`: those of what a power cut leaves."""
    copy = path.with_name("copy.sqlite")
    for end in ends or ("", "-wal"):
        copy.with_name(f"{copy.name}{end}").write_bytes(path.with_name(f"{path.name}{end}").read_bytes())
    return copy


def _is_there(path: Path) -> bool:
    return path.exists()


def _obstruct(folder: Path) -> None:
    folder.touch()


def _make_way(folder: Path) -> None:
    folder.unlink()
    folder.mkdir()


def _take_away(path: Path) -> Path:
    """Put a folder in its place."""
    away = path.rename(path.with_name("away"))
    path.mkdir()
    return away


def _bring_back(path: Path, away: Path) -> None:
    path.rmdir()
    away.rename(path)


def _delete(path: Path) -> None:
    path.unlink()


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
