"""What the ledger remembers, when it writes, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.ledger import sqlite as module
from mirror.ledger.file import LedgerFile
from mirror.ledger.records import TagRecord
from mirror.ledger.sqlite import MEMORY_LIMIT, WAITING_LIMIT, Ledger
from mirror.oci.names import Repository, Tag
from tests.ledger.kit import REFUSED, REPOSITORY, TAG, Spy, ask, note, record, rows, running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror" / "ledger.sqlite"


@pytest.mark.parametrize("kept", [True, False])
async def test_what_was_noted_is_known_at_once_and_the_newest_counts(path: Path, kept: bool) -> None:
    async with running(path if kept else None) as ledger:
        assert await ledger.tag(REPOSITORY, TAG) is None
        ledger.note_tag(REPOSITORY, TAG, record(1))
        assert await ledger.tag(REPOSITORY, TAG) == record(1)
        ledger.note_tag(REPOSITORY, TAG, REFUSED)
        assert await ledger.tag(REPOSITORY, TAG) == REFUSED
        assert await ledger.tag(REPOSITORY, Tag("2")) is None
        assert await ledger.tag(Repository("quay.io/org"), TAG) is None
        ledger.forget(REPOSITORY, TAG)
        assert await ledger.tag(REPOSITORY, TAG) is None


async def test_a_restart_keeps_it(path: Path) -> None:
    async with running(path) as ledger:
        note(ledger, 1)
        note(ledger, 2)
        ledger.note_tag(REPOSITORY, Tag("2"), REFUSED)
        note(ledger, 3)
        ledger.forget(REPOSITORY, Tag("3"))
        note(ledger, 4)
        await ledger.settle()
        ledger.forget(REPOSITORY, Tag("4"))
    async with running(path) as ledger:
        assert [await ask(ledger, number) for number in (1, 2, 3, 4)] == [record(1), REFUSED, None, None]
    assert len(rows(path)) == 2


async def test_a_ledger_that_is_not_open_works_from_memory(path: Path) -> None:
    ledger = Ledger(path)
    note(ledger, 1)
    assert await ask(ledger, 1) == record(1)
    assert await ask(ledger, 2) is None
    assert not await ledger.settle()
    await ledger.close()


async def test_changes_are_written_behind_in_one_batch_of_the_newest(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.02)
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        for number in range(1000):
            note(ledger, number % 10)
        ledger.note_tag(REPOSITORY, Tag("0"), REFUSED)
        assert spy.writes == []
        await spy.came.wait()
        key = (REPOSITORY.name, "0")
        assert [len(changes) for changes in spy.writes] == [10]
        assert spy.writes[0][key] == REFUSED
    assert len(spy.writes) == 1
    assert len(rows(path)) == 10


async def test_many_changes_are_written_in_parts_between_which_the_file_can_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        for number in range(25):
            note(ledger, number)
        spy.gate.clear()
        settling = asyncio.create_task(ledger.settle())
        await spy.came.wait()
        asking = asyncio.create_task(ask(ledger, 99))
        for _ in range(20):  # turns of the loop: now it waits behind the first part
            await asyncio.sleep(0)
        spy.gate.set()
        assert await asking is None
        assert await settling
        assert [len(changes) for changes in spy.writes] == [10, 10, 5]
        assert spy.order == ["write", "read", "write", "write"]
    assert len(rows(path)) == 25


async def test_looks_at_the_file_are_shared_and_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(path) as ledger:
        note(ledger, 1)
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        for number, found in ((1, record(1)), (2, None)):
            answers = await asyncio.gather(*(ask(ledger, number) for _ in range(100)))
            assert set(answers) == {found}
            assert await ask(ledger, number) == found
    assert [tag for _repository, tag in spy.reads] == ["1", "2"]


async def test_what_is_noted_while_the_file_is_read_is_newer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(path) as ledger:
        ledger.note_tag(REPOSITORY, TAG, record(1))
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        spy.gate.clear()
        asking = asyncio.create_task(ledger.tag(REPOSITORY, TAG))
        await spy.came.wait()
        ledger.note_tag(REPOSITORY, TAG, record(2))
        spy.gate.set()
        assert await asking == record(2)
        assert await ledger.tag(REPOSITORY, TAG) == record(2)


async def test_what_is_noted_while_older_changes_are_written_is_written_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        note(ledger, 1)
        spy.gate.clear()
        settling = asyncio.create_task(ledger.settle())
        await spy.came.wait()
        ledger.note_tag(REPOSITORY, Tag("1"), REFUSED)
        spy.gate.set()
        assert await settling
        assert await ask(ledger, 1) == REFUSED
    async with running(path) as ledger:
        assert await ask(ledger, 1) == REFUSED


async def test_a_settling_that_is_cancelled_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        spy.gate.clear()
        looking = asyncio.create_task(ask(ledger, 5))  # so that the writing waits for its turn
        await spy.came.wait()
        note(ledger, 1)
        note(ledger, 2)
        settling = asyncio.create_task(ledger.settle())
        await asyncio.sleep(0)  # it takes them
        assert ledger._waiting == {}
        ledger.note_tag(REPOSITORY, Tag("2"), REFUSED)
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
        spy.gate.set()
        await looking
    async with running(path) as ledger:
        assert [await ask(ledger, 1), await ask(ledger, 2)] == [record(1), REFUSED]


async def test_a_file_that_does_not_answer_holds_one_question_up_for_a_moment_and_the_next_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(path) as ledger:
        for number in range(3):
            note(ledger, number)
    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        spy.gate.clear()
        assert await ask(ledger, 0) is None
        assert [await ask(ledger, number) for number in range(1, 3)] == [None, None]
        assert len(spy.reads) == 1
        note(ledger, 3)
        assert await ask(ledger, 3) == record(3)
        spy.gate.set()
        (read,) = ledger._reads.values()
        await read
        assert [await ask(ledger, number) for number in range(3)] == [record(number) for number in range(3)]


async def test_questions_that_wait_for_the_file_are_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READS_LIMIT", 5)
    monkeypatch.setattr(module, "READ_SECONDS", 30.0)
    spy = Spy(monkeypatch)
    async with running(path) as ledger:
        spy.gate.clear()
        asking = [asyncio.create_task(ask(ledger, number)) for number in range(5)]
        await spy.came.wait()
        assert await ask(ledger, 6) is None
        assert len(ledger._reads) == 5
        spy.gate.set()
        await asyncio.gather(*asking)
        assert ledger._reads == {}


async def test_a_disk_that_hangs_holds_the_start_and_the_stop_up_for_a_bounded_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    spy = Spy(monkeypatch)
    monkeypatch.setattr(LedgerFile, "open", lambda _file: spy.gate.wait(30) and None)
    spy.gate.clear()
    with capture_logs() as logs:
        ledger = Ledger(path)
        await ledger.open()
        note(ledger, 1)
        assert await ask(ledger, 1) == record(1)
        assert await ask(ledger, 2) is None
        await ledger.close()
    spy.gate.set()
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("ledger.not_kept", "its disk does not answer")
    ]


async def test_100_000_notes_take_a_bounded_memory_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sizes = []
    async with running(tmp_path / "file" / "ledger.sqlite") as ledger:
        tracemalloc.start()
        try:
            for number in range(100_000):
                note(ledger, number)
                if number % 10_000 == 9_999:
                    sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert MEMORY_LIMIT == WAITING_LIMIT == 10_000
        assert sizes[-1] < 1.5 * sizes[0]
        assert sizes[-1] < 20 << 20
        assert await ask(ledger, 99_999) == record(99_999)
        assert await ask(ledger, 90_000) == record(90_000)
        assert await ask(ledger, 89_999) is None
        (tmp_path / "file").unlink()
        with capture_logs() as logs:
            assert await ledger.settle()
        assert [(line["event"], line["lost"]) for line in logs] == [("ledger.kept", 90_000)]
    assert len(rows(tmp_path / "file" / "ledger.sqlite")) == WAITING_LIMIT


async def test_what_has_left_memory_is_found_in_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_LIMIT", 3)
    async with running(path) as ledger:
        for number in range(10):
            note(ledger, number)
        assert await ask(ledger, 0) == record(0)  # it waits
        await ledger.settle()
        assert [await ask(ledger, number) for number in range(10)] == [record(number) for number in range(10)]


async def test_a_record_that_cannot_be_read_again_is_not_written_and_keeps_no_other_out(path: Path) -> None:
    async with running(path) as ledger:
        ledger.note_tag(REPOSITORY, TAG, TagRecord(None, float("nan"), "MANIFEST_UNKNOWN"))
        ledger.note_tag(REPOSITORY, Tag("2"), TagRecord(None, 5, "MANIFEST_UNKNOWN"))
        assert await ledger.settle()
    assert rows(path) == [(REPOSITORY.name, "2", None, 5.0, "MANIFEST_UNKNOWN")]
