"""Parts of blobs: what is asked, what is believed of an upstream that gives them, and for how long."""

from __future__ import annotations

import pytest

from mirror.oci.digest import Digest
from mirror.registry import Corrupt
from mirror.upstream.ranges import BELIEVED, Ranges
from tests.support.scripted import Fault, Upstream, serve
from tests.upstream.conftest import Connect
from tests.upstream.kit import ALPINE, Clock, timed_client

DATA = bytes(range(256)) * 4096
SIZE = len(DATA)
OFFER = {"Accept-Ranges": "Bytes "}


def holding() -> tuple[Upstream, Digest]:
    upstream = Upstream()
    return upstream, Digest.parse(upstream.add_blob(ALPINE.name, DATA))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 1000), (5, 1000), (1000, SIZE), (0, SIZE)])
async def test_a_part_is_asked_for_by_both_its_ends_and_leaves_its_connection_for_the_next(
    connect: Connect, start: int, stop: int
) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        for _ in range(2):
            blob = await client.blob(ALPINE, digest, start=start, size=SIZE, stop=stop)
            assert (blob.start, blob.descriptor.size) == (start, SIZE)
            got = b"".join([part async for part in blob.read(start, stop)])
            await blob.close()
            assert got == DATA[start:stop]
    assert [seen.headers["Range"] for seen in upstream.seen] == [f"bytes={start}-{stop - 1}"] * 2
    assert upstream.seen[0].connection == upstream.seen[1].connection


async def test_no_more_can_be_read_than_was_asked_for(connect: Connect) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, start=10, size=SIZE, stop=20)
        with pytest.raises(ValueError, match="cannot be read"):
            await anext(blob.read(10, 21))
        await blob.close()


async def test_who_does_no_ranges_gives_all_of_it(connect: Connect) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(ignore_range=True))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, start=10, size=SIZE, stop=20)
        assert blob.start == 0
        assert b"".join([part async for part in blob.read(0, SIZE)]) == DATA
        await blob.close()
        assert client.condition(ALPINE).parts == 0


@pytest.mark.parametrize(
    "answered",
    [
        f"bytes 10-20/{SIZE}",
        f"bytes 10-18/{SIZE}",
        f"bytes 9-19/{SIZE}",
        f"bytes 10-19/{SIZE + 1}",
        "bytes 1",
    ],
)
async def test_another_part_than_was_asked_for_is_refused(connect: Connect, answered: str) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        await (await client.blob(ALPINE, digest)).close()
        assert client.condition(ALPINE).parts > 0
        upstream.fault("GET", "/blobs/", Fault(headers={"Content-Range": answered}, drop=("Content-Length",)))
        with pytest.raises(Corrupt):
            await client.blob(ALPINE, digest, start=10, size=SIZE, stop=20)
        assert client.condition(ALPINE).parts == 0, "it is not asked for parts for a while"


async def test_it_is_known_by_the_first_blob_and_for_an_hour() -> None:
    upstream, digest = holding()
    clock = Clock()
    async with serve(upstream) as url, timed_client(url, clock, connections=48) as client:
        assert client.condition(ALPINE).parts == 0
        blob = await client.blob(ALPINE, digest)
        assert client.condition(ALPINE).parts == 12
        await blob.close()
        clock.now += BELIEVED
        assert client.condition(ALPINE).parts == 0


@pytest.mark.parametrize(("connections", "parts"), [(1, 0), (3, 0), (4, 1), (48, 12), (1000, 12)])
async def test_a_quarter_of_the_connections_is_for_parts(connections: int, parts: int) -> None:
    upstream, digest = holding()
    clock = Clock()
    async with serve(upstream) as url, timed_client(url, clock, connections=connections) as client:
        await (await client.blob(ALPINE, digest)).close()
        assert client.condition(ALPINE).parts == parts


async def test_who_is_in_trouble_or_near_its_limit_is_not_asked_for_parts() -> None:
    upstream, digest = holding()
    clock = Clock()
    async with serve(upstream) as url, timed_client(url, clock, connections=48) as client:
        await (await client.blob(ALPINE, digest)).close()
        near = {"ratelimit-limit": "100;w=600", "ratelimit-remaining": "5;w=600"}
        upstream.fault("GET", "/blobs/", Fault(headers=near), times=1)
        await (await client.blob(ALPINE, digest)).close()
        assert client.condition(ALPINE).parts == 0
        clock.now += 601
        assert client.condition(ALPINE).parts == 12


def test_what_is_done_counts_for_more_than_what_is_said() -> None:
    clock = Clock()
    ranges = Ranges(clock)

    def after(status: int, offer: dict[str, str], *, asked: bool) -> bool:
        ranges.heard(status, offer, asked=asked)
        return ranges.given

    assert not after(200, {}, asked=False)
    assert after(200, OFFER, asked=False)
    assert after(200, {}, asked=False), "nothing was said against it"
    assert not after(200, OFFER, asked=True)
    assert not after(200, OFFER, asked=False)
    clock.now += BELIEVED
    assert after(200, OFFER, asked=False)
    ranges.refused()
    assert not after(200, OFFER, asked=False)
    assert after(206, {}, asked=True)
