"""Large blobs over several connections: what the upstream is asked and sends, and what readers get of it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import re
import sys
import termios
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import aiohttp
import pytest

from mirror.cache import helpers, resume
from mirror.cache.segments import Claim, Settings
from mirror.cache.spool import SpoolFile
from mirror.oci.digest import Digest
from mirror.registry import RegistryError, Unavailable
from mirror.upstream.client import Client
from mirror.upstream.settings import Settings as UpstreamSettings
from tests.cache.kit import A, Parts, joined, take, until, whole
from tests.support.faults import PIECE
from tests.support.scripted import Fault, Seen, Upstream, serve

SIZE = 2_000_000
DATA = random.Random(5).randbytes(SIZE)
FROM = 256 << 10  # bytes; so segments have 32 KiB at least
ON = Settings(least=FROM, connections=4)
RATE = 4_000_000  # bytes a second of a slow connection
SLOW = Fault(rate=RATE)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pace is worth more connections, soon."""
    monkeypatch.setattr(helpers, "TICK", 0.01)
    monkeypatch.setattr(helpers, "WORTH", 0.0)
    monkeypatch.setattr(helpers, "FAST", 1e12)
    monkeypatch.setattr(helpers, "BUSY", 1e12)
    monkeypatch.setattr(resume, "BACKOFF", 0.01)
    monkeypatch.setattr(resume, "BACKOFF_LIMIT", 0.05)


@asynccontextmanager
async def mirrored(
    tmp_path: Path, upstream: Upstream, segments: Settings = ON, **settings: Any
) -> AsyncGenerator[Parts, None]:
    """A mirror of this upstream, over real connections."""
    async with serve(upstream) as url:
        client = Client(UpstreamSettings(url, retries=0, connections=48, **settings))
        try:
            async with joined(tmp_path, client, segments=segments) as parts:
                yield parts
        finally:
            await client.close()


def scripted(
    data: bytes = DATA, fault: Fault | None = SLOW, *, ranges: bool = True
) -> tuple[Upstream, Digest]:
    upstream = Upstream(ranges=ranges)
    digest = Digest.parse(upstream.add_blob(A.name, data))
    if fault is not None:
        upstream.fault("GET", "/blobs/", fault)
    return upstream, digest


def ranges(seen: Sequence[Seen]) -> list[tuple[int, int]]:
    """What was asked for by bounded ranges, in order of place."""
    texts = [each.headers.get("Range", "") for each in seen]
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in texts]
    return sorted((int(one[1]), int(one[2]) + 1) for one in found if one is not None)


def sent(upstream: Upstream) -> int:
    return sum(each.sent for each in upstream.seen)


class Unread:
    """Bytes that had come over connections that were cut, and lay in their buffers.

    They are more the longer the fill's own connection waits before it is cut: for another one to begin, for
    the disk, for a thread. Their limit is that of the buffers (`transport.READ_BUFFER`, and the socket's).
    """

    def __init__(self) -> None:
        self.bytes = 0

    def look(self, response: aiohttp.ClientResponse) -> None:
        """Before it is closed."""
        self.bytes += response.content._size
        if response.connection is not None and response.connection.transport is not None:
            file = response.connection.transport.get_extra_info("socket")
            self.bytes += int.from_bytes(fcntl.ioctl(file, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Unread:
    found, close = Unread(), aiohttp.ClientResponse.close

    def closing(response: aiohttp.ClientResponse) -> None:
        found.look(response)
        close(response)

    monkeypatch.setattr(aiohttp.ClientResponse, "close", closing)
    return found


async def kept(parts: Parts, digest: Digest, data: bytes = DATA) -> bool:
    await until(lambda: parts.fills.ended(digest) >= 1)
    size = await parts.store.blob_size(digest)
    return size == len(data) and await whole(await parts.store.blob(A, digest)) == data


def spooled(parts: Parts) -> list[str]:
    return sorted(path.name for path in parts.spool.glob("*")) if parts.spool.exists() else []


async def test_a_large_blob_comes_over_several_connections_and_each_byte_once(
    tmp_path: Path, unread: Unread
) -> None:
    upstream, digest = scripted()
    async with mirrored(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        assert await kept(parts, digest)
        assert spooled(parts) == []
    first, *others = upstream.seen
    assert "Range" not in first.headers
    asked = ranges(others)
    assert len(asked) == len(others) >= 3
    assert all(before[1] <= after[0] for before, after in pairwise(asked)), "no byte is asked for twice"
    # The first connection is cut where the second one's part begins: what was under way then came in vain.
    assert SIZE <= sent(upstream) <= SIZE + 8 * PIECE + unread.bytes


async def test_connections_are_several_at_a_time_and_no_more_than_allowed(tmp_path: Path) -> None:
    upstream, digest = scripted()
    most = 0
    async with mirrored(tmp_path, upstream, Settings(least=FROM, connections=3)) as parts:
        blob = await parts.registry.blob(A, digest)
        reading = asyncio.create_task(whole(blob))
        while not reading.done():
            most = max(most, sum(not each.done for each in upstream.seen))
            await asyncio.sleep(0.005)
        assert await reading == DATA
    assert 3 <= most <= 4, "the server may not have noticed yet that the first one was cut"


@pytest.mark.parametrize(
    ("size", "segments"), [(FROM - 1, ON), (SIZE, Settings(least=FROM, connections=1)), (0, ON), (1, ON)]
)
async def test_a_smaller_blob_and_one_that_may_not_is_asked_for_as_ever(
    tmp_path: Path, size: int, segments: Settings
) -> None:
    upstream, digest = scripted(DATA[:size])
    async with mirrored(tmp_path, upstream, segments) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == DATA[:size]
        assert await kept(parts, digest, DATA[:size])
    assert [(str(each), each.headers.get("Range")) for each in upstream.seen] == [
        (f"GET /v2/{A}/blobs/{digest}", None)
    ]
    assert sent(upstream) == size


@pytest.mark.parametrize(
    ("name", "limit"), [("FAST", RATE / 20), ("BUSY", -1.0), ("HELD", -1.0), ("WORTH", 1000.0)]
)
async def test_a_connection_gets_no_company_where_that_would_bring_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: float
) -> None:
    """It is fast, or waits for the processor or for the disk, or its end is near."""
    monkeypatch.setattr(helpers, name, limit)
    upstream, digest = scripted()
    async with mirrored(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == DATA
    assert len(upstream.seen) == 1


async def test_an_upstream_that_does_not_say_that_it_does_ranges_is_not_asked_for_any(tmp_path: Path) -> None:
    upstream, digest = scripted(ranges=False)
    async with mirrored(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == DATA
    assert len(upstream.seen) == 1


async def test_one_that_has_done_a_range_before_is_asked_for_others(tmp_path: Path, unread: Unread) -> None:
    upstream, digest = scripted(fault=None, ranges=False)
    upstream.fault("GET", "/blobs/", Fault(cut_after=100_000), times=1)
    upstream.fault("GET", "/blobs/", SLOW)
    async with mirrored(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        assert await kept(parts, digest)
    assert upstream.seen[1].headers["Range"] == "bytes=100000-"
    assert len(ranges(upstream.seen)) >= 2
    assert sent(upstream) <= SIZE + 8 * PIECE + unread.bytes


@pytest.mark.parametrize(
    "lie",
    [
        Fault(ignore_range=True, rate=RATE),
        Fault(headers={"Content-Range": f"bytes 7-{SIZE - 1}/{SIZE}"}, rate=RATE),
        Fault(headers={"Content-Range": f"bytes 0-99/{SIZE + 1}"}, rate=RATE),
        Fault(status=416),
        Fault(status=404),
        Fault(status=429, headers={"Retry-After": "60"}),
        Fault(status=503),
        Fault(reset=True),
    ],
    ids=["ignored", "another range", "another size", "416", "404", "429", "503", "reset"],
)
async def test_an_upstream_whose_ranges_are_wrong_costs_nobody_his_blob(tmp_path: Path, lie: Fault) -> None:
    """The first connection goes on to the end: what is wrong with others is not its trouble."""
    upstream, digest = scripted(fault=None)
    upstream.fault("GET", "/blobs/", SLOW, times=1)
    upstream.fault("GET", "/blobs/", lie)
    async with mirrored(tmp_path, upstream) as parts:
        blob = await parts.registry.blob(A, digest)
        reading = asyncio.create_task(whole(blob))
        await upstream.arrived("GET", "/blobs/", count=2)
        # The second connection's claim is free again: the first one, which was to end there, goes on.
        assert await reading == DATA
        assert await kept(parts, digest)
    assert 2 <= len(upstream.seen) <= 20
    assert sent(upstream) <= SIZE + len(upstream.seen) * 8 * PIECE


async def test_a_further_connection_that_is_given_all_takes_nothing(tmp_path: Path) -> None:
    """Else all in front of its part would come once more."""
    upstream, digest = scripted(fault=None)
    upstream.fault("GET", "/blobs/", SLOW, times=1)
    upstream.fault("GET", "/blobs/", Fault(ignore_range=True))
    async with mirrored(tmp_path, upstream, Settings(least=FROM, connections=1)) as parts:
        blob = await parts.registry.blob(A, digest)
        fill = parts.fills.running(A, digest)
        assert fill is not None
        claim = Claim(1_900_000, 1_950_000, 1_900_000)
        with pytest.raises(RegistryError, match="does not do ranges"):
            await fill._transfer._help(claim)
        assert claim.position == claim.start
        assert await whole(blob) == DATA


async def test_segments_that_break_off_go_on_where_they_were(tmp_path: Path, unread: Unread) -> None:
    upstream, digest = scripted(fault=None)
    upstream.fault("GET", "/blobs/", SLOW, times=1)
    upstream.fault("GET", "/blobs/", Fault(cut_after=50_000, rate=RATE))
    async with mirrored(tmp_path, upstream) as parts:
        with_time = asyncio.create_task(whole(await parts.registry.blob(A, digest)))
        await upstream.arrived("GET", "/blobs/", count=6)
        upstream.clear_faults()
        upstream.fault("GET", "/blobs/", SLOW)
        assert await with_time == DATA
        assert await kept(parts, digest)
    assert sent(upstream) <= SIZE + 8 * PIECE + unread.bytes


async def test_a_wrong_byte_in_a_segment_is_found_by_the_digest_and_nothing_of_it_stays(
    tmp_path: Path,
) -> None:
    upstream, digest = scripted(fault=None)
    upstream.fault("GET", "/blobs/", SLOW, times=2)
    upstream.fault("GET", "/blobs/", Fault(body=bytes(SIZE), rate=RATE), times=1)
    wrong = bytearray(DATA)
    async with mirrored(tmp_path, upstream) as parts:
        upstream.clear_faults()
        upstream.fault("GET", "/blobs/", SLOW)
        wrong[SIZE // 2] ^= 1
        upstream.repository(A.name).blobs[str(digest)] = bytes(wrong)
        blob = await parts.registry.blob(A, digest)
        got = bytearray()
        with pytest.raises(RegistryError, match="digest"):
            await take(blob, 0, SIZE, got)
        await blob.close()
        assert len(got) < SIZE
        await until(lambda: parts.fills.ended(digest) == 1)
        assert spooled(parts) == []
        upstream.repository(A.name).blobs[str(digest)] = DATA
        assert await whole(await parts.registry.blob(A, digest)) == DATA


async def test_nothing_is_asked_for_in_parts_while_a_rate_limit_is_nearly_used_up(tmp_path: Path) -> None:
    near = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "5;w=21600"}
    upstream, digest = scripted(fault=Fault(headers=near, rate=RATE))
    async with mirrored(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == DATA
    assert len(upstream.seen) == 1


async def test_a_rate_limit_that_is_nearly_used_up_meanwhile_ends_it(tmp_path: Path, unread: Unread) -> None:
    near = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "5;w=21600"}
    upstream, digest = scripted(fault=None)
    upstream.fault("GET", "/blobs/", SLOW, times=2)
    upstream.fault("GET", "/blobs/", Fault(headers=near, rate=RATE))
    async with mirrored(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        assert await kept(parts, digest)
    # Those that were open bring what they were to bring; then the first one brings the rest.
    assert len(upstream.seen) <= 6
    assert sent(upstream) <= SIZE + 8 * PIECE + unread.bytes


async def test_then_the_rest_is_asked_for_at_once_however_long_others_take(tmp_path: Path) -> None:
    """Not in parts, as long as it would be shared."""
    near = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "5;w=21600"}
    upstream, digest = scripted(fault=None)
    upstream.fault("GET", "/blobs/", SLOW, times=1)
    upstream.fault("GET", "/blobs/", Fault(headers=near, stall_after=PIECE), times=3)
    upstream.fault("GET", "/blobs/", Fault(headers=near, rate=RATE))
    async with mirrored(tmp_path, upstream) as parts:
        reading = asyncio.create_task(whole(await parts.registry.blob(A, digest)))
        await upstream.arrived("GET", "/blobs/", count=5)
        stalled, rest = upstream.seen[1:4], upstream.seen[4]
        await until(lambda: rest.done)
        assert not any(each.done for each in stalled)
        assert len(upstream.seen) == 5
        assert rest.headers["Range"] == f"bytes={max(stop for _, stop in ranges(stalled))}-"
        upstream.release()
        assert await reading == DATA


@pytest.mark.parametrize("room", [0, 100_000, 500_000, 1_500_000])
async def test_a_disk_that_fills_up_in_the_middle_fails_no_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    real, total = SpoolFile.write, 0

    def write(self: SpoolFile, offset: int, chunks: Sequence[bytes]) -> None:
        nonlocal total
        total += sum(map(len, chunks))
        if total > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, offset, chunks)

    monkeypatch.setattr(SpoolFile, "write", write)
    upstream, digest = scripted()
    async with mirrored(tmp_path, upstream) as parts:
        blobs = [await parts.registry.blob(A, digest) for _ in range(3)]
        reading = [asyncio.create_task(whole(blob)) for blob in blobs]
        assert await asyncio.gather(*reading) == [DATA] * 3
        await until(lambda: parts.fills.ended(digest) == 1)
        assert await parts.store.blob_size(digest) is None
        assert spooled(parts) == []


async def test_a_reader_far_ahead_is_served_before_what_is_in_front_of_his_range(
    tmp_path: Path, unread: Unread
) -> None:
    upstream, digest = scripted(fault=Fault(rate=1_000_000))
    async with mirrored(tmp_path, upstream) as parts:
        blob = await parts.registry.blob(A, digest)
        fill = parts.fills.running(A, digest)
        assert fill is not None
        start, stop = SIZE - 500_000, SIZE - 400_000
        assert await take(blob, start, stop) == DATA[start:stop]
        assert fill._intake.hashed < start - 500_000, "the rest was not waited for"
        assert await take(blob, 0, SIZE) == DATA
        await blob.close()
        assert await kept(parts, digest)
    assert sent(upstream) <= SIZE + 8 * PIECE + unread.bytes


async def test_readers_of_any_ranges_early_and_late_get_them_and_each_byte_comes_once(
    tmp_path: Path, unread: Unread
) -> None:
    chance = random.Random(7)
    upstream, digest = scripted()

    async def reader(parts: Parts, delay: float) -> None:
        await asyncio.sleep(delay)  # not for anything: any moment will do
        start, stop = sorted(chance.sample(range(SIZE + 1), 2))
        blob = await parts.registry.blob(A, digest, start=start)
        try:
            assert await take(blob, start, stop) == DATA[start:stop]
        finally:
            await blob.close()

    async with mirrored(tmp_path, upstream) as parts:
        await asyncio.gather(*(reader(parts, chance.uniform(0, 0.3)) for _ in range(20)))
        assert await kept(parts, digest)
    assert sent(upstream) <= SIZE + 8 * PIECE + unread.bytes


async def test_what_came_in_segments_is_there_after_a_stop(tmp_path: Path, unread: Unread) -> None:
    each = 2 * PIECE  # bytes that come over each further connection, before it stalls: less than its claim
    upstream, digest = scripted(fault=None)
    upstream.fault("GET", "/blobs/", Fault(rate=RATE // 10), times=1)
    upstream.fault("GET", "/blobs/", Fault(stall_after=each))
    async with serve(upstream) as url:
        client = Client(UpstreamSettings(url, retries=0, connections=48))
        async with joined(tmp_path, client, segments=ON) as parts:
            blob = await parts.registry.blob(A, digest)
            fill = parts.fills.running(A, digest)
            assert fill is not None
            there = fill._intake.there
            await until(lambda: len(list(there)) >= 3 and there.total > 3 * each)
            reading = asyncio.create_task(whole(blob))
            await parts.fills.close()
            with pytest.raises(Unavailable, match="stopping"):
                await reading
            had = there.total
            assert len(spooled(parts)) == 2
        before, unread.bytes = len(upstream.seen), 0
        upstream.clear_faults()
        async with joined(tmp_path, client, segments=ON) as parts:
            assert await whole(await parts.registry.blob(A, digest)) == DATA
            assert await kept(parts, digest)
            assert spooled(parts) == []
        await client.close()
    again = sum(each.sent for each in upstream.seen[before:])
    assert SIZE - had <= again <= SIZE - had + 8 * PIECE + unread.bytes


async def test_a_blob_that_is_shorter_than_what_is_there_is_fetched_anew(tmp_path: Path) -> None:
    upstream, digest = scripted(DATA[: SIZE // 2])
    async with mirrored(tmp_path, upstream) as parts:
        file = parts.fills._spool.open(digest)
        file.write(0, [DATA[:100_000]])
        file.write(SIZE - 10, [DATA[-10:]])
        file.close()
        assert await whole(await parts.registry.blob(A, digest)) == DATA[: SIZE // 2]
        assert await kept(parts, digest, DATA[: SIZE // 2])


async def test_a_stop_ends_all_connections_and_gives_all_back(tmp_path: Path) -> None:
    upstream, digest = scripted(fault=Fault(rate=RATE, stall_after=200_000))
    async with mirrored(tmp_path, upstream) as parts:
        blob = await parts.registry.blob(A, digest)
        await upstream.arrived("GET", "/blobs/", count=4)
        reading = asyncio.create_task(whole(blob))
        await parts.fills.close()
        with pytest.raises(Unavailable, match="stopping"):
            await reading
        assert (parts.fills._spare._taken, parts.fills._spare._wanting) == ({}, {})
        upstream.release()


async def test_fills_at_the_same_time_have_some_each(tmp_path: Path) -> None:
    """An upstream of 16 connections has 4 for parts."""
    blobs = [random.Random(number).randbytes(SIZE) for number in range(4)]
    upstream, digests = Upstream(), list[Digest]()
    for data in blobs:
        digests.append(Digest.parse(upstream.add_blob(A.name, data)))
    upstream.fault("GET", "/blobs/", Fault(rate=RATE // 2))
    async with serve(upstream) as url:
        client = Client(UpstreamSettings(url, retries=0, connections=16))
        async with joined(tmp_path, client, segments=ON) as parts:
            opened = [await parts.registry.blob(A, digest) for digest in digests]
            reading = [asyncio.create_task(whole(blob)) for blob in opened]
            most = 0
            while not all(each.done() for each in reading):
                most = max([most, *parts.fills._spare._taken.values()])
                await asyncio.sleep(0.002)
            assert [each.result() for each in reading] == blobs
            assert parts.fills._spare._taken == {}
        await client.close()
    assert most == 4
    for digest in digests:
        assert len(upstream.find("GET", str(digest))) >= 2, "each had some help"


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_goes_wrong_the_bytes_are_right(tmp_path: Path, seed: int) -> None:
    """Cuts, resets, refusals and changes of mind in any order; readers that come and go."""
    chance = random.Random(seed)
    upstream, digest = scripted(fault=None)
    faults = [
        Fault(rate=RATE, cut_after=chance.randrange(1, 300_000)),
        Fault(rate=RATE * 4),
        Fault(rate=RATE),
        Fault(reset=True),
        Fault(status=503),
        Fault(rate=RATE, ignore_range=True),
        Fault(rate=RATE, cut_after=chance.randrange(1, 300_000), reset=True),
    ]
    upstream.fault("GET", "/blobs/", SLOW, times=1)
    for _ in range(chance.randrange(4, 12)):
        upstream.fault("GET", "/blobs/", chance.choice(faults), times=1)
    upstream.fault("GET", "/blobs/", Fault(rate=RATE * 2))

    async def reader(parts: Parts) -> None:
        await asyncio.sleep(chance.uniform(0, 0.2))  # not for anything: any moment will do
        start = chance.randrange(SIZE)
        blob = await parts.registry.blob(A, digest, start=start)
        try:
            stop = chance.randrange(start, SIZE) + 1
            assert await take(blob, start, stop) == DATA[start:stop]
        finally:
            await blob.close()

    async with mirrored(tmp_path, upstream) as parts:
        for _ in range(5):
            try:
                await asyncio.gather(*(reader(parts) for _ in range(5)))
                assert await whole(await parts.registry.blob(A, digest)) == DATA
                break
            except RegistryError:
                continue  # it may be refused too often in a row; what came is kept, and it is asked again
        else:
            pytest.fail("it never came")
        await until(lambda: parts.fills.running(A, digest) is None)
        assert await kept(parts, digest)
        assert spooled(parts) == []


async def test_who_ends_a_fill_twice_waits_for_what_its_further_connections_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is closed then, and what is opened next may get its descriptor."""
    is_ahead, may_go_on = Event(), Event()
    front, closed, real = [0], list[int](), SpoolFile.write

    def write(file: SpoolFile, offset: int, chunks: Sequence[bytes | memoryview]) -> None:
        if offset == front[0]:
            front[0] += sum(map(len, chunks))
        else:
            is_ahead.set()
            may_go_on.wait(10)
        if file.file.closed:
            closed.append(offset)
            return
        real(file, offset, chunks)

    monkeypatch.setattr(SpoolFile, "write", write)
    upstream, digest = scripted()
    async with mirrored(tmp_path, upstream) as parts:
        blob = await parts.registry.blob(A, digest)
        await until(is_ahead.is_set)
        await blob.close()
        [(task, fill)] = parts.fills._tasks.items()
        task.cancel()
        while not fill._transfer._helpers._given_up:  # noqa: ASYNC110 - in the very next turn
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        may_go_on.set()
        await asyncio.wait([task])
    assert closed == []
