"""Who may read a blob, after what gave the right was evicted or purged. The upstream is away."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.cache.eviction import Limits
from mirror.cache.evictor import Freed
from mirror.cache.fills import Fills
from mirror.cache.freshness import Policy
from mirror.cache.pullthrough import PullThrough
from mirror.ledger.sqlite import Ledger
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import Condition, Unavailable
from mirror.store.links import Links
from tests.cache.kit import A, B, whole
from tests.cache.test_keeper import KIB, Shop, shop
from tests.support.puppet import Puppet

AWAY = Unavailable("away")
LAYER = b"a" * KIB


@asynccontextmanager
async def mirror(
    at: Shop, upstream: Puppet, policy: Policy | None = None
) -> AsyncGenerator[PullThrough, None]:
    """What clients ask, over all that is kept."""
    fills = Fills(upstream, at.store, at.spool, None, at.keeper)
    ledger = Ledger(at.root / "mirror" / "ledger.sqlite")
    await ledger.open()
    registry = PullThrough(
        at.store,
        upstream,
        fills,
        ledger,
        policy=policy or Policy(default=0.0, negative=0.0),
        deadline=5.0,
        memory=at.memory,
        room=at.keeper,
        note_use=at.inventory.note_use,
        clock=at.clock,
    )
    try:
        yield registry
    finally:
        await registry.close()
        await fills.close()
        await ledger.close()


def away() -> Puppet:
    upstream = Puppet()
    upstream.well = Condition("upstream.test", trouble=AWAY, blobs=AWAY)
    upstream.refuse = dict.fromkeys(("resolve", "manifest", "blob", "stat_blob"), AWAY)
    return upstream


async def unlinked(at: Shop, repository: Repository, *digests: Digest) -> None:
    """A manifest is all that gives the repository its blobs."""
    for digest in digests:
        await at.evictor._tree.drop_layer(repository, digest)


async def test_a_manifest_that_went_gives_no_right_to_what_it_named(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at, mirror(at, away()) as registry:
        image = await at.image(A, "1", LAYER)
        await at.image(B, "1", LAYER)
        await unlinked(at, A, Digest.of(LAYER))
        await registry.manifest(A, image)
        assert await whole(await registry.blob(A, Digest.of(LAYER))) == LAYER
        assert [event async for event in at.collector.purge(A, None)][-1]["images"] == 1
        with pytest.raises(Unavailable):
            await registry.blob(A, Digest.of(LAYER))
        await registry.manifest(B, image)
        assert await whole(await registry.blob(B, Digest.of(LAYER))) == LAYER


async def test_what_another_manifest_of_the_repository_names_may_be_read_still(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at, mirror(at, away()) as registry:
        images = [await at.image(A, tag, LAYER) for tag in "12"]
        for image in images:
            await registry.manifest(A, image)
        assert await at.evictor.image(A, images[1], Freed("purge"))
        await unlinked(at, A, Digest.of(LAYER))
        assert await whole(await registry.blob(A, Digest.of(LAYER))) == LAYER


async def test_a_manifest_that_went_is_given_as_a_blob_no_more(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at, mirror(at, away()) as registry:
        image = await at.image(A, "1", LAYER)
        await at.image(B, "1", LAYER)
        await (await registry.blob(A, image)).close()
        assert await at.evictor.image(A, image, Freed("purge"))
        with pytest.raises(Unavailable):
            await registry.blob(A, image)
        await (await registry.blob(B, image)).close()


async def test_a_link_that_was_read_just_before_it_went_gives_no_lasting_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits()) as at, mirror(at, away()) as registry:
        await at.image(B, "1", LAYER)
        digest = await at.blob(LAYER, A)
        read = Links.read

        async def gone_meanwhile(links: Links, path: str, stands_for: Digest | None = None) -> Digest | None:
            found = await read(links, path, stands_for)
            if "library/a/_layers" in path:
                await at.evictor._links([(A, digest)])
            return found

        monkeypatch.setattr(Links, "read", gone_meanwhile)
        await (await registry.blob(A, digest)).close()
        with pytest.raises(Unavailable):
            await registry.blob(A, digest)


async def test_a_manifest_that_was_read_just_before_it_went_is_not_held_for_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits()) as at, mirror(at, away()) as registry:
        image = await at.image(A, "1", LAYER)
        await at.image(B, "1", LAYER)
        read = at.store.manifest

        async def gone_meanwhile(repository: Repository, reference: Digest) -> object:
            found = await read(repository, reference)
            await at.evictor.image(A, image, Freed("purge"))
            return found

        monkeypatch.setattr(at.store, "manifest", gone_meanwhile)
        await registry.manifest(A, image)
        assert at.memory.manifest(A, image) is None
        assert not at.memory.is_kept(A, image)
        assert at.memory.named(A, Digest.of(LAYER)) is None
