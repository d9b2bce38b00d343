"""Names that nobody can look up, or that take long, and who waits for them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from mirror.upstream.client import Client
from mirror.upstream.lookups import AT_A_TIME, Lookups
from mirror.upstream.settings import Settings
from tests.support.scripted import Upstream, serve
from tests.upstream.conftest import client_of
from tests.upstream.kit import ALPINE, THREE, fails

THREADS = AT_A_TIME + 1


@pytest.fixture
async def hanging(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[asyncio.Event, None]:
    """The name server of `hangs.example` does not answer; set when AT_A_TIME threads wait for it."""
    asked: list[str] = []
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    real, released = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
        if host.endswith(".hangs.example"):
            asked.append(host)
            if len(asked) == AT_A_TIME:
                loop.call_soon_threadsafe(arrived.set)
            released.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    yield arrived
    released.set()
    assert len(asked) == AT_A_TIME


async def test_names_that_clients_choose_do_not_take_the_threads_from_other_registries(
    hanging: asyncio.Event,
) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    shared = Lookups()
    chosen = [Client(Settings(f"http://{n}.hangs.example"), lookups=shared) for n in range(3 * THREADS)]
    asking = [asyncio.create_task(fails(partial(each.manifest, ALPINE, THREE))) for each in chosen]
    async with serve(upstream) as url, client_of(url.replace("127.0.0.1", "localhost")) as client:
        await hanging.wait()
        await client.manifest(ALPINE, THREE)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    for each in chosen:
        await each.close()


async def test_a_lookup_that_nobody_waits_for_any_more_holds_its_place_until_it_ends() -> None:
    lookups, ends = Lookups(), asyncio.Event()

    async def endless() -> bool:
        return await ends.wait()

    async def soon() -> str:
        return "found"

    left = [asyncio.create_task(lookups.run(endless())) for _ in range(AT_A_TIME)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    waiting = asyncio.create_task(lookups.run(soon()))
    given_up = asyncio.create_task(lookups.run(soon()))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    given_up.cancel()
    ends.set()
    assert await waiting == "found"


async def test_a_lookup_that_fails_makes_room() -> None:
    lookups = Lookups()

    async def unknown() -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    for _ in range(2 * AT_A_TIME):
        with pytest.raises(socket.gaierror):
            await lookups.run(unknown())
