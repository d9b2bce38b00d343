"""The inventory's rows, one at a time: how each comes, and how it goes.

All of it belongs into a transaction. What comes or goes while a survey is under way is told to its marks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain

from mirror.ledger.marks import Key, Marks

LEARNED_AT_ONCE = 500  # SQLite's least limit of parameters is 999
PAIRS_AT_ONCE = 250
HISTORY_LIMIT = 100  # moves of one tag

_PAIRS = """WITH seen (blob, repository) AS (VALUES {}) SELECT seen.blob, seen.repository, found.id
    FROM seen CROSS JOIN {} AS found ON found.blob = seen.blob AND found.repository = seen.repository"""
_TRIM = """DELETE FROM history WHERE id IN (
    SELECT id FROM history WHERE repository = ? AND tag = ? ORDER BY id DESC LIMIT -1 OFFSET ?
)"""
# A name that nothing mentions any more.
_FORGET = """DELETE FROM blob WHERE id = ? AND size IS NULL AND loose = 1
    AND NOT EXISTS (SELECT 1 FROM layer WHERE layer.blob = blob.id)
    AND NOT EXISTS (SELECT 1 FROM tag WHERE tag.blob = blob.id)"""


class Rows:
    """See the module's text. Digests are bytes and names are text here."""

    def __init__(self, connection: sqlite3.Connection, marks: Marks | None) -> None:
        self.connection = connection
        self.marks = marks
        self._repositories: dict[str, int] = {}  # ids; no row of theirs is ever deleted
        self._blobs: dict[bytes, int] = {}  # ids, as long as none is deleted

    def learn(self, digests: Sequence[bytes]) -> dict[bytes, int | None]:
        """Look for all of these at once, because they will be needed; the sizes of those that are known."""
        sizes: dict[bytes, int | None] = {}
        digests = list(dict.fromkeys(digests))
        for at in range(0, len(digests), LEARNED_AT_ONCE):
            some = digests[at : at + LEARNED_AT_ONCE]
            holders = ",".join("?" * len(some))
            query = f"SELECT digest, id, size FROM blob WHERE digest IN ({holders})"  # noqa: S608 - only holders
            for digest, blob, size in self.connection.execute(query, some).fetchall():
                self._blobs[digest] = blob
                sizes[digest] = size
        return sizes

    def find_repository(self, name: str) -> int | None:
        """Its id."""
        found = self._repositories.get(name) or self._one("SELECT id FROM repository WHERE name = ?", name)
        if found is not None:
            self._repositories[name] = found
        return found

    def find_blob(self, digest: bytes) -> int | None:
        """The id of what is kept or named."""
        return self._blobs.get(digest) or self._one("SELECT id FROM blob WHERE digest = ?", digest)

    def find_image(self, repository: int, blob: int) -> int | None:
        """Its id."""
        return self._one("SELECT id FROM image WHERE blob = ? AND repository = ?", blob, repository)

    def names(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """The ids of all of these, also of what is only named."""
        known = self._blobs
        self.learn([digest for digest in digests if digest not in known])
        return {digest: known.get(digest) or self.name(digest) for digest in digests}

    def find_pairs(self, table: str, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """The ids of rows of `image` or `layer`, by the ids of blob and repository."""
        found: dict[tuple[int, int], int] = {}
        for at in range(0, len(pairs), PAIRS_AT_ONCE):
            some = pairs[at : at + PAIRS_AT_ONCE]
            holders = ",".join(["(?,?)"] * len(some))
            rows = self.connection.execute(_PAIRS.format(holders, table), list(chain.from_iterable(some)))
            found.update(((blob, place), number) for blob, place, number in rows.fetchall())
        return found

    def find_tag(self, repository: str, tag: str) -> tuple[int, int] | None:
        """Its id, and that of the blob it points to."""
        row: tuple[int, int] | None = self.connection.execute(
            "SELECT id, blob FROM tag WHERE repository = ? AND tag = ?",
            (self.find_repository(repository), tag),
        ).fetchone()
        return row

    def repository(self, name: str) -> int:
        """Its id, also of a new one."""
        found = self.find_repository(name)
        return found or self._insert("INSERT INTO repository (name) VALUES (?)", name)

    def name(self, digest: bytes) -> int:
        """Its id, also of what is only named."""
        found = self.find_blob(digest) or self._insert(
            "INSERT INTO blob (digest, size, seen, used, hits, scrubbed) VALUES (?, NULL, 0, 0, 0, 0)", digest
        )
        self._blobs[digest] = found
        return found

    def keep_blob(self, digest: bytes, size: int, used: float, scrubbed: float) -> int:
        """Its data is there."""
        blob = self.find_blob(digest)
        if blob is None:
            blob = self._insert(
                "INSERT INTO blob (digest, size, seen, used, hits, scrubbed) VALUES (?, ?, ?, ?, 0, ?)",
                digest,
                size,
                used,
                used,
                scrubbed,
            )
        else:
            self.connection.execute(
                "UPDATE blob SET size = ?, seen = iif(size IS NULL, ?, seen), used = max(used, ?),"
                " scrubbed = max(iif(size IS NULL, 0, scrubbed), ?) WHERE id = ?",
                (size, used, used, scrubbed, blob),
            )
        self._blobs[digest] = blob
        self._came(("blob", digest), blob)
        return blob

    def keep_image(self, repository: str, digest: bytes, parts: Sequence[bytes], used: float | None) -> None:
        """It is there; `used` None: as its manifest's data."""
        place, blob = self.repository(repository), self.name(digest)
        image = self.find_image(place, blob)
        if image is None:
            image = self._insert(
                "INSERT INTO image (repository, blob, seen, used, hits)"
                " SELECT ?, id, ifnull(?, seen), ifnull(?, used), 0 FROM blob WHERE id = ?",
                place,
                used,
                used,
                blob,
            )
            self.connection.executemany(
                "INSERT OR IGNORE INTO part (repository, image, blob) VALUES (?, ?, ?)",
                [(place, blob, self.name(part)) for part in parts],
            )
        elif used is not None:
            self.connection.execute("UPDATE image SET used = max(used, ?) WHERE id = ?", (used, image))
        self._came(("image", repository, digest), image)

    def keep_layer(self, repository: str, digest: bytes) -> None:
        """It is linked."""
        place, blob = self.repository(repository), self.name(digest)
        found = self._one("SELECT id FROM layer WHERE blob = ? AND repository = ?", blob, place)
        layer = found or self._insert("INSERT INTO layer (repository, blob) VALUES (?, ?)", place, blob)
        self._came(("layer", repository, digest), layer)

    def keep_tag(self, repository: str, tag: str, digest: bytes, at: float, origin: str) -> None:
        """It points there. A move is remembered, a word that repeats the last one is not."""
        place, blob = self.repository(repository), self.name(digest)
        row = self.find_tag(repository, tag)
        if row is None:
            number = self._insert(
                "INSERT INTO tag (repository, tag, blob) VALUES (?, ?, ?)", place, tag, blob
            )
        else:
            number = row[0]
            if row[1] != blob:
                self.connection.execute("UPDATE tag SET blob = ? WHERE id = ?", (blob, number))
                self.forget(row[1])
        self._move(place, tag, digest, at, origin)
        self._came(("tag", repository, tag), number)

    def lose_blob(self, digest: bytes) -> None:
        """Its data is gone; links and images may still name it."""
        blob = self.find_blob(digest)
        if blob is not None:
            self.connection.execute("UPDATE blob SET size = NULL WHERE id = ?", (blob,))
            self.forget(blob)
        self._went(("blob", digest))

    def lose_image(self, repository: str, digest: bytes) -> list[int]:
        """It is an image no longer. The ids of it and of what it named; some may be forgotten."""
        place, blob = self.find_repository(repository), self.find_blob(digest)
        self._went(("image", repository, digest))
        if place is None or blob is None or self.find_image(place, blob) is None:
            return []
        parts = self.connection.execute(
            "SELECT blob FROM part WHERE repository = ? AND image = ?", (place, blob)
        ).fetchall()
        self.connection.execute("DELETE FROM part WHERE repository = ? AND image = ?", (place, blob))
        self.connection.execute("DELETE FROM image WHERE blob = ? AND repository = ?", (blob, place))
        named = [blob, *(part for (part,) in parts if part != blob)]
        for each in named:
            self.forget(each)
        return named

    def lose_layer(self, repository: str, digest: bytes) -> None:
        """It is linked no longer."""
        place, blob = self.find_repository(repository), self.find_blob(digest)
        if place is not None and blob is not None:
            self.connection.execute("DELETE FROM layer WHERE blob = ? AND repository = ?", (blob, place))
            self.forget(blob)
        self._went(("layer", repository, digest))

    def lose_tag(self, repository: str, tag: str) -> None:
        """It is kept no longer. Its history stays."""
        place = self.find_repository(repository)
        if place is not None:
            row = self.find_tag(repository, tag)
            if row is not None:
                self.connection.execute("DELETE FROM tag WHERE id = ?", (row[0],))
                self.forget(row[1])
        self._went(("tag", repository, tag))

    def end_tag(self, repository: str, tag: str, at: float, origin: str) -> None:
        """The upstream has it no more."""
        place = self.find_repository(repository)
        if place is not None and self._last(place, tag) is not None:
            self._move(place, tag, None, at, origin)
        self.lose_tag(repository, tag)

    def forget(self, blob: int) -> None:
        """Forget a digest that is neither kept nor mentioned."""
        if self.connection.execute(_FORGET, (blob,)).rowcount:
            self._blobs.clear()

    def _move(self, place: int, tag: str, digest: bytes | None, at: float, origin: str) -> None:
        last = self._last(place, tag)
        if last is not None and last[0] == digest:
            return
        self._insert(
            "INSERT INTO history (repository, tag, digest, at, origin) VALUES (?, ?, ?, ?, ?)",
            place,
            tag,
            digest,
            at,
            origin,
        )
        if last is not None:
            self.connection.execute(_TRIM, (place, tag, HISTORY_LIMIT))

    def _last(self, place: int, tag: str) -> tuple[bytes | None] | None:
        row: tuple[bytes | None] | None = self.connection.execute(
            "SELECT digest FROM history WHERE repository = ? AND tag = ? ORDER BY id DESC LIMIT 1",
            (place, tag),
        ).fetchone()
        return row

    def _came(self, key: Key, number: int) -> None:
        if self.marks is not None:
            self.marks.add(key, number)

    def _went(self, key: Key) -> None:
        if self.marks is not None:
            self.marks.remove(key)

    def _one(self, query: str, *values: object) -> int | None:
        row = self.connection.execute(query, values).fetchone()
        return None if row is None else int(row[0])

    def _insert(self, statement: str, *values: object) -> int:
        number = self.connection.execute(statement, values).lastrowid
        assert number is not None
        return number
