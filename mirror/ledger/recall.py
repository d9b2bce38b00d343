"""A database's rows in memory, for as long as its file cannot be written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

from mirror.ledger.file import DatabaseFile, NotKept
from mirror.ledger.tables import Tables, UnusableError, prepare

log = structlog.get_logger()


def recall(path: Path | None, file: DatabaseFile | None, tables: Tables) -> sqlite3.Connection:
    """What is in the file, as far as it can be read, or nothing, in memory."""
    if path is not None and file is not None:
        for read in (_read_open, _read_alone):
            memory = _memory()
            try:
                read(path, file, memory)
                prepare(memory, tables)
            except (OSError, sqlite3.Error, UnusableError, NotKept) as error:
                log.info("inventory.not_read", file=str(path), reason=str(error))
                memory.close()
            else:
                return memory
    memory = _memory()
    prepare(memory, tables)
    return memory


def copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """All of it or nothing. Raises sqlite3.Error."""

    def look(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # it would try again for ever
            raise sqlite3.OperationalError("another process writes")

    source.backup(target, progress=look)


def size(connection: sqlite3.Connection) -> int:
    """Bytes that a copy takes."""
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    page: int = connection.execute("PRAGMA page_size").fetchone()[0]
    return pages * page


def _memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def _read_open(_path: Path, file: DatabaseFile, memory: sqlite3.Connection) -> None:
    """As always, with what is in the journal."""
    file.run(lambda connection: copy(connection, memory))


def _read_alone(path: Path, _file: DatabaseFile, memory: sqlite3.Connection) -> None:
    """Without making a journal: on a full disk there is no other way to open what was closed well.

    NB: what stands in a journal is not seen so, and without it there may be half of something in the file.
    """
    journal = path.with_name(path.name + "-wal")
    if journal.exists() and journal.stat().st_size > 0:
        raise OSError("its journal cannot be read")
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        copy(connection, memory)
