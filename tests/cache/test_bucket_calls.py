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
from mirror.cache.dropping import AT_ONCE
from mirror.cache.eviction import Limits
from mirror.cache.evictor import Freed
from mirror.cache.surveyor import Surveyor
from mirror.drivers.budget import GETS_AT_ONCE, Budget, BudgetedDriver
from mirror.drivers.s3 import S3Driver
from mirror.oci.digest import Digest
from mirror.store.collect import GRACE
from mirror.store.tree import Tree
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import HANGS, KIB, Shop, shop
from tests.support.buckets import Bucket
from tests.support.recorder import Recorder

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
