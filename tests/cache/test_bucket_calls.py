"""What evictions and collections cost a bucket: its requests are counted at a real S3 server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.cache.collecting import Collector
from mirror.cache.dropping import AT_ONCE, Dropper
from mirror.cache.eviction import Limits
from mirror.cache.evictor import Freed
from mirror.cache.surveyor import Surveyor
from mirror.drivers import s3session
from mirror.drivers.base import Info, StorageDriver, UnreachableError
from mirror.drivers.budget import GETS_AT_ONCE, Budget, BudgetedDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.outer import Outer
from mirror.drivers.s3 import S3Driver
from mirror.oci.digest import Digest
from mirror.store import layout
from mirror.store.collect import GRACE
from mirror.store.errors import StoreError
from mirror.store.garbage import Garbage, Kind
from mirror.store.tree import Tree
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import HANGS, KIB, Shop, shop
from tests.support.buckets import Bucket
from tests.support.recorder import Recorder, Rule

LAYERS = [bytes([number]) * KIB for number in range(8)]
SHARED = b"shared" * KIB


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Recorder]:
    """In front of the server."""
    recorder = Recorder(bucket.server.url)
    yield recorder
    recorder.stop()


def asked(proxy: Recorder) -> list[str]:
    return [exchange.method for exchange in proxy.exchanges]


async def test_an_image_goes_with_the_same_few_requests_however_many_layers_it_has(
    tmp_path: Path, bucket: Bucket, proxy: Recorder
) -> None:
    """Its tag, its manifest's link, the link of what another image shares; then all links, then all bytes."""
    async with shop(tmp_path, Limits(), driver=S3Driver(bucket.settings(proxy.url))) as at:
        await at.image(B, "1", SHARED)
        kept = set(await bucket.keys())
        for layers, rest in (([], ["DELETE"]), (LAYERS, ["POST", "POST"])):
            image = await at.image(A, "2", *layers, SHARED)
            proxy.clear()
            assert await at.evictor.image(A, image, Freed("purge"))
            tag = [
                "GET",
                "HEAD",
                "GET",
                "POST",
            ]  # where it points, whether it is a file, its files, all of them
            assert asked(proxy) == [*tag, "HEAD", "DELETE", "POST", *rest], proxy.trace()
            assert set(await bucket.keys()) == kept


async def without_data(at: Shop, bucket: Bucket, blobs: Sequence[bytes]) -> None:
    """Links of which the bytes are gone."""
    for data in blobs:
        digest = await at.blob(data, A)
        path = f"docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"
        await at.store._driver.remove([path], "docker", durable=True)


async def test_a_collection_looks_at_each_that_goes_and_deletes_many_at_once(
    tmp_path: Path, bucket: Bucket, proxy: Recorder
) -> None:
    """Whether it is still what the listing has shown; a few more than one deletion takes need two."""
    driver = S3Driver(bucket.settings(proxy.url))
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(time.time() + 2 * GRACE)) as at:
        many = [b"%d" % number for number in range(AT_ONCE + 3)]
        await without_data(at, bucket, many)
        proxy.clear()
        events = [event async for event in at.collector.collect()]
        assert events[-1]["removed"] == len(many), events
        counts = {method: asked(proxy).count(method) for method in ("HEAD", "DELETE", "POST")}
        assert counts == {"HEAD": len(many), "DELETE": 0, "POST": 2}, proxy.trace()
        assert await bucket.keys() == []


async def test_what_somebody_writes_meanwhile_is_waited_for_alone(
    tmp_path: Path, bucket: Bucket, proxy: Recorder
) -> None:
    """The others go together before."""
    driver = S3Driver(bucket.settings(proxy.url))
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(time.time() + 2 * GRACE)) as at:
        await without_data(at, bucket, LAYERS)
        held = Digest.of(LAYERS[3])
        link = f"docker/registry/v2/repositories/{A}/_layers/sha256/{held.hex}/link"
        async with at.store.turns.of(held):
            collecting = asyncio.create_task(finished(at.collector.collect()))
            async with asyncio.timeout(HANGS):
                while await bucket.keys() != [link]:
                    assert not collecting.done()
        assert (await collecting)["removed"] == len(LAYERS)
        assert await bucket.keys() == []


async def finished(events: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    return [event async for event in events][-1]


async def test_who_looks_after_a_bucket_asks_no_faster_than_the_budget_allows(
    tmp_path: Path, bucket: Bucket, proxy: Recorder
) -> None:
    """A survey and a collection, from their first request to their last."""
    rate = 50.0
    plain = S3Driver(bucket.settings(proxy.url))
    driver = BudgetedDriver(plain, Budget(rate))
    async with shop(tmp_path, Limits(), driver=plain, clock=Clock(time.time() + 2 * GRACE)) as at:
        for number in range(12):
            await at.image(A, str(number), LAYERS[0])
        surveyor = Surveyor(Tree(driver), at.inventory, None, at.clock)
        nothing = dict[Digest, int]().keys
        collector = Collector(
            at.store, Tree(driver), at.inventory, at.memory, at.evictor, at.scrubber, nothing
        )
        proxy.clear()
        await surveyor.survey()
        await finished(collector.collect())
        starts = sorted(exchange.start for exchange in proxy.exchanges)
        assert len(starts) > 3 * GETS_AT_ONCE, proxy.trace()
        # What is asked for together, as many small files are, is waited for before or after.
        assert len(starts) <= (starts[-1] - starts[0]) * rate + GETS_AT_ONCE, proxy.trace()


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 100)), min_size=1, max_size=30), st.floats(50, 10_000)
)
def test_in_no_time_is_there_more_than_the_budget(asks: list[tuple[float, int]], rate: float) -> None:
    """`asks`: seconds since the last, and for how many."""
    clock = Clock(1000.0)
    budget = Budget(rate, clock)
    begun: list[tuple[float, int]] = []
    for seconds, count in asks:
        clock.now += seconds
        begun.append((clock.now + budget.due(count), count))
    for first in range(len(begun)):
        for last in range(first, len(begun)):
            counts = [count for _, count in begun[first:last]]  # the last one's own come after
            assert sum(counts) <= (begun[last][0] - begun[first][0]) * rate + 1e-3


async def test_what_went_is_forgotten_at_once_though_the_answer_was_lost(
    tmp_path: Path, bucket: Bucket, proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at each tells that it is gone."""
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)
    driver = S3Driver(bucket.settings(proxy.url))
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(time.time() + 2 * GRACE)) as at:
        digests = await unnamed(at)
        assert set(await at.inventory.layers(A)) == set(digests)
        proxy.clear(Rule(method="POST", lose=True))
        summary = await finished(at.collector.collect())
        lost = [exchange for exchange in proxy.select("POST") if exchange.outcome == "lost"]
        assert len(lost) == 2, proxy.trace()
        assert (summary["removed"], summary["failed"]) == (2 * len(digests), 0)
        assert asked(proxy).count("HEAD") == 4 * len(digests), "before and after, links and bytes"
        assert await bucket.keys() == []
        assert await at.inventory.layers(A) == []
        assert [await at.inventory.blob(digest) for digest in digests] == [None] * len(digests)
        assert not any(at.memory.is_linked(A, digest) for digest in digests)


async def link_of(driver: StorageDriver, digest: Digest) -> Garbage:
    """As a collection would tell of it."""
    path = layout.layer_link(A, digest)
    info = await driver.stat(path)
    return Garbage(Kind.LAYER, path, info.size, info.modified, A, digest=digest)


async def unnamed(at: Shop) -> list[Digest]:
    """Blobs that are kept, and held for linked and sound, and that no image names."""
    digests = [await at.blob(data, A) for data in LAYERS]
    for digest in digests:
        at.memory.linked(A, digest)
        at.memory.sound(digest, KIB)
    return digests


class Losing(Outer):
    """It deletes, says nothing of it, and then does not answer at all."""

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self.looks = -1  # -1: it has lost nothing yet

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        if self.looks < 0:
            await super().remove(doomed, keep, durable=durable, listed=listed)
            self.looks = 0
        raise UnreachableError(doomed[0], "lost")

    async def stat(self, path: str) -> Info:
        if self.looks >= 0:
            self.looks += 1
            raise UnreachableError(path, "lost")
        return await super().stat(path)


async def test_of_what_may_be_gone_memory_holds_nothing_and_a_storage_that_is_away_is_asked_once(
    tmp_path: Path,
) -> None:
    driver = Losing(FilesystemDriver(tmp_path, 4))
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(time.time() + 2 * GRACE)) as at:
        digests = await unnamed(at)
        found = [await link_of(driver, digest) for digest in digests]
        dropper = Dropper(Tree(driver), at.inventory, at.memory, at.evictor.turns, set, at.clock)
        outcomes = [outcome async for _, outcome in dropper.drop(found, at.clock)]
        assert all(isinstance(outcome, StoreError) for outcome in outcomes)
        assert driver.looks == 1
        assert not any(at.memory.is_linked(A, digest) for digest in digests)
        assert set(await at.inventory.layers(A)) == set(digests), "until the next survey"
