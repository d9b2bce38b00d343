"""Blobs: ranges, sizes, breaks; what `read` gives is complete or an exception."""

from __future__ import annotations

import asyncio

import pytest

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Corrupt, RegistryError, Unavailable
from mirror.upstream.body import RemoteBlob
from tests.support.scripted import Fault, Upstream
from tests.upstream.conftest import Connect

ALPINE = Repository("library/alpine")
DATA = bytes(range(256)) * 4096  # 1 MiB
SIZE = len(DATA)


def holding(data: bytes = DATA) -> tuple[Upstream, Digest]:
    """An upstream with one blob."""
    upstream = Upstream()
    return upstream, Digest.parse(upstream.add_blob("library/alpine", data))


async def collect(blob: RemoteBlob, start: int, stop: int) -> bytes:
    """Read and close."""
    try:
        return b"".join([part async for part in blob.read(start, stop)])
    finally:
        await blob.close()


async def pour(blob: RemoteBlob, stop: int, into: bytearray) -> None:
    """Read from the start; what came before a failure stays in `into`."""
    async for part in blob.read(0, stop):
        into += part


async def test_a_blob_is_one_request_in_parts_of_a_mebibyte_at_most(connect: Connect) -> None:
    upstream, digest = holding(DATA * 5)
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        assert (blob.start, blob.descriptor.size) == (0, 5 * SIZE)
        parts = [part async for part in blob.read(0, 5 * SIZE)]
        await blob.close()
        await blob.close()
    assert b"".join(parts) == DATA * 5
    assert max(map(len, parts)) <= 1 << 20
    assert upstream.lines() == [f"GET /v2/library/alpine/blobs/{digest}"]
    assert "Range" not in upstream.seen[0].headers


async def test_the_rest_of_a_blob_is_asked_for_by_range(connect: Connect) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, start=1000, size=SIZE)
        assert (blob.start, blob.descriptor.size) == (1000, SIZE)
        assert await collect(blob, 1000, SIZE) == DATA[1000:]
    assert [seen.headers["Range"] for seen in upstream.seen] == ["bytes=1000-"]


async def test_an_upstream_without_ranges_starts_at_zero_and_what_went_before_can_be_skipped(
    connect: Connect,
) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(ignore_range=True))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, start=1000, size=SIZE)
        assert blob.start == 0
        assert await collect(blob, 1000, 2000) == DATA[1000:2000]


async def test_a_416_to_a_start_within_the_blob_is_asked_again_without_range(connect: Connect) -> None:
    upstream, digest = holding()
    refusal = Fault(status=416, headers={"Content-Range": f"bytes */{SIZE}"})
    upstream.fault("GET", "/blobs/", refusal, times=1)
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, start=1000, size=SIZE)
        assert blob.start == 0
        assert await collect(blob, 0, SIZE) == DATA


@pytest.mark.parametrize("size", [SIZE, None])
async def test_nothing_from_the_end_on_is_a_clear_error(connect: Connect, size: int | None) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        with pytest.raises(RegistryError, match=f"nothing from byte {SIZE} on") as caught:
            await client.blob(ALPINE, digest, start=SIZE, size=size)
    assert caught.value.code is ErrorCode.RANGE_INVALID


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-99/1048576",
        "bytes 1001-1048575/1048576",
        "bytes 999-1048574/1048576",
        "bytes 1000-1048575/99",
        "items 1-2/3",
        "",
        "bytes */5",
    ],
)
async def test_a_206_with_other_bytes_than_asked_is_corrupt(connect: Connect, content_range: str) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(headers={"Content-Range": content_range}))
    async with connect(upstream) as client:
        with pytest.raises(Corrupt, match="other bytes than those from 1000 on"):
            await client.blob(ALPINE, digest, start=1000, size=SIZE)


async def test_a_206_that_nobody_asked_for_is_refused(connect: Connect) -> None:
    upstream, digest = holding()
    partial = {"Content-Range": f"bytes 0-9/{SIZE}"}
    upstream.fault("GET", "/blobs/", Fault(status=206, body=DATA[:10], headers=partial))
    async with connect(upstream) as client:
        with pytest.raises(Unavailable, match="answered 206"):
            await client.blob(ALPINE, digest, size=SIZE)


async def test_a_206_of_unknown_total_is_fine_when_the_size_is_known(connect: Connect) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(headers={"Content-Range": f"bytes 1000-{SIZE - 1}/*"}))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, start=1000, size=SIZE)
        assert await collect(blob, 1000, SIZE) == DATA[1000:]


async def test_a_size_other_than_expected_is_corrupt(connect: Connect) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        for start in (0, 10):
            with pytest.raises(Corrupt, match=f"{SIZE} bytes where {SIZE + 1} were expected"):
                await client.blob(ALPINE, digest, start=start, size=SIZE + 1)


async def test_without_a_length_the_known_size_counts(connect: Connect) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(chunked=True))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, size=SIZE)
        assert await collect(blob, 0, SIZE) == DATA
    assert len(upstream.seen) == 1


async def test_without_a_length_or_a_size_head_is_asked_even_with_a_single_connection(
    connect: Connect,
) -> None:
    upstream, digest = holding(DATA * 16)  # more than the buffers take: the connection stays in use
    upstream.fault("GET", "/blobs/", Fault(chunked=True))
    async with connect(upstream, connections=1) as client, asyncio.timeout(10):
        blob = await client.blob(ALPINE, digest)
        assert await collect(blob, 0, 16 * SIZE) == DATA * 16
    assert [seen.method for seen in upstream.seen] == ["GET", "HEAD", "GET"]


async def test_a_page_is_no_blob_of_its_size(connect: Connect) -> None:
    """What stands in front of a registry gives it to whomever it does not know."""
    upstream, digest = holding()
    html = {"Content-Type": "text/html"}
    upstream.fault("*", "/blobs/", Fault(status=200, headers=html, body=b"<html>who are you?</html>"))
    async with connect(upstream) as client:
        with pytest.raises(Unavailable, match="how large") as caught:
            await client.stat_blob(ALPINE, digest)
    assert caught.value.status == 502


async def test_a_blob_whose_size_nobody_tells_is_a_bad_gateway(connect: Connect) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(chunked=True, ignore_range=True))
    upstream.fault("HEAD", "/blobs/", Fault(status=405))
    async with connect(upstream) as client:
        with pytest.raises(Unavailable, match="how large") as caught:
            await client.blob(ALPINE, digest)
    assert caught.value.status == 502


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_in_the_middle_is_an_exception_after_what_came(connect: Connect, *, reset: bool) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(cut_after=300_000, reset=reset))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        got = bytearray()
        with pytest.raises(Unavailable, match="broke off") as caught:
            await pour(blob, SIZE, got)
        await blob.close()
    assert caught.value.status == 502
    assert bytes(got) == DATA[: len(got)]
    assert len(got) <= 300_000
    assert len(upstream.seen) == 1, "the caller resumes, with what it has"


async def test_a_body_that_ends_early_without_a_length_is_an_exception(connect: Connect) -> None:
    upstream, digest = holding(DATA[:1000])
    upstream.fault("GET", "/blobs/", Fault(chunked=True))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, size=2000)
        with pytest.raises(Unavailable, match="after 1000 of 2000 bytes") as caught:
            await collect(blob, 0, 2000)
    assert caught.value.status == 502


async def test_a_longer_body_than_promised_is_not_given_on(connect: Connect) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(chunked=True))
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest, size=1000)
        assert await collect(blob, 0, 1000) == DATA[:1000]


async def test_a_stall_ends_the_read_and_a_slow_transfer_does_not(connect: Connect) -> None:
    upstream, digest = holding(DATA[: 5 * 65536])
    upstream.fault("GET", "/blobs/", Fault(stall_after=65536), times=1)
    upstream.fault("GET", "/blobs/", Fault(rate=4 * 65536), times=1)  # 1.25 s in all, 0.25 s a piece
    async with connect(upstream, stall=1.0) as client:
        blob = await client.blob(ALPINE, digest)
        got = bytearray()
        with pytest.raises(Unavailable, match="stopped sending") as caught:
            await pour(blob, 5 * 65536, got)
        await blob.close()
        assert caught.value.status == 504
        assert bytes(got) == DATA[:65536]
        assert await collect(await client.blob(ALPINE, digest), 0, 5 * 65536) == DATA[: 5 * 65536]


async def test_a_reader_that_is_slow_itself_is_no_stall(connect: Connect) -> None:
    upstream, digest = holding(DATA * 8)
    async with connect(upstream, stall=2.0) as client:
        blob = await client.blob(ALPINE, digest)
        loop = asyncio.get_running_loop()
        got = bytearray()
        async for part in blob.read(0, 8 * SIZE):
            if not got:
                later = asyncio.Event()
                loop.call_later(2.5, later.set)
                await later.wait()
            got += part
        await blob.close()
    assert bytes(got) == DATA * 8


async def test_reading_holds_little_however_large_the_blob(connect: Connect) -> None:
    """Nobody reads: the upstream's sending must stop at the buffers, not end in our memory."""
    upstream, digest = holding(DATA * 64)
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        reading = blob.read(0, 64 * SIZE)
        first = await anext(reading)
        with pytest.raises(TimeoutError):  # 0.3 s is time for all 64 MiB on loopback
            async with asyncio.timeout(0.3):
                await asyncio.Event().wait()
        response = blob._answer.response
        assert response is not None
        assert response.content.total_bytes < 8 * SIZE
        await reading.aclose()
        await blob.close()
    assert DATA.startswith(first[:SIZE])


async def test_closing_in_the_middle_drops_the_connection_without_draining(connect: Connect) -> None:
    upstream, digest = holding(DATA * 64)
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        reading = blob.read(0, 64 * SIZE)
        await anext(reading)
        await reading.aclose()
        await blob.close()
        small = await client.stat_blob(ALPINE, digest)
        assert small.size == 64 * SIZE
    assert upstream.seen[0].sent < 64 * SIZE
    assert upstream.seen[0].connection != upstream.seen[1].connection


async def test_bytes_that_have_gone_by_cannot_be_read_again(connect: Connect) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        blob = await client.blob(ALPINE, digest)
        assert b"".join([part async for part in blob.read(0, 100)]) == DATA[:100]
        assert b"".join([part async for part in blob.read(200, 300)]) == DATA[200:300]
        for start, stop in ((100, 200), (400, 350), (400, SIZE + 1)):
            with pytest.raises(ValueError, match="cannot be read"):
                await anext(blob.read(start, stop))
        await blob.close()


async def test_stat_blob_is_one_head(connect: Connect) -> None:
    upstream, digest = holding()
    async with connect(upstream) as client:
        assert (await client.stat_blob(ALPINE, digest)).size == SIZE
    assert upstream.lines() == [f"HEAD /v2/library/alpine/blobs/{digest}"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401),
        Fault(status=404),
        Fault(status=405),
        Fault(drop=("Content-Length",)),
        Fault(headers={"Content-Length": "0"}, length=0),
    ],
)
@pytest.mark.parametrize("ranges", [True, False])
async def test_stat_blob_asks_for_one_byte_where_head_is_of_no_use(
    connect: Connect, fault: Fault, *, ranges: bool
) -> None:
    upstream, digest = holding(DATA * 64)
    upstream.fault("HEAD", "/blobs/", fault)
    upstream.fault("GET", "/blobs/", Fault(ignore_range=not ranges))
    async with connect(upstream) as client:
        for _ in range(2):
            assert (await client.stat_blob(ALPINE, digest)).size == 64 * SIZE
    assert [seen.method for seen in upstream.seen] == ["HEAD", "GET", "GET"]
    for seen in upstream.find("GET"):
        assert seen.headers["Range"] == "bytes=0-0"
        assert seen.sent < 64 * SIZE, "the body is not read"


@pytest.mark.parametrize("head", [Fault(), Fault(status=405)])
async def test_an_empty_blob_has_size_zero(connect: Connect, head: Fault) -> None:
    upstream, digest = holding(b"")
    upstream.fault("HEAD", "/blobs/", head)
    async with connect(upstream) as client:
        assert (await client.stat_blob(ALPINE, digest)).size == 0
        blob = await client.blob(ALPINE, digest)
        assert await collect(blob, 0, 0) == b""


async def test_a_missing_blob_is_unknown(connect: Connect) -> None:
    upstream, _ = holding()
    missing = Digest.of(b"missing")
    async with connect(upstream) as client:
        for call in (client.blob, client.stat_blob):
            with pytest.raises(RegistryError) as caught:
                await call(ALPINE, missing)
            assert caught.value.code is ErrorCode.BLOB_UNKNOWN


async def test_a_compressed_blob_is_corrupt(connect: Connect) -> None:
    upstream, digest = holding()
    upstream.fault("GET", "/blobs/", Fault(headers={"Content-Encoding": "zstd"}))
    async with connect(upstream) as client:
        with pytest.raises(Corrupt, match="compressed"):
            await client.blob(ALPINE, digest)


async def test_more_blobs_than_connections_wait_for_their_turn(connect: Connect) -> None:
    upstream, digest = holding()
    async with connect(upstream, connections=2) as client:

        async def fetch() -> bytes:
            return await collect(await client.blob(ALPINE, digest), 0, SIZE)

        bodies = await asyncio.gather(*(fetch() for _ in range(8)))
    assert all(body == DATA for body in bodies)
    assert len({seen.connection for seen in upstream.seen}) <= 2
