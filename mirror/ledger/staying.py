"""How much cannot go: of what was used lately, and of what is pinned. Each is asked in one step of SQLite.

NB: every row that is fetched has to wait for the interpreter, while that is busy with answers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

NAMES_AT_ONCE = 1000  # tags that are told in one answer, some 50 KB

_TAGS = """SELECT max(id), group_concat(line, char(10)) FROM (
    SELECT tag.id AS id, tag.repository || ' ' || tag.blob || ' ' || repository.name || ' ' || tag.tag AS line
    FROM tag CROSS JOIN repository ON repository.id = tag.repository
    WHERE tag.id > ? ORDER BY tag.id LIMIT ?)"""
# Images that stay, what they name, and what those name that an index names; and blobs that nothing names.
_STAYING = """WITH
    top (repository, blob) AS (VALUES {} UNION SELECT repository, blob FROM image WHERE used >= ?1),
    below (repository, blob) AS (SELECT part.repository, part.blob FROM top CROSS JOIN part
        ON part.repository = top.repository AND part.image = top.blob),
    under (blob) AS (SELECT part.blob FROM below CROSS JOIN part
        ON part.repository = below.repository AND part.image = below.blob),
    staying (blob) AS (SELECT blob FROM top UNION SELECT blob FROM below UNION SELECT blob FROM under
        UNION SELECT id FROM blob WHERE loose = 1 AND size IS NOT NULL AND used >= ?1)
    SELECT ifnull(sum(size), 0) FROM staying CROSS JOIN blob ON blob.id = staying.blob"""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tag, and the rows that it is of: those of its repository and of what it points to."""

    repository: int
    blob: int
    repository_name: str
    tag: str


def tagged(connection: sqlite3.Connection, after: int) -> tuple[list[Tagged], int]:
    """At most NAMES_AT_ONCE tags behind this one (0: the first), and the last; it is the same: no more."""
    last, text = connection.execute(_TAGS, (after, NAMES_AT_ONCE)).fetchone()
    rows = [line.split(" ") for line in text.split("\n")] if text else []
    # A name that has a space in it makes no sense, and is passed over.
    found = [Tagged(int(row[0]), int(row[1]), row[2], row[3]) for row in rows if len(row) == len("rbnt")]
    return found, last or after


def staying(connection: sqlite3.Connection, since: float, pinned: Sequence[tuple[int, int]]) -> int:
    """Bytes of what was used `since`, or belongs to one of these images (rows of repository and blob)."""
    rows = ",".join(f"({int(repository)},{int(blob)})" for repository, blob in pinned)
    found: int = connection.execute(_STAYING.format(rows or "(0,0)"), (since,)).fetchone()[0]
    return found
