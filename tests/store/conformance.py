"""What every Registry must answer. A test module subclasses this and gives the `registry` fixture.

The registry has the images `samples.SOME` of the catalog: in itself, or where it fetches from.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import Registry, RegistryError
from tests.store.samples import (
    SOME,
    blobs_of,
    body_of,
    digest_of,
    manifests_of,
    repository_of,
    tags_of,
)
from tests.support.images import Catalog

SMALL = Repository("library/small")
NOWHERE = Repository("library/nowhere")
ABSENT = Digest.of(b"nobody has this")


class RegistryConformance:
    """The suite."""

    @pytest.fixture
    def registry(self) -> Registry:
        """A registry that has the images."""
        raise NotImplementedError

    @pytest.mark.parametrize("ref", SOME)
    async def test_a_tag_gives_its_manifest_byte_for_byte(
        self, registry: Registry, catalog: Catalog, ref: str
    ) -> None:
        image = catalog[ref]
        expected = manifests_of(catalog, image)[0]
        for tag in tags_of(image):
            resolved = await registry.resolve(repository_of(image), tag)
            assert resolved.descriptor == expected.descriptor
            assert resolved.manifest in (None, expected)
            assert await registry.manifest(repository_of(image), tag) == expected
            assert await registry.stat_manifest(repository_of(image), tag) == expected.descriptor

    @pytest.mark.parametrize("ref", SOME)
    async def test_a_digest_gives_its_manifest_also_of_the_children_of_an_index(
        self, registry: Registry, catalog: Catalog, ref: str
    ) -> None:
        image = catalog[ref]
        for expected in manifests_of(catalog, image):
            digest = expected.descriptor.digest
            assert await registry.manifest(repository_of(image), digest) == expected
            assert await registry.stat_manifest(repository_of(image), digest) == expected.descriptor

    @pytest.mark.parametrize("ref", SOME)
    async def test_a_blob_is_read_whole(self, registry: Registry, catalog: Catalog, ref: str) -> None:
        image = catalog[ref]
        for digest, data in blobs_of(catalog, image).items():
            blob = await registry.blob(repository_of(image), digest)
            assert (blob.descriptor.digest, blob.descriptor.size) == (digest, len(data))
            assert blob.start == 0
            assert await body_of(blob) == data
            await blob.close()
            await blob.close()

    async def test_a_blob_is_read_in_ranges_and_by_several_at_once(
        self, registry: Registry, catalog: Catalog
    ) -> None:
        digest, data = max(
            blobs_of(catalog, catalog["library/small:1"]).items(), key=lambda item: len(item[1])
        )
        edges = [0, 1, 4095, len(data) // 2, len(data) - 1, len(data)]
        blobs = [await registry.blob(SMALL, digest, size=len(data)) for _ in range(3)]
        for start, stop in itertools.combinations_with_replacement(edges, 2):
            found = await asyncio.gather(*(body_of(blob, start, stop) for blob in blobs))
            assert found == [data[start:stop]] * 3
        for blob in blobs:
            await blob.close()

    async def test_the_rest_of_a_blob_is_read_from_a_start(
        self, registry: Registry, catalog: Catalog
    ) -> None:
        for digest, data in blobs_of(catalog, catalog["library/small:1"]).items():
            start = len(data) // 3
            blob = await registry.blob(SMALL, digest, start=start)
            assert 0 <= blob.start <= start
            assert blob.descriptor.size == len(data)
            assert await body_of(blob, start) == data[start:]
            await blob.close()

    async def test_a_blob_is_described_without_its_bytes(self, registry: Registry, catalog: Catalog) -> None:
        for digest, data in blobs_of(catalog, catalog["library/small:1"]).items():
            found = await registry.stat_blob(SMALL, digest)
            assert (found.digest, found.size) == (digest, len(data))

    @pytest.mark.parametrize("reference", [Tag("nope"), ABSENT], ids=["tag", "digest"])
    @pytest.mark.parametrize("repository", [SMALL, NOWHERE], ids=str)
    async def test_an_unknown_manifest_is_unknown(
        self, registry: Registry, repository: Repository, reference: Tag | Digest
    ) -> None:
        for verb in (registry.manifest, registry.stat_manifest):
            with pytest.raises(RegistryError) as caught:
                await verb(repository, reference)
            assert caught.value.code in (ErrorCode.MANIFEST_UNKNOWN, ErrorCode.NAME_UNKNOWN)
            assert caught.value.status == 404
            assert caught.value.code is ErrorCode.MANIFEST_UNKNOWN or repository == NOWHERE

    @pytest.mark.parametrize("repository", [SMALL, NOWHERE], ids=str)
    async def test_an_unknown_blob_is_unknown(self, registry: Registry, repository: Repository) -> None:
        with pytest.raises(RegistryError) as opened:
            await registry.blob(repository, ABSENT)
        with pytest.raises(RegistryError) as described:
            await registry.stat_blob(repository, ABSENT)
        for caught in (opened, described):
            assert caught.value.code in (ErrorCode.BLOB_UNKNOWN, ErrorCode.NAME_UNKNOWN)
            assert caught.value.status == 404

    async def test_nothing_is_given_through_a_repository_that_does_not_have_it(
        self, registry: Registry, catalog: Catalog
    ) -> None:
        """Also after it was given through the one that has it."""
        image = catalog["library/multi:1"]
        digest = next(iter(blobs_of(catalog, image)))
        blob = await registry.blob(repository_of(image), digest)
        await body_of(blob)
        await blob.close()
        await registry.manifest(repository_of(image), digest_of(image))
        for repository in (SMALL, NOWHERE):
            with pytest.raises(RegistryError) as opened:
                await registry.blob(repository, digest)
            with pytest.raises(RegistryError) as described:
                await registry.stat_blob(repository, digest)
            with pytest.raises(RegistryError) as fetched:
                await registry.manifest(repository, digest_of(image))
            assert {caught.value.status for caught in (opened, described, fetched)} == {404}

    async def test_tags_come_sorted_and_in_pages(self, registry: Registry, catalog: Catalog) -> None:
        image = catalog["library/tags:t000"]
        repository, names = repository_of(image), tuple(sorted(map(str, tags_of(image))))
        whole = await registry.tags(repository, None, "")
        assert (whole.names, whole.more) == (names, False)
        found: tuple[str, ...] = ()
        more = True
        while more:
            page = await registry.tags(repository, 7, found[-1] if found else "")
            assert len(page.names) <= 7
            found, more = found + page.names, page.more and bool(page.names)
        assert found == names

    async def test_a_page_of_tags_begins_after_a_name_that_is_no_tag(self, registry: Registry) -> None:
        page = await registry.tags(Repository("library/tags"), 2, "t0005")
        assert page.names == ("t001", "t002")
        assert page.more

    async def test_tags_of_an_unknown_repository_are_unknown(self, registry: Registry) -> None:
        with pytest.raises(RegistryError) as caught:
            await registry.tags(NOWHERE, None, "")
        assert (caught.value.code, caught.value.status) == (ErrorCode.NAME_UNKNOWN, 404)

    async def test_referrers_are_the_manifests_whose_subject_it_is(
        self, registry: Registry, catalog: Catalog
    ) -> None:
        image, artifact = catalog["library/oci:1"], catalog["library/oci:sbom"]
        for ref in (image, artifact):  # a mirror knows what it was asked for
            await registry.manifest(repository_of(ref), digest_of(ref))
        found = await registry.referrers(repository_of(image), digest_of(image))
        assert [
            (entry["digest"], entry["size"], entry["mediaType"], entry["artifactType"]) for entry in found
        ] == [
            (
                artifact.digest,
                len(catalog.blobs[artifact.digest]),
                artifact.media_type,
                "application/vnd.example.sbom.v1",
            )
        ]
        assert await registry.referrers(repository_of(image), digest_of(artifact)) == ()
