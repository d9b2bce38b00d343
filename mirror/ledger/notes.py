"""What is noted in passing, and how it gets into the inventory's rows: in order, and twice without harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirror.ledger.inventoryschema import raw
from mirror.ledger.rows import Rows
from mirror.ledger.uses import use_above
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag


@dataclass(frozen=True, slots=True)
class BlobKept:
    """A blob was written, with its link; its bytes matched its digest. `repository` None: without a link."""

    repository: Repository | None
    digest: Digest
    size: int
    now: float


@dataclass(frozen=True, slots=True)
class ImageKept:
    """A manifest was written, with its revision link."""

    repository: Repository
    digest: Digest
    size: int
    parts: tuple[Digest, ...]
    now: float


@dataclass(frozen=True, slots=True)
class ImageBack:
    """A manifest was dropped and could not be deleted. `tags`: those that led to it, if none has moved."""

    repository: Repository
    digest: Digest
    parts: tuple[Digest, ...]
    tags: tuple[Tag, ...]
    used: float


@dataclass(frozen=True, slots=True)
class TagKept:
    """A tag points here; `origin` says so."""

    repository: Repository
    tag: Tag
    digest: Digest
    now: float
    origin: str


@dataclass(frozen=True, slots=True)
class BlobGone:
    """A blob's data was deleted or moved away."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class LayerGone:
    """A blob's link was deleted in one repository."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class ImageGone:
    """A revision link was deleted."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagGone:
    """A tag was deleted; `origin` None: only here."""

    repository: Repository
    tag: Tag
    now: float
    origin: str | None


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A blob's bytes matched its digest."""

    digest: Digest
    now: float


TREE = "tree"  # who says where a tag points that nobody noted

_Kept = BlobKept | ImageKept | ImageBack | TagKept | Scrubbed
_Gone = BlobGone | LayerGone | ImageGone | TagGone
Note = _Kept | _Gone


def write_notes(rows: Rows, notes: Sequence[Note]) -> None:
    """Write them in their order. Raises sqlite3.Error."""
    rows.learn([raw(digest) for note in notes for digest in _digests(note)])
    for note in notes:
        _write(rows, note)


def _digests(note: Note) -> tuple[Digest, ...]:
    match note:
        case ImageKept(_, digest, _, parts) | ImageBack(_, digest, parts):
            return digest, *parts
        case TagGone():
            return ()
    return (note.digest,)


def _write(rows: Rows, note: Note) -> None:
    if isinstance(note, _Kept):
        _write_kept(rows, note)
    else:
        _write_gone(rows, note)


def _write_kept(rows: Rows, note: _Kept) -> None:
    match note:
        case BlobKept(repository, digest, size, now):
            blob = rows.keep_blob(raw(digest), size, now, now)
            if repository is not None:
                rows.keep_layer(repository.name, raw(digest))
                use_above(rows, blob, rows.repository(repository.name), now)
        case ImageKept(repository, digest, size, parts, now):
            blob = rows.keep_blob(raw(digest), size, now, now)
            rows.keep_image(repository.name, raw(digest), [raw(part) for part in parts], now)
            use_above(rows, blob, rows.repository(repository.name), now)
        case ImageBack(repository, digest, parts, tags, used):
            rows.keep_image(repository.name, raw(digest), [raw(part) for part in parts], used)
            for tag in tags:
                if rows.find_tag(repository.name, tag.name) is None:
                    rows.keep_tag(repository.name, tag.name, raw(digest), used, TREE)
        case TagKept(repository, tag, digest, now, origin):
            rows.keep_tag(repository.name, tag.name, raw(digest), now, origin)
        case Scrubbed(digest, now):
            rows.connection.execute(
                "UPDATE blob SET scrubbed = max(scrubbed, ?) WHERE digest = ?", (now, raw(digest))
            )


def _write_gone(rows: Rows, note: _Gone) -> None:
    match note:
        case BlobGone(digest):
            rows.lose_blob(raw(digest))
        case LayerGone(repository, digest):
            rows.lose_layer(repository.name, raw(digest))
        case ImageGone(repository, digest):
            rows.lose_image(repository.name, raw(digest))
        case TagGone(repository, tag, _, None):
            rows.lose_tag(repository.name, tag.name)
        case TagGone(repository, tag, now, str() as origin):
            rows.end_tag(repository.name, tag.name, now, origin)
