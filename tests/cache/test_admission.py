"""Room is made only where that helps, in steps, and ahead of those who would have to wait for it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.cache import admission, keeper, measure
from mirror.cache.eviction import Disk, Held, Limits, is_high, surplus
from mirror.cache.evictor import Evictor, Freed
from mirror.cache.freshness import Rule
from mirror.cache.keeper import Keeper
from mirror.cache.lock import Lock
from mirror.cache.room import Share
from mirror.ledger import staying
from mirror.ledger.facts import Candidate
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST
from tests.cache.kit import A, B, joined, until, whole
from tests.cache.test_keeper import HOUR, KIB, Shop, _descriptor, held, shop
from tests.support.puppet import Puppet

MIB = 1 << 20


async def _filled(at: Shop, count: int) -> list[Digest]:
    """Images of 10 KiB, all of them old."""
    images = []
    for number in range(count):
        images.append(await at.image(A, f"v{number}", bytes([number]) * 10 * KIB))
        at.clock.now += 1
    at.clock.now += HOUR
    return images


async def _left(at: Shop, images: list[Digest]) -> int:
    return sum([await at.has(A, image) for image in images])


class Honest:
    """A disk that tells at once what is there; the rest of it is taken by others."""

    def __init__(self, size: int, free: int) -> None:
        self.size, self.free = size, free
        self.shop: Shop | None = None
        self.had = 0

    def __call__(self) -> Disk:
        gone = self.had - self.shop.bytes_on_disk() if self.shop is not None else 0
        return Disk(self.size, self.free + gone)

    def measures(self, at: Shop) -> None:
        self.shop, self.had = at, at.bytes_on_disk()


async def test_a_disk_that_others_have_filled_costs_nothing_of_what_is_kept(tmp_path: Path) -> None:
    disk = Honest(1024 * MIB, 20 * MIB)
    async with shop(tmp_path, Limits(minfree=100 * MIB), disk=disk) as at:
        images = await _filled(at, 10)
        disk.measures(at)
        with capture_logs() as logs:
            assert not await at.keeper.make_room(Digest.of(b"c"), 1)
        await at.keeper._look()
        assert await _left(at, images) == 10
    (event,) = [entry for entry in logs if entry["event"] == "keeper.no_room"]
    assert "though all that is kept went" in event["advice"]


async def test_a_disk_that_others_fill_slowly_gets_back_what_is_wanted(tmp_path: Path) -> None:
    disk = Honest(1024 * KIB, 80 * KIB)
    async with shop(tmp_path, Limits(minfree=100 * KIB), disk=disk) as at:
        images = await _filled(at, 10)
        disk.measures(at)
        await at.keeper._look()
        assert 125 * KIB <= disk().free < 140 * KIB
        assert 0 < await _left(at, images) < 10


async def test_a_disk_that_tells_late_what_is_free_costs_what_is_wanted_and_no_more(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(minfree=MIB), disk=Disk(100 * MIB, MIB)) as at:
        images = await _filled(at, 10)
        assert await at.keeper.make_room(Digest.of(b"c"), KIB)
        assert await _left(at, images) == 9
        assert await at.keeper.make_room(Digest.of(b"d"), KIB)
        assert await _left(at, images) == 9
        # By now it would have told, if anything was freed.
        at.keeper._measure._monotonic = lambda: time.monotonic() + measure.LATE + 1
        assert await at.keeper.make_room(Digest.of(b"e"), KIB)
        assert await _left(at, images) == 8


@pytest.mark.parametrize("through", ["tag", "index"])
async def test_what_can_never_fit_beside_the_pinned_evicts_nothing(tmp_path: Path, through: str) -> None:
    pins = (Rule("*:keep*", 0.0),)
    async with shop(tmp_path, Limits(maxsize=200 * KIB, pins=pins)) as at:
        pinned = await at.image(B, "keep" if through == "tag" else "", b"k" * 120 * KIB)
        if through == "index":
            entry = {**_descriptor(pinned, 300), "mediaType": OCI_MANIFEST}
            document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
            await at.manifest(B, "keep", document)
        images = await _filled(at, 5)
        assert not await at.keeper.make_room(Digest.of(b"c"), 100 * KIB)
        assert await at.keeper.admit(Digest.of(b"c"), 100 * KIB) == 0
        assert await _left(at, images) == 5
        assert await at.keeper.make_room(Digest.of(b"d"), 70 * KIB)
        assert await at.has(B, pinned)
        assert at.bytes_on_disk() + 70 * KIB <= 200 * KIB


async def test_pinned_tags_are_looked_for_a_slice_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staying, "NAMES_AT_ONCE", 2)
    pins = (Rule("*:keep*", 0.0),)
    async with shop(tmp_path, Limits(maxsize=100 * KIB, pins=pins)) as at:
        sizes = [len(str(number)) * 7 * KIB for number in range(5)]
        for number, size in enumerate(sizes):
            await at.image(A, f"keep{number}", bytes([number]) * size)
            await at.image(B, f"v{number}", bytes([number]) * size)
        at.clock.now += HOUR
        kept = (await at.inventory.total()).bytes
        manifests = sum([await at.store.blob_size(each) or 0 for each in await at.inventory.images(B)])
        assert await at.keeper._passes.can_go(kept) == manifests


async def test_what_was_used_a_moment_ago_cannot_go_and_nothing_goes_in_vain(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=100 * KIB)) as at:
        images = await _filled(at, 5)
        await at.image(B, "new", b"n" * 40 * KIB)
        assert not await at.keeper.make_room(Digest.of(b"c"), 65 * KIB)
        assert await _left(at, images) == 5
        assert await at.keeper.make_room(Digest.of(b"c"), 20 * KIB)
        assert await _left(at, images) == 3


async def test_a_size_that_is_only_announced_costs_a_step(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=100 * KIB)) as at:
        images = await _filled(at, 9)
        share = Share(at.keeper, Digest.of(b"c"))
        assert await share.begin(95 * KIB, 0)
        assert at.reserved == {Digest.of(b"c"): 5 * KIB}
        assert await _left(at, images) == 9
        assert await share.reach(50 * KIB)
        assert await _left(at, images) == 4
        assert at.bytes_on_disk() + 50 * KIB <= 100 * KIB
        share.give_back()
        assert at.reserved == at.keeper.admission._admitted == {}


async def test_what_cannot_fit_beside_all_that_was_announced_is_not_begun(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=100 * KIB)) as at:
        first, second = Share(at.keeper, Digest.of(b"c")), Share(at.keeper, Digest.of(b"d"))
        assert await first.begin(60 * KIB, 0)
        assert not await second.begin(60 * KIB, 0)
        first.give_back()
        assert await second.begin(60 * KIB, 0)


async def test_a_fill_that_finds_no_room_half_way_goes_on_and_is_not_kept(tmp_path: Path) -> None:
    class Small:
        """Room for half of it."""

        given = 0

        async def admit(self, _digest: Digest, _size: int) -> int:
            return 64 * KIB

        async def make_room(self, _digest: Digest, size: int) -> bool:
            self.given += size
            return self.given <= 256 * KIB

        def release(self, _digest: Digest, size: int, *, admitted: int = 0) -> None:
            self.given = 0 if admitted else self.given - size

    upstream, room, data = Puppet(), Small(), bytes(range(256)) * 2 * KIB
    digest = upstream.add(data)
    async with joined(tmp_path, upstream, room=room) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        transfer.send(100 * KIB)
        blob = await opening
        transfer.finish()
        assert await whole(blob) == data
        await until(lambda: parts.fills.ended(digest) == 1)
        assert await parts.store.blob_size(digest) is None
        assert list((tmp_path / "mirror" / "spool").glob("*")) == []
    assert room.given == 0


async def test_a_fill_whose_room_is_still_being_made_begins_after_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "ROOM", 0.0)
    async with shop(tmp_path, Limits(maxsize=100 * KIB)) as at:
        images = await _filled(at, 9)
        assert await at.keeper.make_room(Digest.of(b"c"), 50 * KIB)
        assert 0 < await _left(at, images) < 9
        await at.keeper._look()
        assert at.bytes_on_disk() + 50 * KIB <= 100 * KIB


async def test_a_fill_whose_turn_does_not_come_begins_unless_what_is_kept_is_over_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "ROOM", 0.01)
    async with shop(tmp_path, Limits(maxsize=100 * KIB)) as at:
        await _filled(at, 9)
        async with at.keeper.admission.turn:
            assert await at.keeper.make_room(Digest.of(b"c"), 20 * KIB)
            await _filled_more(at)
            assert not await at.keeper.make_room(Digest.of(b"d"), 20 * KIB)


async def _filled_more(at: Shop) -> None:
    await at.image(B, "more", b"m" * 20 * KIB)
    at.clock.now += HOUR


async def test_a_pass_begins_before_the_limit_is_reached_and_fills_do_not_wait(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=108 * KIB)) as at:
        images = await _filled(at, 10)
        assert 103 * KIB < at.bytes_on_disk() < 108 * KIB
        running = asyncio.create_task(at.keeper.run())
        await until(lambda: at.bytes_on_disk() <= 97 * KIB)
        assert await _left(at, images) == 9
        # Woken by what was begun, which did not have to wait.
        assert await at.keeper.make_room(Digest.of(b"c"), 10 * KIB)
        await until(lambda: at.bytes_on_disk() <= 87 * KIB)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("there_is", "high"),
    [
        (held(95), False),
        (held(96), True),
        (held(90, None, 6), True),
        (held(0, Disk(1000, 22)), False),
        (held(0, Disk(1000, 21)), True),
    ],
)
def test_it_is_time_for_a_pass_near_the_limits(there_is: Held, high: bool) -> None:
    assert is_high(there_is, Limits(maxsize=100, minfree=20)) == high


@pytest.mark.parametrize(
    ("there_is", "can_go", "over"),
    [
        (held(50, Disk(1000, 10)), 9, 0),
        (held(50, Disk(1000, 10)), 10, 15),
        (held(120, Disk(1000, 10)), 5, 30),  # over maxsize in any case
    ],
)
def test_a_pass_frees_no_disk_that_it_cannot_bring_back(there_is: Held, can_go: int, over: int) -> None:
    assert surplus(there_is, Limits(maxsize=100, minfree=20), can_go) == over


def test_a_step_is_a_share_of_a_small_cache() -> None:
    assert Limits(maxsize=200 * KIB).step(None) == 10 * KIB
    assert Limits(maxsize=1 << 40).step(None) == Limits(minfree=1).step(None) == 64 * MIB


async def test_what_came_while_the_inventory_is_locked_counts(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=100 * KIB)) as at:
        await at.inventory.flush()
        file = tmp_path / "mirror" / "inventory.sqlite"
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(4):
                data = bytes([number]) * 40 * KIB
                if await at.keeper.make_room(Digest.of(data), len(data)):
                    await at.blob(data, A)
                    at.keeper.release(Digest.of(data), len(data))
            other.execute("ROLLBACK")
        assert at.bytes_on_disk() == 80 * KIB


async def test_several_images_go_at_once_and_one_too_many_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(maxsize=200 * KIB)) as at:
        images = await _filled(at, 12)
        evict, running, most = Evictor.evict, 0, 0

        async def counted(*args: Any) -> bool:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await evict(*args)
            finally:
                running -= 1

        monkeypatch.setattr(Evictor, "evict", counted)
        await at.keeper._passes.evict(Freed("limit"), 60 * KIB)
        assert most == 4
        assert await _left(at, images) == 6


async def test_a_pass_over_ages_lets_go_of_the_lock_between_its_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SLICE", 0.0)
    async with shop(tmp_path, Limits(ttl=HOUR)) as at:
        images = await _filled(at, 6)
        at.clock.now += HOUR
        held_by = 0
        evict = Evictor.evict

        async def counted(evictor: Evictor, candidate: Candidate, *rest: Any) -> bool:
            nonlocal held_by
            held_by = max(held_by, at.lock._holders)
            return await evict(evictor, candidate, *rest)

        taken, shared = 0, Lock.shared

        def taking(lock: Lock) -> AbstractAsyncContextManager[None]:
            nonlocal taken
            taken += 1
            return shared(lock)

        monkeypatch.setattr(Evictor, "evict", counted)
        monkeypatch.setattr(Lock, "shared", taking)
        assert await at.keeper._look()
        assert await _left(at, images) == 0
        assert held_by == 1
        assert taken > 2


async def test_a_pass_that_found_nothing_is_not_made_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        await at.image(A, "1", b"a" * 18 * KIB)
        looks, look = [], Keeper._look

        async def counted(this: Keeper) -> bool:
            looks.append(1)
            return await look(this)

        monkeypatch.setattr(Keeper, "_look", counted)
        running = asyncio.create_task(at.keeper.run())
        await until(lambda: bool(looks))
        for number in range(5):
            assert not await at.keeper.make_room(Digest.of(bytes([number])), 12 * KIB)
        await until(lambda: len(looks) == 2)
        for _ in range(20):
            assert not await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert len(looks) == 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_before_it_is_known_what_is_kept_no_more_comes_than_would_fit_beside_all_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of another registry, or one whose inventory was lost: the first survey may take minutes."""
    monkeypatch.setattr(admission, "ROOM", 0.05)
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * 30 * KIB)
    shutil.rmtree(tmp_path / "mirror")
    disk = Disk(1000 * KIB, 965 * KIB)
    async with shop(tmp_path, Limits(maxsize=40 * KIB), disk=disk, survey=False) as at:
        assert (await at.inventory.total()).bytes == 0
        assert not await at.keeper.admit(Digest.of(b"b"), 41 * KIB)
        assert await at.keeper.admit(Digest.of(b"c"), 9 * KIB)
        assert not await at.keeper.make_room(Digest.of(b"c"), 9 * KIB)
        assert await at.keeper.make_room(Digest.of(b"d"), 4 * KIB)
        await at.surveyor.survey()
        at.clock.now += HOUR
        assert await at.keeper.make_room(Digest.of(b"e"), 9 * KIB)  # which the survey has made room for


async def test_who_comes_before_the_first_survey_waits_for_it(tmp_path: Path) -> None:
    disk = Disk(1000 * KIB, 500 * KIB)  # of which nothing is ours
    async with shop(tmp_path, Limits(maxsize=40 * KIB), disk=disk, survey=False) as at:
        asked = asyncio.create_task(at.keeper.admit(Digest.of(b"c"), 9 * KIB))
        await asyncio.sleep(0)
        await at.surveyor.survey()
        assert await asked
        assert await at.keeper.make_room(Digest.of(b"c"), 9 * KIB)
