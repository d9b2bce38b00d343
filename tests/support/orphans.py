"""What is in a data folder and belongs to nothing: found by reading the tree, with no code of the store's.

Live is what the manifests name that a repository links and whose bytes are there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})/data")
LAYER = re.compile(r"repositories/(.+)/_layers/sha256/([0-9a-f]{64})/link")
REVISION = re.compile(r"repositories/(.+)/_manifests/revisions/sha256/([0-9a-f]{64})/link")
CURRENT = re.compile(r"repositories/(.+)/_manifests/tags/([^/]+)/current/link")
INDEX = re.compile(r"repositories/(.+)/_manifests/tags/([^/]+)/index/sha256/([0-9a-f]{64})/link")
# What the mirror itself has beside the tree, always.
OWN = re.compile(r"mirror/((ledger|inventory)\.sqlite(-wal|-shm|\.lock)?|keeper\.lock|control\.sock)")
SPOOLED = re.compile(r"mirror/spool/sha256-([0-9a-f]{64})\.part(?:\.map)?")
FOLDERS = {"blobs", "repositories"}  # that may be empty


@dataclass(frozen=True, slots=True)
class Tree:
    """The files below a root; digests are their hexadecimal part."""

    blobs: dict[str, Path]
    layers: set[tuple[str, str]]
    images: dict[tuple[str, str], set[str]]  # (repository, manifest) -> what it names; whole manifests only
    revisions: set[tuple[str, str]]
    tags: dict[tuple[str, str], str]
    indexes: set[tuple[str, str, str]]
    spooled: set[str]
    strange: tuple[str, ...]  # paths of what is none of these, and of folders with nothing in them

    @classmethod
    def read(cls, root: Path) -> Tree:
        """All there is; nobody is to write at the same time."""
        tree = cls({}, set(), {}, set(), {}, set(), set(), tuple(_strange(root)))
        base = root / "docker/registry/v2"
        for path in root.rglob("*"):
            place = path.relative_to(root).as_posix()
            if spooled := SPOOLED.fullmatch(place):
                tree.spooled.add(spooled[1])
            inner = path.relative_to(base).as_posix() if path.is_relative_to(base) else ""
            if blob := BLOB.fullmatch(inner):
                tree.blobs[blob[2]] = path
            elif layer := LAYER.fullmatch(inner):
                tree.layers.add((layer[1], layer[2]))
            elif revision := REVISION.fullmatch(inner):
                tree.revisions.add((revision[1], revision[2]))
            elif current := CURRENT.fullmatch(inner):
                tree.tags[current[1], current[2]] = path.read_text().removeprefix("sha256:")
            elif index := INDEX.fullmatch(inner):
                tree.indexes.add((index[1], index[2], index[3]))
        for repository, digest in tree.revisions:
            if digest in tree.blobs:
                tree.images[repository, digest] = _named(tree.blobs[digest].read_bytes())
        return tree

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(path.stat().st_size for path in self.blobs.values())

    def wrong(self) -> list[str]:
        """Blobs whose bytes are not their digest's."""
        return [
            digest
            for digest, path in self.blobs.items()
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest
        ]

    def orphans(self) -> list[str]:
        """What a collection should have taken, or what nobody knows."""
        return list(self._orphans())

    def _orphans(self) -> Iterator[str]:
        yield from self.strange
        named = {digest for _, digest in self.images} | {each for one in self.images.values() for each in one}
        yield from (f"blob {digest}" for digest in self.blobs if digest not in named)
        for repository, digest in self.layers:
            live = any(digest in parts for (name, _), parts in self.images.items() if name == repository)
            if not live or digest not in self.blobs:
                yield f"layer {repository} {digest}" + (" with data" if digest in self.blobs else "")
        yield from (f"revision {each}" for each in self.revisions if each not in self.images)
        for (repository, tag), digest in self.tags.items():
            if (repository, digest) not in self.images:
                yield f"tag {repository}:{tag} -> {digest}"
        for repository, tag, digest in self.indexes:
            if (repository, digest) not in self.images or (repository, tag) not in self.tags:
                yield f"history {repository}:{tag} {digest}"


def _named(manifest: bytes) -> set[str]:
    found = json.loads(manifest)
    entries = [*found.get("layers", ()), *found.get("manifests", ())]
    if "config" in found:
        entries.append(found["config"])
    return {entry["digest"].removeprefix("sha256:") for entry in entries}


def _strange(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        place = path.relative_to(root).as_posix()
        inner = place.removeprefix("docker/registry/v2/")
        if path.is_dir():
            if not any(path.iterdir()) and inner not in FOLDERS and not place.startswith("mirror"):
                yield f"empty {place}"
        elif not (OWN.fullmatch(place) or SPOOLED.fullmatch(place)) and not any(
            kind.fullmatch(inner) for kind in (BLOB, LAYER, REVISION, CURRENT, INDEX)
        ):
            yield f"file {place}"
