"""What holds whatever is pulled, moved, evicted, collected or purged, and wherever the process ends in it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mirror.cache.eviction import Disk, Limits
from mirror.oci.digest import Digest
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import KIB, shop

HOUR = 3600.0


async def test_a_collection_takes_what_a_killed_write_has_left(tmp_path: Path) -> None:
    folder = tmp_path / "docker/registry/v2/blobs/sha256/aa" / ("aa" * 32)
    folder.mkdir(parents=True)
    (folder / ".tmp-0123456789abcdef0123456789abcdef").write_bytes(b"half of it")
    async with shop(tmp_path, Limits(), clock=Clock(time.time())) as at:
        for dry_run, later, stays in ((False, 0.0, True), (True, 2 * HOUR, True), (False, 2 * HOUR, False)):
            at.clock.now = time.time() + later
            _ = [event async for event in at.collector.collect(dry_run=dry_run)]
            assert folder.exists() is stays


async def test_fills_that_begin_at_once_do_not_get_the_same_room(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB), disk=Disk(1 << 40, 1 << 39)) as at:
        asked = [at.keeper.make_room(Digest.of(name), 12 * KIB) for name in (b"1", b"2", b"3")]
        assert sorted(await asyncio.gather(*asked)) == [False, False, True]


async def test_fills_that_begin_at_once_all_get_room_that_can_be_made(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=30 * KIB)) as at:
        await at.image(A, "1", b"a" * 12 * KIB)
        await at.image(B, "1", b"b" * 12 * KIB)
        at.clock.now += HOUR
        asked = [at.keeper.make_room(Digest.of(name), 9 * KIB) for name in (b"1", b"2", b"3")]
        assert all(await asyncio.gather(*asked))


async def test_a_fill_that_ends_while_room_is_looked_for_counts_once_at_least(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB), disk=Disk(1 << 40, 1 << 39)) as at:
        data = b"1" * 12 * KIB
        assert await at.keeper.make_room(Digest.of(data), len(data))
        total = at.inventory.total

        async def told_before_the_end() -> object:
            found = await total()
            await at.blob(data, A)
            at.keeper.release(Digest.of(data), len(data))
            return found

        at.inventory.total = told_before_the_end  # type: ignore[method-assign, assignment] # the moment that counts
        assert not await at.keeper.make_room(Digest.of(b"2"), 12 * KIB)


async def test_a_blob_that_cannot_fit_evicts_nothing(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        image = await at.image(A, "1", b"a" * 15 * KIB)
        at.clock.now += HOUR
        assert not await at.keeper.make_room(Digest.of(b"c"), 21 * KIB)
        assert await at.has(A, image)
