"""A survey of the tree as the inventory takes it: what was seen is added, what was not seen is removed.

The marks of what was seen are in memory, so that a survey that finds nothing new writes nothing. What was
noted while it went on is newer than what it reads, and is marked too.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from mirror.ledger.facts import SeenBlob, SeenLink, SeenParts, SeenTag, Surveyed
from mirror.ledger.marks import Marks
from mirror.ledger.rows import Rows

ORIGIN = "tree"  # who says where a tag points that nobody noted
SWEPT_AT_ONCE = 4000  # rows looked at, 10 ms
REMOVED_AT_ONCE = 200  # of them, each an image of ten parts: 20 ms
HISTORY_ROWS = 200_000  # moves of all tags, some 30 MB; of more than that the oldest go

_TABLES = ("tag", "layer", "image", "blob")  # in the order in which they are swept: names first
_SWEEP = {
    "tag": "SELECT id, blob, NULL, NULL FROM tag",
    "layer": "SELECT id, blob, NULL, NULL FROM layer",
    "image": "SELECT id, blob, repository, used FROM image",
    "blob": "SELECT id, id, size, used FROM blob",
}
_REMOVE = {"tag": "DELETE FROM tag WHERE id = ?", "layer": "DELETE FROM layer WHERE id = ?"}

_Row = tuple[int, int, int | None, float | None]


def begin(connection: sqlite3.Connection, now: float) -> Marks:
    """The marks of a survey that begins now."""
    tops = dict.fromkeys(_TABLES, 0)
    tops.update(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    return Marks(now, {table: tops[table] for table in _TABLES})


def see_blobs(rows: Rows, marks: Marks, facts: Sequence[SeenBlob]) -> None:
    """Their data is there. What is new was used when it was written."""
    for fact in facts:
        digest = str(fact.digest)
        key = ("blob", digest)
        row = rows.connection.execute("SELECT id, size FROM blob WHERE digest = ?", (digest,)).fetchone()
        if marks.is_gone(key):
            continue
        if row is None or row[1] != fact.size:
            rows.keep_blob(digest, fact.size, max(0.0, min(fact.modified, marks.began)), 0.0)
        else:
            marks.add(key, row[0])


def see_layers(rows: Rows, marks: Marks, facts: Sequence[SeenLink]) -> None:
    """They are linked."""
    for fact in facts:
        if not marks.is_gone(("layer", fact.repository.name, str(fact.digest))):
            rows.keep_layer(fact.repository.name, str(fact.digest))


def see_images(rows: Rows, marks: Marks, facts: Sequence[SeenLink]) -> list[SeenLink]:
    """Their revision links are there. Returns those of which it is not known yet what they name."""
    unread = []
    for fact in facts:
        repository, digest = fact.repository.name, str(fact.digest)
        place, blob = rows.find_repository(repository), rows.find_blob(digest)
        image = None if place is None or blob is None else rows.find_image(place, blob)
        key = ("image", repository, digest)
        if image is not None:
            marks.add(key, image)
        elif not marks.is_gone(key):
            unread.append(fact)
    return unread


def see_parts(rows: Rows, marks: Marks, facts: Sequence[SeenParts]) -> None:
    """This is what they name. They were last used when their manifests were."""
    for fact in facts:
        repository, digest = fact.repository.name, str(fact.digest)
        if not marks.is_gone(("image", repository, digest)):
            rows.keep_image(repository, digest, map(str, fact.parts), None)


def see_tags(rows: Rows, marks: Marks, facts: Sequence[SeenTag]) -> None:
    """They point there, unless somebody has noted anything else since the survey began."""
    for fact in facts:
        repository, tag = fact.repository.name, fact.tag.name
        known = rows.find_tag(repository, tag)
        if marks.is_gone(("tag", repository, tag)) or (known is not None and marks.has("tag", known)):
            continue
        at = max(0.0, min(fact.modified, marks.began))
        rows.keep_tag(repository, tag, str(fact.digest), at, ORIGIN)


class Sweep:
    """Removes what the survey has not seen and nobody has used since it began, a step at a time."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._tables = list(_TABLES)
        self._after = 0  # the last id looked at, of the first table
        self._removed: Counter[str] = Counter()

    @property
    def result(self) -> Surveyed:
        """What was removed so far."""
        counted = self._removed
        return Surveyed(counted["blob"], counted["image"], counted["layer"], counted["tag"])

    def step(self, rows: Rows) -> bool:
        """Do a part, in a transaction; False when all is done. Raises sqlite3.Error."""
        if not self._tables:
            return _trim_history(rows.connection)
        table = self._tables[0]
        found: list[_Row] = rows.connection.execute(
            f"{_SWEEP[table]} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
            (self._after, self._marks.top(table), SWEPT_AT_ONCE),
        ).fetchall()
        removed = 0
        for row in found:
            self._after = row[0]
            if not self._marks.has(table, row[0]):
                removed += self._remove(rows, table, row)
            if removed >= REMOVED_AT_ONCE:
                return True
        if len(found) < SWEPT_AT_ONCE:
            self._tables.pop(0)
            self._after = 0
        return True

    def _remove(self, rows: Rows, table: str, row: _Row) -> bool:
        number, blob, other, used = row
        if used is not None and used >= self._marks.began and other is not None:
            return False
        execute = rows.connection.execute
        if table == "image":
            parts = execute(
                "SELECT blob FROM part WHERE repository = ? AND image = ?", (other, blob)
            ).fetchall()
            execute("DELETE FROM part WHERE repository = ? AND image = ?", (other, blob))
            execute("DELETE FROM image WHERE id = ?", (number,))
            for (part,) in parts:
                rows.forget(part)
        elif table == "blob":
            execute("UPDATE blob SET size = NULL WHERE id = ?", (number,))
        else:
            execute(_REMOVE[table], (number,))
        rows.forget(blob)
        counts = table != "blob" or other is not None  # a bare name was never kept
        self._removed[table] += counts
        return True


def _trim_history(connection: sqlite3.Connection) -> bool:
    """Forget some of the oldest moves; False when there are few enough."""
    return (
        connection.execute(
            "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id <="
            " (SELECT max(id) FROM history) - ? ORDER BY id LIMIT ?)",
            (HISTORY_ROWS, SWEPT_AT_ONCE),
        ).rowcount
        > 0
    )
