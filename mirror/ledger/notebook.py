"""What happens on the way of a request: noted at once, in memory, in bounded space, and written behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from mirror.ledger.facts import Dropped
from mirror.ledger.notes import (
    BlobGone,
    BlobKept,
    ImageBack,
    ImageGone,
    ImageKept,
    LayerGone,
    Note,
    Scrubbed,
    TagGone,
    TagKept,
)
from mirror.ledger.waiting import Waiting
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag

ORIGIN_LIMIT = 200  # characters
LATEST = 1e11  # seconds since the epoch; later is no time
LARGEST = 1 << 60  # bytes

log = structlog.get_logger()


class Notebook:
    """See the module's text. Nothing here waits, and nothing fails. `path` is for the log."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._waiting = Waiting()
        self._wanted = asyncio.Event()  # something waits
        self._urgent = asyncio.Event()  # much does, or the end has come

    @property
    def complete(self) -> bool:
        """Whether nothing that was noted was lost."""
        return not self._waiting.lost

    def note_use(self, digest: Digest, repository: Repository | None, now: float, count: int = 1) -> None:
        """It was given to clients out of this repository (None: of any), so often, and at last now.

        See `ledger.uses`.
        """
        self._wait(self._waiting.use((digest, repository), time_of(now), count))

    def note_coming(self, digest: Digest, now: float) -> None:
        """It is being fetched: the image that names it, the one used last, is in use."""
        self._wait(self._waiting.use((digest, None), time_of(now), 0))

    def note_blob(self, repository: Repository | None, digest: Digest, size: int, now: float) -> None:
        """A blob was kept and linked in this repository; or only linked, there being its data already.

        `repository` None: its data is there, be it linked or not.
        """
        self._note(BlobKept(repository, digest, _size(size), time_of(now)))

    def note_image(
        self, repository: Repository, digest: Digest, size: int, parts: Sequence[Digest], now: float
    ) -> None:
        """A manifest of this size was kept; `parts`: the blobs and the children that it names."""
        self._note(ImageKept(repository, digest, _size(size), tuple(parts), time_of(now)))

    def note_tag(self, repository: Repository, tag: Tag, digest: Digest, now: float, origin: str) -> None:
        """A tag was kept that points here; `origin` is who said so, for its history."""
        self._note(TagKept(repository, tag, digest, time_of(now), _origin(origin)))

    def note_tag_gone(self, repository: Repository, tag: Tag, now: float, origin: str | None = None) -> None:
        """A tag was deleted: `origin` has it no more. Without one it is only kept no longer."""
        self._note(TagGone(repository, tag, time_of(now), None if origin is None else _origin(origin)))

    def note_image_gone(self, repository: Repository, digest: Digest) -> None:
        """A revision link was deleted."""
        self._note(ImageGone(repository, digest))

    def note_layer_gone(self, repository: Repository, digest: Digest) -> None:
        """A layer link was deleted."""
        self._note(LayerGone(repository, digest))

    def note_blob_gone(self, digest: Digest) -> None:
        """A blob's data was deleted or moved away; its links may still be there."""
        self._note(BlobGone(digest))

    def note_scrubbed(self, digest: Digest, now: float) -> None:
        """A blob's bytes were compared with its digest, and matched."""
        self._note(Scrubbed(digest, time_of(now)))

    def note_image_back(self, repository: Repository, digest: Digest, dropped: Dropped) -> None:
        """What `drop_image` has dropped is in the tree still: it is an image, and those are its tags."""
        self._note(ImageBack(repository, digest, dropped.parts, dropped.tags, dropped.used))

    def doubt(self, reason: str) -> None:
        """Something was done by halves: what is there is not known, until a survey has ended."""
        if self.complete:
            log.warning("inventory.lost", file=str(self._path), reason=reason)
        self._waiting.lost += 1
        self._wait(True)

    def _note(self, note: Note) -> None:
        known = self._waiting.lost
        self._wait(self._waiting.note(note))
        if self._waiting.lost and not known:
            log.warning("inventory.lost", file=str(self._path), reason="more notes than can be written")

    def _wait(self, urgent: bool) -> None:
        self._wanted.set()
        if urgent:
            self._urgent.set()


# One value that SQLite refuses would keep out all the others.


def time_of(now: float) -> float:
    """What may stand in a row."""
    return float(now) if 0 <= now <= LATEST else 0.0


def _size(size: int) -> int:
    return min(max(size, 0), LARGEST)


def _origin(origin: str) -> str:
    return origin[:ORIGIN_LIMIT].encode("utf-8", "replace").decode()
