"""A bad blob goes in its turn: what is fetched anew meanwhile stays, and counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mirror.cache.eviction import Limits
from mirror.cache.scrubber import Scrubber
from mirror.drivers.inmemory import InMemoryDriver
from mirror.oci.digest import Digest
from mirror.store import layout
from mirror.store.tree import Tree
from tests.cache.kit import A
from tests.cache.test_corners import begun
from tests.cache.test_keeper import KIB, Shop, shop

GOOD, BAD = b"g" * KIB, b"b" * KIB
DIGEST = Digest.of(GOOD)


async def spoilt(at: Shop, driver: InMemoryDriver) -> Scrubber:
    """Its only blob is another's bytes."""
    await at.blob(GOOD, A)
    await driver.put(layout.blob_data(DIGEST), BAD)
    tree = at.evictor._tree
    return Scrubber(tree, at.inventory, at.memory, None, interval=0, rate=1e9, turns=at.store.turns)


async def test_a_bad_blob_goes_when_it_is_its_turn(tmp_path: Path) -> None:
    driver = InMemoryDriver()
    async with shop(tmp_path, Limits(), driver=driver) as at:
        scrubber = await spoilt(at, driver)
        async with at.store.turns.of(DIGEST):
            checking = await begun(scrubber.check(DIGEST))
            assert await at.store.blob_size(DIGEST) == KIB, "somebody writes or links it just now"
        assert await checking is not None
        assert await at.store.blob_size(DIGEST) is None
        assert (await at.inventory.total()).blobs == 0


async def test_a_blob_that_was_fetched_anew_while_the_bad_one_was_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = InMemoryDriver()
    async with shop(tmp_path, Limits(), driver=driver) as at:
        scrubber, rehash = await spoilt(at, driver), Tree.rehash

        async def fetched_meanwhile(
            tree: Tree, digest: Digest, wait: Callable[[int], Awaitable[None]]
        ) -> bool | None:
            good = await rehash(tree, digest, wait)
            await at.store.discard_blob(digest)
            at.memory.forget_blob(digest)
            await at.blob(GOOD, A)
            return good

        monkeypatch.setattr(Tree, "rehash", fetched_meanwhile)
        assert await scrubber.check(DIGEST) is None
        assert await at.store.matches(DIGEST)
        assert (await at.inventory.total()).blobs == 1
