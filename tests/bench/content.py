"""What the upstream of the side-by-side measurements has: images, written into its tree as they are wanted.

The tree is distribution's, and its registry looks at the disk for each request: so an image may come while it
runs. The same seed makes the same bytes. Large layers are sparse files with a number in each block: quick
to make, and different from each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store import layout
from tests.support.images import OCI_CONFIG, OCI_GZIP, OCI_MANIFEST

BLOCK = 64 << 10  # bytes; above this a layer is sparse
SEED = 5


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of the upstream's. `file`: where it is."""

    digest: Digest
    size: int
    file: Path


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one platform; paths are those of the registry's API."""

    repository: Repository
    tag: Tag
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def by_tag(self) -> str:
        return f"/v2/{self.repository}/manifests/{self.tag}"

    @property
    def by_digest(self) -> str:
        return f"/v2/{self.repository}/manifests/{self.manifest.digest}"

    def blob(self, blob: Blob) -> str:
        return f"/v2/{self.repository}/blobs/{blob.digest}"

    @property
    def layer(self) -> str:
        """Its first."""
        return self.blob(self.layers[0])


class Content:
    """Makes images in a folder that a docker-registry serves."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self._made = 0

    def image(self, name: str, layers: Sequence[int]) -> Image:
        """A new image, `name:1`, with layers of these sizes in bytes."""
        repository, tag = Repository(name), Tag("1")
        blobs = [self._layer(repository, size) for size in layers]
        config = self._bytes(repository, json.dumps({"image": name, "seed": SEED}).encode())
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(OCI_CONFIG, config),
            "layers": [_descriptor(OCI_GZIP, blob) for blob in blobs],
        }
        manifest = self._bytes(repository, json.dumps(document).encode())
        for link in (
            layout.revision_link(repository, manifest.digest),
            layout.tag_index_link(repository, tag, manifest.digest),
            layout.tag_current_link(repository, tag),
        ):
            self._write(link, layout.link_bytes(manifest.digest))
        return Image(repository, tag, manifest, config, tuple(blobs))

    def _layer(self, repository: Repository, size: int) -> Blob:
        self._made += 1
        if size <= BLOCK:
            return self._bytes(repository, Random(f"{SEED} {self._made}").randbytes(size))
        draft = self._root / f"draft-{self._made}"
        with draft.open("w+b") as file:
            file.truncate(size)
            for block in range(0, size - 16, BLOCK):
                file.seek(block)
                file.write((SEED << 32 | self._made).to_bytes(8) + (block // BLOCK).to_bytes(8))
            file.seek(0)
            digest = Digest.parse(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        data = self._root / layout.blob_data(digest)
        data.parent.mkdir(parents=True)
        draft.rename(data)
        return self._link(repository, Blob(digest, size, data))

    def _bytes(self, repository: Repository, data: bytes) -> Blob:
        digest = Digest.of(data)
        return self._link(repository, Blob(digest, len(data), self._write(layout.blob_data(digest), data)))

    def _link(self, repository: Repository, blob: Blob) -> Blob:
        self._write(layout.layer_link(repository, blob.digest), layout.link_bytes(blob.digest))
        return blob

    def _write(self, path: str, data: bytes) -> Path:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target


def _descriptor(media_type: str, blob: Blob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(blob.digest), "size": blob.size}
