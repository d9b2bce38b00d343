"""What stands in the ledger's file: its one table, and what makes a row a record.

A row that makes no sense is no record. What would not be read is not written: one row that SQLite refuses
would keep out all the others.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from mirror.ledger.records import TagRecord
from mirror.oci.digest import Digest, DigestError
from mirror.oci.errors import ErrorCode

SCHEMA = 1  # user_version of what `_CREATE` makes; 0 is that of an empty file
JOURNAL_LIMIT = 4 << 20  # bytes; 1000 pages, at which SQLite empties its journal
# About 50 MB. Anybody may ask for tags that do not exist, and each refusal is a row.
ROWS_LIMIT = 200_000
ROWS_KEPT = 180_000  # what is left of more than that

_CREATE = """CREATE TABLE tags (
    repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT, checked REAL NOT NULL, refusal TEXT NOT NULL,
    PRIMARY KEY (repository, tag)
) WITHOUT ROWID"""
_LOOK = "SELECT digest, checked, refusal FROM tags WHERE repository = ? AND tag = ?"
_PUT = "INSERT OR REPLACE INTO tags (repository, tag, digest, checked, refusal) VALUES (?, ?, ?, ?, ?)"
_DROP = "DELETE FROM tags WHERE repository = ? AND tag = ?"
# Refusals first, so that nobody can push out what is of use by asking for what does not exist.
_PRUNE = """DELETE FROM tags WHERE (repository, tag) IN (
    SELECT repository, tag FROM tags ORDER BY digest IS NOT NULL, checked LIMIT ?
)"""

Key = tuple[str, str]  # repository, tag


class UnusableError(Exception):
    """This is no ledger of this version."""


def prepare(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.Error; UnusableError for what is no ledger of this version."""
    connection.text_factory = _text
    if _is_empty(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        with _transaction(connection):
            if _is_empty(connection):  # still: another process may have been faster
                connection.execute(_CREATE)
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
    version = _number(connection, "PRAGMA user_version")
    if version != SCHEMA:
        raise UnusableError(f"its version is {version}, not {SCHEMA}")
    try:
        connection.execute(_LOOK, ("", ""))
    except sqlite3.OperationalError as error:
        if code_of(error) != sqlite3.SQLITE_ERROR:  # "no such table", "no such column"
            raise
        raise UnusableError(str(error)) from error
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")


def read(connection: sqlite3.Connection, key: Key) -> TagRecord | None:
    """What is written about a tag."""
    row = connection.execute(_LOOK, key).fetchone()
    return _record(row) if row is not None else None


def write(connection: sqlite3.Connection, changes: Mapping[Key, TagRecord | None]) -> None:
    """All of these changes, or none; None deletes."""
    rows = [(key, _row(record)) for key, record in changes.items() if record is not None]
    gone = [key for key, record in changes.items() if record is None]
    with _transaction(connection):
        connection.executemany(_PUT, [(*key, *row) for key, row in rows if _record(row) is not None])
        connection.executemany(_DROP, gone)


def prune(connection: sqlite3.Connection) -> None:
    """Keep the table bounded: when there are too many rows, the refusals and then the oldest go."""
    count = _number(connection, "SELECT count(*) FROM tags")
    if count > ROWS_LIMIT:
        with _transaction(connection):
            connection.execute(_PRUNE, (count - ROWS_KEPT,))


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of the module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_empty(connection: sqlite3.Connection) -> bool:
    things = _number(connection, "SELECT count(*) FROM sqlite_master")
    return things == 0 == _number(connection, "PRAGMA user_version")


def _number(connection: sqlite3.Connection, query: str) -> int:
    number: int = connection.execute(query).fetchone()[0]
    return number


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have done so itself
            connection.execute("ROLLBACK")
        raise


def _row(record: TagRecord) -> tuple[Any, ...]:
    return (record.digest and str(record.digest), float(record.checked), record.refusal)


def _record(row: tuple[Any, ...]) -> TagRecord | None:
    """The inverse of `_row`; None for what makes no sense."""
    digest, checked, refusal = row
    if not isinstance(checked, float) or not math.isfinite(checked) or checked < 0:
        return None
    if digest is None:
        return TagRecord(None, checked, refusal) if refusal in ErrorCode.__members__ else None
    if not isinstance(digest, str) or refusal != "":
        return None
    try:
        return TagRecord(Digest.parse(digest), checked)
    except DigestError:
        return None


def _text(value: bytes) -> str:
    """Text that is no UTF-8 makes a bad row, not an error."""
    return value.decode("utf-8", "replace")
