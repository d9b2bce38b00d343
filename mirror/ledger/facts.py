"""What an inventory is told, and what it tells. Times are in seconds since the epoch, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag


@dataclass(frozen=True, slots=True)
class SeenBlob:
    """A survey found this blob's data. `modified`: when it was written."""

    digest: Digest
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A survey found this digest linked in this repository: as a layer, or as an image."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class SeenTag:
    """A survey found this tag."""

    repository: Repository
    tag: Tag
    digest: Digest
    modified: float


@dataclass(frozen=True, slots=True)
class SeenParts:
    """What an image that a survey found names: its blobs and children."""

    repository: Repository
    digest: Digest
    parts: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """A use that somebody else remembers."""

    repository: Repository
    digest: Digest
    used: float


@dataclass(frozen=True, slots=True)
class Total:
    """What is kept, manifests among it. `surveyed`: all of it, as a survey has ended; else what was noted."""

    blobs: int
    bytes: int
    surveyed: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a candidate stands among all of them, so that whoever asks again can go on behind it.

    `used` is what is written, be it in the future. `number` is a row's, of the images or of the blobs.
    """

    used: float
    is_image: bool
    number: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may go next: an image, or a blob that no image names (then `repository` is None).

    `size` is that of the digest's own data. `tags` are those of the image and of the indexes that name it, in
    this repository.
    """

    repository: Repository | None
    digest: Digest
    size: int
    used: float
    hits: int
    tags: tuple[Tag, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Loose:
    """A blob that no image names, and the repositories in which it is linked."""

    digest: Digest
    size: int
    repositories: tuple[Repository, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """What an image leaves behind that is no longer an image.

    `blobs`: what nothing names now. `links`: what is linked in its repository and named by no image there
    now, though by an image elsewhere. `tags`: those that pointed to it. `parts`: all that it names, and
    `used`: when it was used last, should it turn out to be there still.
    """

    blobs: tuple[Loose, ...]
    links: tuple[Digest, ...]
    tags: tuple[Tag, ...]
    parts: tuple[Digest, ...]
    used: float


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """All that is known of a blob that is kept. `scrubbed`: when its bytes last matched its digest."""

    digest: Digest
    size: int
    seen: float
    used: float
    hits: int
    scrubbed: float
    repositories: tuple[Repository, ...]


@dataclass(frozen=True, slots=True)
class KeptImage:
    """All that is known of an image that is kept. `tags`: its own, and those of the indexes that name it.

    `unused_longer`: how many images were last used before it. `known_since`: when the inventory was begun.
    """

    seen: float
    used: float
    hits: int
    tags: tuple[Tag, ...]
    unused_longer: int
    known_since: float | None


@dataclass(frozen=True, slots=True)
class Move:
    """A tag pointed here from then on; None: the upstream had it no more. `origin`: who said so."""

    digest: Digest | None
    at: float
    origin: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a survey has removed: rows of what is not in the tree."""

    blobs: int
    images: int
    links: int
    tags: int
