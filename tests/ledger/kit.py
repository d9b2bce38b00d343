"""What the tests of the ledger share."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from mirror.ledger.file import LedgerFile
from mirror.ledger.records import TagRecord
from mirror.ledger.schema import Key
from mirror.ledger.sqlite import Ledger
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag

REPOSITORY = Repository("quay.io/org/app")
TAG = Tag("1")
CHECKED = 1_700_000_000.25  # seconds since the epoch


def record(number: int, checked: float = CHECKED) -> TagRecord:
    """One of many."""
    return TagRecord(Digest.of(b"%d" % number), checked)


REFUSED = TagRecord(None, CHECKED, "MANIFEST_UNKNOWN")


@asynccontextmanager
async def running(path: Path | None) -> AsyncGenerator[Ledger, None]:
    """A ledger, open."""
    ledger = Ledger(path)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


async def ask(ledger: Ledger, number: int) -> TagRecord | None:
    """What the ledger has of the tag of this number."""
    return await ledger.tag(REPOSITORY, Tag(str(number)))


def note(ledger: Ledger, number: int) -> None:
    """Note `record(number)` of the tag of this number."""
    ledger.note_tag(REPOSITORY, Tag(str(number)), record(number))


def rows(path: Path, query: str = "SELECT * FROM tags") -> list[tuple[Any, ...]]:
    """What stands in the file, as another process sees it."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def set_aside(path: Path) -> list[Path]:
    """The databases that were set aside, the oldest first."""
    return sorted(path.parent.glob(f"{path.name}.broken-*Z"))


class Spy:
    """The file's reads and writes: noted, and held while `gate` is closed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reads: list[Key] = []
        self.writes: list[dict[Key, TagRecord | None]] = []
        self.order: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.came = asyncio.Event()  # a read or write has begun
        self.written = asyncio.Event()  # a write has succeeded
        self._loop = asyncio.get_running_loop()
        read, write = LedgerFile.read, LedgerFile.write

        def spy_read(file: LedgerFile, key: Key) -> TagRecord | None:
            self.reads.append(key)
            self._wait("read")
            return read(file, key)

        def spy_write(file: LedgerFile, changes: dict[Key, TagRecord | None]) -> None:
            self.writes.append(dict(changes))
            self._wait("write")
            write(file, changes)
            self._loop.call_soon_threadsafe(self.written.set)

        patch.setattr(LedgerFile, "read", spy_read)
        patch.setattr(LedgerFile, "write", spy_write)

    def _wait(self, what: str) -> None:
        self.order.append(what)
        self._loop.call_soon_threadsafe(self.came.set)
        assert self.gate.wait(30)
