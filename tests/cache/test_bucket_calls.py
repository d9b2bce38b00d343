"""What evictions and collections cost a bucket: its requests are counted at a real S3 server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.cache.eviction import Limits
from mirror.cache.evictor import Freed
from mirror.drivers.s3 import S3Driver
from mirror.store.collect import GRACE
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import KIB, shop
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


async def test_a_collection_asks_twice_for_each_that_goes(
    tmp_path: Path, bucket: Bucket, proxy: Recorder
) -> None:
    """Whether it is still what the listing has shown, and to delete it."""
    driver = S3Driver(bucket.settings(proxy.url))
    async with shop(tmp_path, Limits(), driver=driver, clock=Clock(time.time() + 2 * GRACE)) as at:
        for data in LAYERS:
            digest = await at.blob(data, A)
            await at.store._driver.remove(
                [f"docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"],
                "docker",
                durable=True,
            )
        proxy.clear()
        events = [event async for event in at.collector.collect()]
        assert events[-1]["removed"] == len(LAYERS), events
        counts = {method: asked(proxy).count(method) for method in ("HEAD", "DELETE", "POST")}
        assert counts == {"HEAD": len(LAYERS), "DELETE": len(LAYERS), "POST": 0}, proxy.trace()
        assert await bucket.keys() == []
