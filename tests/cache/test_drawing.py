"""Bytes that a fill's thread takes straight from an upstream's connection: what readers get, what is kept."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mirror.cache import intake, resume, transfer
from mirror.cache.drawing import DRAWN, PIECE, Drawing
from mirror.cache.fills import Fills
from mirror.cache.kept import Kept
from mirror.cache.segments import Claim, Plan, Settings
from mirror.cache.spool import Spool, SpoolFile
from mirror.oci.digest import Digest
from mirror.registry import Blob, Inlet, RegistryError, Unavailable
from mirror.upstream.body import RemoteBlob
from tests.cache.kit import A, Parts, joined, take, until, whole
from tests.support.scripted import Fault, Upstream, serve
from tests.upstream.conftest import client_of

SIZE = 6_000_001
DATA = random.Random(7).randbytes(SIZE)
ONE = Settings(least=1 << 20, connections=1)  # so 128 KiB that are ahead are worth a connection
STEP = 700_000  # bytes that are taken in one go: not a whole number of pieces, nor of what comes at once


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "DRAWN", STEP)
    monkeypatch.setattr(resume, "BACKOFF", 0.01)
    monkeypatch.setattr(resume, "BACKOFF_LIMIT", 0.05)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Drawing]:
    """All that were made. What comes has gathered before the first byte of it is looked at."""
    made: list[Drawing] = []

    class Noted(Drawing):
        def __init__(self, inlet: Inlet, start: int, stop: int, skip: int) -> None:
            super().__init__(inlet, start, stop, skip)
            made.append(self)

    real = RemoteBlob.draw

    async def gathered(blob: RemoteBlob, stop: int, worth: int) -> AsyncGenerator[object, None]:
        response = blob._answer.response
        assert response is not None
        await until(lambda: response.content._size >= worth // 4 or response.content.is_eof())
        async for part in real(blob, stop, worth):
            yield part

    monkeypatch.setattr(intake, "Drawing", Noted)
    monkeypatch.setattr(RemoteBlob, "draw", gathered)
    return made


def scripted(*faults: Fault, data: bytes = DATA) -> tuple[Upstream, Digest]:
    upstream = Upstream()
    digest = Digest.parse(upstream.add_blob(A.name, data))
    for fault in faults:
        upstream.fault("GET", "/blobs/", fault, 1)
    return upstream, digest


class FullFile:
    """A disk that is full from `room` bytes of a file on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        real = SpoolFile.write

        def write(file: SpoolFile, offset: int, chunks: Sequence[bytes | memoryview]) -> None:
            if offset + sum(map(len, chunks)) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file, offset, chunks)

        monkeypatch.setattr(SpoolFile, "write", write)


def settled(fills: Fills, digest: Digest) -> bool:
    return fills.ended(digest) >= 1


async def test_a_large_blob_is_taken_in_a_thread_and_kept(tmp_path: Path, taken: list[Drawing]) -> None:
    upstream, digest = scripted()
    async with (
        serve(upstream) as url,
        client_of(url) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        await until(lambda: settled(parts.fills, digest))
        assert await whole(await parts.store.blob(A, digest)) == DATA
    assert taken[-1].position == SIZE
    assert len(taken) > SIZE // STEP // 2
    assert len(upstream.seen) == 1


async def test_readers_of_any_part_get_theirs_meanwhile(tmp_path: Path, taken: list[Drawing]) -> None:
    upstream, digest = scripted(Fault(rate=20_000_000))
    wanted = [(0, SIZE), (1, 2), (STEP - 1, STEP + 1), (SIZE - 1, SIZE), (PIECE, 3 * PIECE + 7), (0, 1)]
    async with (
        serve(upstream) as url,
        client_of(url) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        blobs = [await parts.registry.blob(A, digest) for _ in wanted]
        got = await asyncio.gather(*(take(blob, *each) for blob, each in zip(blobs, wanted, strict=True)))
        for blob in blobs:
            await blob.close()
    assert got == [DATA[start:stop] for start, stop in wanted]
    assert taken
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("room", [0, 1_500_000, SIZE - 1])
async def test_a_disk_that_fills_up_meanwhile_fails_no_reader(
    tmp_path: Path, taken: list[Drawing], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    FullFile(monkeypatch, room)
    upstream, digest = scripted()
    async with (
        serve(upstream) as url,
        client_of(url) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        await until(lambda: settled(parts.fills, digest))
        with pytest.raises(RegistryError):
            await parts.store.blob(A, digest)
        assert list(parts.spool.glob("*")) == []
    assert len(upstream.seen) == 1, "what could not be written is not asked for again"
    assert taken or room == 0


@pytest.mark.parametrize(
    "again",
    [
        Fault(),
        Fault(ignore_range=True),  # what is there already comes again, and is skipped
        Fault(cut_after=2_500_000, reset=True),
    ],
)
async def test_what_breaks_off_is_gone_on_with(tmp_path: Path, taken: list[Drawing], again: Fault) -> None:
    upstream, digest = scripted(Fault(cut_after=3_000_000), again)
    async with (
        serve(upstream) as url,
        client_of(url, retries=0) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        await until(lambda: settled(parts.fills, digest))
        assert await whole(await parts.store.blob(A, digest)) == DATA
    assert upstream.seen[1].headers["Range"] == "bytes=3000000-"
    assert any(each.skipped for each in taken) == again.ignore_range


async def test_wrong_bytes_are_found_out_and_not_kept(tmp_path: Path, taken: list[Drawing]) -> None:
    upstream, digest = scripted(Fault(flip_at=SIZE - 3))
    async with (
        serve(upstream) as url,
        client_of(url) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        blob, got = await parts.registry.blob(A, digest), bytearray()
        with pytest.raises(RegistryError):
            await take(blob, 0, SIZE, got)
        await blob.close()
        assert len(got) < SIZE
        with pytest.raises(RegistryError):
            await parts.store.blob(A, digest)
    assert taken


async def test_a_mirror_that_stops_meanwhile_goes_on_from_what_was_written(
    tmp_path: Path, taken: list[Drawing]
) -> None:
    upstream, digest = scripted(Fault(stall_after=4_000_000))
    async with serve(upstream) as url, client_of(url) as client:
        async with joined(tmp_path, client, segments=ONE) as parts:
            blob = await parts.registry.blob(A, digest)
            await take(blob, 0, 3_999_999)
            await blob.close()
        assert taken
        async with joined(tmp_path, client, segments=ONE) as parts:
            assert await whole(await parts.registry.blob(A, digest)) == DATA
    assert [each.headers.get("Range") for each in upstream.seen] == [None, "bytes=4000000-"]


async def test_nothing_stays_expected_of_what_was_not_taken(
    tmp_path: Path, taken: list[Drawing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is asked for ahead, for more than what comes at once."""
    kept, claims = list[Kept](), list[Claim]()
    real = intake.Intake.pump

    async def pump(self: intake.Intake, blob: Blob, claim: Claim, *args: Any, **named: Any) -> None:
        kept.append(self.kept)
        claims.append(claim)
        await real(self, blob, claim, *args, **named)

    monkeypatch.setattr(intake.Intake, "pump", pump)
    upstream, digest = scripted(Fault(cut_after=2_222_222), Fault(rate=30_000_000))
    async with (
        serve(upstream) as url,
        client_of(url, retries=0) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        await until(lambda: settled(parts.fills, digest))
    assert taken
    assert [each._coming for each in kept] == [0, 0]
    assert [each.granted for each in claims] == [0, 0], "others may have what no thread is taking"


async def test_no_other_connection_is_given_what_room_is_waited_for(
    tmp_path: Path, taken: list[Drawing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the thread would take more than the claim has left, and never come to its end."""
    plans, overlaps = list[Plan](), list[Claim]()
    real_plan, real_expect, real_draw = Plan, Kept.expect, intake.Intake._draw

    def made(*args: Any) -> Plan:
        plans.append(real_plan(*args))
        return plans[-1]

    async def expect(self: Kept, size: int) -> None:
        await real_expect(self, size)
        if plans[-1].size is not None:
            plans[-1]._narrow(4)  # as if another connection were opened meanwhile

    async def drawn(self: intake.Intake, inlet: Inlet, inflow: Any, claim: Claim, skip: int) -> int:
        count = await real_draw(self, inlet, inflow, claim, skip)
        if claim.position > claim.stop:
            overlaps.append(claim)
            raise Unavailable("more was taken than was claimed", status=500)
        return count

    monkeypatch.setattr(transfer, "Plan", made)
    monkeypatch.setattr(Kept, "expect", expect)
    monkeypatch.setattr(intake.Intake, "_draw", drawn)
    upstream, digest = scripted()
    async with (
        serve(upstream) as url,
        client_of(url, retries=0) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        assert await whole(await parts.registry.blob(A, digest)) == DATA
    assert taken
    assert overlaps == []


@pytest.mark.parametrize("room", [None, 1_000_000])
async def test_more_fills_than_threads_all_come_to_their_end(
    tmp_path: Path, taken: list[Drawing], monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    """Also on a full disk: what a thread could not write is not in the buffer that others get."""
    if room is not None:
        FullFile(monkeypatch, room)
    upstream = Upstream()
    datas = [random.Random(number).randbytes(3_000_000 + number) for number in range(12)]
    digests = [Digest.parse(upstream.add_blob(A.name, data)) for data in datas]

    async def pull(parts: Parts, digest: Digest) -> bytes:
        return await whole(await parts.registry.blob(A, digest))

    async with (
        serve(upstream) as url,
        client_of(url) as client,
        joined(tmp_path, client, segments=ONE) as parts,
    ):
        assert await asyncio.gather(*(pull(parts, digest) for digest in digests)) == datas
    assert len(taken) >= len(datas)


class Dripping:
    """An inlet that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = data, step

    def take(self, buffer: memoryview) -> int:
        part, self._data = self._data[: self._step][: len(buffer)], self._data[self._step :][:]
        buffer[: len(part)] = part
        return len(part)


def test_what_is_skipped_comes_first_and_what_is_behind_the_end_stays() -> None:
    found, got = Drawing(Dripping(b"0123456789", 2), 4, 8, 4), b""
    while (more := found.more())[1]:
        start, chunks = more
        assert start == 4 + len(got)
        got += b"".join(chunks)
    assert (got, found.position, found.skipped) == (b"4567", 8, 4)
    assert found.more() == (8, [])


def test_what_is_skipped_keeps_a_thread_no_longer_than_what_is_written() -> None:
    class Endless:
        def take(self, buffer: memoryview) -> int:
            return len(buffer)

    found = Drawing(Endless(), 4, 8, 3 * DRAWN)
    assert found.more() == (4, [])
    assert found.skipped == DRAWN


def test_a_file_that_was_opened_by_a_spool_takes_views_as_well(tmp_path: Path) -> None:
    file = Spool(tmp_path).open(Digest.of(b"some more"))
    file.write(0, [memoryview(bytearray(b"some"))[:], b" more"])
    assert file.path.read_bytes() == b"some more"
    file.close()
