"""A deletion that is broken off: the inventory knows what is left, or knows that it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mirror.cache import evictor
from mirror.cache.eviction import Limits
from mirror.cache.evictor import Freed
from mirror.drivers.base import DriverError
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Tag
from mirror.store.errors import StoreError
from tests.cache.kit import A, B
from tests.cache.test_keeper import HANGS, HOUR, KIB, Shop, shop
from tests.store.faulty import FaultyDriver

DATA = b"a" * KIB
LAYER = f"_layers/sha256/{Digest.of(DATA).hex}"
HALVES = ("_manifests/tags/1", "_manifests/revisions", LAYER, f"{Digest.of(DATA).hex}/data")


class Stubborn(FaultyDriver):
    """Does not let go what is at a path with `part` in it: it fails once, or waits for `go_on`."""

    def __init__(self, root: Path, part: str, *, waits: bool) -> None:
        super().__init__(FilesystemDriver(root, 4))
        self.part, self.waits = part, waits
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        if any(self.part in path for path in doomed) and not self.reached.is_set():
            self.reached.set()
            if not self.waits:
                raise DriverError(doomed[0], "Input/output error")
            await self.go_on.wait()
        return await super().remove(doomed, keep, durable=durable, listed=listed)


async def evict(at: Shop, image: Digest) -> None:
    await at.evictor.image(A, image, Freed("purge"))


async def agrees(at: Shop) -> bool:
    return (await at.inventory.total()).bytes == at.bytes_on_disk()


@pytest.mark.parametrize("part", HALVES)
async def test_what_the_disk_does_not_let_go_is_known_and_goes_later(tmp_path: Path, part: str) -> None:
    driver = Stubborn(tmp_path, part, waits=False)
    async with shop(tmp_path, Limits(ttl=HOUR), driver=driver) as at:
        image = await at.image(A, "1", DATA)
        with pytest.raises(StoreError):
            await evict(at, image)
        assert await agrees(at)
        assert at.inventory.complete
        kept = await at.inventory.blob(Digest.of(DATA))
        assert kept is not None
        assert kept.repositories == (() if part.endswith("/data") else (A,))
        at.clock.now += 2 * HOUR
        for _ in range(2):  # what the first look begins with may have been the last to be noted
            await at.keeper._look()
        assert at.bytes_on_disk() == 0
        assert at.folders() == set()
        assert await agrees(at)


async def test_an_image_that_stayed_is_an_image_with_its_tags_and_its_age(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(), driver=Stubborn(tmp_path, "tags/2", waits=False)) as at:
        image = await at.image(A, "1", DATA)
        await at.store.tag(A, Tag("2"), image)
        await at.store.tag(A, Tag("3"), image)
        (before,) = await at.inventory.oldest(10, at.clock())
        at.clock.now += HOUR
        with pytest.raises(StoreError):
            await evict(at, image)
        (after,) = await at.inventory.oldest(10, at.clock())
        assert (after.digest, after.used) == (image, before.used)
        assert after.tags == (Tag("2"), Tag("3"))
        assert await at.inventory.is_named(A, Digest.of(DATA))
        moves = await at.inventory.history(A, Tag("2"))
        assert [move.origin for move in moves] == ["upstream"]


async def test_a_tag_that_has_moved_meanwhile_does_not_move_back(tmp_path: Path) -> None:
    driver = Stubborn(tmp_path, "tags/1", waits=False)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        old = await at.image(A, "1", DATA)
        dropped = await at.inventory.drop_image(A, old)
        assert dropped is not None
        new = await at.image(A, "1", b"b" * KIB)
        at.inventory.note_image_back(A, old, dropped)
        assert await at.inventory.tags_of(A, old) == []
        assert await at.inventory.tags_of(A, new) == [Tag("1")]


@pytest.mark.parametrize("part", HALVES)
async def test_a_deletion_that_nobody_waits_for_any_more_is_brought_to_its_end(
    tmp_path: Path, part: str
) -> None:
    driver = Stubborn(tmp_path, part, waits=True)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        image = await at.image(A, "1", DATA)
        kept = await at.image(B, "1", b"b" * KIB)
        running = asyncio.create_task(evict(at, image))
        async with asyncio.timeout(HANGS):
            await driver.reached.wait()
            running.cancel()
            driver.go_on.set()
            await asyncio.wait([running])
        assert running.cancelled()
        assert at.inventory.complete
        assert await agrees(at)
        assert not await at.kept(DATA)
        assert not await at.has(A, image)
        assert await at.has(B, kept)


@pytest.mark.parametrize("part", HALVES)
async def test_after_a_deletion_that_did_not_end_the_inventory_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The disk hangs while the process is to end: the next start does not believe what was closed so."""
    monkeypatch.setattr(evictor, "FINISH", 0.01)
    driver = Stubborn(tmp_path, part, waits=True)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        image = await at.image(A, "1", DATA)
        running = asyncio.create_task(evict(at, image))
        async with asyncio.timeout(HANGS):
            await driver.reached.wait()
            running.cancel()
            await asyncio.wait([running])
        assert not at.inventory.complete
    async with shop(tmp_path, Limits(), survey=False) as after:
        assert not after.inventory.complete
        await after.surveyor.survey()
        assert await agrees(after)


async def test_a_tag_that_is_purged_while_nobody_waits_is_gone_for_the_inventory_too(tmp_path: Path) -> None:
    driver = Stubborn(tmp_path, "tags/2", waits=True)
    async with shop(tmp_path, Limits(), driver=driver) as at:
        image = await at.image(A, "1", DATA)
        await at.store.tag(A, Tag("2"), image)
        running = asyncio.create_task(at.evictor.tag(A, Tag("2")))
        async with asyncio.timeout(HANGS):
            await driver.reached.wait()
            running.cancel()
            driver.go_on.set()
            await asyncio.wait([running])
        assert await at.inventory.tags_of(A, image) == [Tag("1")]
        assert at.inventory.complete


async def test_a_bug_in_the_middle_of_a_deletion_puts_the_inventory_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits()) as at:
        image = await at.image(A, "1", DATA)

        def broken(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(Inventory, "note_layer_gone", broken)
        with pytest.raises(RuntimeError):
            await evict(at, image)
        assert not at.inventory.complete
