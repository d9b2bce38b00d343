"""A store in a bucket: as a Registry, and in the keys that docker-registry reads and writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.drivers.s3 import S3Driver
from mirror.oci.digest import Digest
from mirror.registry import Placed, Registry
from mirror.store import layout
from mirror.store.content import ContentStore
from mirror.store.garbage import Kind
from mirror.store.tree import Tree
from tests.store.conformance import RegistryConformance
from tests.store.samples import SOME, blobs_of, manifests_of, repository_of, stock, tags_of
from tests.support.buckets import Bucket
from tests.support.images import MANIFEST_TYPES, Catalog
from tests.support.procs import Workspace
from tests.support.programs import require
from tests.support.recorder import Recorder
from tests.support.registries import RegistryProcess, push

HOUR = 3600.0
FEW = ["library/small:1", "library/multi:1", "library/oci:sbom"]  # each request takes ten milliseconds


@pytest.fixture(scope="module")
def stocked() -> dict[str, Bucket]:
    """The one bucket of all the tests of conformance, which only read, once it is filled."""
    return {}


class TestConformance(RegistryConformance):
    @pytest.fixture
    async def registry(
        self, bucket: Bucket, catalog: Catalog, tmp_path: Path, stocked: dict[str, Bucket]
    ) -> AsyncIterator[Registry]:
        """A store that another one, of an earlier process, has filled; clients are sent to it for blobs."""
        if not stocked:
            stocked["bucket"] = bucket
            driver = S3Driver(bucket.settings())
            await stock(ContentStore(driver), catalog, SOME, tmp_path)
            await driver.close()
        driver = S3Driver(stocked["bucket"].settings())
        yield ContentStore(driver)
        await driver.close()


def get(url: str) -> bytes:
    """Redirects are followed."""
    request = urllib.request.Request(url, headers={"Accept": ", ".join(MANIFEST_TYPES)})
    with urllib.request.urlopen(request, timeout=30) as answer:
        body: bytes = answer.read()
    return body


class DockerRegistry(RegistryProcess):
    """A docker-registry on a bucket, started."""

    def __init__(self, space: Workspace, bucket: Bucket, *, redirect: bool) -> None:
        storage = {"s3": bucket.parameters(), "redirect": {"disable": not redirect}}
        super().__init__(space, "on-s3", ["docker-registry", "serve"], {"storage": storage})
        self.start()


async def test_docker_registry_serves_what_the_store_wrote(
    space: Workspace, catalog: Catalog, bucket: Bucket, tmp_path: Path
) -> None:
    require("docker-registry")
    driver = S3Driver(bucket.settings())
    await stock(ContentStore(driver), catalog, FEW, tmp_path)
    await driver.close()
    registry = DockerRegistry(space, bucket, redirect=True)
    try:
        for ref in FEW:
            image = catalog[ref]
            base = f"{registry.url}/v2/{image.name}"
            for reference in (
                *tags_of(image),
                *(each.descriptor.digest for each in manifests_of(catalog, image)),
            ):
                wanted = catalog.blobs.get(str(reference), catalog.blobs[image.digest])
                assert get(f"{base}/manifests/{reference}") == wanted
            for digest in blobs_of(catalog, image):
                assert hashlib.sha256(get(f"{base}/blobs/{digest}")).hexdigest() == digest.hex
            listed = json.loads(get(f"{base}/tags/list"))["tags"]
            assert {str(tag) for tag in tags_of(image)} <= set(listed)
    finally:
        registry.stop()


async def test_the_store_serves_what_docker_registry_wrote(
    space: Workspace, catalog: Catalog, bucket: Bucket
) -> None:
    require("docker-registry")
    few = dataclasses.replace(catalog, images=[catalog[ref] for ref in FEW])
    registry = DockerRegistry(space, bucket, redirect=False)
    try:
        push(registry.url, few)
    finally:
        registry.stop()
    driver = S3Driver(bucket.settings(redirect=False), own=layout.BLOBS)
    store = ContentStore(driver)
    for image in few.images:
        repository = repository_of(image)
        for expected in manifests_of(catalog, image):
            found = await store.manifest(repository, expected.descriptor.digest)
            assert found.body == expected.body
        for tag in tags_of(image):
            assert (await store.resolve(repository, tag)).descriptor.digest == Digest.parse(image.digest)
        for digest in blobs_of(catalog, image):
            blob = await store.blob(repository, digest)
            read = b"".join(
                [part async for part in blob.read(0, blob.descriptor.size) if isinstance(part, bytes)]
            )
            assert read == catalog.blobs[str(digest)]
            await blob.close()
    seen = [fact async for batch in Tree(driver).survey_blobs() for fact in batch]
    wanted = {digest for image in few.images for each in catalog.objects(image) for digest in each}
    assert {str(fact.digest) for fact in seen} == wanted
    await driver.close()


async def test_a_look_at_all_that_is_kept_reads_no_link_but_those_of_tags(
    catalog: Catalog, bucket: Bucket, tmp_path: Path
) -> None:
    recorder = Recorder(bucket.server.url)
    driver = S3Driver(bucket.settings(recorder.url))
    await stock(ContentStore(driver), catalog, FEW, tmp_path)
    recorder.clear()
    blobs = [fact async for batch in Tree(driver).survey_blobs() for fact in batch]
    facts = [fact async for batch in Tree(driver).survey_repositories() for fact in batch]
    await driver.close()
    recorder.stop()
    assert blobs
    assert facts
    objects = [exchange for exchange in recorder.exchanges if "list-type=2" not in exchange.target]
    assert len(recorder.exchanges) - len(objects) == 2, recorder.trace()
    tags = {tag for ref in FEW for tag in tags_of(catalog[ref])}
    assert all("/current/link" in exchange.target for exchange in objects), recorder.trace()
    assert len(objects) >= len(tags)


async def test_a_collection_finds_what_nothing_leads_to(
    catalog: Catalog, bucket: Bucket, tmp_path: Path
) -> None:
    driver = S3Driver(bucket.settings())
    store, tree = ContentStore(driver), Tree(driver)
    await stock(store, catalog, FEW[:1], tmp_path)
    kept = await bucket.keys()
    (tmp_path / "orphan").write_bytes(b"nobody wants this")
    orphan = Digest.of(b"nobody wants this")
    await driver.move_in(tmp_path / "orphan", layout.blob_data(orphan))
    when = (await driver.stat(layout.blob_data(orphan))).modified
    assert [g async for step in tree.collect(now=when) for g in step.garbage] == [], "it is too young"
    found = [g async for step in tree.collect(now=when + 2 * HOUR) for g in step.garbage]
    assert [(each.kind, each.digest) for each in found] == [(Kind.BLOB, orphan)]
    assert await tree.drop(found[0])
    assert not await tree.drop(found[0])
    assert await bucket.keys() == kept
    await driver.close()


async def test_a_blob_is_placed_where_clients_fetch_it_or_read_through_us(
    catalog: Catalog, bucket: Bucket, tmp_path: Path
) -> None:
    for redirect in (True, False):
        driver = S3Driver(bucket.settings(redirect=redirect))
        store = ContentStore(driver)
        await stock(store, catalog, FEW[:1], tmp_path)
        digest = next(iter(blobs_of(catalog, catalog[FEW[0]])))
        blob = await store.open_blob(digest)
        assert isinstance(blob, Placed)
        assert (blob.elsewhere is not None) is redirect
        if blob.elsewhere is not None:
            assert get(blob.elsewhere.url) == catalog.blobs[str(digest)]
        read = b"".join(
            [part async for part in blob.read(0, blob.descriptor.size) if isinstance(part, bytes)]
        )
        assert read == catalog.blobs[str(digest)]
        await blob.close()
        await driver.close()
