"""What is evicted, collected or purged while it is being pulled, and disks that fail in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.cache import purging
from mirror.cache.eviction import Limits
from mirror.cache.evictor import Freed
from mirror.cache.images import Images
from mirror.drivers.base import DriverError, StorageDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError
from mirror.store import deletion, layout
from mirror.store.errors import StoreError
from mirror.store.links import Links
from mirror.store.tree import Tree
from tests.cache.kit import A, B, Clock, until
from tests.cache.test_keeper import HOUR, KIB, Shop, _descriptor, shop

LATE = 5e9  # seconds since the epoch: all files are old then
TURNS = 200  # of the loop: more than any write into memory takes


def late() -> Clock:
    return Clock(LATE)


async def begun(work: Awaitable[object]) -> asyncio.Future[object]:
    """Work on a store in memory, which has ended by now unless it waits for somebody."""
    task = asyncio.ensure_future(work)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return task


async def _collect(at: Shop, after_the_first: Callable[[set[str]], Awaitable[None]]) -> set[str]:
    """The names of what a collection has removed; `after_the_first` gets those of the first step."""
    removed: set[str] = set()
    async for event in at.collector.collect():
        if event["event"] == "removed":
            removed.add(event["name"])
            if len(removed) == 1:
                at.clock.now += 1
                await after_the_first(removed)
    return removed


async def test_a_collection_spares_an_orphan_that_is_linked_meanwhile(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=late()) as at:
        orphans = [await at.blob(data * KIB, B) for data in (b"1", b"2", b"3")]

        async def link(_removed: set[str]) -> None:
            await at.store.link_blob(A, orphans[1])

        removed = await _collect(at, link)
        assert {str(orphans[0]), str(orphans[2])} <= removed
        assert await at.store.blob_size(orphans[1]) == KIB
        assert await at.store.is_linked(A, orphans[1])


async def test_a_collection_spares_what_an_image_that_came_meanwhile_names(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), clock=late()) as at:
        orphans = [await at.blob(data * KIB, B) for data in (b"1", b"2")]

        async def pull(_removed: set[str]) -> None:
            layers = [_descriptor(orphans[0], KIB)]
            document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layers[0], "layers": layers}
            await at.manifest(B, "1", document)

        await _collect(at, pull)
        assert await at.store.blob_size(orphans[0]) == KIB
        assert await at.store.blob_size(orphans[1]) is None


async def test_a_purge_waits_until_all_was_looked_at(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * KIB)
        await asyncio.to_thread(at.inventory._stock.distrust)
        steps = at.collector.purge(A, None)
        first = asyncio.ensure_future(anext(steps))
        done, _ = await asyncio.wait([first], timeout=2 * purging.SURVEY_LOOK)
        assert not done
        await at.surveyor.survey()
        assert (await first)["event"] == "removed"
        assert [event async for event in steps][-1]["images"] == 1


async def test_a_purge_is_refused_where_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "SURVEY_SECONDS", 0.1)
    async with shop(tmp_path, Limits()) as at:
        image = await at.image(A, "1", b"a" * KIB)
        await asyncio.to_thread(at.inventory._stock.distrust)
        (event,) = [event async for event in at.collector.purge(A, None)]
        assert "survey.done" in event["error"]
        assert await at.has(A, image)
        await at.surveyor.survey()
        assert [event async for event in at.collector.purge(A, None)][-1]["images"] == 1


@pytest.mark.parametrize("is_index", [False, True])
async def test_an_image_that_lost_a_blob_is_known_not_to_be_whole(tmp_path: Path, is_index: bool) -> None:
    async with shop(tmp_path, Limits()) as at:
        layer = b"a" * KIB
        digest = await at.image(A, "1", layer)
        if is_index:
            entry = {**_descriptor(digest, 300), "mediaType": OCI_MANIFEST}
            digest = await at.manifest(
                A, "2", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
            )
        images = Images(at.store, at.memory)
        manifest = await at.store.manifest(A, digest)
        assert await images.missing(A, manifest) == (0, 2)
        at.memory.forget_blob(Digest.of(b"another"))
        await at.store.discard_blob(Digest.of(layer))
        assert await images.missing(A, manifest) == (0, 2)  # which nobody has told
        at.memory.forget_blob(Digest.of(layer))
        assert await images.missing(A, manifest) == (1, 2)
        await images.close()


async def test_a_look_that_nobody_waits_for_any_more_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a store that takes longer than whoever asks would be asked anew each time."""
    async with shop(tmp_path, Limits()) as at:
        digest = await at.image(A, "1", b"a" * KIB)
        images = Images(at.store, at.memory)
        manifest = await at.store.manifest(A, digest)
        monkeypatch.setattr(images, "_at_once", lambda _: None)
        real, looks, may_go_on = images._look, list[Digest](), asyncio.Event()

        async def look(repository: Repository, of: RawManifest) -> Any:
            looks.append(of.descriptor.digest)
            await may_go_on.wait()
            return await real(repository, of)

        monkeypatch.setattr(images, "_look", look)
        waiting = await begun(images.missing(A, manifest))
        waiting.cancel()
        await asyncio.wait([waiting])
        may_go_on.set()
        await until(lambda: images.whole(A, digest) is not None)
        assert await images.missing(A, manifest) == (0, 2)
        assert looks == [digest]
        await images.close()


async def test_the_evictor_tells_whoever_believes_an_image_to_be_whole(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits()) as at:
        digest = await at.image(A, "1", b"a" * KIB)
        images = Images(at.store, at.memory)
        manifest = await at.store.manifest(A, digest)
        assert await images.missing(A, manifest) == (0, 2)
        assert await at.evictor.image(A, digest, Freed("purge"))
        assert await images.missing(A, manifest) == (2, 2)
        await images.close()


async def test_a_tag_that_moves_while_its_old_image_goes_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(), driver=InMemoryDriver()) as at:
        old, new = await at.image(A, "1", b"a" * KIB), await at.image(A, "2", b"b" * KIB)
        drop, moves = deletion.drop_file, list[asyncio.Future[object]]()

        async def moved_meanwhile(driver: StorageDriver, path: str, keep: str) -> bool:
            if path == layout.tag_folder(A, Tag("1")):
                moves.append(await begun(at.store.tag(A, Tag("1"), new)))
            return await drop(driver, path, keep)

        monkeypatch.setattr(deletion, "drop_file", moved_meanwhile)
        assert await at.evictor.image(A, old, Freed("purge"))
        await asyncio.gather(*moves)
        assert len(moves) == 1
        assert (await at.store.resolve(A, Tag("1"))).descriptor.digest == new
        assert await at.inventory.tags_of(A, new) == [Tag("1"), Tag("2")]


@pytest.mark.parametrize("step", ["drop_image", "drop_blobs"])
async def test_a_manifest_that_comes_through_another_repository_while_it_goes_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with shop(tmp_path, Limits(), driver=InMemoryDriver()) as at:
        digest = await at.image(A, "1", b"a" * KIB)
        manifest = await at.store.manifest(A, digest)
        real, puts = getattr(Tree, step), list[asyncio.Future[object]]()

        async def put_meanwhile(tree: Tree, *args: Any) -> bool:
            if digest in (args[0] if step == "drop_blobs" else args):
                puts.append(await begun(at.store.put_manifest(B, manifest)))
            return bool(await real(tree, *args))

        monkeypatch.setattr(Tree, step, put_meanwhile)
        assert await at.evictor.image(A, digest, Freed("purge"))
        await asyncio.gather(*puts)
        assert len(puts) == 1
        assert not await at.has(A, digest)
        assert (await at.store.manifest(B, digest)).body == manifest.body
        assert [each.repository for each in await at.inventory.oldest(9, at.clock())] == [B]


async def test_what_was_written_before_a_link_failed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits()) as at:

        async def fails(_links: Links, path: str, _digest: Digest) -> None:
            raise DriverError(path, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(Links, "ensure", fails)
            with pytest.raises(StoreError):
                await at.blob(b"a" * KIB, A)
            with pytest.raises(StoreError):
                await at.manifest(A, "1", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
        total = await at.inventory.total()
        assert (total.blobs, total.bytes) == (2, at.bytes_on_disk())


async def test_what_could_not_be_deleted_counts_and_goes_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(ttl=10.0)) as at:
        digest = await at.blob(b"a" * KIB, A)
        at.clock.now += 100

        async def fails(_tree: Tree, _digests: object) -> None:
            raise StoreError("read-only")

        with monkeypatch.context() as patch:
            patch.setattr(Tree, "drop_blobs", fails)
            await at.keeper._look()
        assert (await at.inventory.total()).bytes == at.bytes_on_disk() == KIB
        at.clock.now += 100
        await at.keeper._look()
        assert await at.store.blob_size(digest) is None
        assert (await at.inventory.total()).bytes == 0


async def test_a_repository_that_is_purged_while_it_is_pulled_is_whole_or_fetched_again(
    tmp_path: Path,
) -> None:
    """Whatever is left is no broken link."""
    async with shop(tmp_path, Limits(), driver=InMemoryDriver()) as at:
        digest = await at.image(A, "1", b"a" * KIB)
        manifest = await at.store.manifest(A, digest)

        async def purge() -> None:
            async for _ in at.collector.purge(A, None):
                pass

        await asyncio.gather(purge(), *(at.store.put_manifest(A, manifest) for _ in range(5)))
        try:
            found = await at.store.manifest(A, digest)
        except RegistryError:
            assert await at.inventory.images(A) == []
        else:
            assert found.body == manifest.body
            assert await at.inventory.images(A) == [digest]


@pytest.mark.parametrize("jump", [40 * 365 * 86400.0, -40 * 365 * 86400.0])
async def test_a_clock_that_is_put_right_expires_nothing_at_once_and_what_is_unused_then(
    tmp_path: Path, jump: float
) -> None:
    async with shop(tmp_path, Limits(ttl=10 * HOUR), clock=late()) as at:
        image = await at.image(A, "1", b"a" * KIB)
        await at.keeper._look()
        at.clock.now += jump
        for hours in (0, 3, 3, 3):
            at.clock.now += hours * HOUR
            await at.keeper._look()
            assert await at.has(A, image)
        at.clock.now += 3 * HOUR
        await at.keeper._look()
        assert not await at.has(A, image)


async def test_a_blob_that_goes_before_it_is_linked_leaves_no_link(tmp_path: Path) -> None:
    """Its reader has it open, and reads on. No collection takes the link while an image names the blob."""
    async with shop(tmp_path, Limits()) as at:
        gone = await at.blob(b"gone" * KIB, A)
        at.clock.now += HOUR
        async for _ in at.collector.purge(A, None):
            pass
        assert not await at.kept(b"gone" * KIB)
        await at.store.link_blob(A, gone)
        assert not await at.store.is_linked(A, gone)
        assert await at.inventory.layers(A) == []
