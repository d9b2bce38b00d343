"""What stands in the inventory's file.

A digest is its bytes, 32 of sha256 or 64 of sha512: half as much to write and to hold as its text.

`blob` has a row for every digest that is kept or named; `size` is NULL where only the name is known.
`loose`: it is in no row of `image` and `part`. Triggers keep that, and in `state` how many blobs and bytes
are kept, so that what is free and how much there is are known without looking at all of it.

`part` is what an image names, once for each repository that has the image: whether a blob is named in one
repository is then one look. No id is given twice (AUTOINCREMENT): a survey tells by it what came after.
"""

from __future__ import annotations

from mirror.ledger.tables import Tables
from mirror.oci.digest import HEX_LENGTH, Digest

INVENTORY_SCHEMA = 2  # user_version
CACHE = 24 << 10  # KiB; most of the file at 100,000 blobs: a survey comes by every page many times
# Pages, 16 MB. Emptying the journal takes 20 ms and more for each 1000; so it is done between the commits,
# and by one of them only where there was no time in between.
CHECKPOINT = 4000

_STATE = """CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), token TEXT NOT NULL, complete INTEGER NOT NULL,
    running INTEGER NOT NULL, blobs INTEGER NOT NULL, bytes INTEGER NOT NULL, born REAL,
    alive REAL
)"""
# `token` is another one in every new file. `running`: not closed, or not well. `born`: since when uses are
# known: when the first survey began, or the clock was put right. `alive`: when that was last asked for.
_STATE_ROW = "INSERT INTO state VALUES (1, hex(randomblob(16)), 0, 0, 0, 0, NULL, NULL)"
_REPOSITORY = "CREATE TABLE repository (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)"
_BLOB = """CREATE TABLE blob (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, size INTEGER, seen REAL NOT NULL,
    used REAL NOT NULL, hits INTEGER NOT NULL, scrubbed REAL NOT NULL, loose INTEGER NOT NULL DEFAULT 1
)"""
_IMAGE = """CREATE TABLE image (
    id INTEGER PRIMARY KEY AUTOINCREMENT, repository INTEGER NOT NULL, blob INTEGER NOT NULL,
    seen REAL NOT NULL, used REAL NOT NULL, hits INTEGER NOT NULL, UNIQUE (blob, repository)
)"""
_PART = """CREATE TABLE part (
    repository INTEGER NOT NULL, image INTEGER NOT NULL, blob INTEGER NOT NULL,
    PRIMARY KEY (repository, image, blob)
) WITHOUT ROWID"""  # `image` is that of the manifest in `blob`
_LAYER = """CREATE TABLE layer (
    id INTEGER PRIMARY KEY AUTOINCREMENT, repository INTEGER NOT NULL, blob INTEGER NOT NULL,
    UNIQUE (blob, repository)
)"""
_TAG = """CREATE TABLE tag (
    id INTEGER PRIMARY KEY AUTOINCREMENT, repository INTEGER NOT NULL, tag TEXT NOT NULL,
    blob INTEGER NOT NULL, UNIQUE (repository, tag)
)"""
_HISTORY = """CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT, repository INTEGER NOT NULL, tag TEXT NOT NULL, digest BLOB,
    at REAL NOT NULL, origin TEXT NOT NULL
)"""
_INDEXES = (
    "CREATE INDEX blob_loose ON blob (used) WHERE loose = 1 AND size IS NOT NULL",
    "CREATE INDEX blob_scrubbed ON blob (scrubbed) WHERE size IS NOT NULL",
    "CREATE INDEX image_used ON image (used)",
    "CREATE INDEX part_blob ON part (blob, repository)",
    "CREATE INDEX tag_blob ON tag (blob, repository)",
    "CREATE INDEX history_tag ON history (repository, tag)",
)
_NAMED = "UPDATE blob SET loose = 0 WHERE id = new.blob AND loose = 1"
_LOOSENED = """UPDATE blob SET loose = 1 WHERE id = old.blob
    AND NOT EXISTS (SELECT 1 FROM part WHERE blob = old.blob)
    AND NOT EXISTS (SELECT 1 FROM image WHERE blob = old.blob)"""
_TRIGGERS = (
    f"CREATE TRIGGER part_more AFTER INSERT ON part BEGIN {_NAMED}; END",
    f"CREATE TRIGGER part_less AFTER DELETE ON part BEGIN {_LOOSENED}; END",
    f"CREATE TRIGGER image_more AFTER INSERT ON image BEGIN {_NAMED}; END",
    f"CREATE TRIGGER image_less AFTER DELETE ON image BEGIN {_LOOSENED}; END",
    """CREATE TRIGGER blob_more AFTER INSERT ON blob WHEN new.size IS NOT NULL BEGIN
        UPDATE state SET blobs = blobs + 1, bytes = bytes + new.size; END""",
    """CREATE TRIGGER blob_less AFTER DELETE ON blob WHEN old.size IS NOT NULL BEGIN
        UPDATE state SET blobs = blobs - 1, bytes = bytes - old.size; END""",
    """CREATE TRIGGER blob_sized AFTER UPDATE OF size ON blob WHEN new.size IS NOT old.size BEGIN
        UPDATE state SET blobs = blobs + (new.size IS NOT NULL) - (old.size IS NOT NULL),
            bytes = bytes + ifnull(new.size, 0) - ifnull(old.size, 0); END""",
)

INVENTORY = Tables(
    INVENTORY_SCHEMA,
    (_STATE, _STATE_ROW, _REPOSITORY, _BLOB, _IMAGE, _PART, _LAYER, _TAG, _HISTORY, *_INDEXES, *_TRIGGERS),
    (
        "SELECT token, complete, running, blobs, bytes, born, alive FROM state",
        "SELECT id, digest, size, seen, used, hits, scrubbed, loose FROM blob WHERE id = 0",
        "SELECT id, repository, blob, seen, used, hits FROM image WHERE id = 0",
        "SELECT id, repository, blob FROM layer WHERE id = 0",
        "SELECT id, repository, tag, blob FROM tag WHERE id = 0",
        "SELECT id, repository, tag, digest, at, origin FROM history WHERE id = 0",
        "SELECT repository, image, blob FROM part WHERE repository = 0",
        "SELECT id, name FROM repository WHERE id = 0",
    ),
    CACHE,
    CHECKPOINT,
)

_ALGORITHMS = {length // 2: algorithm for algorithm, length in HEX_LENGTH.items()}


def raw(digest: Digest) -> bytes:
    """What stands in a row for it."""
    return bytes.fromhex(digest.hex)


def digest_of(value: object) -> Digest | None:
    """The inverse of `raw`; None for what makes no sense."""
    algorithm = _ALGORITHMS.get(len(value)) if isinstance(value, bytes) else None
    return Digest(algorithm, value.hex()) if algorithm and isinstance(value, bytes) else None
