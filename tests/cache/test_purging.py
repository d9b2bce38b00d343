"""What somebody says must go, goes: all of it, and at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mirror.appkeeping import WAITING, Keeping
from mirror.cache.collecting import Collector
from mirror.cache.eviction import Limits
from mirror.cache.scrubber import Scrubber
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import Unavailable
from mirror.store.errors import StoreError
from mirror.store.tree import Tree
from tests.cache.kit import A, B, Clock, whole
from tests.cache.test_keeper import KIB, Shop, shop

LATE = 5e9  # seconds since the epoch: all files are old then
HANGS = 30.0  # seconds; who waits longer for what never comes, waits for ever


async def _purged(at: Shop, repository: Repository = A) -> list[dict[str, Any]]:
    return [event async for event in at.collector.purge(repository, None)]


async def _untagged(at: Shop) -> list[dict[str, Any]]:
    """One image by its tag: what nobody thinks of then is left."""
    return [event async for event in at.collector.purge(A, Tag("1"))]


async def test_a_blob_that_no_image_names_goes_with_its_repository(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        secret, shared = await at.blob(b"secret" * KIB, A), await at.blob(b"shared" * KIB, A, B)
        events = await _purged(at)
        assert {event["name"] for event in events if event["event"] == "removed"} == {
            f"library/a@{secret}",
            str(secret),
            f"library/a@{shared}",
        }
        assert (events[-1]["blobs"], events[-1]["bytes"], events[-1]["absent"]) == (1, 6 * KIB, "")
        assert not await at.store.is_linked(A, secret)
        assert not await at.store.is_linked(A, shared)
        assert await whole(await at.store.blob(B, shared)) == b"shared" * KIB
        assert await at.store.blob_size(secret) is None
        assert at.folders() == {"library", "library/b"} | {each for each in at.folders() if "/b/" in each}
        assert (await at.inventory.total()).bytes == at.bytes_on_disk()
        gone = at.evictor.total
        assert (gone["purge"].blobs, gone["purge"].bytes) == (1, 6 * KIB)
        assert not any(gone[each].blobs for each in ("ttl", "limit", "room"))


async def test_what_the_inventory_does_not_know_goes_with_its_repository(tmp_path: Path) -> None:
    """The tree is the truth: whatever was written there beside the mirror."""
    async with shop(tmp_path, Limits()) as at:
        kept = await at.image(B, "1", b"b" * KIB)
        image = await at.image(A, "1", b"a" * KIB)
        at.inventory.note_tag_gone(A, Tag("1"), at.clock())
        at.inventory.note_image_gone(A, image)
        events = await _purged(at)
        assert [event["kind"] for event in events[:-1]].count("tag") == 1
        assert not await at.has(A, image)
        assert not any(folder.startswith("library/a") for folder in at.folders())
        assert await at.store.blob_size(Digest.of(b"a" * KIB)) is None
        assert await at.has(B, kept)
        assert await at.kept(b"{}")


async def test_a_manifest_that_cannot_be_read_goes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * KIB)

        async def unreadable(*_args: object) -> None:
            raise Unavailable("Input/output error")

        monkeypatch.setattr(Tree, "named", unreadable)
        assert (await _purged(at))[-1]["images"] == 1
        assert at.bytes_on_disk() == 0


async def test_an_image_that_has_another_tag_stays_though_the_one_that_is_purged_goes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the upstream's 404, between the look at the tags and the deletion."""
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        image = await at.image(A, "1", b"a" * KIB)
        await at.store.tag(A, Tag("2"), image)
        tags_of = Inventory.tags_of

        async def just_in_time(inventory: Inventory, repository: Repository, digest: Digest) -> list[Tag]:
            found = await tags_of(inventory, repository, digest)
            await at.evictor.tag(repository, Tag("1"))
            return found

        monkeypatch.setattr(Inventory, "tags_of", just_in_time)
        events = [event async for event in at.collector.purge(A, Tag("1"))]
        assert (events[-1]["images"], events[-1]["blobs"]) == (0, 0)
        assert events[-1]["absent"] == "library/a has no tag 1; its tags: 2"
        assert await at.has(A, image)


async def test_what_cannot_be_deleted_ends_no_purge_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits()) as at:
        digests = [await at.blob(bytes([number]) * KIB, A) for number in range(3)]
        drop = Tree.drop_layer

        async def refuses_one(tree: Tree, repository: Repository, digest: Digest) -> bool:
            if digest == digests[0]:
                raise StoreError("Operation not permitted")
            return await drop(tree, repository, digest)

        monkeypatch.setattr(Tree, "drop_layer", refuses_one)
        events = await _purged(at)
        assert (events[-1]["failed"], events[-1]["blobs"]) == (1, 2)
        assert [await at.store.is_linked(A, each) for each in digests] == [True, False, False]


def _keeping(at: Shop) -> Keeping:
    aside = at.root / "mirror" / "quarantine"
    tree = Tree(at.store._driver)
    scrubber = Scrubber(tree, at.inventory, at.memory, aside, interval=0, rate=1e9, clock=at.clock)
    collector = Collector(
        at.store, tree, at.inventory, at.memory, at.evictor, scrubber, at.reserved.keys, at.clock
    )
    return Keeping(
        at.inventory,
        at.store,
        at.memory,
        at.evictor,
        at.keeper,
        at.surveyor,
        scrubber,
        collector,
        at.lock,
        lambda what: (Repository(what), None),
        str,
        at.clock,
    )


async def test_a_purge_does_not_wait_for_a_collection_and_a_collection_says_that_it_does(
    tmp_path: Path,
) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        await at.image(A, "1", b"a" * KIB)
        await at.blob(b"orphan" * KIB, B)
        keeping = _keeping(at)
        daily = keeping.operate("garbage-collect", {})
        assert (await anext(daily))["event"] == "removed"  # it has begun, and rests
        async with asyncio.timeout(HANGS):
            events = [event async for event in keeping.operate("purge", {"what": "library/a"})]
            assert events[-1]["images"] == 1
            second = keeping.operate("garbage-collect", {})
            assert (await anext(second))["what"] == WAITING
            rest = [event async for event in daily]
            assert rest[-1]["failed"] == 0
            assert [event async for event in second][-1]["event"] == "summary"
        assert at.bytes_on_disk() == 0


async def test_nobody_believes_in_an_image_that_was_purged(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        image, layer = await at.image(A, "1", b"a" * KIB), Digest.of(b"a" * KIB)
        shared = await at.image(A, "2", b"b" * KIB)
        assert await at.image(B, "2", b"b" * KIB) == shared
        at.memory.kept(A, image)
        at.memory.kept(A, shared)
        at.memory.linked(A, layer)
        at.memory.sound(layer, KIB)
        moment = at.memory.gone.now
        await _untagged(at)
        assert not at.memory.is_kept(A, image)
        assert not at.memory.is_linked(A, layer)
        assert not at.memory.is_sound(layer, KIB)
        assert all(at.memory.gone.any_since(moment, (each,)) for each in (image, layer))
        async for _ in at.collector.purge(A, Tag("2")):
            pass
        assert not at.memory.is_kept(A, shared)
        assert await at.has(B, shared)


async def test_a_layer_that_somebody_is_writing_goes_after_that_and_holds_up_no_other(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=Clock(LATE)) as at:
        await at.image(A, "1", b"a" * KIB, b"b" * KIB)
        turn = at.evictor.turns.of(Digest.of(b"a" * KIB))
        async with asyncio.timeout(HANGS):
            async with turn:
                purge = asyncio.create_task(_untagged(at))
                while not turn._waiters:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0)
                assert not await at.kept(b"b" * KIB)
                assert await at.kept(b"a" * KIB)
            events = await purge
        assert events[-1]["blobs"] == 4  # the manifest, the configuration, and both layers
        assert at.bytes_on_disk() == 0
