"""What a collection takes, what it leaves, and whom it tells."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mirror.cache.eviction import Limits
from mirror.drivers import paths
from mirror.oci.digest import Digest
from mirror.oci.names import Tag
from mirror.store import layout
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import KIB, Shop, shop

LATE = 5e9  # seconds since the epoch: all files are old then
HANGS = 5.0  # seconds; who waits longer for what never comes, waits for ever


async def _collect(at: Shop, **options: bool) -> tuple[set[str], dict[str, Any]]:
    """What went, or would go; and the summary."""
    events = [event async for event in at.collector.collect(**options)]
    return {event["name"] for event in events if event["event"] in ("removed", "found")}, events[-1]


async def test_what_is_being_filled_is_no_garbage_and_a_dry_run_does_not_say_that_it_is(
    tmp_path: Path,
) -> None:
    """Its data may be here, from a repository that has lost it."""
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        coming, orphan = await at.blob(b"a" * KIB, B), await at.blob(b"b" * KIB, B)
        at.reserved[coming] = KIB
        for dry_run in (True, False):
            names, _ = await _collect(at, dry_run=dry_run)
            assert str(coming) not in names
            assert str(orphan) in names
        assert await at.kept(b"a" * KIB)
        del at.reserved[coming]
        assert str(coming) in (await _collect(at))[0]


async def test_what_is_being_filled_stays_when_its_image_is_purged(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        await at.image(A, "1", b"a" * KIB, b"b" * KIB)
        at.reserved[Digest.of(b"a" * KIB)] = KIB
        events = [event async for event in at.collector.purge(A, Tag("1"))]
        assert events[-1]["images"] == 1
        assert await at.kept(b"a" * KIB)
        assert not await at.kept(b"b" * KIB)


async def test_a_dry_run_leaves_unfinished_writes_and_tells_the_same_bytes(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        await at.image(A, "1", b"a" * KIB)
        for data in (b"b" * KIB, b"c" * 2 * KIB):
            await at.store.adopt_blob(B, Digest.of(data), _file(tmp_path, data))
        left = tmp_path / layout.BLOBS / f"{paths.TEMPORARY}{0:032x}"
        left.write_bytes(b"half")
        before = at.bytes_on_disk()
        _, dry = await _collect(at, dry_run=True)
        assert left.exists()
        assert at.bytes_on_disk() == before
        _, wet = await _collect(at)
        assert not left.exists()
        links = 2 * len(str(Digest.of(b"b")))
        assert dry["bytes"] == wet["bytes"] == before - at.bytes_on_disk() + links


async def test_a_collection_waits_for_who_writes_the_same_and_then_looks_again(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        orphan = await at.blob(b"a" * KIB, B)
        turn = at.evictor.turns.of(orphan)
        async with asyncio.timeout(HANGS):
            async with turn:
                collection = asyncio.create_task(_collect(at))
                while not turn._waiters:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0)
                at.clock.now += 1  # the writer links it, and the client is given it
                at.use(B, orphan)
            names, _ = await collection
        assert names == set()
        assert await at.kept(b"a" * KIB)


async def test_nobody_believes_in_what_a_collection_has_taken(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        orphan, memory = await at.blob(b"a" * KIB, B), at.memory
        untagged = await at.image(A, "1", b"b" * KIB)
        for tag in (tmp_path / layout.REPOSITORIES / A.name / "_manifests/tags").rglob("link"):
            tag.write_text(str(Digest.of(b"nothing")))
        memory.linked(B, orphan)
        memory.sound(orphan, KIB)
        memory.kept(A, untagged)
        moment = memory.gone.now
        names, _ = await _collect(at, untagged=True)
        assert {f"{A}:1", f"{A}@{untagged}", f"{B}@{orphan}", str(orphan)} <= names
        assert not memory.is_linked(B, orphan)
        assert not memory.is_sound(orphan, KIB)
        assert not memory.is_kept(A, untagged)
        assert memory.was_untagged(A, Tag("1"))
        assert memory.gone.any_since(moment, (orphan,))
        assert await at.inventory.tags_of(A, untagged) == []
        assert (await at.inventory.total()).blobs == 0


async def test_a_link_of_a_blob_that_is_broken_goes_as_a_link(tmp_path: Path) -> None:
    """Not as an image: the inventory would believe that the repository has it still."""
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        await at.image(A, "1", b"a" * KIB)
        blob = await at.blob(b"b" * KIB, A)
        at.memory.linked(A, blob)
        (tmp_path / layout.layer_link(A, blob)).write_text("")
        names, _ = await _collect(at)
        assert f"{A}@{blob}" in names
        assert not at.memory.is_linked(A, blob)
        assert blob not in await at.inventory.layers(A)


def _file(root: Path, data: bytes) -> Path:
    path = root / f"source-{Digest.of(data).hex}"
    path.write_bytes(data)
    return path
