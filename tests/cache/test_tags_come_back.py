"""What was evicted or purged, and is pulled again while the upstream's word about its tags is fresh."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.cache.eviction import Limits
from mirror.cache.evictor import Freed
from mirror.cache.freshness import Policy
from mirror.cache.pullthrough import PullThrough
from mirror.oci.digest import Digest
from mirror.oci.names import Tag
from mirror.registry import RegistryError
from tests.cache.kit import A
from tests.cache.test_keeper import HOUR, Shop, shop
from tests.cache.test_pullthrough import IMAGE, NEWER, ONE, verbs
from tests.cache.test_rights import mirror
from tests.support.puppet import Puppet

FRESH = Policy(default=24 * HOUR, negative=0.0)
TWO = Tag("2")
DIGEST = Digest.of(IMAGE)


@asynccontextmanager
async def joined(root: Path) -> AsyncGenerator[tuple[Shop, Puppet, PullThrough], None]:
    """IMAGE is kept under both tags, on the upstream's fresh word."""
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1", "2")
    async with shop(root, Limits()) as at, mirror(at, upstream, FRESH) as registry:
        for tag in (ONE, TWO):
            await registry.manifest(A, tag)
            await registry.settle()
        assert await tags(at) == {"1", "2"}
        yield at, upstream, registry


async def tags(at: Shop) -> set[str]:
    """Those in the tree, which are those in the inventory."""
    try:
        found = set((await at.store.tags(A, None, "")).names)
    except RegistryError:
        found = set()
    assert {tag.name for tag in await at.inventory.tags_of(A, DIGEST)} == found
    return found


@pytest.mark.parametrize("by_digest", [False, True])
async def test_a_tag_that_was_evicted_with_its_image_comes_back_with_it(
    tmp_path: Path, by_digest: bool
) -> None:
    """docker and containerd ask for the tag by HEAD, and for the manifest by the digest that this gave."""
    async with joined(tmp_path) as (at, upstream, registry):
        assert await at.evictor.image(A, DIGEST, Freed("purge"))
        assert await tags(at) == set()
        upstream.calls.clear()
        if by_digest:
            assert (await registry.stat_manifest(A, ONE)).digest == DIGEST
        assert (await registry.manifest(A, DIGEST if by_digest else ONE)).body == IMAGE
        await registry.settle()
        assert await tags(at) == {"1"}
        await registry.manifest(A, TWO)
        await registry.settle()
        assert await tags(at) == {"1", "2"}
        assert verbs(upstream) == ["manifest"], "the word is fresh"


async def test_a_tag_that_was_purged_comes_back_when_it_is_pulled_again(tmp_path: Path) -> None:
    async with joined(tmp_path) as (at, upstream, registry):
        _ = [event async for event in at.collector.purge(A, TWO)]
        assert await tags(at) == {"1"}
        upstream.calls.clear()
        await registry.manifest(A, TWO)
        await registry.settle()
        assert await tags(at) == {"1", "2"}
        assert upstream.calls == []


async def test_an_image_that_is_pulled_by_its_digest_brings_no_tag_back(tmp_path: Path) -> None:
    async with joined(tmp_path) as (at, _, registry):
        assert await at.evictor.image(A, DIGEST, Freed("purge"))
        await registry.manifest(A, DIGEST)
        await registry.settle()
        assert await at.has(A, DIGEST)
        assert await tags(at) == set()


async def test_a_tag_that_has_moved_meanwhile_does_not_come_back_with_what_it_was(tmp_path: Path) -> None:
    async with joined(tmp_path) as (at, upstream, registry):
        assert await at.evictor.image(A, DIGEST, Freed("purge"))
        await registry.stat_manifest(A, ONE)
        upstream.add_manifest(NEWER, "library/a", "1")
        at.clock.now += 25 * HOUR
        assert (await registry.manifest(A, ONE)).body == NEWER
        await registry.manifest(A, DIGEST)
        await registry.settle()
        found = await at.store.manifest(A, ONE)
        assert found.body == NEWER
        assert await at.inventory.tags_of(A, DIGEST) == []


async def test_a_warm_tag_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined(tmp_path) as (at, _, registry):
        _ = [event async for event in at.collector.purge(A, TWO)]
        written: list[Tag] = []
        write = at.store.tag

        async def tag(repository: object, tag: Tag, digest: Digest) -> None:
            written.append(tag)
            await write(A, tag, digest)

        monkeypatch.setattr(at.store, "tag", tag)
        for _ in range(3):
            for reference in (ONE, TWO):
                await registry.manifest(A, reference)
                await registry.settle()
        assert written == [TWO]


async def test_a_manifest_that_another_process_has_deleted_comes_back_with_its_tag(tmp_path: Path) -> None:
    """Such as another mirror on the same bucket: memory has it, and knows that it was kept."""
    async with joined(tmp_path) as (at, upstream, registry):
        shutil.rmtree(tmp_path / "docker")
        assert not await at.has(A, DIGEST)
        at.clock.now += 25 * HOUR
        upstream.calls.clear()
        assert (await registry.manifest(A, ONE)).body == IMAGE
        await registry.settle()
        assert (await at.store.manifest(A, ONE)).body == IMAGE
        assert verbs(upstream) == ["resolve"]
