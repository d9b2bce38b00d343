"""A client and a scripted upstream, both in the test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from mirror.registry import Registry
from mirror.upstream.client import Client
from mirror.upstream.settings import Settings
from tests.support.scripted import Upstream, serve

Connect = Callable[..., AbstractAsyncContextManager[Client]]


@contextlib.asynccontextmanager
async def connected(upstream: Upstream, **settings: Any) -> AsyncGenerator[Client, None]:
    """Serve `upstream`, and a Client of it with short time-outs; `settings` as in Settings."""
    async with serve(upstream) as url, client_of(url, **settings) as client:
        yield client


@contextlib.asynccontextmanager
async def client_of(url: str, **settings: Any) -> AsyncGenerator[Client, None]:
    """A Client of this URL with time-outs short enough to be waited for."""
    limits = {"connect": 2.0, "firstbyte": 2.0, "stall": 2.0, **settings}
    client = Client(Settings(url, **limits))
    registry: Registry = client  # mypy holds the Client to the protocol
    assert registry is client
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def connect() -> Connect:
    """`connected`, for tests."""
    return connected


class Clock:
    """The loop's clock, which a test puts forward: timers that are due by then run at the next turn."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._ahead = 0.0

    def time(self) -> float:
        """In place of `loop.time()`."""
        return self._time() + self._ahead

    def advance(self, seconds: float) -> None:
        """So much later it is."""
        self._ahead += seconds


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the test's loop."""
    loop = asyncio.get_running_loop()
    made = Clock(loop.time)
    monkeypatch.setattr(loop, "time", made.time)
    return made
