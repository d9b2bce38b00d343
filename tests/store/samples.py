"""Content for the tests of registries: some of the catalog's images, put into a store."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import Blob, FileSpan, RawManifest
from mirror.store.content import ContentStore
from tests.support.images import Catalog, Image

# One of each kind: docker with three layers, OCI with an artifact that belongs to it, an index, many tags,
# no layers, a name of four components.
SOME = (
    "library/small:1",
    "library/oci:1",
    "library/oci:sbom",
    "library/multi:1",
    "library/tags:t000",
    "library/nolayers:1",
    "team/project/sub_group/app-name:V1.2.3_rc-4",
)


def digest_of(image: Image) -> Digest:
    return Digest.parse(image.digest)


def repository_of(image: Image) -> Repository:
    return Repository.parse(image.name)


def tags_of(image: Image) -> list[Tag]:
    return [Tag.parse(tag) for tag in (image.tag, *image.extra_tags)]


def raw_manifest(body: bytes) -> RawManifest:
    """These bytes, which say their own media type."""
    return RawManifest(Descriptor(Digest.of(body), len(body), json.loads(body)["mediaType"]), body)


def manifests_of(catalog: Catalog, image: Image) -> list[RawManifest]:
    """The manifests of an image, the one that is tagged first."""
    return [raw_manifest(catalog.blobs[digest]) for digest in catalog.objects(image)[0]]


def blobs_of(catalog: Catalog, image: Image) -> dict[Digest, bytes]:
    return {Digest.parse(digest): catalog.blobs[digest] for digest in catalog.objects(image)[1]}


async def adopt(store: ContentStore, repository: Repository, data: bytes, folder: Path) -> Digest:
    """Give the store a blob as `cache` does: from a file that is complete and right."""
    digest = Digest.of(data)
    source = folder / f"{digest.hex}.part"
    source.write_bytes(data)
    await store.adopt_blob(repository, digest, source)
    return digest


async def stock(store: ContentStore, catalog: Catalog, refs: Sequence[str], folder: Path) -> None:
    """Put the named images into the store."""
    for ref in refs:
        image = catalog[ref]
        repository = repository_of(image)
        for data in blobs_of(catalog, image).values():
            await adopt(store, repository, data, folder)
        top, *children = manifests_of(catalog, image)
        for child in children:
            await store.put_manifest(repository, child)
        for tag in tags_of(image):
            await store.put_manifest(repository, top, tag)


async def body_of(blob: Blob, start: int = 0, stop: int | None = None) -> bytes:
    """What `read` gives, from a file or in pieces."""
    parts = []
    async with aclosing(blob.read(start, blob.descriptor.size if stop is None else stop)) as read:
        async for part in read:
            if isinstance(part, FileSpan):
                data = os.pread(part.file.fileno(), part.count, part.offset)
                assert len(data) == part.count
                parts.append(data)
            else:
                assert part, "an empty part says nothing"
                parts.append(part)
    return b"".join(parts)
