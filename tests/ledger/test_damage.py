"""Files that are damaged, foreign, locked, or cannot be there at all: the ledger starts and goes on."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.ledger import file as file_module
from mirror.ledger import schema, tables
from mirror.ledger.file import LedgerFile, NotKept
from mirror.ledger.schema import SCHEMA
from mirror.oci.names import Repository, Tag
from tests.ledger.kit import (
    CHECKED,
    REFUSED,
    REPOSITORY,
    TAG,
    Spy,
    ask,
    note,
    record,
    rows,
    running,
    set_aside,
)

FILLED = 500  # records: some 25 pages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
async def filled(path: Path) -> Path:
    async with running(path) as ledger:
        for number in range(FILLED):
            note(ledger, number)
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


def replace(path: Path, data: bytes | None) -> None:
    """Another content, or none at all."""
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def _header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:16] = b"\xff" * 16
    path.write_bytes(data)


def _everything(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1000)


def _root_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 : 2 * 4096] = b"\xff" * 4096
    path.write_bytes(data)


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _version(path: Path, version: int = SCHEMA + 1) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def _table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE tags RENAME TO labels")


def _column(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE tags RENAME COLUMN refusal TO answer")


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE somebody (elses TEXT)")


@pytest.mark.parametrize(
    "damage", [_header, _everything, _root_page, _half, _version, _table, _column, _foreign]
)
async def test_a_file_that_cannot_be_used_is_set_aside_and_a_new_one_begun(
    filled: Path, damage: Callable[[Path], None]
) -> None:
    damage(filled)
    before = content(filled)
    with capture_logs() as logs:
        async with running(filled) as ledger:
            for number in range(FILLED):
                assert await ask(ledger, number) in (None, record(number))
            note(ledger, FILLED)
    assert [line["event"] for line in logs] == ["ledger.set_aside"]
    (aside,) = set_aside(filled)
    assert (str(aside), aside.read_bytes()) == (logs[0]["file"], before)
    async with running(filled) as ledger:
        assert await ask(ledger, FILLED) == record(FILLED)
    assert rows(filled, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("damage", [_root_page, _half])
async def test_damage_that_only_writing_finds_costs_no_record(
    filled: Path, damage: Callable[[Path], None]
) -> None:
    damage(filled)
    async with running(filled) as ledger:
        for number in range(FILLED, 2 * FILLED):
            note(ledger, number)
        assert await ledger.settle()
    assert len(set_aside(filled)) == 1
    assert len(rows(filled)) == FILLED


async def test_an_empty_file_is_a_new_one(path: Path) -> None:
    replace(path, b"")
    with capture_logs() as logs:
        async with running(path) as ledger:
            note(ledger, 1)
    assert logs == []
    assert len(rows(path)) == 1


async def test_of_what_was_set_aside_the_last_three_stay(path: Path) -> None:
    for version in range(10, 15):
        async with running(path) as ledger:
            note(ledger, 1)
        _version(path, version)
    async with running(path):
        pass
    kept = [rows(aside, "PRAGMA user_version") for aside in set_aside(path)]
    assert kept == [[(12,)], [(13,)], [(14,)]]


@pytest.mark.parametrize("damage", [_everything, _version, Path.unlink])
async def test_a_journal_is_not_taken_for_another_databases(
    path: Path, damage: Callable[[Path], None]
) -> None:
    async with running(path) as ledger:
        note(ledger, 1)
    beside = path.with_name("ledger.sqlite-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE tags SET tag = '5'")
        database, journal = content(path), content(beside)
    replace(path, database)  # as after a crash: what was changed last is in the journal alone
    damage(path)
    replace(beside, journal)
    async with running(path) as ledger:
        assert await ask(ledger, 5) is None
        note(ledger, 2)
    assert [tag for _repository, tag, *_ in rows(path)] == ["2"]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert len(set_aside(path)) == (damage is not Path.unlink)


def test_a_file_that_another_process_has_just_begun_is_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = LedgerFile(path), LedgerFile(path)
    is_empty = tables._is_empty

    def look_too_early(connection: sqlite3.Connection) -> bool:
        found = is_empty(connection)
        monkeypatch.setattr(tables, "_is_empty", is_empty)
        other.open()
        return found

    monkeypatch.setattr(tables, "_is_empty", look_too_early)
    mine.open()
    mine.write({(REPOSITORY.name, TAG.name): record(1)})
    assert other.read((REPOSITORY.name, TAG.name)) == record(1)
    mine.close()
    other.close()


@pytest.mark.parametrize(
    ("digest", "checked", "refusal"),
    [
        ("sha256:123", CHECKED, ""),
        ("", CHECKED, ""),
        (b"\xff\xfe", CHECKED, ""),
        (5, CHECKED, ""),
        (str(record(1).digest), CHECKED, "MANIFEST_UNKNOWN"),
        (str(record(1).digest), "yesterday", ""),
        (str(record(1).digest), -1.0, ""),
        (str(record(1).digest), float("inf"), ""),
        (None, CHECKED, ""),
        (None, CHECKED, "NO_SUCH_CODE"),
        (None, CHECKED, b"MANIFEST_UNKNOWN"),
    ],
)
async def test_a_row_that_makes_no_sense_is_no_record(
    path: Path, digest: object, checked: object, refusal: object
) -> None:
    async with running(path) as ledger:
        ledger.note_tag(REPOSITORY, TAG, record(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tags SET digest = ?, checked = ?, refusal = ?", (digest, checked, refusal))
    async with running(path) as ledger:
        assert await ledger.tag(REPOSITORY, TAG) is None
        assert await ledger.settle()
    assert set_aside(path) == []


async def test_text_that_is_none_is_no_record(path: Path) -> None:
    async with running(path) as ledger:
        ledger.note_tag(REPOSITORY, TAG, record(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tags SET digest = CAST(x'fffe' AS TEXT)")
    async with running(path) as ledger:
        assert await ledger.tag(REPOSITORY, TAG) is None
    assert set_aside(path) == []


async def test_a_locked_file_is_read_and_written_once_it_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "BUSY_SECONDS", 0.02)
    async with running(path) as ledger:
        note(ledger, 1)
    async with running(path) as ledger:
        with closing(sqlite3.connect(path, isolation_level=None)) as other, capture_logs() as logs:
            other.execute("BEGIN IMMEDIATE")
            note(ledger, 2)
            assert not await ledger.settle()
            assert not await ledger.settle()
            assert await ask(ledger, 1) == record(1)
            assert await ask(ledger, 2) == record(2)
            other.execute("ROLLBACK")
            assert await ledger.settle()
        assert [line["event"] for line in logs] == ["ledger.not_kept", "ledger.kept"]
        assert logs[0]["reason"] == "database is locked"
    assert len(rows(path)) == 2


async def test_without_a_folder_it_works_from_memory_and_keeps_all_once_there_is_one(tmp_path: Path) -> None:
    obstacle = tmp_path / "mirror"
    obstacle.touch()
    path = obstacle / "ledger.sqlite"
    with capture_logs() as logs:
        async with running(path) as ledger:
            note(ledger, 1)
            assert not await ledger.settle()
            assert await ask(ledger, 1) == record(1)
            assert await ask(ledger, 2) is None
            obstacle.unlink()
            assert await ledger.settle()
    assert [line["event"] for line in logs] == ["ledger.not_kept", "ledger.kept"]
    assert len(rows(path)) == 1


async def test_a_file_that_could_not_be_used_is_tried_again_without_being_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.ledger.sqlite.WRITE_SECONDS", 0.0)
    monkeypatch.setattr("mirror.ledger.sqlite.RETRY_SECONDS", 0.0)
    good, path = tmp_path / "good.sqlite", tmp_path / "ledger.sqlite"
    async with running(good) as ledger:
        note(ledger, 1)
    path.mkdir()
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        assert await ask(ledger, 1) is None
        path.rmdir()
        good.rename(path)
        async with asyncio.timeout(30):
            await spy.written.wait()
        assert await ask(ledger, 1) == record(1)


async def test_a_file_that_was_deleted_while_in_use_is_begun_anew(path: Path) -> None:
    async with running(path) as ledger:
        note(ledger, 1)
        await ledger.settle()
        replace(path, None)
        note(ledger, 2)
        assert await ledger.settle()
        assert len(rows(path)) == 1
    assert len(rows(path)) == 1
    assert set_aside(path) == []


async def test_a_file_that_another_process_uses_is_not_set_aside_under_it(path: Path) -> None:
    async with running(path) as ledger:
        note(ledger, 1)
        await ledger.settle()
        _version(path)
        other = LedgerFile(path)
        with pytest.raises(NotKept, match="another process uses the ledger"):
            other.open()
        assert set_aside(path) == []
        note(ledger, 2)
        assert await ledger.settle()
    assert len(rows(path)) == 2
    other.open()
    other.close()
    assert len(set_aside(path)) == 1


async def test_there_is_room_for_a_bounded_number_of_rows_and_refusals_go_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "ROWS_LIMIT", 100)
    monkeypatch.setattr(schema, "ROWS_KEPT", 80)
    monkeypatch.setattr(file_module, "ROWS_BETWEEN", 10)
    async with running(path) as ledger:
        for number in range(60):
            ledger.note_tag(REPOSITORY, Tag(str(number)), record(number, CHECKED - number))
        for number in range(40):
            ledger.note_tag(Repository("no/such"), Tag(str(number)), REFUSED)
        await ledger.settle()
        assert len(rows(path)) == 100
        for number in range(40, 70):
            ledger.note_tag(Repository("no/such"), Tag(str(number)), REFUSED)
        await ledger.settle()
        assert len(rows(path, "SELECT * FROM tags WHERE digest IS NOT NULL")) == 60
        assert len(rows(path)) == 80
        for number in range(60, 110):
            ledger.note_tag(REPOSITORY, Tag(str(number)), record(number, CHECKED - number))
        await ledger.settle()
    kept = rows(path, "SELECT tag FROM tags WHERE digest IS NOT NULL ORDER BY CAST(tag AS INTEGER)")
    assert kept == [(str(number),) for number in range(80)]
