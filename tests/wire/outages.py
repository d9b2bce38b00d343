"""What an outage costs a client: measured on the real server, for test_outages and for docs/outages.md.

Each outage begins when an image has been pulled through the mirror and others have not. Every request of a
tag is due for a check (freshness 0), which is the worst case: within its freshness nobody is asked at all.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp

from tests.support.given import GivenTime
from tests.support.scripted import Bearer, Fault, Image, Upstream, serve
from tests.wire.conftest import Mirror, running

NAME = "library/a"
HOST = "registry.invalid"  # a name that no resolver knows (RFC 6761); asked of the test's own
LAYER = random.Random(21).randbytes(200_000)  # more than the end that is held back until a digest is right
LEARNING = 10  # requests in which the mirror may find out that something is wrong
LATER = 200  # requests after that
SMALL = 64 << 10  # bytes of a cold body that are waited for: only the answer's head counts, and errors' texts
PATIENCE = aiohttp.ClientTimeout(total=180)  # longer than the longest of the mirror's own limits
RETRY_AFTER = 77  # seconds, of the upstream's 429

TAG, DIGEST, BLOB = "tag", "digest", "blob"
KINDS = (TAG, DIGEST, BLOB)


@dataclass(frozen=True, slots=True)
class Outage:
    """One way of being away: the upstream stops, or this goes wrong with what has these words in its path."""

    name: str
    fault: Fault | None = None
    path: str = "/v2/"
    stops: bool = False
    nameless: bool = (
        False  # known by a name, which then has no address; the mirror starts anew, and knows none
    )
    tokens: bool = False  # the registry wants tokens, and those that it gave are not valid any more
    quick: bool = False  # HEAD is answered: nothing for a breaker, asking costs no time

    @property
    def is_slow(self) -> bool:
        """Whether requests that wait for an answer run into time-outs."""
        return self.fault is not None and (self.fault.hang or self.fault.drip is not None)


def outages(drip: float) -> tuple[Outage, ...]:
    """All of them; `drip`: seconds between two bytes."""
    token = "/token"
    return (
        Outage("refuses connections", stops=True),
        Outage("has no address any more (DNS)", stops=True, nameless=True),
        Outage("hangs", Fault(hang=True)),
        Outage("drips: header and body byte by byte", Fault(drip=drip, drip_head=True)),
        Outage("drips: bodies byte by byte", Fault(drip=drip), quick=True),
        Outage("answers 503", Fault(status=503)),
        Outage("answers 429", Fault(status=429, headers={"Retry-After": str(RETRY_AFTER)})),
        Outage("token server answers 500", Fault(status=500), token, tokens=True),
        Outage("token server hangs", Fault(hang=True), token, tokens=True),
        Outage("token server sends garbage", Fault(body=b"<html>"), token, tokens=True),
    )


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one request took, and what came of it."""

    status: int
    seconds: float
    right: bool  # the body is what was pulled before
    retry_after: str


@dataclass(frozen=True, slots=True)
class Row:
    """One cell: the first requests, in which the mirror learns of the outage, and the ones after them."""

    outage: str
    kind: str
    kept: bool
    first: Sequence[Timing]
    first_asked: int  # requests and attempts to connect that reached the upstream meanwhile
    later: Sequence[Timing]
    later_asked: int

    @property
    def statuses(self) -> set[int]:
        """Of the first requests."""
        return {timing.status for timing in self.first}

    @property
    def later_statuses(self) -> set[int]:
        return {timing.status for timing in self.later}

    @property
    def longest(self) -> float:
        """Seconds, of all requests."""
        return max(timing.seconds for timing in (*self.first, *self.later))

    @property
    def longest_first(self) -> float:
        """Seconds, of the first requests."""
        return max(timing.seconds for timing in self.first)

    @property
    def median(self) -> float:
        """Seconds, of the later requests."""
        return statistics.median(timing.seconds for timing in self.later)

    @property
    def p99(self) -> float:
        """Seconds, of the later requests."""
        ordered = sorted(timing.seconds for timing in self.later)
        return ordered[max(0, len(ordered) * 99 // 100 - 1)]


@dataclass(slots=True)
class Link:
    """The way to the upstreams, by their ports: which have a name, and how often nobody was there."""

    named: set[int] = field(default_factory=set)
    failed: Counter[int] = field(default_factory=Counter)
    clock: GivenTime = field(default_factory=GivenTime)  # that answers are measured by, while it is watched

    @contextmanager
    def watched(self) -> Generator[Link, None, None]:
        """Answer for HOST, and count, in the running loop. Nothing is asked of a real resolver."""
        loop = asyncio.get_running_loop()
        resolve, connect = loop.getaddrinfo, loop.sock_connect

        async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
            if host != HOST:
                return await resolve(host, port, **options)
            if port in self.named:
                return await resolve("127.0.0.1", port, **options)
            self.failed[port] += 1
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            try:
                await connect(sock, address)
            except ConnectionRefusedError:
                self.failed[address[1]] += 1
                raise

        with (
            self.clock,
            mock.patch.object(loop, "getaddrinfo", getaddrinfo),
            mock.patch.object(loop, "sock_connect", sock_connect),
        ):
            yield self


@dataclass(frozen=True, slots=True)
class Scene:
    """A mirror in an outage."""

    mirror: Mirror
    upstream: Upstream
    link: Link
    port: int
    warm: Image
    cold: Sequence[Image]

    @property
    def asked(self) -> int:
        """How often the upstream was asked, or not reached, so far."""
        return len(self.upstream.seen) + self.link.failed[self.port]

    def path(self, kind: str, image: Image, tag: str) -> tuple[str, bytes]:
        """Where a client asks, and what it should get."""
        if kind == BLOB:
            [layer] = image.layers
            digest = next(each for each, data in image.blobs.items() if data == layer)
            return f"{NAME}/blobs/{digest}", layer
        return f"{NAME}/manifests/{tag if kind == TAG else image.digest}", image.manifest


@asynccontextmanager
async def scene(link: Link, folder: Path, outage: Outage, **proxy: Any) -> AsyncGenerator[Scene, None]:
    """Pull one image, know that it is kept, and let the outage begin."""
    upstream = Upstream(auth=Bearer() if outage.tokens else None)
    warm = upstream.add_image(NAME, "warm", layers=[LAYER])
    cold = [upstream.add_image(NAME, f"cold{n}", layers=[n.to_bytes(2) + LAYER]) for n in range(LEARNING + 1)]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        url = await server.enter_async_context(serve(upstream))
        port = int(url.rsplit(":", 1)[1])
        if outage.nameless:
            link.named.add(port)
            url = url.replace("127.0.0.1", HOST)
        started = await stack.enter_async_context(AsyncExitStack())
        mirror = await started.enter_async_context(running(folder / "data", url, **proxy))
        await _pull(mirror, warm)
        if outage.stops:
            await server.aclose()
        if outage.nameless:
            link.named.discard(port)
            await started.aclose()
            mirror = await stack.enter_async_context(running(folder / "data", url, **proxy))
        if isinstance(upstream.auth, Bearer):
            upstream.auth.tokens.clear()
        if outage.fault is not None:
            upstream.fault("*", outage.path, outage.fault)
        upstream.seen.clear()
        yield Scene(mirror, upstream, link, port, warm, cold)


async def _pull(mirror: Mirror, image: Image) -> None:
    assert (await mirror.get(f"{NAME}/manifests/warm")).body == image.manifest
    for digest, data in image.blobs.items():
        assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == data
    await mirror.linked(NAME, *image.blobs)
    await mirror.tagged(NAME, "warm")


async def timed(on: Scene, path: str, wanted: bytes, *, whole: bool) -> Timing:
    """One request; unless the `whole` answer is wanted, only the beginning of a large one is waited for."""
    mirror, clock = on.mirror, on.link.clock
    began = clock()
    async with mirror.session.get(f"{mirror.url}/v2/{path}", timeout=PATIENCE) as response:
        after = response.headers.get("Retry-After", "")
        if not whole and (response.content_length or 0) > SMALL:
            response.close()
            return Timing(response.status, clock() - began, right=False, retry_after=after)
        body = await response.read()
        return Timing(response.status, clock() - began, body == wanted, after)


async def kept_rows(link: Link, folder: Path, outage: Outage, **proxy: Any) -> list[Row]:
    """What of the pulled image is had during the outage. Blobs and digests first: they ask nobody."""
    rows = []
    async with scene(link, folder, outage, **proxy) as on:
        for kind in reversed(KINDS):
            path, wanted = on.path(kind, on.warm, "warm")
            before = on.asked
            first = [await timed(on, path, wanted, whole=True) for _ in range(LEARNING)]
            between = on.asked
            later = [await timed(on, path, wanted, whole=True) for _ in range(LATER)]
            rows.append(Row(outage.name, kind, True, first, between - before, later, on.asked - between))
    return rows[::-1]


async def cold_row(
    link: Link, folder: Path, outage: Outage, kind: str, count: int = LATER, **proxy: Any
) -> Row:
    """What of images that nobody pulled is had: some at once, and then one again and again."""
    async with scene(link, folder, outage, **proxy) as on:
        paths = [on.path(kind, image, f"cold{n}") for n, image in enumerate(on.cold)]
        first = await asyncio.gather(*(timed(on, *path, whole=False) for path in paths[:LEARNING]))
        between = on.asked
        later: list[Timing] = []
        if not outage.quick:
            later = [await timed(on, *paths[LEARNING], whole=False) for _ in range(count)]
        return Row(outage.name, kind, False, first, between, later, on.asked - between)


async def measure(folder: Path, all_: Sequence[Outage], **proxy: Any) -> tuple[list[Row], list[Row]]:
    """Every cell, (kept, cold). What waits for time-outs does so at the same time, so that it takes one."""
    numbers = iter(range(1000))

    def own() -> Path:
        path = folder / str(next(numbers))
        path.mkdir()
        return path

    with Link().watched() as link:
        kept = [row for outage in all_ for row in await kept_rows(link, own(), outage, **proxy)]
        cold: dict[str, list[Row]] = {}
        for batch in (
            *([each] for each in all_ if not each.is_slow),
            [each for each in all_ if each.is_slow],
        ):
            for row in await asyncio.gather(
                *(cold_row(link, own(), each, kind, **proxy) for each in batch for kind in KINDS)
            ):
                cold.setdefault(row.outage, []).append(row)
    return kept, [row for outage in all_ for row in cold[outage.name]]
