"""What tests of breakers, quotas and addresses share: a clock of their own, and calls that must fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import Registry, RegistryError, Upstream
from mirror.upstream.client import Client
from mirror.upstream.settings import Settings

ALPINE = Repository("library/alpine")
THREE = Tag("3")
HEAD = "HEAD /v2/library/alpine/manifests/3"


@dataclass(slots=True)
class Clock:
    """Time that passes when told to; in place of time.monotonic."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def make_client(url: str, clock: Clock, **settings: Any) -> Client:
    """A Client whose breakers and quota go by this clock; it tries each request once."""
    limits: dict[str, Any] = {"connect": 20.0, "firstbyte": 20.0, "stall": 20.0, "retries": 0, **settings}
    client = Client(Settings(url, **limits), clock)
    upstream: Upstream = client  # mypy holds the Client to the protocol
    assert upstream is client
    return client


@contextlib.asynccontextmanager
async def timed_client(url: str, clock: Clock, **settings: Any) -> AsyncGenerator[Client, None]:
    """`make_client`, closed at the end."""
    client = make_client(url, clock, **settings)
    try:
        yield client
    finally:
        await client.close()


async def fails(ask: Callable[[], Awaitable[object]]) -> RegistryError:
    """The failure of one call."""
    with pytest.raises(RegistryError) as caught:
        await ask()
    return caught.value


async def read(registry: Registry, digest: str, start: int = 0, into: bytearray | None = None) -> bytes:
    """A blob's bytes from `start` on; what came before a failure is in `into`."""
    body = bytearray() if into is None else into
    blob = await registry.blob(ALPINE, Digest.parse(digest), start=start)
    try:
        async for part in blob.read(start, blob.descriptor.size):
            assert isinstance(part, bytes)
            body += part
    finally:
        await blob.close()
    return bytes(body)
