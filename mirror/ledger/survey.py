"""A survey of the tree as the inventory takes it: what was seen is added, what was not seen is removed.

The marks of what was seen are in memory, so that a survey that finds nothing new writes nothing. What was
noted while it went on is newer than what it reads, and is marked too.

A blob that a survey finds counts as named until it ends: an image that was not read yet may name it, and
evictions go on beside a survey that is not the first.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from mirror.ledger.facts import SeenBlob, SeenLink, SeenParts, SeenTag, Surveyed
from mirror.ledger.inventoryschema import raw
from mirror.ledger.marks import Key, Marks
from mirror.ledger.notes import TREE
from mirror.ledger.rows import Rows

SWEPT_AT_ONCE = 4000  # rows looked at, 10 ms
CHANGED_AT_ONCE = 200  # of them, each an image of ten parts: 20 ms
HISTORY_ROWS = 200_000  # moves of all tags, some 30 MB; of more than that the oldest go

_TABLES = ("tag", "layer", "image", "blob")  # in the order in which they are swept: names first
_SWEEP = {
    "tag": "SELECT id, blob, NULL, NULL FROM tag",
    "layer": "SELECT id, blob, NULL, NULL FROM layer",
    "image": "SELECT id, blob, repository, used FROM image",
    "blob": "SELECT id, id, size, used FROM blob",
}
# All images are known now. Looks also at what a survey that did not end has left.
_LOOSEN = """UPDATE blob SET loose = 1 WHERE id > ? AND id <= ? AND loose = 0
    AND NOT EXISTS (SELECT 1 FROM part WHERE part.blob = blob.id)
    AND NOT EXISTS (SELECT 1 FROM image WHERE image.blob = blob.id)"""
_LATEST = "SELECT max(ifnull((SELECT max(used) FROM image), 0), ifnull((SELECT max(used) FROM blob), 0))"
_REMOVE = {"tag": "DELETE FROM tag WHERE id = ?", "layer": "DELETE FROM layer WHERE id = ?"}

_Row = tuple[int, int, int | None, float | None]


def begin(connection: sqlite3.Connection, now: float) -> Marks:
    """The marks of a survey that begins now."""
    connection.execute("UPDATE state SET born = ifnull(born, ?)", (now,))
    tops = dict.fromkeys(_TABLES, 0)
    tops.update(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    latest = connection.execute(_LATEST).fetchone()[0]
    return Marks(now, latest, {table: tops[table] for table in _TABLES})


def see_blobs(rows: Rows, marks: Marks, facts: Sequence[SeenBlob]) -> None:
    """Their data is there. What is new was used when it was written."""
    digests = [raw(fact.digest) for fact in facts]
    sizes = rows.learn(digests)
    new = []
    for fact, digest in zip(facts, digests, strict=True):
        key = ("blob", digest)
        if marks.is_gone(key):
            continue
        used = max(0.0, min(fact.modified, marks.began))
        if digest not in sizes:
            new.append((digest, fact.size, used, used))
        elif sizes[digest] != fact.size:
            blob = rows.keep_blob(digest, fact.size, used, 0.0)
            rows.connection.execute("UPDATE blob SET loose = 0 WHERE id = ?", (blob,))
        else:
            marks.add(key, rows.name(digest))
    rows.connection.executemany(
        "INSERT OR IGNORE INTO blob (digest, size, seen, used, hits, scrubbed, loose)"
        " VALUES (?, ?, ?, ?, 0, 0, 0)",
        new,
    )


def see_layers(rows: Rows, marks: Marks, facts: Sequence[SeenLink]) -> None:
    """They are linked."""
    pairs = _pairs(rows, marks, "layer", facts)
    known = rows.find_pairs("layer", list(pairs))
    for pair, number in known.items():
        marks.add(pairs[pair], number)
    rows.connection.executemany(
        "INSERT OR IGNORE INTO layer (blob, repository) VALUES (?, ?)",
        [pair for pair in pairs if pair not in known],
    )


def see_images(rows: Rows, marks: Marks, facts: Sequence[SeenLink]) -> list[SeenLink]:
    """Their revision links are there. Returns those of which it is not known yet what they name."""
    pairs = _pairs(rows, marks, "image", facts)
    known = rows.find_pairs("image", list(pairs))
    for pair, number in known.items():
        marks.add(pairs[pair], number)
    unread = {key for pair, key in pairs.items() if pair not in known}
    return [fact for fact in facts if _key("image", fact) in unread]


def see_parts(rows: Rows, marks: Marks, facts: Sequence[SeenParts]) -> None:
    """This is what they name. They were last used when their manifests were."""
    pairs = _pairs(rows, marks, "image", facts)
    known = rows.find_pairs("image", list(pairs))
    new = {pair: key for pair, key in pairs.items() if pair not in known}
    named: dict[Key, list[bytes]] = {
        _key("image", fact): [raw(part) for part in fact.parts] for fact in facts
    }
    blobs = rows.names([part for key in new.values() for part in named[key]])
    rows.connection.executemany(
        "INSERT OR IGNORE INTO image (blob, repository, seen, used, hits)"
        " SELECT id, ?2, seen, used, 0 FROM blob WHERE id = ?1",
        list(new),
    )
    rows.connection.executemany(
        "INSERT OR IGNORE INTO part (image, repository, blob) VALUES (?, ?, ?)",
        [(*pair, blobs[part]) for pair, key in new.items() for part in named[key]],
    )


def see_tags(rows: Rows, marks: Marks, facts: Sequence[SeenTag]) -> None:
    """They point there, unless somebody has noted anything else since the survey began."""
    rows.learn([raw(fact.digest) for fact in facts])
    for fact in facts:
        repository, tag, digest = fact.repository.name, fact.tag.name, raw(fact.digest)
        key = ("tag", repository, tag)
        known = rows.find_tag(repository, tag)
        if marks.is_gone(key) or (known is not None and marks.has("tag", known[0])):
            continue
        if known is not None and known[1] == rows.find_blob(digest):
            marks.add(key, known[0])
            continue
        rows.keep_tag(repository, tag, digest, max(0.0, min(fact.modified, marks.began)), TREE)


def _pairs(
    rows: Rows, marks: Marks, table: str, facts: Sequence[SeenLink | SeenParts]
) -> dict[tuple[int, int], Key]:
    """What was not deleted meanwhile, by the ids of blob and repository."""
    keys = [key for fact in facts if not marks.is_gone(key := _key(table, fact))]
    blobs = rows.names([digest for _, _, digest in keys])
    places = {repository: rows.repository(repository) for repository in {key[1] for key in keys}}
    return {(blobs[key[2]], places[key[1]]): key for key in keys}


def _key(table: str, fact: SeenLink | SeenParts) -> tuple[str, str, bytes]:
    return table, fact.repository.name, raw(fact.digest)


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
            return trim_history(rows.connection)
        table = self._tables[0]
        found: list[_Row] = rows.connection.execute(
            f"{_SWEEP[table]} WHERE id > ? ORDER BY id LIMIT ?", (self._after, SWEPT_AT_ONCE)
        ).fetchall()
        if table == "blob" and found:
            rows.connection.execute(_LOOSEN, (self._after, found[-1][0]))
        changed = 0
        for row in found:
            self._after = row[0]
            if table == "blob" and row[2] is None:  # a name; it has been of use, or may be still
                rows.forget(row[0])
                changed += 1
            elif not self._marks.has(table, row[0]):
                changed += self._remove(rows, table, row)
            if changed >= CHANGED_AT_ONCE:
                return True
        if len(found) < SWEPT_AT_ONCE:
            self._tables.pop(0)
            self._after = 0
        return True

    def _remove(self, rows: Rows, table: str, row: _Row) -> bool:
        number, blob, other, used = row
        # Used by this process, or by another one, whose uses are known by their times only.
        is_used = self._marks.is_used(blob) or (used is not None and used > self._marks.latest)
        if table in ("image", "blob") and other is not None and is_used:
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
        self._removed[table] += 1
        return True


def trim_history(connection: sqlite3.Connection) -> bool:
    """Forget some of the oldest moves; False when there are few enough."""
    return (
        connection.execute(
            "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id <="
            " (SELECT max(id) FROM history) - ? ORDER BY id LIMIT ?)",
            (HISTORY_ROWS, SWEPT_AT_ONCE),
        ).rowcount
        > 0
    )
