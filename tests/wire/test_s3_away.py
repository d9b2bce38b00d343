"""The bucket's server hangs (SIGSTOP), or is gone (SIGKILL), under a mirror that serves."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mirror.drivers import breaker, s3session
from mirror.health import watch
from tests.support.buckets import Bucket
from tests.support.scripted import Image, Upstream, serve, sha256
from tests.support.swift import SwiftServer
from tests.wire.conftest import Mirror, running
from tests.wire.test_health import HTTP, OFTEN, becomes, plain
from tests.wire.test_s3 import NAME, PATH, kept, pull

LAYER = random.Random(6).randbytes(300_000)
LARGE = random.Random(8).randbytes(6 << 20)
WITHIN = 60.0  # seconds

Start = Callable[..., Any]

# How the server goes, and comes back.
WAYS: dict[str, tuple[Callable[[SwiftServer], None], Callable[[SwiftServer], None]]] = {
    "hangs": (SwiftServer.stop_answering, SwiftServer.answer_again),
    "is gone": (SwiftServer.kill, SwiftServer.revive),
}


class Outage:
    """Of the bucket's server; it ends with the test at the latest."""

    def __init__(self, server: SwiftServer, how: str) -> None:
        self._server, self._how, self._is_on = server, how, False

    async def begin(self) -> None:
        self._is_on = True
        await asyncio.to_thread(WAYS[self._how][0], self._server)

    async def end(self) -> None:
        if self._is_on:
            self._is_on = False
            await asyncio.to_thread(WAYS[self._how][1], self._server)


@pytest.fixture(params=list(WAYS))
async def outage(
    request: pytest.FixtureRequest, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Outage]:
    """To be begun. The driver is one that gives up soon, and tries again soon."""
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)
    monkeypatch.setattr(s3session, "SILENCE", 1.5)  # as long as a busy server may need before its outage
    monkeypatch.setattr(breaker, "PAUSE", 0.2)
    found = Outage(bucket.server, request.param)
    try:
        yield found
    finally:
        await found.end()


@pytest.fixture
async def start(tmp_path: Path, upstream: Upstream, bucket: Bucket) -> AsyncIterator[Start]:
    """A mirror of `upstream` on the bucket."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(upstream))

        def begin(*, disk: Any = None, **options: Any) -> Any:
            storage = {"s3": bucket.parameters()}
            cache = {"folder": str(tmp_path / "own"), "disk": disk or {}}
            return running(tmp_path / "own", url, storage=storage, cache=cache, **options)

        yield begin


@pytest.fixture
def image(upstream: Upstream) -> Image:
    return upstream.add_image(NAME, "1", layers=[LAYER, b"small"])


async def ready(mirror: Mirror) -> list[str]:
    """The warnings of `/readyz`, which says that clients should come."""
    status, text, _ = await plain(mirror, "/readyz")
    assert status == 200
    found: list[str] = json.loads(text).get("warnings", [])
    return found


async def unusable(mirror: Mirror) -> float:
    """What an alert goes by, of `/debug/vars`."""
    async with mirror.session.get(f"{mirror.debug}/debug/vars") as response:
        found: float = (await response.json(content_type=None))["mirror"]["mirror_storage_unusable"]
        return found


async def test_what_can_be_given_is_given_and_nothing_waits_for_the_bucket(
    start: Start, bucket: Bucket, upstream: Upstream, image: Image, outage: Outage
) -> None:
    async with start(freshness={"default": "1h"}) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        await outage.begin()
        other = upstream.add_image(NAME, "2", layers=[LARGE])
        async with asyncio.timeout(WITHIN):
            for reference in ("1", image.digest):
                assert (await mirror.get(f"{NAME}/manifests/{reference}")).body == image.manifest
            assert (await mirror.get(f"{NAME}/manifests/2")).body == other.manifest
            cold = await asyncio.gather(*(mirror.get(f"{NAME}/blobs/{sha256(LARGE)}") for _ in range(3)))
            assert [(each.status, each.body == LARGE, each.complete) for each in cold] == [
                (200, True, True)
            ] * 3
            while not (warnings := await ready(mirror)):
                await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}")
        assert [each.partition(":")[0] for each in warnings] == ["storage"]
        assert bucket.server.url not in str(warnings)
        await outage.end()
        async with asyncio.timeout(WITHIN):
            while await ready(mirror):
                await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}")
            while True:
                await mirror.get(f"{NAME}/manifests/{other.digest}")
                await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}")
                if any(sha256(LARGE)[7:] in key for key in await bucket.keys()):
                    break


async def test_what_is_on_the_local_disk_is_given_from_there(
    start: Start, bucket: Bucket, upstream: Upstream, image: Image, outage: Outage
) -> None:
    async with start(freshness={"default": "1h"}, disk={"maxsize": "1MiB"}) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        before = len(upstream.find("GET", "/blobs/"))
        await outage.begin()
        async with asyncio.timeout(WITHIN):
            for digest, data in image.blobs.items():
                assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == data
        assert len(upstream.find("GET", "/blobs/")) == before


async def test_the_health_check_says_so_and_takes_the_mirror_out_where_it_is_wanted(
    start: Start, bucket: Bucket, image: Image, outage: Outage
) -> None:
    sections = {"http": HTTP, "health": {"storagedriver": {"enabled": True, **OFTEN}}}
    async with start(sections=sections) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        await becomes(mirror, {})
        await outage.begin()
        async with asyncio.timeout(WITHIN):
            while (await mirror.get(PATH)).status != 503:
                pass
            status, text, _ = await plain(mirror, "/readyz")
        assert (status, json.loads(text)["status"]) == (503, "not ready")
        await outage.end()
        await becomes(mirror, {})
        await pull(mirror, image)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be used is looked at again soon."""
    monkeypatch.setattr(watch, "INTERVAL", 0.05)
    monkeypatch.setattr(watch, "AGAIN", 0.05)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("checked", [False, True])
async def test_a_wrong_bucket_is_told_from_the_start_until_it_is_there(
    tmp_path: Path, upstream: Upstream, bucket: Bucket, image: Image, checked: bool
) -> None:
    """To everybody as a warning, without its address; with a health check, in the debug server."""
    name = f"later-{bucket.root}"
    storage = {"s3": {**bucket.parameters(), "bucket": name}}
    sections = {"http": HTTP, "health": {"storagedriver": {"enabled": checked, **OFTEN}}}
    cause = "the storage answers 404 NoSuchBucket: The specified bucket does not exist."
    what = "there is no such bucket: make it, or see storage.s3.bucket"
    async with (
        serve(upstream) as url,
        running(
            tmp_path / "own", url, storage=storage, cache={"folder": str(tmp_path / "own")}, sections=sections
        ) as mirror,
    ):
        async with asyncio.timeout(WITHIN):
            if checked:
                where = f"bucket {name} at {bucket.server.url}"
                await becomes(mirror, {"storagedriver_s3": f"{cause} ({where}): {what}"})
            else:
                while not (warnings := await ready(mirror)):
                    pass
                assert warnings[0].startswith(f"storage: {cause}: {what}")
                assert bucket.server.url not in warnings[0]
                assert await unusable(mirror) == 1
            await asyncio.to_thread(bucket.server.make_bucket, name)
            await becomes(mirror, {})
            while await ready(mirror):
                pass
        assert await unusable(mirror) == 0
        await pull(mirror, image)
