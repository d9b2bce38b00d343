"""The fill's own connection comes to where another one is to bring what is next, and has not begun."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from aiohttp import web

from mirror.cache import helpers, resume, transfer
from mirror.cache.fill import Fill
from mirror.cache.segments import Settings
from mirror.oci.digest import Digest
from mirror.registry import Unavailable
from tests.cache.kit import A, Parts, take, until, whole
from tests.cache.test_segmented import mirrored, ranges
from tests.support.faults import PIECE
from tests.support.scripted import Fault, Upstream

SIZE = 2_000_000
DATA = random.Random(6).randbytes(SIZE)
TWO = Settings(least=256 << 10, connections=2)
RATE = 4_000_000  # bytes a second


class Slow(Upstream):
    """Answers nothing to its first request for a range before `open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.asked = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "Range" in request.headers:
            self.asked += 1
            if self.asked == 1:
                await self.open.wait()
        return await super().handle(request)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pace is worth one more connection, soon; and that is waited for as long as the test may run."""
    for name, value in {"TICK": 0.01, "WORTH": 0.0, "FAST": 1e12, "BUSY": 1e12}.items():
        monkeypatch.setattr(helpers, name, value)
    monkeypatch.setattr(resume, "BACKOFF", 0.01)
    monkeypatch.setattr(transfer, "BEGIN", 1000.0)


def scripted(own: Fault, *others: Fault) -> tuple[Slow, Digest]:
    """What the first request gets, and those after it; the last one's for all that follow."""
    upstream = Slow()
    digest = Digest.parse(upstream.add_blob(A.name, DATA))
    for fault in (own, *others[:-1]):
        upstream.fault("GET", "/blobs/", fault, times=1)
    upstream.fault("GET", "/blobs/", others[-1])
    return upstream, digest


async def at_the_other_s(parts: Parts, digest: Digest, upstream: Slow) -> Fill:
    """Wait until all has come that is in front of what the other connection asked for, and that alone."""
    fill = parts.fills.running(A, digest)
    assert fill is not None
    await until(lambda: upstream.asked == 1)
    claims = fill._transfer._plan._claims
    own = min(claims, key=lambda claim: claim.start)
    stop = own.stop
    await until(lambda: own.position == stop)
    for _ in range(10):  # turns of the loop, in which it would do something else than wait
        await asyncio.sleep(0)
    assert (own.position, own.stop) == (stop, stop)
    return fill


async def test_where_the_other_one_fails_it_goes_on_to_the_end(tmp_path: Path) -> None:
    upstream, digest = scripted(Fault(rate=RATE), Fault(status=404))
    async with mirrored(tmp_path, upstream, TWO) as parts:
        reading = asyncio.create_task(whole(await parts.registry.blob(A, digest)))
        await at_the_other_s(parts, digest, upstream)
        upstream.open.set()
        assert await reading == DATA
    assert len(upstream.seen) == 2
    assert upstream.seen[0].sent == SIZE


async def test_where_the_other_one_begins_it_ends_and_brings_something_else(tmp_path: Path) -> None:
    """Also where the other one brings no more than that."""
    upstream, digest = scripted(Fault(rate=RATE), Fault(stall_after=PIECE), Fault(rate=RATE))
    async with mirrored(tmp_path, upstream, TWO) as parts:
        reading = asyncio.create_task(whole(await parts.registry.blob(A, digest)))
        fill = await at_the_other_s(parts, digest, upstream)
        upstream.open.set()
        await upstream.arrived("GET", "/blobs/", count=3)
        assert not upstream.seen[1].done, "the other one's is still its own"
        upstream.release()
        assert await reading == DATA
        assert fill._intake.received == SIZE, "nothing was taken twice"
    asked = ranges(upstream.seen[1:3])
    assert len(asked) == 2
    assert asked[0][1] <= asked[1][0]


async def test_where_the_other_one_takes_long_it_brings_that_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No reader waits until that one has timed out, and its connection is free for the next one. After some
    of them it is left alone.
    """
    monkeypatch.setattr(transfer, "BEGIN", 0.05)
    monkeypatch.setattr(resume, "ATTEMPTS", 2)
    upstream, digest = scripted(Fault(rate=RATE), Fault(hang=True))
    async with mirrored(tmp_path, upstream, TWO) as parts:
        blob = await parts.registry.blob(A, digest)
        fill = parts.fills.running(A, digest)
        assert fill is not None
        upstream.open.set()
        assert await whole(blob) == DATA
        assert fill._transfer.resumed == 0
        assert parts.fills._spare._taken == {}
    assert upstream.seen[0].sent == SIZE
    assert len(upstream.seen) == 3
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_it_does_not_wait_while_a_reader_waits_for_what_nobody_brings(tmp_path: Path) -> None:
    upstream, digest = scripted(Fault(rate=RATE // 8), Fault(rate=RATE))
    start, stop = SIZE - 200_000, SIZE - 150_000
    async with mirrored(tmp_path, upstream, TWO) as parts:
        blob = await parts.registry.blob(A, digest)
        reading = asyncio.create_task(whole(blob))
        await until(lambda: upstream.asked == 1)
        far = await parts.registry.blob(A, digest, start=start)
        assert await take(far, start, stop) == DATA[start:stop]
        await far.close()
        assert not upstream.open.is_set()
        upstream.open.set()
        assert await reading == DATA


async def test_a_stop_ends_the_waiting_too(tmp_path: Path) -> None:
    upstream, digest = scripted(Fault(rate=RATE), Fault(rate=RATE))
    async with mirrored(tmp_path, upstream, TWO) as parts:
        reading = asyncio.create_task(whole(await parts.registry.blob(A, digest)))
        fill = await at_the_other_s(parts, digest, upstream)
        await parts.fills.close()
        with pytest.raises(Unavailable, match="stopping"):
            await reading
        assert fill._transfer._plan._claims == []
        assert parts.fills._spare._taken == {}
        upstream.open.set()
