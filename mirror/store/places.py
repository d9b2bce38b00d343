"""What a file of the tree is, from its path: `layout` read backwards. What distribution has no such file for
is nothing: a stray file, a name that no client could ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mirror.oci.digest import Digest, DigestError
from mirror.oci.names import InvalidNameError, Repository, Tag
from mirror.store import layout

REPOSITORIES_REMEMBERED = 256  # files of one repository come together, and then share one object


@dataclass(frozen=True, slots=True)
class LayerLink:
    """A blob that a repository has."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class RevisionLink:
    """A manifest that a repository has."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class CurrentLink:
    """What a tag points to."""

    repository: Repository
    tag: Tag


@dataclass(frozen=True, slots=True)
class IndexLink:
    """What a tag points to, or did."""

    repository: Repository
    tag: Tag
    digest: Digest


Place = LayerLink | RevisionLink | CurrentLink | IndexLink


def blob_of(path: str) -> Digest | None:
    """The blob whose data is at `path`."""
    match path.removeprefix(f"{layout.BLOBS}/").split("/"):
        case [algorithm, start, hexadecimal, "data"] if hexadecimal.startswith(start) and len(start) == 2:
            return _digest(algorithm, hexadecimal)
    return None


def repository_of(path: str) -> Repository | None:
    """The repository in whose `_manifests`, `_layers` or `_uploads` this is."""
    name, mark, _ = path.removeprefix(f"{layout.REPOSITORIES}/").partition("/_")
    return _repository(name) if mark else None


def place_of(path: str) -> Place | None:
    """What the file at `path` says of a repository."""
    repository = repository_of(path)
    if repository is None:
        return None
    match path[len(layout.REPOSITORIES) + len(repository.name) + 2 :].split("/"):
        case [layout.LAYERS, algorithm, hexadecimal, "link"]:
            digest = _digest(algorithm, hexadecimal)
            return None if digest is None else LayerLink(repository, digest)
        case [layout.MANIFESTS, "revisions", algorithm, hexadecimal, "link"]:
            digest = _digest(algorithm, hexadecimal)
            return None if digest is None else RevisionLink(repository, digest)
        case [layout.MANIFESTS, "tags", name, "current", "link"]:
            tag = _tag(name)
            return None if tag is None else CurrentLink(repository, tag)
        case [layout.MANIFESTS, "tags", name, "index", algorithm, hexadecimal, "link"]:
            tag, digest = _tag(name), _digest(algorithm, hexadecimal)
            return None if tag is None or digest is None else IndexLink(repository, tag, digest)
    return None


def _digest(algorithm: str, hexadecimal: str) -> Digest | None:
    try:
        return Digest.parse(f"{algorithm}:{hexadecimal}")
    except DigestError:
        return None


def _tag(name: str) -> Tag | None:
    try:
        return Tag.parse(name)
    except InvalidNameError:
        return None


@lru_cache(REPOSITORIES_REMEMBERED)
def _repository(name: str) -> Repository | None:
    try:
        return Repository.parse(name)
    except InvalidNameError:
        return None
