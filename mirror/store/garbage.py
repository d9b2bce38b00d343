"""What a collection finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag


class Kind(enum.Enum):
    """Why something is garbage; the value is the word for it."""

    IMAGE = "untagged image"  # only where it is asked for: no tag of its repository leads to this manifest
    TAG = "tag without revision"  # points to a manifest that its repository does not have
    BROKEN = "broken link"  # is no link, or names what is not here
    LAYER = "layer link"  # no manifest of its repository names this blob
    UPLOAD = "unfinished upload"  # registry:2 left it
    BLOB = "blob"  # no manifest names it, and no repository has it otherwise
    FOLDER = "empty folder"


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that may be deleted. `path` is a file, for UPLOAD and FOLDER a folder."""

    kind: Kind
    path: str
    size: int  # bytes
    modified: float  # seconds since the epoch; what has been written since then is not garbage
    repository: Repository | None = None
    tag: Tag | None = None
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Some milliseconds' work of a collection: how many entries it saw, and the garbage among them.

    `unreadable`: a repository that is left alone, and what of it could not be read.
    """

    seen: int
    garbage: tuple[Garbage, ...] = ()
    unreadable: tuple[Repository, str] | None = None
