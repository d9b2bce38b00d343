"""What a collection finds in the tree alone: all that nothing leads to, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.drivers.base import StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError, Unavailable
from mirror.store import layout
from mirror.store.collect import GRACE
from mirror.store.content import ContentStore
from mirror.store.garbage import Garbage, Kind
from mirror.store.tree import Tree
from tests.drivers.conformance import walk
from tests.store.faulty import FaultyDriver
from tests.store.samples import SOME, adopt, manifests_of, raw_manifest, repository_of, stock
from tests.store.test_content import DIGEST, LAYER, LAYER_DIGEST, MANIFEST, OTHER, REPOSITORY, TAG, image_of
from tests.support.images import Catalog

CONFIG = b"{}"
ORPHAN = Digest.of(b"orphan")


@pytest.fixture
def tree(driver: StorageDriver) -> Tree:
    return Tree(driver)


async def fill(driver: StorageDriver, folder: Path) -> None:
    """Two repositories that share an image, all of it here."""
    store = ContentStore(driver)
    for repository in (REPOSITORY, OTHER):
        for data in (CONFIG, LAYER):
            await adopt(store, repository, data, folder)
        await store.put_manifest(repository, MANIFEST, TAG)


async def collected(
    tree: Tree, *, age: float = 2 * GRACE, untagged: bool = False, into: list[Garbage] | None = None
) -> list[Garbage]:
    """What a collection finds when all that was just written is `age` seconds old."""
    found: list[Garbage] = [] if into is None else into
    async for step in tree.collect(now=time.time() + age, untagged=untagged):
        found.extend(step.garbage)
    return found


def kinds(found: list[Garbage]) -> list[tuple[Kind, str]]:
    return [(garbage.kind, garbage.path) for garbage in found]


async def drop_all(tree: Tree, found: list[Garbage]) -> None:
    for garbage in found:
        assert await tree.drop(garbage), garbage


async def paths(driver: StorageDriver) -> set[str]:
    return {entry.path for entry in await walk(driver, "")}


async def test_what_is_whole_has_no_garbage(
    driver: StorageDriver, tree: Tree, catalog: Catalog, tmp_path: Path
) -> None:
    assert await collected(tree) == []
    await stock(ContentStore(driver), catalog, SOME, tmp_path)
    assert await collected(tree) == []
    assert await collected(tree, untagged=True) == []


async def test_a_blob_that_nothing_names_is_garbage_once_it_is_old(
    driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    await fill(driver, tmp_path)
    before = await paths(driver)
    await driver.put(layout.blob_data(ORPHAN), b"orphan")
    assert await collected(tree, age=GRACE - 60) == []
    found = await collected(tree, age=GRACE + 60)
    assert kinds(found) == [(Kind.BLOB, layout.blob_data(ORPHAN))]
    assert (found[0].digest, found[0].size) == (ORPHAN, 6)
    await drop_all(tree, found)
    assert await paths(driver) == before


async def test_a_link_of_a_blob_goes_where_no_manifest_of_the_repository_names_it(
    driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    """The blob stays, for another repository's sake."""
    await fill(driver, tmp_path)
    before = await paths(driver)
    third = Repository("third")
    await ContentStore(driver).link_blob(third, LAYER_DIGEST)
    found = await collected(tree)
    assert kinds(found) == [(Kind.LAYER, layout.layer_link(third, LAYER_DIGEST))]
    assert (found[0].repository, found[0].digest) == (third, LAYER_DIGEST)
    await drop_all(tree, found)
    assert await paths(driver) == before


async def test_a_young_link_keeps_an_old_blob(tmp_path: Path) -> None:
    """A pull links what is here before it has the manifest."""
    now = 1e9
    driver = InMemoryDriver(clock=lambda: now)
    await driver.put(layout.blob_data(ORPHAN), b"orphan")
    now += 2 * GRACE
    await ContentStore(driver).link_blob(REPOSITORY, ORPHAN)
    assert [step.garbage async for step in Tree(driver).collect(now=now + 60) if step.garbage] == []


async def test_a_young_manifest_keeps_old_blobs_and_links(tmp_path: Path) -> None:
    now = 1e9
    driver = InMemoryDriver(clock=lambda: now)
    store = ContentStore(driver)
    await adopt(store, REPOSITORY, LAYER, tmp_path)
    now += 2 * GRACE
    await store.put_manifest(REPOSITORY, MANIFEST)
    for untagged in (False, True):
        steps = [step async for step in Tree(driver).collect(now=now + 60, untagged=untagged)]
        assert [step.garbage for step in steps if step.garbage] == []


async def test_a_tag_without_its_manifest_is_garbage_and_the_rest_goes_with_it(
    driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    """What registry:2 leaves of an expired manifest."""
    await fill(driver, tmp_path)
    await driver.delete(layout.revision_link(OTHER, DIGEST))
    found = await collected(tree)
    files = {(each.kind, each.path) for each in found if each.kind is not Kind.FOLDER}
    assert files == {
        (Kind.TAG, layout.tag_current_link(OTHER, TAG)),
        (Kind.LAYER, layout.layer_link(OTHER, Digest.of(CONFIG))),
        (Kind.LAYER, layout.layer_link(OTHER, LAYER_DIGEST)),
    }
    await drop_all(tree, found)
    assert {path for path in await paths(driver) if f"/{OTHER}/" in path} == set()
    assert (await ContentStore(driver).resolve(REPOSITORY, TAG)).manifest == MANIFEST
    assert await collected(tree) == []


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (layout.revision_link(REPOSITORY, DIGEST), b""),
        (layout.revision_link(REPOSITORY, DIGEST), b"x" * 71),
        (layout.blob_data(DIGEST), b"{}"),
        (layout.blob_data(DIGEST), b""),
        (layout.blob_data(DIGEST), None),
    ],
)
async def test_a_manifest_that_cannot_be_served_is_garbage_with_all_that_it_named(
    path: str, data: bytes | None, driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    store = ContentStore(driver)
    await adopt(store, REPOSITORY, LAYER, tmp_path)
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    await driver.delete(path)
    if data is not None:
        await driver.put(path, data)
    found = await collected(tree)
    assert (Kind.BROKEN, layout.revision_link(REPOSITORY, DIGEST)) in kinds(found)
    await drop_all(tree, [garbage for garbage in found if garbage.kind is not Kind.FOLDER])
    assert {path for path in await paths(driver) if path.endswith(("link", "data"))} == set()


async def test_broken_links_are_garbage(driver: StorageDriver, tree: Tree, tmp_path: Path) -> None:
    await fill(driver, tmp_path)
    before = await paths(driver)
    lost = Digest.of(b"lost")
    broken = [layout.layer_link(REPOSITORY, lost), layout.revision_link(REPOSITORY, lost)]
    for path in broken:
        await driver.put(path, b"")
    await driver.put(layout.tag_index_link(REPOSITORY, TAG, lost), layout.link_bytes(lost))
    await driver.put(layout.tag_current_link(REPOSITORY, Tag("lost")), b"")
    await driver.put(layout.tag_index_link(REPOSITORY, Tag("gone"), DIGEST), layout.link_bytes(DIGEST))
    found = await collected(tree)
    assert sorted(kinds(found), key=str) == sorted(
        [
            *((Kind.BROKEN, path) for path in broken),
            (Kind.BROKEN, layout.tag_index_link(REPOSITORY, TAG, lost)),
            (Kind.TAG, layout.tag_current_link(REPOSITORY, Tag("lost"))),
            (Kind.TAG, layout.tag_index_link(REPOSITORY, Tag("gone"), DIGEST)),
        ],
        key=str,
    )
    await drop_all(tree, found)
    assert await paths(driver) == before


async def test_an_unfinished_upload_of_registry_2_is_garbage_after_a_week(
    driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    await fill(driver, tmp_path)
    before = await paths(driver)
    for path in ("data", "startedat", "hashstates/sha256/0"):
        await driver.put(f"{layout.uploads(REPOSITORY)}/some-uuid/{path}", b"123")
    assert await collected(tree, age=2 * GRACE) == []
    found = await collected(tree, age=170 * 3600)
    assert kinds(found) == [(Kind.UPLOAD, f"{layout.uploads(REPOSITORY)}/some-uuid")]
    assert found[0].size == 9
    await drop_all(tree, found)
    assert await paths(driver) == before


async def test_foreign_files_are_left_alone(driver: StorageDriver, tree: Tree, tmp_path: Path) -> None:
    await fill(driver, tmp_path)
    for path in (
        "scheduler-state.json",
        f"{layout.BLOBS}/stray",
        f"{layout.blob_folder(LAYER_DIGEST)}/other",
        f"{layout.BLOBS}/md5/ab/{'ab' * 16}/data",
        f"{layout.REPOSITORIES}/stray",
        f"{layout.REPOSITORIES}/UPPER/_layers/sha256/{LAYER_DIGEST.hex}/link",
        f"{layout.layers(REPOSITORY)}/stray",
        f"{layout.tag_folder(REPOSITORY, TAG)}/stray",
    ):
        await driver.put(path, b"x")
    assert await collected(tree) == []


async def test_a_blob_under_another_algorithm_stays_as_long_as_its_link(
    driver: StorageDriver, tree: Tree
) -> None:
    """distribution keeps what was pushed by its sha512 under its sha256."""
    body = image_of(CONFIG)
    long, short = Digest.of(body, "sha512"), Digest.of(body)
    config_long, config = Digest.of(CONFIG, "sha512"), Digest.of(CONFIG)
    text = body.decode().replace(str(config), str(config_long)).encode()
    manifest, manifest_long = Digest.of(text), Digest.of(text, "sha512")
    assert long != short
    await driver.put(layout.blob_data(manifest), text)
    await driver.put(layout.revision_link(REPOSITORY, manifest_long), layout.link_bytes(manifest))
    await driver.put(layout.blob_data(config), CONFIG)
    await driver.put(layout.layer_link(REPOSITORY, config_long), layout.link_bytes(config))
    assert await collected(tree) == []
    await driver.delete(layout.revision_link(REPOSITORY, manifest_long))
    found = await collected(tree)
    assert {each.path for each in found if each.kind is not Kind.FOLDER} == {
        layout.blob_data(manifest),
        layout.blob_data(config),
        layout.layer_link(REPOSITORY, config_long),
    }


async def test_what_a_manifest_of_schema_1_mentions_stays(driver: StorageDriver, tree: Tree) -> None:
    """It is not served; but the folder may be given back to a registry that does."""
    document = {"schemaVersion": 1, "name": "a", "fsLayers": [{"blobSum": str(LAYER_DIGEST)}]}
    body = json.dumps(document).encode()
    digest = Digest.of(body)
    await driver.put(layout.blob_data(digest), body)
    await driver.put(layout.revision_link(REPOSITORY, digest), layout.link_bytes(digest))
    await driver.put(layout.blob_data(LAYER_DIGEST), LAYER)
    await driver.put(layout.layer_link(REPOSITORY, LAYER_DIGEST), layout.link_bytes(LAYER_DIGEST))
    assert await collected(tree) == []


def referring(subject: RawManifest) -> RawManifest:
    descriptor = subject.descriptor
    return raw_manifest(
        image_of(
            CONFIG,
            subject={
                "mediaType": descriptor.media_type,
                "digest": str(descriptor.digest),
                "size": descriptor.size,
            },
        )
    )


async def test_untagged_manifests_go_where_that_is_asked_with_what_only_they_name(
    driver: StorageDriver, tree: Tree, catalog: Catalog, tmp_path: Path
) -> None:
    """Children of a tagged index, and what refers to a tagged manifest, are not untagged."""
    store = ContentStore(driver)
    await stock(store, catalog, ["library/multi:1"], tmp_path)
    image = catalog["library/multi:1"]
    repository = repository_of(image)
    _top, *children = manifests_of(catalog, image)
    signature = referring(children[0])
    await store.put_manifest(repository, signature)
    before = await paths(driver)
    await adopt(store, repository, LAYER, tmp_path)
    await store.put_manifest(repository, MANIFEST)
    of_untagged = referring(MANIFEST)
    await store.put_manifest(repository, of_untagged)
    assert await collected(tree) == []
    found = await collected(tree, untagged=True)
    assert sorted(kinds(found), key=str) == sorted(
        [
            (Kind.IMAGE, layout.revision_link(repository, DIGEST)),
            (Kind.IMAGE, layout.revision_link(repository, of_untagged.descriptor.digest)),
            (Kind.LAYER, layout.layer_link(repository, LAYER_DIGEST)),
            (Kind.BLOB, layout.blob_data(DIGEST)),
            (Kind.BLOB, layout.blob_data(of_untagged.descriptor.digest)),
            (Kind.BLOB, layout.blob_data(LAYER_DIGEST)),
        ],
        key=str,
    )
    await drop_all(tree, found)
    assert await paths(driver) == before
    for tag in (await store.tags(repository, None, "")).names:
        await store.untag(repository, Tag(tag))
    for garbage in await collected(tree, untagged=True):
        await tree.drop(garbage)
    assert {path for path in await paths(driver) if not path.endswith(("blobs", "repositories"))} == set()


async def test_names_come_before_what_they_name(driver: StorageDriver, tree: Tree, tmp_path: Path) -> None:
    """Whatever the deletion of it is stopped at, no name is left without its data."""
    await fill(driver, tmp_path)
    for repository in (REPOSITORY, OTHER):
        await driver.delete(layout.tag_folder(repository, TAG))
    found = [each.kind for each in await collected(tree, untagged=True) if each.kind is not Kind.FOLDER]
    assert found == [*[Kind.IMAGE, Kind.LAYER, Kind.LAYER] * 2, *[Kind.BLOB] * 3]


@pytest.mark.parametrize("dead", [False, True])
async def test_a_collection_that_cannot_read_all_names_nothing_that_it_has_not_seen_to_be_garbage(
    dead: bool, driver: StorageDriver, tmp_path: Path
) -> None:
    await fill(driver, tmp_path)
    await driver.put(layout.blob_data(ORPHAN), b"orphan")
    clean = FaultyDriver(driver)
    assert len(await collected(Tree(clean))) == 1
    failed = 0
    for fail_at in range(clean.calls):
        found: list[Garbage] = []
        tree = Tree(FaultyDriver(driver, fail_at=fail_at, dead=dead))
        try:
            await collected(tree, into=found)
        except Unavailable:  # a folder
            failed += 1
            assert found == []
        else:  # a file: what is linked nowhere was nobody's all the same
            assert [each.digest for each in found] == [ORPHAN]
    assert 0 < failed < clean.calls


async def test_garbage_that_was_written_again_is_not_dropped(tmp_path: Path) -> None:
    now = 1e9
    driver = InMemoryDriver(clock=lambda: now)
    store, tree = ContentStore(driver), Tree(driver)
    await adopt(store, REPOSITORY, LAYER, tmp_path)
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    await store.put_manifest(REPOSITORY, raw_manifest(image_of(CONFIG)), Tag("whole"))
    await driver.delete(layout.blob_data(DIGEST))
    await driver.put(layout.blob_data(ORPHAN), b"orphan")
    now += 2 * GRACE
    found = [garbage async for step in tree.collect(now=now) for garbage in step.garbage]
    assert {each.kind for each in found} == {Kind.TAG, Kind.BROKEN, Kind.LAYER, Kind.BLOB}
    now += 1
    # A link that says the right thing is not written again: what it names has come back.
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    await driver.put(layout.layer_link(REPOSITORY, LAYER_DIGEST), layout.link_bytes(LAYER_DIGEST))
    for digest, data in ((ORPHAN, b"orphan"), (LAYER_DIGEST, LAYER)):
        await driver.put(layout.blob_data(digest), data)
    before = await paths(driver)
    assert [await tree.drop(garbage) for garbage in found] == [False] * len(found)
    assert await paths(driver) == before


async def test_garbage_that_is_gone_already_is_no_error(
    driver: StorageDriver, tree: Tree, tmp_path: Path
) -> None:
    await fill(driver, tmp_path)
    await driver.delete(layout.revision_link(OTHER, DIGEST))
    await driver.put(layout.blob_data(ORPHAN), b"orphan")
    found = await collected(tree)
    await drop_all(tree, found)
    assert [await tree.drop(garbage) for garbage in found] == [False] * len(found)


# What only a disk has.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


async def test_empty_folders_are_garbage_wherever_they_are(root: Path, tmp_path: Path) -> None:
    driver = FilesystemDriver(root, threads=1)
    await fill(driver, tmp_path)
    tree = Tree(driver)
    before = await paths(driver)
    made = [
        layout.blob_folder(ORPHAN),
        f"{layout.REPOSITORIES}/gone/deep",
        layout.layers(Repository("empty")),
        f"{layout.manifests(REPOSITORY)}/revisions/sha512",
        f"{layout.uploads(REPOSITORY)}/1/hashstates",
    ]
    for path in made:
        (root / path).mkdir(parents=True)
    assert await collected(tree, age=60) == []
    found = await collected(tree)
    assert {each.path for each in found} == set(made)
    assert {each.kind for each in found} == {Kind.FOLDER}
    (root / made[0] / "file").touch()
    assert [await tree.drop(each) for each in found].count(False) == 1
    (root / made[0] / "file").unlink()
    await drop_all(tree, [each for each in await collected(tree) if each.kind is Kind.FOLDER])
    assert await paths(driver) == before
    await driver.close()


async def test_an_empty_tree_keeps_its_folders(root: Path) -> None:
    driver = FilesystemDriver(root, threads=1)
    for path in layout.FOLDERS:
        (root / path).mkdir(parents=True)
    assert await collected(Tree(driver)) == []
    await driver.close()


async def test_what_is_behind_a_link_keeps_its_blobs_and_is_not_garbage(root: Path, tmp_path: Path) -> None:
    """A tree over several disks, or another registry's folder."""
    away = tmp_path / "away"
    other = FilesystemDriver(away, threads=1)
    await ContentStore(other).put_manifest(REPOSITORY, MANIFEST, Tag("lost"))
    unnamed = Digest.of(b"unnamed")
    for digest in (ORPHAN, unnamed):
        await other.put(layout.blob_data(digest), b"orphan")
    await other.put(layout.layer_link(REPOSITORY, ORPHAN), layout.link_bytes(ORPHAN))
    await other.put(layout.revision_link(REPOSITORY, ORPHAN), b"broken")
    (away / layout.REPOSITORIES / "library/empty").mkdir()
    driver = FilesystemDriver(root, threads=1)
    for data in (LAYER, CONFIG, MANIFEST.body):
        await driver.put(layout.blob_data(Digest.of(data)), data)
    (root / layout.REPOSITORIES).mkdir(parents=True)
    (root / layout.REPOSITORIES / "library").symlink_to(away / layout.REPOSITORIES / "library")
    (root / layout.BLOBS / "sha256/far").symlink_to(away / layout.BLOBS / "sha256")
    for digest in (ORPHAN, unnamed):
        (root / layout.blob_folder(digest)).parent.symlink_to((away / layout.blob_folder(digest)).parent)
    for untagged in (False, True):
        assert await collected(Tree(driver), untagged=untagged) == []
    assert await ContentStore(driver).blob_size(unnamed) == 6
    await other.close()
    await driver.close()


async def test_times_of_the_files_decide_about_their_age(root: Path) -> None:
    driver = FilesystemDriver(root, threads=1)
    await driver.put(layout.blob_data(ORPHAN), b"orphan")
    tree, file = Tree(driver), root / layout.blob_data(ORPHAN)
    for age, expected in ((GRACE - 60, 0), (GRACE + 60, 1), (-3600.0, 0)):
        os.utime(file, (time.time() - age,) * 2)
        assert len(await collected(tree, age=0)) == expected
    await driver.close()


# Any tree at all.

BLOBS = [bytes([65 + index]) for index in range(5)]
IMAGES = [raw_manifest(image_of(*layers)) for layers in ((b"A", b"B"), (b"C",), (b"A", b"D", b"E"))]
NAMES = [Repository("a"), Repository("a/b"), Repository("c")]
ACTIONS = st.one_of(
    st.tuples(st.just("image"), st.sampled_from(NAMES), st.sampled_from(range(3)), st.sampled_from("xy")),
    st.tuples(st.just("blob"), st.sampled_from(NAMES), st.sampled_from(range(5)), st.just("")),
    st.tuples(st.just("lose link"), st.sampled_from(NAMES), st.sampled_from(range(3)), st.just("")),
    st.tuples(st.just("lose data"), st.sampled_from(NAMES), st.sampled_from(range(3)), st.just("")),
    st.tuples(st.just("untag"), st.sampled_from(NAMES), st.just(0), st.sampled_from("xy")),
    st.tuples(st.just("break"), st.sampled_from(NAMES), st.sampled_from(range(3)), st.just("")),
)


def names(image: RawManifest, data: bytes) -> bool:
    return str(Digest.of(data)).encode() in image.body


async def act(driver: InMemoryDriver, what: str, repository: Repository, index: int, tag: str) -> None:
    store, tree = ContentStore(driver), Tree(driver)
    match what:
        case "image":
            for data in BLOBS:
                if names(IMAGES[index], data):
                    await driver.put(layout.blob_data(Digest.of(data)), data)
                    await store.link_blob(repository, Digest.of(data))
            await store.put_manifest(repository, IMAGES[index], Tag(tag))
        case "blob":
            await driver.put(layout.blob_data(Digest.of(BLOBS[index])), BLOBS[index])
            await store.link_blob(repository, Digest.of(BLOBS[index]))
        case "lose link":
            await tree.drop_image(repository, IMAGES[index].descriptor.digest)
        case "lose data":
            await tree.drop_blob(IMAGES[index].descriptor.digest)
        case "untag":
            await tree.drop_tag(repository, Tag(tag))
        case "break":
            await driver.put(layout.revision_link(repository, IMAGES[index].descriptor.digest), b"")


async def served(store: ContentStore) -> dict[tuple[Repository, Digest | Tag], bytes]:
    """All images that are served, with those of their blobs that are."""
    found: dict[tuple[Repository, Digest | Tag], bytes] = {}
    for repository in NAMES:
        for image in IMAGES:
            try:
                found[repository, image.descriptor.digest] = (
                    await store.manifest(repository, image.descriptor.digest)
                ).body
            except RegistryError:
                continue
            for data in BLOBS:
                if names(image, data) and await store.is_linked(repository, Digest.of(data)):
                    size = await store.blob_size(Digest.of(data))
                    found[repository, Digest.of(data)] = b"" if size is None else data
        for tag in map(Tag, "xy"):
            try:
                found[repository, tag] = (await store.manifest(repository, tag)).body
            except RegistryError:
                continue
    return found


@settings(deadline=None)
@given(st.lists(ACTIONS, max_size=15))
def test_after_a_collection_all_that_was_served_still_is_and_nothing_else_is_left(
    actions: list[tuple[str, Repository, int, str]],
) -> None:
    async def run() -> None:
        driver = InMemoryDriver(clock=lambda: 0.0)
        for action in actions:
            await act(driver, *action)
        store, tree = ContentStore(driver), Tree(driver)
        before = await served(store)
        found = [garbage async for step in tree.collect(now=2 * GRACE) for garbage in step.garbage]
        assert len(set(kinds(found))) == len(found)
        await drop_all(tree, found)
        assert await served(store) == before
        assert [step.garbage async for step in tree.collect(now=2 * GRACE) if step.garbage] == []
        kept = {fact.digest async for batch in tree.survey_blobs() for fact in batch}
        assert kept <= {digest for _, digest in before}
        links = {path for path in await paths(driver) if path.startswith(layout.REPOSITORIES)}
        assert bool(links) == bool(before)

    asyncio.run(run())
