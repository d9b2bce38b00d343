"""Deletions: what is named and nothing else, in an order that forgives a crash."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pytest

from mirror.drivers import files
from mirror.drivers.base import (
    DeniedError,
    DriverError,
    NoSpaceError,
    PathNotFoundError,
    StorageDriver,
    UnreachableError,
)
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError
from mirror.store import layout
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError, StoreFull
from mirror.store.garbage import Garbage, Kind
from mirror.store.survey import ImageFact, LayerFact, TagFact
from mirror.store.tree import Tree
from tests.drivers.conformance import walk
from tests.drivers.syscalls import Syscalls
from tests.store.faulty import FaultyDriver
from tests.store.samples import adopt, body_of, raw_manifest
from tests.store.test_content import DIGEST, LAYER, LAYER_DIGEST, MANIFEST, OTHER, REPOSITORY, TAG, image_of
from tests.support.memory import memory_folder

STAYS = raw_manifest(image_of(b"{}"))
MOVED = Tag("moved")  # pointed to MANIFEST once
LONE = Repository("alone/deep/app")  # has MANIFEST and nothing else


async def fill(driver: StorageDriver, folder: Path) -> None:
    """Three repositories: MANIFEST in two, one of them with more."""
    store = ContentStore(driver)
    for repository in (REPOSITORY, LONE):
        await adopt(store, repository, LAYER, folder)
        await store.put_manifest(repository, MANIFEST, TAG)
    await store.put_manifest(REPOSITORY, MANIFEST, MOVED)
    await store.put_manifest(REPOSITORY, STAYS, MOVED)
    await store.put_manifest(OTHER, STAYS, TAG)


async def evict(driver: StorageDriver) -> None:
    """All of MANIFEST, as whoever evicts it does."""
    tree = Tree(driver)
    for repository, tags in ((REPOSITORY, (TAG, MOVED)), (LONE, (TAG,))):
        await tree.drop_image(repository, DIGEST, tags)
        await tree.drop_layer(repository, LAYER_DIGEST)
    await tree.drop_blob(LAYER_DIGEST)
    await tree.drop_blob(DIGEST)
    await tree.prune(LONE)


async def paths(driver: StorageDriver) -> set[str]:
    return {entry.path for entry in await walk(driver, "")}


async def check(driver: StorageDriver) -> None:
    """All that has a name can be read and is right, and what was not to be deleted is there."""
    store, tree = ContentStore(driver), Tree(driver)
    async for batch in tree.survey_repositories():
        for fact in batch:
            match fact:
                case TagFact(repository, tag):
                    assert (await store.resolve(repository, tag)).manifest in (MANIFEST, STAYS)
                case ImageFact(repository, digest):
                    assert await store.manifest(repository, digest) in (MANIFEST, STAYS)
                case LayerFact(repository, digest):
                    blob = await store.blob(repository, digest)
                    assert await body_of(blob) == LAYER
                    await blob.close()
    assert (await store.resolve(REPOSITORY, MOVED)).manifest == STAYS
    assert (await store.resolve(OTHER, TAG)).manifest == STAYS


async def clean_up(driver: StorageDriver, *, untagged: bool = False) -> list[bool | StoreError]:
    """Drop what a collection finds, two hours later, as whoever collects does; what became of each."""
    tree = Tree(driver)
    outcomes: list[bool | StoreError] = []
    async for step in tree.collect(now=time.time() + 7200, untagged=untagged):
        for _, some in groupby(step.garbage, lambda garbage: garbage.kind):
            outcomes += await tree.drop_each(list(some))
    return outcomes


async def test_an_eviction_takes_all_of_an_image_and_nothing_else(
    driver: StorageDriver, tmp_path: Path
) -> None:
    await fill(driver, tmp_path)
    await evict(driver)
    await check(driver)
    expected = {
        layout.blob_data(STAYS.descriptor.digest),
        *(layout.revision_link(repository, STAYS.descriptor.digest) for repository in (REPOSITORY, OTHER)),
        layout.tag_current_link(REPOSITORY, MOVED),
        layout.tag_index_link(REPOSITORY, MOVED, STAYS.descriptor.digest),
        layout.tag_current_link(OTHER, TAG),
        layout.tag_index_link(OTHER, TAG, STAYS.descriptor.digest),
    }
    assert await paths(driver) == expected  # an empty folder would be among them
    assert await driver.list(layout.REPOSITORIES) == ["library"]
    await evict(driver)
    assert await paths(driver) == expected


async def untag(driver: StorageDriver, folder: Path) -> None:
    """All is there, and no tag leads to MANIFEST."""
    await fill(driver, folder)
    for repository in (REPOSITORY, LONE):
        await Tree(driver).drop_tag(repository, TAG)


@pytest.mark.parametrize("dead", [False, True], ids=["one call fails", "the process ends"])
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
async def test_whatever_call_of_a_collection_fails_the_next_one_takes_what_is_left(
    after: bool, dead: bool, tmp_path: Path
) -> None:
    clean = FaultyDriver(InMemoryDriver())
    await untag(clean, tmp_path)
    clean.calls = 0
    await clean_up(clean, untagged=True)
    calls = clean.calls
    await clean_up(clean, untagged=True)  # of what a tag has pointed to, the name goes after the manifest
    done = await paths(clean)
    assert not any(DIGEST.hex in path or LAYER_DIGEST.hex in path for path in done)
    for fail_at in range(calls):
        inner = InMemoryDriver()
        await untag(inner, tmp_path)
        with suppress(RegistryError):  # the listing broke off
            await clean_up(FaultyDriver(inner, fail_at=fail_at, dead=dead, after=after), untagged=True)
        if dead:  # what one failure leaves is a name without data: it reads as missing
            await check(inner)
        for _ in range(2):
            await clean_up(inner, untagged=True)
        await check(inner)
        assert await paths(inner) == done


class Refusing(FaultyDriver):
    """Deletes nothing with `part` in its path."""

    def __init__(self, inner: StorageDriver, part: str, failure: type[DriverError]) -> None:
        super().__init__(inner)
        self.part, self.failure, self.asked = part, failure, 0

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        self.asked += 1
        for path in doomed:
            if self.part in path:
                raise self.failure(path, "injected")
            await super().remove([path], keep, durable=durable, listed=listed)
        return [True] * len(doomed)


@pytest.mark.parametrize(("failure", "rest"), [(DeniedError, True), (UnreachableError, False)])
async def test_what_cannot_be_deleted_stays_alone_unless_the_storage_is_away(
    tmp_path: Path, failure: type[DriverError], rest: bool
) -> None:
    inner = InMemoryDriver()
    blobs = [b"one", b"two", b"three"]
    for data in blobs:
        await adopt(ContentStore(inner), REPOSITORY, data, tmp_path)
    links = [layout.layer_link(REPOSITORY, Digest.of(data)) for data in blobs]
    found = [Garbage(Kind.LAYER, path, 71, (await inner.stat(path)).modified) for path in links]
    driver = Refusing(inner, links[1], failure)
    outcomes = await Tree(driver).drop_each(found)
    assert driver.asked == (4 if rest else 1)
    # Where the answer was lost, what went before that is found to be gone.
    assert [outcome is True for outcome in outcomes] == [True, False, rest]
    assert isinstance(outcomes[1], StoreError)
    assert links[1] in await paths(inner)
    assert (links[2] in await paths(inner)) is not rest


@pytest.mark.parametrize("dead", [False, True], ids=["one call fails", "the process ends"])
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
@pytest.mark.parametrize("again", [evict, clean_up], ids=["again", "a collection"])
async def test_whatever_call_fails_nothing_wrong_is_served_and_what_is_left_can_be_deleted(
    again: Callable[[StorageDriver], Awaitable[object]], after: bool, dead: bool, tmp_path: Path
) -> None:
    clean = FaultyDriver(InMemoryDriver())
    await fill(clean, tmp_path)
    clean.calls = 0
    await evict(clean)
    calls = clean.calls
    done = await paths(clean)
    failures = 0
    for fail_at in range(calls):
        inner = InMemoryDriver()
        await fill(inner, tmp_path)
        try:
            await evict(FaultyDriver(inner, fail_at=fail_at, dead=dead, after=after))
        except StoreError:
            failures += 1
        await check(inner)
        names = [path for path in await paths(inner) if path.endswith(f"/{DIGEST.hex}/link")]
        await again(inner)
        await check(inner)
        if again is evict or not names:
            assert await paths(inner) == done
        else:
            assert await paths(inner) >= done
    assert failures == calls > 15


async def test_whatever_system_call_is_the_last_nothing_wrong_is_served_and_nothing_stays(
    tmp_path: Path,
) -> None:
    """A power cut on a real file system; then the same again, and a sweep."""

    async def run(root: Path, calls: Syscalls) -> bool:
        driver = FilesystemDriver(root, threads=1)
        try:
            with pytest.MonkeyPatch.context() as patch:
                calls.install(patch)
                await evict(driver)
        except StoreError:
            return False
        finally:
            await driver.close()
        return True

    def on_disk(root: Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob("*")}

    async def made(root: Path) -> Path:
        driver = FilesystemDriver(root, threads=1)
        await fill(driver, tmp_path)
        await driver.close()
        return root

    with memory_folder() as base:
        clean = Syscalls()
        assert await run(await made(base / "clean"), clean)
        done = on_disk(base / "clean")
        for fail_at in range(len(clean.seen)):
            root = await made(base / str(fail_at))
            await run(root, Syscalls(fail_at=fail_at, dead=True))
            driver = FilesystemDriver(root, threads=1)
            await check(driver)
            await evict(driver)
            await check(driver)
            await driver.sweep(time.time() + 60)
            await driver.close()
            assert on_disk(root) == done
    assert len(clean.seen) > 50


async def test_a_tag_that_has_moved_since_stays(driver: StorageDriver, tmp_path: Path) -> None:
    await fill(driver, tmp_path)
    store, tree = ContentStore(driver), Tree(driver)
    await store.tag(REPOSITORY, TAG, STAYS.descriptor.digest)
    assert await tree.drop_image(REPOSITORY, DIGEST, [TAG]) is True
    assert (await store.resolve(REPOSITORY, TAG)).manifest == STAYS
    assert await driver.list(f"{layout.tag_folder(REPOSITORY, TAG)}/index/sha256") == [
        STAYS.descriptor.digest.hex
    ]


async def test_deletions_tell_whether_there_was_something(driver: StorageDriver, tmp_path: Path) -> None:
    await fill(driver, tmp_path)
    tree = Tree(driver)
    for expected in (True, False):
        assert await tree.drop_tag(REPOSITORY, TAG) is expected
        assert await tree.drop_image(REPOSITORY, DIGEST) is expected
        assert await tree.drop_layer(REPOSITORY, LAYER_DIGEST) is expected
        assert await tree.drop_blob(LAYER_DIGEST) is expected


async def test_who_has_a_blob_open_reads_on(driver: StorageDriver, tmp_path: Path) -> None:
    await fill(driver, tmp_path)
    store = ContentStore(driver)
    blob = await store.blob(REPOSITORY, LAYER_DIGEST)
    await Tree(driver).drop_blob(LAYER_DIGEST)
    assert await body_of(blob) == LAYER
    await blob.close()
    with pytest.raises(RegistryError):
        await store.blob(REPOSITORY, LAYER_DIGEST)


async def test_a_blob_deleted_or_set_aside_can_be_kept_anew(driver: StorageDriver, tmp_path: Path) -> None:
    await fill(driver, tmp_path)
    store, tree = ContentStore(driver), Tree(driver)
    for delete in (tree.drop_blob(LAYER_DIGEST), tree.set_aside(LAYER_DIGEST, tmp_path / "aside")):
        await delete
        await adopt(store, REPOSITORY, LAYER, tmp_path)
        assert await store.blob_size(LAYER_DIGEST) == len(LAYER)


async def test_folders_of_an_adopted_repository_go_with_it_and_its_parents_stay_with_others(
    driver: StorageDriver, tmp_path: Path
) -> None:
    store = ContentStore(driver)
    await store.put_manifest(LONE, STAYS, TAG)
    await store.put_manifest(Repository("alone/deep"), STAYS, TAG)
    for name in ("_uploads", "_layers/sha256", "_manifests/revisions/sha512"):
        path = f"{layout.REPOSITORIES}/{LONE}/{name}/x"
        await driver.put(f"{path}/file", b"")
        await driver.delete(path)
    tree = Tree(driver)
    await tree.prune(LONE)
    assert (await store.resolve(LONE, TAG)).manifest == STAYS
    await tree.drop_image(LONE, STAYS.descriptor.digest, [TAG])
    await tree.prune(LONE)
    assert {path.split("/")[6] for path in await paths(driver) if "/alone/deep/" in path} == {"_manifests"}
    await tree.drop_image(Repository("alone/deep"), STAYS.descriptor.digest, [TAG])
    await tree.prune(Repository("alone/deep"))
    assert {path for path in await paths(driver) if "/alone" in path} == set()


async def test_a_deletion_that_fails_is_a_store_error(driver: StorageDriver, tmp_path: Path) -> None:
    await fill(driver, tmp_path)
    tree = Tree(FaultyDriver(driver, fail_at=0, dead=True))
    for call in (
        tree.drop_tag(REPOSITORY, TAG),
        tree.drop_image(REPOSITORY, DIGEST, [TAG]),
        tree.drop_layer(REPOSITORY, LAYER_DIGEST),
        tree.drop_blob(LAYER_DIGEST),
        tree.prune(REPOSITORY),
        tree.set_aside(LAYER_DIGEST, tmp_path),
        tree.sweep(0.0),
    ):
        with pytest.raises(StoreError):
            await call
    full = Tree(FaultyDriver(driver, fail_at=0, failure=NoSpaceError))
    with pytest.raises(StoreFull):
        await full.set_aside(LAYER_DIGEST, tmp_path)
    await check(driver)


async def test_a_blob_that_is_moved_aside_is_at_one_of_two_places_whatever_fails(
    driver: StorageDriver, tmp_path: Path
) -> None:
    await fill(driver, tmp_path)
    for after in (False, True):
        for fail_at in (0, 1):
            tree = Tree(FaultyDriver(driver, fail_at=fail_at, dead=True, after=after))
            with pytest.raises(StoreError):
                await tree.set_aside(LAYER_DIGEST, tmp_path / "aside")
            try:
                found = await driver.get(layout.blob_data(LAYER_DIGEST), 100)
            except PathNotFoundError:
                found = (tmp_path / "aside" / f"sha256-{LAYER_DIGEST.hex}").read_bytes()
            assert found == LAYER
            await Tree(driver).set_aside(LAYER_DIGEST, tmp_path / "aside")
            await adopt(ContentStore(driver), REPOSITORY, LAYER, tmp_path)
    assert Digest.of(LAYER) == LAYER_DIGEST


async def test_a_manifests_link_is_gone_for_good_before_data_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory_folder() as base:
        driver = FilesystemDriver(base, threads=1)
        await fill(driver, tmp_path)
        synced: list[bool] = []
        real = files.sync_folder

        def sync(folder: Path) -> None:
            real(folder)
            synced.append((base / layout.blob_data(DIGEST)).exists())

        monkeypatch.setattr(files, "sync_folder", sync)
        await evict(driver)
        await driver.close()
    assert synced
    assert all(synced), "of data no removal is waited for, and names have gone before it"
