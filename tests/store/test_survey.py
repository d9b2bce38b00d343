"""A survey finds what a store has been given, and nothing that reads as missing."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from pathlib import Path

import pytest

from mirror.drivers.base import StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import Unavailable
from mirror.store import layout
from mirror.store.content import ContentStore
from mirror.store.survey import BlobFact, ImageFact, LayerFact, RepositoryFact, TagFact
from mirror.store.tree import Tree
from tests.store.faulty import FaultyDriver
from tests.store.samples import SOME, blobs_of, digest_of, manifests_of, repository_of, stock, tags_of
from tests.store.test_content import LAYER_DIGEST, REPOSITORY, TAG, fill
from tests.support.images import Catalog


@pytest.fixture
def tree(driver: StorageDriver) -> Tree:
    return Tree(driver)


async def all_of(batches: AsyncIterable[Iterable[object]]) -> list[object]:
    return [fact async for batch in batches for fact in batch]


def said(facts: Iterable[object]) -> set[tuple[object, ...]]:
    """Facts without their times."""
    found = set[tuple[object, ...]]()
    for fact in facts:
        match fact:
            case ImageFact(repository, digest):
                found.add(("image", repository, digest))
            case LayerFact(repository, digest):
                found.add(("layer", repository, digest))
            case TagFact(repository, tag, digest):
                found.add(("tag", repository, tag, digest))
    return found


async def test_what_was_kept_is_found(
    store: ContentStore, driver: StorageDriver, tree: Tree, catalog: Catalog, tmp_path: Path
) -> None:
    await stock(store, catalog, SOME, tmp_path)
    expected: set[tuple[object, ...]] = set()
    sizes: dict[Digest, int] = {}
    for image in (catalog[ref] for ref in SOME):
        repository = repository_of(image)
        for manifest in manifests_of(catalog, image):
            expected.add(("image", repository, manifest.descriptor.digest))
            sizes[manifest.descriptor.digest] = len(manifest.body)
        for digest, data in blobs_of(catalog, image).items():
            expected.add(("layer", repository, digest))
            sizes[digest] = len(data)
        expected.update(("tag", repository, tag, digest_of(image)) for tag in tags_of(image))
    facts = await all_of(tree.survey_repositories())
    assert said(facts) == expected
    assert len(facts) == len(expected)
    blobs = [fact async for batch in tree.survey_blobs() for fact in batch]
    assert {fact.digest: fact.size for fact in blobs} == sizes
    for fact in blobs:
        assert fact.modified == (await driver.stat(layout.blob_data(fact.digest))).modified


async def test_an_empty_store_has_nothing(tree: Tree) -> None:
    assert await all_of(tree.survey_blobs()) == []
    assert await all_of(tree.survey_repositories()) == []


@pytest.mark.parametrize("data", [b"", b"garbage", b"x" * 71, b"x" * 300])
async def test_a_broken_link_is_no_fact(
    data: bytes, store: ContentStore, driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    await fill(store, tmp_path)
    before = said(await all_of(tree.survey_repositories()))
    lost = Digest.of(b"lost")
    paths = [layout.tag_current_link(REPOSITORY, Tag("lost"))]
    if len(data) != 71:  # the size of a right one: believed
        paths += [layout.layer_link(REPOSITORY, lost), layout.revision_link(REPOSITORY, lost)]
    for path in paths:
        await driver.put(path, data)
    assert said(await all_of(tree.survey_repositories())) == before


async def test_a_link_to_another_algorithm_is_a_fact(driver: StorageDriver, tree: Tree) -> None:
    """As distribution keeps what was pushed by its sha512."""
    long = Digest.of(b"data", "sha512")
    await driver.put(layout.layer_link(REPOSITORY, long), layout.link_bytes(Digest.of(b"data")))
    assert said(await all_of(tree.survey_repositories())) == {("layer", REPOSITORY, long)}


async def test_foreign_files_are_no_facts(
    store: ContentStore, driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    await fill(store, tmp_path)
    blobs, facts = len(await all_of(tree.survey_blobs())), await all_of(tree.survey_repositories())
    for path in (
        "scheduler-state.json",
        f"{layout.BLOBS}/file",
        f"{layout.blob_folder(LAYER_DIGEST)}/other",
        f"{layout.REPOSITORIES}/stray",
        f"{layout.uploads(REPOSITORY)}/1/data",
        f"{layout.tag_folder(REPOSITORY, TAG)}/stray",
    ):
        await driver.put(path, b"x")
    assert len(await all_of(tree.survey_blobs())) == blobs
    assert said(await all_of(tree.survey_repositories())) == said(facts)


async def test_a_survey_that_cannot_see_all_fails(
    store: ContentStore, driver: StorageDriver, tmp_path: Path
) -> None:
    """Whoever believes a survey forgets what it has not seen."""
    await fill(store, tmp_path)
    clean = FaultyDriver(driver)
    await all_of(Tree(clean).survey_blobs())
    blobs = clean.calls
    await all_of(Tree(clean).survey_repositories())
    for fail_at in range(clean.calls):
        tree = Tree(FaultyDriver(driver, fail_at=fail_at, dead=True))
        if fail_at >= blobs:
            tree = Tree(FaultyDriver(driver, fail_at=fail_at - blobs, dead=True))
        with pytest.raises(Unavailable):
            await all_of(tree.survey_blobs() if fail_at < blobs else tree.survey_repositories())
    assert 0 < blobs < clean.calls


async def test_a_survey_comes_in_batches(driver: StorageDriver, tree: Tree) -> None:
    for index in range(600):
        digest = Digest.of(str(index).encode())
        await driver.put(layout.blob_data(digest), b"x")
        await driver.put(layout.layer_link(Repository(f"r{index % 3}"), digest), layout.link_bytes(digest))
    blobs: list[list[BlobFact]] = [batch async for batch in tree.survey_blobs()]
    links: list[list[RepositoryFact]] = [batch async for batch in tree.survey_repositories()]
    assert sum(map(len, blobs)) == sum(map(len, links)) == 600
    assert max(*map(len, blobs), *map(len, links)) <= 250


async def test_named_tells_what_a_manifest_names(
    store: ContentStore, driver: StorageDriver, tree: Tree, catalog: Catalog, tmp_path: Path
) -> None:
    await stock(store, catalog, SOME, tmp_path)
    image = catalog["library/multi:1"]
    repository = repository_of(image)
    top, *children = manifests_of(catalog, image)
    named = await tree.named(repository, top.descriptor.digest)
    assert named is not None
    assert named.size == len(top.body)
    assert named.parts == {child.descriptor.digest for child in children}
    blobs = set[Digest]()
    for child in children:
        found = await tree.named(repository, child.descriptor.digest)
        assert found is not None
        blobs |= found.parts
    assert blobs == set(blobs_of(catalog, image))
    assert await tree.named(Repository("library/small"), top.descriptor.digest) is None
    await driver.put(layout.blob_data(top.descriptor.digest), top.body[:-1] + b" ")
    assert await tree.named(repository, top.descriptor.digest) is None
