"""How a database of ours is begun, told from others, and written: the same for every file of the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

JOURNAL_LIMIT = 4 << 20  # bytes; 1000 pages, at which SQLite empties its journal


class UnusableError(Exception):
    """This is no database of this version."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What one kind of file holds.

    `version` is its user_version; 0 is that of an empty file. `create` makes all of it; `looks` are questions
    that only a file with these tables and columns answers.
    """

    version: int
    create: tuple[str, ...]
    looks: tuple[str, ...]
    cache: int = 2000  # KiB of pages in memory
    checkpoint: int = 1000  # pages in the journal at which a commit empties it


def prepare(connection: sqlite3.Connection, tables: Tables) -> None:
    """Raises sqlite3.Error; UnusableError for what holds anything else."""
    connection.text_factory = _text
    if _is_empty(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        with transaction(connection):
            if _is_empty(connection):  # still: another process may have been faster
                for statement in tables.create:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {tables.version}")
    version = number(connection, "PRAGMA user_version")
    if version != tables.version:
        raise UnusableError(f"its version is {version}, not {tables.version}")
    try:
        for look in tables.looks:
            connection.execute(look).fetchone()
    except sqlite3.OperationalError as error:
        if code_of(error) != sqlite3.SQLITE_ERROR:  # "no such table", "no such column"
            raise
        raise UnusableError(str(error)) from error
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{tables.cache}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {tables.checkpoint}")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written meanwhile, or none of it. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have done so itself
            connection.execute("ROLLBACK")
        raise


def number(connection: sqlite3.Connection, query: str) -> int:
    """The one number that a query gives."""
    found: int = connection.execute(query).fetchone()[0]
    return found


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of the module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_empty(connection: sqlite3.Connection) -> bool:
    things = number(connection, "SELECT count(*) FROM sqlite_master")
    return things == 0 == number(connection, "PRAGMA user_version")


def _text(value: bytes) -> str:
    """Text that is no UTF-8 makes a bad row, not an error."""
    return value.decode("utf-8", "replace")
