"""The tree is distribution's: docker-registry serves what the store wrote, and the other way round."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from mirror.drivers.filesystem import FilesystemDriver
from mirror.oci.digest import Digest
from mirror.registry import RawManifest
from mirror.store import layout
from mirror.store.content import ContentStore
from tests.store.samples import (
    SOME,
    adopt,
    blobs_of,
    body_of,
    manifests_of,
    repository_of,
    stock,
    tags_of,
)
from tests.support.images import MANIFEST_TYPES, Catalog
from tests.support.procs import Workspace
from tests.support.programs import require
from tests.support.registries import Registry, push


class Client:
    """Plain GETs of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=30)

    def get(self, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        self._connection.request("GET", path, headers={"Accept": ", ".join(MANIFEST_TYPES)})
        response = self._connection.getresponse()
        return response, response.read()

    def close(self) -> None:
        self._connection.close()


async def test_docker_registry_serves_what_the_store_wrote(
    space: Workspace, catalog: Catalog, tmp_path: Path
) -> None:
    require("docker-registry")
    storage = tmp_path / "storage"
    driver = FilesystemDriver(storage, 4)
    await stock(ContentStore(driver), catalog, SOME, tmp_path)
    # sha512 as well: its data lies under its own name, and the link says so.
    long = Digest.of(b"layer by sha512", "sha512")
    (tmp_path / "long").write_bytes(b"layer by sha512")
    await ContentStore(driver).adopt_blob(repository_of(catalog[SOME[0]]), long, tmp_path / "long")
    await driver.close()
    registry = Registry(space, "on-our-tree", storage=storage)
    client = Client(registry)
    try:
        for ref in SOME:
            check_served(client, catalog, ref)
        _, body = client.get(f"/v2/library/small/blobs/{long}")
        assert body == b"layer by sha512"
        _, body = client.get("/v2/_catalog")
        assert json.loads(body)["repositories"] == sorted({catalog[ref].name for ref in SOME})
        for name in {catalog[ref].name for ref in SOME}:
            _, body = client.get(f"/v2/{name}/tags/list")
            expected = {
                str(tag) for ref in SOME if catalog[ref].name == name for tag in tags_of(catalog[ref])
            }
            assert set(json.loads(body)["tags"]) == expected
    finally:
        client.close()
        registry.stop()


def check_served(client: Client, catalog: Catalog, ref: str) -> None:
    """One image, whole, by tag and by digest."""
    image = catalog[ref]
    manifests = manifests_of(catalog, image)
    wanted: list[tuple[str, RawManifest]] = [(str(tag), manifests[0]) for tag in tags_of(image)]
    wanted += [(str(manifest.descriptor.digest), manifest) for manifest in manifests]
    for reference, manifest in wanted:
        response, body = client.get(f"/v2/{image.name}/manifests/{reference}")
        assert (response.status, body) == (200, manifest.body)
        assert response.headers["Docker-Content-Digest"] == str(manifest.descriptor.digest)
        assert response.headers["Content-Type"] == manifest.descriptor.media_type
    for digest, data in blobs_of(catalog, image).items():
        response, body = client.get(f"/v2/{image.name}/blobs/{digest}")
        assert (response.status, body) == (200, data)


async def test_the_store_serves_what_was_pushed_to_docker_registry(
    space: Workspace, catalog: Catalog, tmp_path: Path
) -> None:
    require("docker-registry")
    registry = Registry(space, "pushed-to", storage=tmp_path / "storage")
    push(registry.url, catalog)
    registry.stop()
    driver = FilesystemDriver(registry.storage, 4)
    store = ContentStore(driver)
    for image in catalog.images:
        repository = repository_of(image)
        manifests = manifests_of(catalog, image)
        for tag in tags_of(image):
            assert (await store.resolve(repository, tag)).manifest == manifests[0]
        for manifest in manifests:
            assert await store.manifest(repository, manifest.descriptor.digest) == manifest
        for digest, data in blobs_of(catalog, image).items():
            blob = await store.blob(repository, digest, size=len(data))
            assert await body_of(blob) == data
            await blob.close()
            assert await store.names(repository, digest) is not None
        tags = {str(tag) for each in catalog.images if each.name == image.name for tag in tags_of(each)}
        assert set((await store.tags(repository, None, "")).names) == tags
    names = {image.name for image in catalog.images}
    assert set((await store.repositories(None, "")).names) == names
    await driver.close()


async def test_putting_what_docker_registry_wrote_writes_nothing(
    space: Workspace, catalog: Catalog, tmp_path: Path
) -> None:
    """So the trees are the same byte for byte."""
    require("docker-registry")
    registry = Registry(space, "pushed-to-too", storage=tmp_path / "storage")
    push(registry.url, catalog)
    registry.stop()
    driver = FilesystemDriver(tmp_path / "ours", 4)
    await stock(ContentStore(driver), catalog, [image.ref for image in catalog.images], tmp_path)
    await driver.close()
    theirs, ours = files_below(registry.storage), files_below(tmp_path / "ours")
    assert {path for path in theirs if "_uploads" not in path} == set(ours)
    assert all(theirs[path] == data for path, data in ours.items())
    assert any(path.startswith(layout.REPOSITORIES) for path in ours)


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("gone", ["_layers", "_manifests/revisions"])
async def test_what_docker_registry_expired_is_missing_and_comes_back(
    gone: str, catalog: Catalog, tmp_path: Path
) -> None:
    """Its proxy mode deletes links, and leaves their folders and the tags."""
    storage = tmp_path / "storage"
    driver = FilesystemDriver(storage, 4)
    store = ContentStore(driver)
    image = catalog["library/small:1"]
    repository = repository_of(image)
    await stock(store, catalog, ["library/small:1"], tmp_path)
    for link in (storage / layout.REPOSITORIES / "library/small" / gone).rglob("link"):
        link.unlink()
    fresh = ContentStore(driver)
    for digest, data in blobs_of(catalog, image).items():
        assert await fresh.is_linked(repository, digest) == (gone != "_layers")
        assert await fresh.blob_size(digest) == len(data)
        await adopt(fresh, repository, data, tmp_path)
    tags = await fresh.tags(repository, None, "")
    assert tags.names == ("1", "latest")
    manifest = manifests_of(catalog, image)[0]
    await fresh.put_manifest(repository, manifest)
    assert (await fresh.resolve(repository, tags_of(image)[0])).manifest == manifest
    await driver.close()
