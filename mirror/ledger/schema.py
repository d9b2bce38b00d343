"""What stands in the ledger's file: its one table, and what makes a row a record.

A row that makes no sense is no record. What would not be read is not written: one row that SQLite refuses
would keep out all the others.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

from mirror.ledger.records import TagRecord
from mirror.ledger.tables import Tables, number, transaction
from mirror.oci.digest import Digest, DigestError
from mirror.oci.errors import ErrorCode

SCHEMA = 1  # user_version of what `_CREATE` makes
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

TAGS = Tables(
    SCHEMA, (_CREATE,), ("SELECT digest, checked, refusal FROM tags WHERE repository = '' AND tag = ''",)
)

Key = tuple[str, str]  # repository, tag


def read(connection: sqlite3.Connection, key: Key) -> TagRecord | None:
    """What is written about a tag."""
    row = connection.execute(_LOOK, key).fetchone()
    return _record(row) if row is not None else None


def write(connection: sqlite3.Connection, changes: Mapping[Key, TagRecord | None]) -> None:
    """All of these changes, or none; None deletes."""
    rows = [(key, _row(record)) for key, record in changes.items() if record is not None]
    gone = [key for key, record in changes.items() if record is None]
    with transaction(connection):
        connection.executemany(_PUT, [(*key, *row) for key, row in rows if _record(row) is not None])
        connection.executemany(_DROP, gone)


def prune(connection: sqlite3.Connection) -> None:
    """Keep the table bounded: when there are too many rows, the refusals and then the oldest go."""
    count = number(connection, "SELECT count(*) FROM tags")
    if count > ROWS_LIMIT:
        with transaction(connection):
            connection.execute(_PRUNE, (count - ROWS_KEPT,))


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
