"""What holds whatever is pulled, moved, evicted, collected or purged, and wherever the process ends in it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mirror.cache.eviction import Disk, Limits
from mirror.ledger.inventory import NotKept
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.registry import RegistryError
from mirror.store.errors import StoreError
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import KIB, shop
from tests.cache.walk import LAYERS, LIMIT, REPOSITORIES, TAGS, Generous, Life, now
from tests.support.orphans import Tree

HOUR = 3600.0
WALKS = int(os.environ.get("MIRROR_WALKS", "8"))  # some 2 seconds each, on an idle machine
FAILURES = (RegistryError, StoreError, NotKept)  # what an operation may say of a disk that fails

Step = tuple[Any, ...]  # what to do, and with what

images = st.tuples(st.sampled_from(REPOSITORIES), st.sampled_from(TAGS))
FIRST = (("library/a", "1"), ("library/b", "1"), ("quay.io/org/c", "1"))  # so that there is what can go
layers = st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=3).map(tuple)
pulls = images.map(lambda image: ("pull", *image))
upkeep = st.one_of(
    st.just(("look",)),
    st.booleans().map(lambda untagged: ("collect", untagged)),
    st.tuples(st.sampled_from(REPOSITORIES), st.sampled_from(("", *TAGS))).map(lambda what: ("purge", *what)),
)
works = st.one_of(pulls, upkeep)
steps = st.one_of(
    pulls,
    pulls,
    upkeep,
    st.tuples(images, layers, st.booleans()).map(lambda move: ("move", *move[0], move[1], move[2])),
    st.sampled_from((120.0, 2 * HOUR, 13 * HOUR)).map(lambda seconds: ("wait", seconds)),
    st.booleans().map(lambda killed: ("restart", killed)),
    st.lists(works, min_size=2, max_size=4).map(lambda several: ("together", several)),
    st.tuples(works, st.integers(0, 60), st.booleans(), st.booleans()).map(lambda doom: ("fail", *doom)),
    st.tuples(works, st.integers(0, 30)).map(lambda stop: ("stop", *stop)),
)


class Walk:
    """Steps through the lives of a mirror, each followed by a look at what has to hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.upstream, self.clock = Generous(), now()
        self.life = Life(root, self.upstream, self.clock)
        self.certain = True  # no failure has kept the inventory from knowing all, since the last survey

    async def go(self, walk: list[Step]) -> None:
        await self.begin()
        try:
            for name, tag in FIRST:
                await self.life.pull(name, tag)
            self.clock.now += HOUR
            for step in walk:
                event(str(step[0]))
                await self.step(step)
                await self.life.settle()
                self.check(Tree.read(self.root))
                if self.certain:
                    await self.agrees()
            await self.leaves_nothing()
        finally:
            await self.life.end(killed=False)

    async def step(self, step: Step) -> None:
        match step:
            case ("wait", seconds):
                self.clock.now += seconds
            case ("move", name, tag, layers, is_index):
                self.upstream.move(name, tag, layers, is_index=is_index)
            case ("restart", killed):
                await self.restart(killed=killed)
            case ("together", several):
                await asyncio.gather(*map(self.work, several))
            case ("stop", work, calls):
                await self.stop(work, calls)
            case ("fail", work, calls, dead, after):
                await self.fail(work, calls, dead=dead, after=after)
            case _:
                await self.work(step)

    async def work(self, work: Step) -> None:
        match work:
            case ("pull", name, tag):
                await self.life.pull(name, tag)
            case ("look",):
                await self.life.look()
            case ("collect", untagged):
                await self.life.collect(untagged=untagged)
            case ("purge", name, reference):
                await self.life.purge(name, reference)

    async def fail(self, work: Step, calls: int, *, dead: bool, after: bool) -> None:
        """The disk fails in the middle: for good, and the process ends with it; or once, and it goes on."""
        self.life.driver.doom(calls, dead=dead, after=after)
        try:
            await self.work(work)
        except FAILURES:
            assert work[0] != "pull"  # which needs no disk
        await self.life.settle()
        if dead:
            await self.restart(killed=True)
        else:
            self.life.driver.doom(None)
            self.certain = False

    async def restart(self, *, killed: bool) -> None:
        await self.life.end(killed=killed)
        self.life = Life(self.root, self.upstream, self.clock)
        await self.begin()

    async def begin(self) -> None:
        """What is believed before the survey knows all that is there; after it, that and nothing else."""
        await self.life.begin()
        inventory, tree = self.life.inventory, Tree.read(self.root)
        if inventory.complete:
            assert (await inventory.total()).bytes >= tree.size
            for name in REPOSITORIES:
                known = {image.hex for image in await inventory.images(Repository(name))}
                assert {digest for place, digest in tree.images if place == name} <= known
        await self.life.start()
        assert self.life.inventory.complete
        self.certain = True
        await self.agrees()

    async def stop(self, work: Step, calls: int) -> None:
        """The process is told to end in the middle of it."""
        self.life.driver.tell(calls)
        doing = asyncio.create_task(self.work(work))
        reached = asyncio.create_task(self.life.driver.reached.wait())
        await asyncio.wait([doing, reached], return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()
        reached.cancel()
        await asyncio.wait([doing, reached])
        if not doing.cancelled():
            doing.result()
        await self.restart(killed=False)

    async def agrees(self) -> None:
        """The inventory knows what is in the tree."""
        total, tree = await self.life.inventory.total(), Tree.read(self.root)
        assert (total.blobs, total.bytes) == (len(tree.blobs), tree.size)

    def check(self, tree: Tree) -> None:
        assert tree.wrong() == []
        assert tree.size <= LIMIT

    async def leaves_nothing(self) -> None:
        """When all is old: the limit is kept to, a collection takes what is of no use, the rest is whole."""
        self.clock.now += 2 * HOUR
        await self.life.look()
        await self.life.collect(untagged=False)
        tree = Tree.read(self.root)
        assert tree.size <= LIMIT
        assert tree.orphans() == []
        for name, tag in self.upstream.now:
            await self.life.pull(name, tag)


@settings(
    max_examples=WALKS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(steps, min_size=8, max_size=20))
def test_what_is_served_is_right_and_what_is_kept_is_known_and_bounded_wherever_it_ends(
    walk: list[Step],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(Walk(Path(folder)).go(walk))


@pytest.mark.parametrize("calls", range(4, 14))  # of the disk; in these a purge deletes
async def test_a_purge_that_is_stopped_anywhere_is_known_at_the_next_start(
    tmp_path: Path, calls: int
) -> None:
    walk = Walk(tmp_path)
    await walk.begin()
    for name, tag in FIRST[:2]:
        await walk.life.pull(name, tag)
    await walk.life.settle()
    await walk.stop(("purge", *FIRST[0]), calls)
    await walk.leaves_nothing()
    await walk.life.end(killed=False)


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
