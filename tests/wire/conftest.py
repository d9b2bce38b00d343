"""The whole mirror in front of a scripted upstream: configuration file, real sockets, real disk."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp import web

from mirror import app, configfile
from mirror.cache.fills import Fills
from mirror.cache.pullthrough import PullThrough
from mirror.server import connections, debug
from tests.support.modes import ENVIRONMENT
from tests.support.scripted import Upstream, serve
from tests.support.waiting import until

TIMEOUT = aiohttp.ClientTimeout(total=60)
# Of the mirror with its upstream. A busy machine may stand still for some seconds, and must not look like an
# upstream that does; where one is to be given up for its silence, that is to be soon.
PATIENT = {"connect": "10s", "firstbyte": "10s", "stall": "10s"}
HASTY = {"connect": "10s", "firstbyte": "1s", "stall": "1s"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got; `body` as far as it came, `complete` whether that was all that was announced."""

    status: int
    headers: Any
    body: bytes
    complete: bool

    @property
    def error(self) -> dict[str, Any]:
        """The first error of the envelope."""
        found: dict[str, Any] = json.loads(self.body)["errors"][0]
        return found


@dataclass(frozen=True, slots=True)
class Mirror:
    """A running mirror."""

    url: str
    root: Path
    session: aiohttp.ClientSession
    fills: Fills
    debug: str = ""  # URL of the debug server, where there is one

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> Answer:
        """One request to `/v2/<path>`."""
        async with self.session.request(
            method, f"{self.url}/v2/{path}", headers=headers, allow_redirects=False
        ) as response:
            body = bytearray()
            try:
                async for chunk in response.content.iter_any():
                    body += chunk
            except aiohttp.ClientPayloadError:
                return Answer(response.status, response.headers, bytes(body), complete=False)
            return Answer(response.status, response.headers, bytes(body), complete=True)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})

    async def kept(self, digest: str) -> bytes:
        """The bytes that the store has of this digest, which clients may have a moment earlier.

        They are linked as well: a catalog shows what is, and without the upstream only that is given. Of
        several repositories each has a link of its own: see `linked`.
        """
        await until(lambda: self.data(digest).exists() and self._links_of(digest))
        await self.filled(digest)
        return await asyncio.to_thread(self.data(digest).read_bytes)

    async def filled(self, *digests: str) -> None:
        """Wait until nobody fetches these: who asks then joins no fill, but is given what is kept.

        A fill ends a moment after its link is written.
        """
        await until(lambda: not {str(digest) for _, digest in self.fills._fills} & set(digests))

    async def linked(self, repository: str, *digests: str) -> None:
        """Wait until all of them, manifests or blobs, are linked in this repository."""
        folder = self.repositories / repository
        await until(
            lambda: all(any((folder / link).exists() for link in links_of(digest)) for digest in digests)
        )
        await self.filled(*digests)

    async def tagged(self, repository: str, tag: str) -> None:
        """Wait until the tag stands in the store, which is later than its manifest does."""
        link = self.repositories / repository / "_manifests/tags" / tag / "current/link"
        await until(link.exists)

    @property
    def repositories(self) -> Path:
        """Where the store keeps links."""
        return self.root / "docker/registry/v2/repositories"

    def _links_of(self, digest: str) -> list[Path]:
        """Those that there are; folders may go meanwhile."""
        folders = [Path(folder) for folder, _, files in os.walk(self.repositories) if "link" in files]
        ends = [link.parts for link in links_of(digest)]
        found = [folder / "link" for folder in folders]
        return [link for link in found if any(link.parts[-len(end) :] == end for end in ends)]

    def data(self, digest: str) -> Path:
        """Where the store keeps this digest's bytes."""
        algorithm, value = digest.split(":")
        return self.root / "docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"


def links_of(digest: str) -> tuple[Path, Path]:
    """Where a repository has the link of a blob, and of a manifest."""
    value = Path(*digest.split(":"), "link")
    return "_layers" / value, "_manifests/revisions" / value


class Clock:
    """The wall clock that freshness goes by; it stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@asynccontextmanager
async def running(
    root: Path,
    *urls: str,
    clock: Clock | None = None,
    storage: dict[str, Any] | None = None,
    cache: dict[str, Any] | None = None,
    auth: dict[str, Any] | None = None,
    sections: dict[str, Any] | None = None,
    **proxy: Any,
) -> AsyncGenerator[Mirror, None]:
    """The mirror of one upstream, under these URLs, as `mirror serve` would run this configuration.

    `sections` take the place of those that are here; with `http.debug` in them there is a debug server. Each
    request of a tag is checked with the upstream, unless `freshness` says otherwise. Images are kept
    below `root` where no other `storage` is given.
    """
    file = root.with_suffix(".yml")
    quick: dict[str, Any] = {
        "timeouts": PATIENT,
        "retries": 1,
        "freshness": {"default": "0s"},
        "negative": "0s",
    }
    where = {"remoteurl": urls[0]} if len(urls) == 1 else {"remoteurls": urls}
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": storage or {"filesystem": {"rootdirectory": str(root)}},
        "http": {"addr": "127.0.0.1:5000"},
        "auth": auth or {},
        "proxy": {**where, **quick, **proxy},
        "cache": cache or {},
        **(sections or {}),
    }
    await asyncio.to_thread(file.write_text, json.dumps(config))
    loaded = configfile.load(file, ENVIRONMENT)
    assert {warning.key for warning in loaded.warnings} <= {"proxy.upstreams.*"}
    async with AsyncExitStack() as stack:
        if clock is not None:
            moved = {"clock": clock}

            def timed(*args: Any, **named: Any) -> PullThrough:
                return PullThrough(*args, **{**named, **moved})

            stack.enter_context(mock.patch.object(app, "PullThrough", timed))
        fills: list[Fills] = []

        def fetching(*args: Any, **named: Any) -> Fills:
            fills.append(Fills(*args, **named))
            return fills[-1]

        stack.enter_context(mock.patch.object(app, "Fills", fetching))
        driver, spool, remarks = stack.enter_context(app.storage(loaded.config))
        application = app.build(loaded.config, driver, spool, remarks)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = connections.Site(runner, "127.0.0.1", 0)
        await site.start()
        session = aiohttp.ClientSession(
            timeout=TIMEOUT, auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
        )
        stack.push_async_callback(session.close)
        debugged = ""
        if loaded.config.http.debug.addr is not None:
            port = await stack.enter_async_context(debug.serving(application[app.DEBUG], "127.0.0.1", 0))
            debugged = f"http://127.0.0.1:{port}"
        yield Mirror(f"http://127.0.0.1:{runner.addresses[0][1]}", root, session, fills[0], debugged)


Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def _in_each_mode(each_mode: None) -> None:
    """All of this room."""


@pytest.fixture
def upstream() -> Upstream:
    """An upstream that behaves until it is told otherwise."""
    return Upstream()


@pytest.fixture
async def mirror(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Mirror]:
    """A mirror of `upstream`."""
    async with serve(upstream) as url, running(tmp_path / "data", url) as started:
        yield started
