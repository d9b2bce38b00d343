"""A storage that fails, or a process that ends, at each call of a writing verb."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mirror.drivers.base import PathNotFoundError, StorageDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Tag
from mirror.registry import RegistryError
from mirror.store import layout
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError
from tests.store.faulty import FaultyDriver
from tests.store.samples import body_of, raw_manifest
from tests.store.test_content import DIGEST, LAYER, LAYER_DIGEST, MANIFEST, REPOSITORY, TAG, image_of

OLD = raw_manifest(image_of(b"[]"))
Verb = Callable[[ContentStore, Path], Awaitable[None]]


async def put(store: ContentStore, _folder: Path) -> None:
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)


async def adopt(store: ContentStore, folder: Path) -> None:
    """As `cache` does it: the same file again after a failure, as far as it is still there."""
    await store.adopt_blob(REPOSITORY, LAYER_DIGEST, folder / "source")


async def untag(store: ContentStore, _folder: Path) -> None:
    await store.untag(REPOSITORY, Tag("old"))


async def discard(store: ContentStore, _folder: Path) -> None:
    await store.discard_blob(Digest.of(b"broken"))


async def state(store: ContentStore, driver: StorageDriver) -> dict[str, bool]:
    """What is done; and checks that all that can be read is right, and all that is listed can be read."""
    for name in (await store.tags(REPOSITORY, None, "")).names:
        resolved = await store.resolve(REPOSITORY, Tag(name))
        assert resolved.manifest in (MANIFEST, OLD)
    done = {}
    try:
        assert await store.manifest(REPOSITORY, DIGEST) == MANIFEST
        done["manifest"] = True
    except RegistryError:
        done["manifest"] = False
    try:
        done["tag"] = (await store.resolve(REPOSITORY, TAG)).manifest == MANIFEST
        assert not done["tag"] or done["manifest"]
    except RegistryError:
        done["tag"] = False
    try:
        blob = await store.blob(REPOSITORY, LAYER_DIGEST)
        assert await body_of(blob) == LAYER
        await blob.close()
        done["blob"] = True
    except RegistryError:
        done["blob"] = False
    done["untag"] = "old" not in (await store.tags(REPOSITORY, None, "")).names
    try:
        await driver.stat(layout.blob_folder(Digest.of(b"broken")))
        done["discard"] = False
    except PathNotFoundError:
        done["discard"] = True
    return done


async def before(tag_is_new: bool, folder: Path) -> InMemoryDriver:
    """A repository with an old manifest, a blob that is broken, and a file that waits to be adopted."""
    driver = InMemoryDriver()
    store = ContentStore(driver)
    await store.put_manifest(REPOSITORY, OLD, Tag("old"))
    await store.put_manifest(REPOSITORY, OLD, Tag("older"))
    if not tag_is_new:
        await store.tag(REPOSITORY, TAG, OLD.descriptor.digest)
    await driver.put(layout.blob_data(Digest.of(b"broken")), b"brok")
    (folder / "source").write_bytes(LAYER)
    return driver


@pytest.mark.parametrize("dead", [False, True], ids=["one call fails", "the process ends"])
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after its effect"])
@pytest.mark.parametrize("tag_is_new", [True, False], ids=["new tag", "old tag"])
@pytest.mark.parametrize(
    ("verb", "reached"),
    [(put, {"manifest", "tag"}), (adopt, {"blob"}), (untag, {"untag"}), (discard, {"discard"})],
)
async def test_whatever_call_fails_what_is_readable_is_right_and_a_retry_completes(
    verb: Verb, reached: set[str], tag_is_new: bool, after: bool, dead: bool, tmp_path: Path
) -> None:
    clean = FaultyDriver(await before(tag_is_new, tmp_path))
    await verb(ContentStore(clean), tmp_path)
    calls = clean.calls
    final = await state(ContentStore(clean), clean)
    assert {name for name, done in final.items() if done} == reached
    failures = 0
    for fail_at in range(calls):
        inner = await before(tag_is_new, tmp_path)
        try:
            await verb(ContentStore(FaultyDriver(inner, fail_at=fail_at, dead=dead, after=after)), tmp_path)
        except StoreError:
            failures += 1
        else:
            # A read that fails before a write only makes the write happen.
            assert not dead
            assert await state(ContentStore(inner), inner) == final
        await state(ContentStore(inner), inner)
        await verb(ContentStore(inner), tmp_path)
        assert await state(ContentStore(inner), inner) == final
    assert failures >= len(clean.writes)
