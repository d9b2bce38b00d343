"""When the tree is looked at as a whole: at each start, each week, and when the inventory is in doubt."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.cache import surveyor as module
from mirror.cache.eviction import Limits
from mirror.cache.evictor import Evictor, Freed
from mirror.cache.surveyor import AGAIN, WEEK, Surveyor
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger.facts import Candidate
from mirror.oci.digest import Digest
from mirror.store.tree import Tree
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import HANGS, HOUR, KIB, Shop, shop


@asynccontextmanager
async def kept_by(at: Shop) -> AsyncIterator[None]:
    """The keeper runs, and has tried a survey."""
    running = asyncio.create_task(at.keeper.run())
    try:
        async with asyncio.timeout(HANGS):
            await at.surveyor.tried.wait()
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_was_done_to_the_folder_meanwhile_is_known_soon_after_the_start(tmp_path: Path) -> None:
    """Another registry had it for a week: the inventory was closed well, and is wrong all the same."""
    async with shop(tmp_path, Limits()) as at:
        await at.image(A, "1", b"a" * KIB)
    other = tmp_path / "mirror" / "inventory.sqlite"
    other.rename(tmp_path / "aside")
    async with shop(tmp_path, Limits()) as at:
        await at.image(B, "1", b"b" * KIB)
    other.unlink()
    (tmp_path / "aside").rename(other)
    async with shop(tmp_path, Limits(), survey=False) as at:
        assert at.inventory.complete
        assert (await at.inventory.total()).bytes < at.bytes_on_disk()
        async with kept_by(at):
            assert (await at.inventory.total()).bytes == at.bytes_on_disk()


async def test_ages_and_limits_are_kept_while_the_survey_of_the_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with shop(tmp_path, Limits(), clock=clock) as at:
        image = await at.image(A, "1", b"a" * KIB)
    reached, go_on = asyncio.Event(), asyncio.Event()
    survey = Surveyor.survey

    async def slow(surveyor: Surveyor) -> None:
        reached.set()
        await go_on.wait()
        await survey(surveyor)

    evicted, evict = asyncio.Event(), Evictor.evict

    async def told(evictor: Evictor, candidate: Candidate, freed: Freed, since: float) -> bool:
        gone = await evict(evictor, candidate, freed, since)
        evicted.set()
        return gone

    monkeypatch.setattr(Surveyor, "survey", slow)
    monkeypatch.setattr(Evictor, "evict", told)
    clock.now += 12 * HOUR
    async with shop(tmp_path, Limits(maxsize=KIB), clock=clock, survey=False) as at:
        running = asyncio.create_task(at.keeper.run())
        async with asyncio.timeout(HANGS):
            await reached.wait()
            await evicted.wait()
            assert not await at.has(A, image)
            go_on.set()
            await at.surveyor.tried.wait()
        running.cancel()
        await asyncio.wait([running])
        assert await at.inventory.surveyed()


async def test_a_survey_is_made_each_week_and_sooner_when_the_inventory_is_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.0)
    async with shop(tmp_path, Limits()) as at:
        now, made = 0.0, 0
        looks: asyncio.Queue[None] = asyncio.Queue()

        def clock() -> float:
            looks.put_nowait(None)
            return now

        async def survey() -> None:
            nonlocal made
            made += 1
            await at.inventory.begin_survey(1.0)
            await at.inventory.end_survey()

        surveyor = Surveyor(Tree(FilesystemDriver(tmp_path, 1)), at.inventory, None, monotonic=clock)
        monkeypatch.setattr(surveyor, "survey", survey)
        running = asyncio.create_task(surveyor.run())

        async def after(seconds: float) -> int:
            """How many surveys were made until then: a look makes the one that is due."""
            nonlocal now
            now += seconds
            while not looks.empty():
                looks.get_nowait()
            for _ in range(2):
                await looks.get()
            return made

        async with asyncio.timeout(HANGS):
            assert await after(0) == 1
            assert await after(WEEK - 1) == 1
            assert await after(1) == 2
            at.inventory._waiting.lost = 1  # as when there is no room for more notes
            assert await after(AGAIN - 1) == 2
            assert await after(1) == 3
            assert at.inventory.complete
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("what", ["mirror", "mirror/inventory.sqlite"])
async def test_limits_are_kept_again_soon_after_the_inventory_was_deleted_under_it(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)
    async with shop(tmp_path, Limits(maxsize=30 * KIB)) as at, kept_by(at):
        old = await at.image(A, "1", b"a" * 10 * KIB)
        new = await at.image(A, "2", b"b" * 10 * KIB)
        await at.keeper._measure.take()  # as in each minute
        target = tmp_path / what
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        with capture_logs() as logs:
            assert not await at.keeper.make_room(Digest.of(b"d"), 20 * KIB), "there is what there was"
            async with asyncio.timeout(HANGS):
                while not at.inventory.complete:  # noqa: ASYNC110 - far sooner than AGAIN
                    await asyncio.sleep(0.01)
        assert [line["event"] for line in logs].count("ledger.replaced") == 1
        assert (await at.inventory.total()).bytes == at.bytes_on_disk()
        at.clock.now += HOUR
        at.use(A, new)
        assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert not await at.has(A, old)
        assert await at.has(A, new)
