"""A data folder as registry:2 leaves it, of any size: `python -m tests.bench.largetree FOLDER [IMAGES]`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from random import Random

from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST
from mirror.oci.names import Repository, Tag
from mirror.store import layout

IMAGES = 20_000
BLOBS_EACH = 5  # new blobs for each image, its manifest and its config among them
TAGS_EACH = 10  # images of a repository
SHARING = 5  # images that share a base layer
SEED = 4
# Seconds since the epoch: older than what a collection or an eviction lets be because it may be in use.
MODIFIED = 1_700_000_000.0
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def make(root: Path, images: int = IMAGES) -> None:
    """`images` of a base layer that some share, layers of their own, a config and a manifest.

    There are BLOBS_EACH blobs for each image.
    """
    random = Random(SEED)
    for number in range(images):
        repository = Repository(f"team{number // TAGS_EACH % 50}/app{number // TAGS_EACH}")
        base = f"base of {repository} {number // SHARING}".encode() * 40
        layers = [base, *(random.randbytes(1024) for _ in range(BLOBS_EACH - 2))]
        if not number % SHARING:
            layers.pop()  # it brings the base
        config = json.dumps({"image": number}).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(_CONFIG, config),
                "layers": [_descriptor(_LAYER, layer) for layer in layers],
            }
        ).encode()
        _keep(root, repository, Tag(f"v{number % TAGS_EACH}"), manifest, [config, *layers])


def add_orphans(root: Path, count: int) -> None:
    """`count` blobs that nothing names, as long as a layer each."""
    random = Random(SEED + 1)
    for data in (random.randbytes(1024) for _ in range(count)):
        _write(root, layout.blob_data(Digest.of(data)), data)


def _keep(root: Path, repository: Repository, tag: Tag, manifest: bytes, blobs: list[bytes]) -> None:
    digest = Digest.of(manifest)
    for blob in blobs:
        _write(root, layout.blob_data(Digest.of(blob)), blob)
        _write(root, layout.layer_link(repository, Digest.of(blob)), layout.link_bytes(Digest.of(blob)))
    _write(root, layout.blob_data(digest), manifest)
    for link in (
        layout.revision_link(repository, digest),
        layout.tag_index_link(repository, tag, digest),
        layout.tag_current_link(repository, tag),
    ):
        _write(root, link, layout.link_bytes(digest))


def _write(root: Path, path: str, data: bytes) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    os.utime(target, (MODIFIED, MODIFIED))


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


if __name__ == "__main__":
    make(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
