"""What a use means: not only what was given is in use, but the image that it belongs to.

1. A use of a blob is one of the image that names it, and a use of an image one of the index that names it: in
   the same repository, and of several only of the one that was used last. So an image whose layers are read
   for weeks after its manifest stays; and a base layer does not keep every tag that was ever built on it.
2. A use of an index is one of all its children that are kept. Clients that have the image ask for nothing but
   the tag, and whoever comes next wants the rest too.
3. What comes is in use, until it is here: a pull may take longer than any grace.

A use of what is not known counts for nothing, for a survey or a note will say when it came. Only before the
first survey has ended it is kept under the bare name, because what is used then may have been here for long.
"""

from __future__ import annotations

from collections.abc import Mapping

from mirror.ledger.inventoryschema import raw
from mirror.ledger.rows import Rows
from mirror.oci.digest import Digest
from mirror.oci.names import Repository

ABOVE_LIMIT = 200  # images that name a blob, the newest, of which one was used last; 0.2 ms
BELOW_LIMIT = 1000  # children of an index; 1 ms

UseKey = tuple[Digest, Repository | None]  # None: in whatever repository
Uses = Mapping[UseKey, tuple[float, int]]  # when last, and how often; 0 where nobody was given it yet

_BLOB = "UPDATE blob SET used = max(used, ?), hits = hits + ? WHERE id = ?"
_IMAGE = "UPDATE image SET used = max(used, ?), hits = hits + ? WHERE blob = ?"
_BELOW = """UPDATE image SET used = ?1 WHERE used < ?1 AND repository = ?3
    AND blob IN (SELECT blob FROM part WHERE repository = ?3 AND image = ?2 LIMIT ?4)"""
# The one used last of those that name it.
_ABOVE = """SELECT image.id, image.blob, image.repository, image.used FROM
    (SELECT image, repository FROM part WHERE blob = ?1 {}
        ORDER BY repository DESC, image DESC LIMIT ?2) AS above
    CROSS JOIN image ON image.blob = above.image AND image.repository = above.repository
    ORDER BY image.used DESC, image.id DESC LIMIT 1"""
_ABOVE_HERE = _ABOVE.format("AND repository = ?3")
_ABOVE_ANYWHERE = _ABOVE.format("")
_USED = "UPDATE image SET used = ? WHERE id = ?"


def write_uses(rows: Rows, uses: Uses, *, complete: bool) -> None:
    """Write them; `complete`: what is not known is not there. Raises sqlite3.Error."""
    rows.learn([raw(digest) for digest, _repository in uses])
    blobs: list[tuple[float, int, int]] = []
    here: list[tuple[float, int, int, int]] = []
    anywhere: list[tuple[float, int, int]] = []
    for (digest, repository), (used, hits) in uses.items():
        blob = rows.find_blob(raw(digest)) if complete else rows.name(raw(digest))
        if blob is None:
            continue
        blobs.append((used, hits, blob))
        if hits and rows.marks is not None:
            rows.marks.use(blob)
        place = None if repository is None else rows.find_repository(repository.name)
        if repository is None:
            anywhere.append((used, hits, blob))
        elif place is not None:
            here.append((used, hits, blob, place))
    write = rows.connection.executemany
    write(_BLOB, blobs)
    write(_IMAGE, anywhere)
    write(f"{_IMAGE} AND repository = ?", here)
    write(_BELOW, [(used, blob, place, BELOW_LIMIT) for used, _, blob, place in here])
    # NB: after all the images themselves, so that the one of this pull is the one that was used last.
    for used, _hits, blob, place in here:
        use_above(rows, blob, place, used)
    for used, _hits, blob in anywhere:
        use_above(rows, blob, None, used)


def use_above(rows: Rows, blob: int, repository: int | None, used: float) -> None:
    """What names it was used too. `repository` None: in whichever it was used last. Raises sqlite3.Error."""
    for _level in ("image", "index"):
        query, values = _ABOVE_ANYWHERE, [blob, ABOVE_LIMIT]
        if repository is not None:
            query, values = _ABOVE_HERE, [blob, ABOVE_LIMIT, repository]
        row: tuple[int, int, int, float] | None = rows.connection.execute(query, values).fetchone()
        if row is None:
            return
        number, blob, repository, before = row
        if before < used:
            rows.connection.execute(_USED, (used, number))
