"""Requests that wait for others of our own: they fail in time, and the storage is not away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from mirror.drivers import azureclient, gcsclient, s3client, slots
from mirror.drivers.azure import AzureObjects
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import Remote, StorageDriver, ThrottledError
from mirror.drivers.breaker import FAILURES
from mirror.drivers.gcs import GcsObjects
from mirror.drivers.gcssettings import GcsSettings
from mirror.drivers.objects import ObjectsDriver
from mirror.drivers.s3 import S3Driver
from mirror.drivers.s3settings import S3Settings
from tests.support.azurite import KEY

SIZE = 8 << 20  # bytes; more than sockets and buffers hold


def s3(url: str) -> StorageDriver:
    return S3Driver(S3Settings("b", endpoint=url, path_style=True, access_key="k", secret_key="s"))


def azure(url: str) -> StorageDriver:
    settings = AzureSettings(container="images", account="a", endpoint=url, key=KEY, retries=0)
    return ObjectsDriver(AzureObjects(settings), 60.0)


def gcs(url: str) -> StorageDriver:
    return ObjectsDriver(GcsObjects(GcsSettings(bucket="b", endpoint=url, connections=1)), 60.0)


DRIVERS: dict[str, Callable[[str], StorageDriver]] = {"s3": s3, "azure": azure, "gcs": gcs}


class Slow:
    """A storage that answers a PUT or a POST when it is told to, and a GET with SIZE bytes."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(body=bytes(SIZE), headers={"ETag": '"e"'})
        await request.read()
        self.asked.set()
        await self.go_on.wait()
        return web.Response(status=503)


@asynccontextmanager
async def serving(name: str) -> AsyncIterator[tuple[Slow, StorageDriver]]:
    slow = Slow()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", slow.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    driver = DRIVERS[name](f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield slow, driver
    finally:
        slow.go_on.set()
        await driver.close()
        await runner.cleanup()


@pytest.mark.parametrize("name", DRIVERS)
async def test_who_waits_in_vain_for_a_request_of_ours_does_not_count_the_storage_away(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "WAIT", 0.05)
    for module in (s3client, azureclient):
        monkeypatch.setattr(module, "CONNECTIONS", 1)
    async with serving(name) as (slow, driver):
        first = asyncio.create_task(driver.put("a", b"x"))
        await slow.asked.wait()
        for _ in range(FAILURES + 1):
            with pytest.raises(ThrottledError, match=r"^b: none of our own 1 requests to the storage ended"):
                await driver.put("b", b"x")
        assert isinstance(driver, Remote)
        assert driver.trouble() == ""
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("name", ["s3", "gcs"])  # obstore's connections have no bound
async def test_who_waits_in_vain_for_a_body_to_be_read_does_not_either(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (s3client, gcsclient):
        monkeypatch.setattr(module, "READERS", 1)
        monkeypatch.setattr(module, "CALL", 0.3)
    async with serving(name) as (_, driver):
        file = await driver.open("a")
        for _ in range(FAILURES + 1):
            with pytest.raises(ThrottledError, match=r"^b: none of our own 1 requests to the storage ended"):
                await driver.open("b")
        assert isinstance(driver, Remote)
        assert driver.trouble() == ""
        await file.close()
        again = await driver.open("b")  # a connection is free now
        await again.close()
