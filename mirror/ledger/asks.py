"""What is asked of the inventory: how much, what next, what a drop leaves behind, and what is known of one.

A row whose digest or name makes no sense is passed over; the next survey removes it.
"""

from __future__ import annotations

import heapq
import math
import sqlite3
from collections.abc import Generator
from contextlib import closing
from itertools import islice

from mirror.ledger.facts import Candidate, Dropped, KeptBlob, KeptImage, Loose, Move, Place, Total
from mirror.ledger.inventoryschema import digest_of
from mirror.ledger.rows import Rows
from mirror.oci.digest import Digest
from mirror.oci.names import InvalidNameError, Repository, Tag

AHEAD_SECONDS = 60.0  # what a clock that is set right may have been ahead; a use that is later is one now
CLAMPED_AT_ONCE = 1000  # rows, 10 ms; those after them are in the future still, and so come last

# The tags of the image, and those of the indexes that name it: no tag has a space.
_IMAGES = """SELECT image.used, image.id, image.hits, ifnull(blob.size, 0), blob.digest, repository.name,
    (SELECT group_concat(tag, ' ') FROM tag WHERE blob = image.blob AND repository = image.repository),
    (SELECT group_concat(tag.tag, ' ') FROM part CROSS JOIN tag ON tag.blob = part.image
        AND tag.repository = part.repository
        WHERE part.blob = image.blob AND part.repository = image.repository)
    FROM image CROSS JOIN repository ON repository.id = image.repository
    CROSS JOIN blob ON blob.id = image.blob WHERE {} ORDER BY image.used, image.id"""
_LOOSE = """SELECT used, id, hits, size, digest, NULL, NULL, NULL FROM blob
    WHERE loose = 1 AND size IS NOT NULL AND {} ORDER BY used, id"""
_START = Place(-1.0, is_image=True, number=0)  # before all of them
_TAGS = "SELECT tag FROM tag WHERE blob = ?1 AND repository = ?2"
_TAGS_ABOVE = """SELECT tag.tag FROM part CROSS JOIN tag ON tag.blob = part.image
    AND tag.repository = part.repository WHERE part.blob = ?1 AND part.repository = ?2"""
_PARTS = """SELECT digest FROM part CROSS JOIN blob ON blob.id = part.blob
    WHERE part.image = ?1 AND part.repository = ?2"""
_LINKED = """SELECT repository.name FROM layer JOIN repository ON repository.id = layer.repository
    WHERE layer.blob = ? ORDER BY 1"""
# Linked in this repository, and named by no image of it.
_STRAY = """SELECT 1 FROM layer WHERE blob = ?1 AND repository = ?2
    AND NOT EXISTS (SELECT 1 FROM part WHERE part.blob = ?1 AND part.repository = ?2)
    AND NOT EXISTS (SELECT 1 FROM image WHERE image.blob = ?1 AND image.repository = ?2)"""
_USED_SINCE = """SELECT 1 FROM blob WHERE digest = ?1 AND (used > ?2 OR EXISTS (
    SELECT 1 FROM part CROSS JOIN image ON image.blob = part.image AND image.repository = part.repository
    WHERE part.blob = blob.id AND image.used > ?2))"""
_KEPT = "SELECT id, digest, size, seen, used, hits, scrubbed FROM blob WHERE size IS NOT NULL"

_KeptRow = tuple[int, bytes, int, float, float, int, float]
_Row = tuple[float, int, int, int, bytes, str | None, str | None, str | None]


def total(connection: sqlite3.Connection) -> Total:
    """What is kept."""
    blobs, size, complete = connection.execute("SELECT blobs, bytes, complete FROM state").fetchone()
    return Total(blobs, size, bool(complete))


def known_since(connection: sqlite3.Connection, now: float, gap: float) -> float | None:
    """Since when uses are known, by a clock that ran on; None before the first survey.

    After a `gap` (the clock was put forward, or nobody was there) that is now; and never is it in the future.
    """
    clamp(connection, now)
    born, alive = connection.execute("SELECT born, alive FROM state").fetchone()
    if born is not None and (born > now or (alive is not None and now - alive > gap)):
        born = now
    connection.execute("UPDATE state SET born = ?, alive = ?", (born, now))
    return float(born) if born is not None else None


def surveyed(connection: sqlite3.Connection) -> bool:
    """Whether a survey has ever ended, in this file."""
    return bool(connection.execute("SELECT complete FROM state").fetchone()[0])


def tags_of(connection: sqlite3.Connection, repository: str, digest: bytes) -> list[Tag]:
    """The tags that point to an image."""
    found = connection.execute(
        "SELECT tag FROM tag JOIN blob ON blob.id = tag.blob"
        " WHERE digest = ? AND repository = (SELECT id FROM repository WHERE name = ?) ORDER BY tag",
        (digest, repository),
    ).fetchall()
    return [Tag(tag) for (tag,) in found]


def is_named(connection: sqlite3.Connection, repository: str, digest: bytes) -> bool:
    """Whether an image of this repository names the digest."""
    return bool(
        connection.execute(
            "SELECT 1 FROM part JOIN blob ON blob.id = part.blob"
            " WHERE digest = ? AND repository = (SELECT id FROM repository WHERE name = ?)",
            (digest, repository),
        ).fetchone()
    )


def clamp(connection: sqlite3.Connection, now: float) -> None:
    """Nothing was used later than in AHEAD_SECONDS: a clock that was wrong once would keep it for ever."""
    late = now + AHEAD_SECONDS
    connection.execute(
        "UPDATE image SET used = ? WHERE id IN (SELECT id FROM image WHERE used > ? LIMIT ?)",
        (now, late, CLAMPED_AT_ONCE),
    )
    connection.execute(
        "UPDATE blob SET used = ? WHERE id IN"
        " (SELECT id FROM blob WHERE loose = 1 AND size IS NOT NULL AND used > ? LIMIT ?)",
        (now, late, CLAMPED_AT_ONCE),
    )


def oldest(
    connection: sqlite3.Connection, limit: int, now: float, after: Place | None = None
) -> list[Candidate]:
    """Images and loose blobs, the longest unused first; of equals the images. `after`: those behind it."""
    late = now + AHEAD_SECONDS
    after = after or _START
    # Of those that were used at the same time as `after`, all blobs come behind all images.
    images = _behind(connection, _IMAGES, "image.", after, after.number if after.is_image else None)
    loose = _behind(connection, _LOOSE, "", after, 0 if after.is_image else after.number)
    with closing(images), closing(loose):  # an open question would keep the journal from being emptied
        found = (_candidate(row, now, late) for row in heapq.merge(images, loose, key=_order))
        return list(islice((each for each in found if each is not None), limit))


def _behind(
    connection: sqlite3.Connection, query: str, table: str, after: Place, number: int | None
) -> Generator[_Row, None, None]:
    """Rows behind a place, read as they are taken. `number`: the last row of its time; None: all of them."""
    if number is not None:  # asked for alone, so that one look finds them, be they thousands
        equals = query.format(f"{table}used = ? AND {table}id > ?")
        yield from connection.execute(equals, (after.used, number))
    yield from connection.execute(query.format(f"{table}used > ?"), (after.used,))


def _order(row: _Row) -> tuple[float, bool]:
    return row[0], row[5] is None


def _candidate(row: _Row, now: float, late: float) -> Candidate | None:
    used, number, hits, size, value, name, own, above = row
    digest = digest_of(value)
    repository = None if name is None else _repository(name)
    if digest is None or (name is not None and repository is None):
        return None
    tags = sorted({*(own or "").split(), *(above or "").split()})
    place = Place(used, name is not None, number)
    when = now if used > late else used
    return Candidate(repository, digest, size, when, hits, tuple(map(Tag, tags)), place)


def image(connection: sqlite3.Connection, repository: str, digest: bytes) -> KeptImage | None:
    """What is known of an image that is kept."""
    row = connection.execute(
        "SELECT image.repository, image.blob, image.seen, image.used, image.hits FROM image"
        " JOIN blob ON blob.id = image.blob JOIN repository ON repository.id = image.repository"
        " WHERE blob.digest = ? AND repository.name = ?",
        (digest, repository),
    ).fetchone()
    if row is None:
        return None
    place, number, seen, used, hits = row
    tags = {*_tags(connection, _TAGS, number, place), *_tags(connection, _TAGS_ABOVE, number, place)}
    count = connection.execute("SELECT count(*) FROM image WHERE used < ?", (used,)).fetchone()[0]
    (born,) = connection.execute("SELECT born FROM state").fetchone()
    return KeptImage(seen, used, hits, tuple(sorted(tags)), count, born)


def drop_image(rows: Rows, repository: str, digest: bytes, unused_since: float) -> Dropped | None:
    """Make it no image, unless it was used later; None: it is none, or was."""
    place, blob = rows.find_repository(repository), rows.find_blob(digest)
    if place is None or blob is None:
        return None
    image = rows.connection.execute(
        "SELECT used FROM image WHERE blob = ? AND repository = ?", (blob, place)
    ).fetchone()
    if image is None or image[0] > unused_since:
        return None
    tags = _tags(rows.connection, _TAGS, blob, place)
    parts = [digest_of(part) for (part,) in rows.connection.execute(_PARTS, (blob, place)).fetchall()]
    for tag in tags:
        rows.lose_tag(repository, tag.name)
    blobs, links = [], []
    for each in rows.lose_image(repository, digest):
        found = rows.connection.execute(
            "SELECT digest, size, loose FROM blob WHERE id = ?", (each,)
        ).fetchone()
        known = found and digest_of(found[0])
        if not known:
            continue
        if found[1] is not None and found[2]:
            blobs.append(Loose(known, found[1], _linked(rows.connection, each)))
        elif rows.connection.execute(_STRAY, (each, place)).fetchone() is not None:
            links.append(known)
    return Dropped(tuple(blobs), tuple(links), tags, tuple(part for part in parts if part), image[0])


def drop_blob(rows: Rows, digest: bytes, unused_since: float) -> Loose | None:
    """Forget its data and links; None: an image names it, it was used later, or it is not kept.

    While a survey goes on, what has come since it began stays too, unless it is to go in any case: an image
    that was not read yet may name it.
    """
    row = rows.connection.execute(
        "SELECT id, digest, size FROM blob WHERE digest = ? AND loose = 1 AND size IS NOT NULL AND used <= ?",
        (digest, unused_since),
    ).fetchone()
    is_unread = row is not None and rows.marks is not None and rows.marks.is_new("blob", row[0])
    loose = row and _loose(rows.connection, row)
    if not loose or (is_unread and math.isfinite(unused_since)):
        return None
    for repository in loose.repositories:
        rows.lose_layer(repository.name, digest)
    rows.lose_blob(digest)
    return loose


def loose(connection: sqlite3.Connection, limit: int, before: float) -> list[Loose]:
    """Kept blobs that no image names and that were not used since, the longest unused first."""
    found = connection.execute(
        "SELECT id, digest, size FROM blob WHERE loose = 1 AND size IS NOT NULL AND used < ?"
        " ORDER BY used, id LIMIT ?",
        (before, limit),
    ).fetchall()
    return [each for row in found if (each := _loose(connection, row)) is not None]


def blob(connection: sqlite3.Connection, digest: bytes) -> KeptBlob | None:
    """What is known of a blob that is kept."""
    row = connection.execute(f"{_KEPT} AND digest = ?", (digest,)).fetchone()
    return row and _kept(connection, row)


def is_used_since(connection: sqlite3.Connection, digest: bytes, since: float) -> bool:
    """Whether it, or an image that names it, was used later."""
    return connection.execute(_USED_SINCE, (digest, since)).fetchone() is not None


def unscrub(connection: sqlite3.Connection, now: float) -> None:
    """When what was compared later than in AHEAD_SECONDS really was, nobody knows: it is due."""
    connection.execute(
        "UPDATE blob SET scrubbed = 0 WHERE id IN"
        " (SELECT id FROM blob WHERE size IS NOT NULL AND scrubbed > ? LIMIT ?)",
        (now + AHEAD_SECONDS, CLAMPED_AT_ONCE),
    )


def unscrubbed(connection: sqlite3.Connection, limit: int, before: float) -> list[KeptBlob]:
    """Kept blobs whose bytes were not compared since, the longest ago first."""
    found = connection.execute(
        f"{_KEPT} AND scrubbed < ? ORDER BY scrubbed, id LIMIT ?", (before, limit)
    ).fetchall()
    return [each for row in found if (each := _kept(connection, row)) is not None]


def history(connection: sqlite3.Connection, repository: str, tag: str) -> list[Move]:
    """Where a tag pointed, the newest first."""
    found = connection.execute(
        "SELECT digest, at, origin FROM history"
        " WHERE repository = (SELECT id FROM repository WHERE name = ?) AND tag = ? ORDER BY id DESC",
        (repository, tag),
    ).fetchall()
    moves = [(value, Move(digest_of(value), at, origin)) for value, at, origin in found]
    return [move for value, move in moves if value is None or move.digest is not None]


def images(connection: sqlite3.Connection, repository: str) -> list[Digest]:
    """The images of a repository."""
    found = connection.execute(
        "SELECT digest FROM image JOIN blob ON blob.id = image.blob"
        " WHERE repository = (SELECT id FROM repository WHERE name = ?) ORDER BY image.id",
        (repository,),
    ).fetchall()
    return [digest for (value,) in found if (digest := digest_of(value)) is not None]


def layers(connection: sqlite3.Connection, repository: str) -> list[Digest]:
    """What is linked as a layer in a repository."""
    found = connection.execute(
        "SELECT digest FROM layer JOIN blob ON blob.id = layer.blob"
        " WHERE repository = (SELECT id FROM repository WHERE name = ?) ORDER BY layer.id",
        (repository,),
    ).fetchall()
    return [digest for (value,) in found if (digest := digest_of(value)) is not None]


def _kept(connection: sqlite3.Connection, row: _KeptRow) -> KeptBlob | None:
    number, value, size, seen, used, hits, scrubbed = row
    digest = digest_of(value)
    if digest is None:
        return None
    return KeptBlob(digest, size, seen, used, hits, scrubbed, _linked(connection, number))


def _loose(connection: sqlite3.Connection, row: tuple[int, bytes, int]) -> Loose | None:
    number, value, size = row
    digest = digest_of(value)
    return None if digest is None else Loose(digest, size, _linked(connection, number))


def _linked(connection: sqlite3.Connection, number: int) -> tuple[Repository, ...]:
    names = connection.execute(_LINKED, (number,)).fetchall()
    return tuple(found for (name,) in names if (found := _repository(name)) is not None)


def _tags(connection: sqlite3.Connection, query: str, number: int, place: int | None) -> tuple[Tag, ...]:
    return tuple(Tag(name) for (name,) in connection.execute(query, (number, place)).fetchall())


def _repository(name: str) -> Repository | None:
    try:
        return Repository.parse(name)
    except InvalidNameError:
        return None
