"""A data folder of very many images, quickly made: they share one config and one layer.

An image is only what differs from the next: a manifest, its revision link, and its tag, which has no history.
One file is both links, as they say the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST
from mirror.oci.names import Repository, Tag
from mirror.store import layout
from tests.support.images import OCI_CONFIG, OCI_GZIP

TAGS_EACH = 20  # images of a repository
CONFIG, LAYER = b'{"architecture":"amd64","os":"linux"}', b"the layer of all" * 64


@dataclass(frozen=True, slots=True)
class Thin:
    """An image."""

    repository: Repository
    tag: Tag
    manifest: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)


def images(count: int) -> Iterator[Thin]:
    """The same each time."""
    shared = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(OCI_CONFIG, CONFIG),
        "layers": [_descriptor(OCI_GZIP, LAYER)],
    }
    for number in range(count):
        repository = Repository(f"team{number // TAGS_EACH % 50}/app{number // TAGS_EACH}")
        manifest = json.dumps({**shared, "annotations": {"image": str(number)}}).encode()
        yield Thin(repository, Tag(f"v{number % TAGS_EACH}"), manifest)


def make(root: Path, count: int) -> None:
    """`count` images."""
    repositories: set[Repository] = set()
    for blob in (CONFIG, LAYER):
        _write(root, layout.blob_data(Digest.of(blob)), blob)
    for image in images(count):
        digest = image.digest
        if image.repository not in repositories:
            repositories.add(image.repository)
            for blob in (CONFIG, LAYER):
                named = Digest.of(blob)
                _write(root, layout.layer_link(image.repository, named), layout.link_bytes(named))
        _write(root, layout.blob_data(digest), image.manifest)
        link = layout.revision_link(image.repository, digest)
        _write(root, link, layout.link_bytes(digest))
        current = f"{root}/{layout.tag_current_link(image.repository, image.tag)}"
        os.makedirs(os.path.dirname(current))  # noqa: PTH103, PTH120 - pathlib takes longer than the disk
        os.link(f"{root}/{link}", current)


def _write(root: Path, path: str, data: bytes) -> None:
    target = f"{root}/{path}"
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    with open(target, "xb", buffering=0) as file:  # noqa: PTH123
        file.write(data)


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}
