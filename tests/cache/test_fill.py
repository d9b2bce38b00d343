"""The rules of cache/fill.py, each under the number that it has there."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from mirror.cache import resume, shown
from mirror.cache.fill import HOLD_BACK
from mirror.cache.fillblob import MEDIA_TYPE
from mirror.cache.front import Front
from mirror.cache.hands import NICER, Hands
from mirror.cache.inflow import Inflow
from mirror.cache.resume import backoff
from mirror.cache.spool import Spool, SpoolFile
from mirror.cache.writing import Writing
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Corrupt, RateLimited, RegistryError, Unavailable
from tests.cache.kit import WAIT, A, B, Parts, joined, take, until, whole
from tests.support.puppet import Puppet

DATA = random.Random(1).randbytes(1_000_000)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is not what these tests are about."""
    monkeypatch.setattr(resume, "BACKOFF", 0.001)
    monkeypatch.setattr(resume, "BACKOFF_LIMIT", 0.01)


def spooled(parts: Parts) -> list[Path]:
    return sorted(parts.spool.glob("*")) if parts.spool.exists() else []


async def test_rule_1_a_fill_goes_on_when_its_only_reader_leaves(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        await (await opening).close()
        transfer.finish()
        await until(lambda: parts.fills.ended(digest) == 1)
        assert await whole(await parts.store.blob(A, digest)) == DATA
    assert len(upstream.calls) == 1
    assert transfer.closed


async def test_rule_1_a_request_that_is_cancelled_before_the_size_is_known_changes_nothing(
    tmp_path: Path,
) -> None:
    upstream = Puppet()
    upstream.hold["blob"] = asyncio.Event()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        first = asyncio.create_task(parts.registry.blob(A, digest))
        await until(lambda: bool(upstream.calls))
        second = asyncio.create_task(parts.registry.blob(A, digest))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        upstream.hold["blob"].set()
        (await upstream.next_transfer()).finish()
        assert await whole(await second) == DATA
    assert len(upstream.calls) == 1


async def test_rule_2_each_reader_reads_at_its_own_pace_and_position(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        early = await opening
        late = await parts.registry.blob(A, digest)
        transfer.send(400_000)
        assert await take(early, 0, 300_000) == DATA[:300_000]
        ahead = asyncio.create_task(take(late, 600_000, 700_000))
        assert await take(early, 300_000, 400_000) == DATA[300_000:400_000]
        assert not ahead.done()
        transfer.finish()
        assert await ahead == DATA[600_000:700_000]
        assert await whole(late) == DATA
        assert await whole(early) == DATA
    assert len(upstream.calls) == 1


async def test_rule_3_a_reader_that_comes_after_the_end_finds_the_blob_kept(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == DATA
        await until(lambda: parts.fills.ended(digest) == 1)
        assert await whole(await parts.registry.blob(A, digest)) == DATA
    assert len(upstream.calls) == 1


async def test_rule_3_all_waiting_readers_get_the_same_failure(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    upstream.hold["blob"] = asyncio.Event()
    upstream.refuse["blob"] = RegistryError(ErrorCode.DENIED, "no")
    async with joined(tmp_path, upstream) as parts:
        waiting = [asyncio.create_task(parts.registry.blob(A, digest)) for _ in range(5)]
        # Each looks into the store first, which may take one longer than another.
        await until(lambda: sum(len(fill._readers) for fill in parts.fills._fills.values()) == 5)
        await until(lambda: bool(upstream.calls))
        upstream.hold["blob"].set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(result) for result in results] == ["DENIED: no"] * 5
    assert len(upstream.calls) == 1


async def test_rule_4_a_reader_may_begin_before_the_first_byte_is_there(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        await upstream.next_transfer()
        blob = await opening
        assert blob.descriptor.size == len(DATA)
        await blob.close()


async def test_rule_5_a_break_is_resumed_where_it_was(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        first = await upstream.next_transfer()
        first.send(123_456)
        first.fail(Unavailable("cut"))
        second = await upstream.next_transfer()
        assert second.start == 123_456
        second.finish()
        assert await whole(await opening) == DATA
        assert first.closed


async def test_rule_5_bytes_that_are_sent_again_are_skipped(tmp_path: Path) -> None:
    upstream = Puppet()
    upstream.ignore_start = True
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        first = await upstream.next_transfer()
        first.send(500_000)
        first.fail(Unavailable("cut"))
        again = await upstream.next_transfer()
        assert again.start == 0
        again.send(499_999)
        again.send(2)
        again.finish()
        assert await whole(await opening) == DATA


async def test_rule_5_a_range_that_is_answered_wrongly_is_asked_for_as_a_whole(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        first = await upstream.next_transfer()
        first.send(300_000)
        first.fail(Unavailable("cut"))
        second = await upstream.next_transfer()
        second.fail(Corrupt("another range than was asked for"))
        third = await upstream.next_transfer()
        assert third.start == 0
        third.send(400_000)
        third.fail(Unavailable("cut"))
        fourth = await upstream.next_transfer()
        assert fourth.start == 400_000
        fourth.finish()
        assert await whole(await opening) == DATA


async def test_a_fill_that_brought_nothing_leaves_no_file(tmp_path: Path) -> None:
    async with joined(tmp_path, Puppet()) as parts:
        for number in range(20):
            with pytest.raises(RegistryError):
                await parts.registry.blob(A, Digest.of(b"%d" % number))
        assert spooled(parts) == []


async def test_a_fill_whose_readers_left_before_its_turn_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.cache.fills.RUNNING_LIMIT", 1)
    upstream = Puppet()
    first, second = upstream.add(DATA), upstream.add(b"second")
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, first))
        transfer = await upstream.next_transfer()
        waiting = asyncio.create_task(parts.registry.blob(A, second))
        await until(lambda: parts.fills.running(A, second) is not None)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        transfer.finish()
        assert await whole(await opening) == DATA
        await until(lambda: parts.fills.ended(second) == 1)
    assert len(upstream.calls) == 1


async def test_a_fill_waits_for_its_turn_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.cache.fills.RUNNING_LIMIT", 1)
    monkeypatch.setattr("mirror.cache.fills.TURN", 0.05)
    upstream = Puppet()
    first, second = upstream.add(DATA), upstream.add(b"second")
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, first))
        transfer = await upstream.next_transfer()
        with pytest.raises(Unavailable, match="too many") as caught:
            await parts.registry.blob(A, second)
        assert caught.value.retry_after
        transfer.finish()
        assert await whole(await opening) == DATA
        await until(lambda: parts.fills.ended(first) == 1)  # it has its turn until the blob is kept
        again = asyncio.create_task(parts.registry.blob(A, second))
        (await upstream.next_transfer()).finish()
        assert await whole(await again) == b"second"


async def test_fills_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.cache.fills.RUNNING_LIMIT", 1)
    monkeypatch.setattr("mirror.cache.fills.WAITING_LIMIT", 1)
    upstream = Puppet()
    blobs = [upstream.add(b"%d" % number) for number in range(3)]
    async with joined(tmp_path, upstream) as parts:
        waiting = [asyncio.create_task(parts.registry.blob(A, digest)) for digest in blobs[:2]]
        transfer = await upstream.next_transfer()
        await until(lambda: parts.fills.running(A, blobs[1]) is not None)
        with pytest.raises(Unavailable) as caught:
            await parts.registry.blob(A, blobs[2])
        assert caught.value.retry_after
        transfer.finish()
        (await upstream.next_transfer()).finish()
        assert [await whole(await each) for each in waiting] == [b"0", b"1"]


async def test_rule_5_attempts_without_progress_are_bounded(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    got = bytearray()
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        first = await upstream.next_transfer()
        first.send(100_000)
        first.fail(Unavailable("cut"))
        for _ in range(resume.ATTEMPTS - 1):
            (await upstream.next_transfer()).fail(Unavailable("gone"))
        blob = await opening
        with pytest.raises(Unavailable, match="gone"):
            await take(blob, 0, len(DATA), got)
        await blob.close()
        # What was fetched is not lost: the next pull goes on from there.
        reopening = asyncio.create_task(parts.registry.blob(A, digest))
        later = await upstream.next_transfer()
        assert later.start == 100_000
        later.finish()
        assert await whole(await reopening) == DATA
    assert got == DATA[:100_000]
    assert len(upstream.calls) == resume.ATTEMPTS + 1


def test_rule_5_the_wait_grows_and_obeys_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "BACKOFF", 0.25)
    monkeypatch.setattr(resume, "BACKOFF_LIMIT", 5.0)
    waits = [backoff(Unavailable("x"), breaks, 1.0) for breaks in range(1, 7)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, None]
    assert backoff(Unavailable("x", retry_after=3), 1, 0.0) == 3
    assert backoff(RateLimited("x", retry_after=60), 1, 0.0) is None, "longer than a client would wait"
    assert backoff(Corrupt("x"), 1, 0.0) is None
    assert backoff(RegistryError(ErrorCode.DENIED), 1, 0.0) is None


async def test_rule_6_the_end_is_held_back_until_the_digest_matched(tmp_path: Path) -> None:
    upstream = Puppet()
    wrong = DATA[:-1] + bytes([DATA[-1] ^ 1])
    digest = upstream.add(wrong, digest=Digest.of(DATA))
    got = bytearray()
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).finish()
        blob = await opening
        with pytest.raises(Corrupt, match="digest"):
            await take(blob, 0, len(DATA), got)
        await blob.close()
        await until(lambda: parts.fills.ended(digest) == 1)
        assert len(got) <= len(DATA) - HOLD_BACK
        assert spooled(parts) == []
        assert await parts.store.blob_size(digest) is None


async def test_rule_6_the_end_comes_only_with_the_last_byte(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        blob = await opening
        transfer.send(len(DATA) - 1)
        assert await take(blob, 0, len(DATA) - HOLD_BACK) == DATA[:-HOLD_BACK]
        rest = asyncio.create_task(take(blob, len(DATA) - HOLD_BACK, len(DATA) - HOLD_BACK + 1))
        await asyncio.wait([rest], timeout=0.05)
        assert not rest.done()
        transfer.finish()
        assert await rest == DATA[-HOLD_BACK : -HOLD_BACK + 1]
        await blob.close()


@pytest.mark.parametrize("announced", [len(DATA) - 10, len(DATA) + 10])
async def test_rule_6_a_wrong_length_is_never_kept(tmp_path: Path, announced: int) -> None:
    upstream = Puppet()
    upstream.announce = announced
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        transfer.send(min(announced, len(DATA)))
        blob = await opening
        failing = asyncio.create_task(take(blob, 0, announced))
        if announced > len(DATA):  # the client of the network says that the body ended early
            for _ in range(resume.ATTEMPTS):
                transfer.fail(Unavailable("short"))
                if _ < resume.ATTEMPTS - 1:
                    transfer = await upstream.next_transfer()
        with pytest.raises(RegistryError):
            await failing
        await blob.close()
        assert await parts.store.blob_size(digest) is None


async def test_rule_6_an_empty_blob_is_verified_before_its_headers(tmp_path: Path) -> None:
    upstream = Puppet()
    empty, false = upstream.add(b""), upstream.add(b"", digest=Digest.of(b"something"))
    async with joined(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, empty)) == b""
        with pytest.raises(Corrupt):
            await parts.registry.blob(A, false)


async def test_rule_7_a_spool_of_an_earlier_process_is_resumed(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        transfer.send(700_000)
        blob = await opening
        await take(blob, 0, 700_000)
        await blob.close()
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        assert transfer.start == 700_000
        transfer.finish()
        assert await whole(await opening) == DATA
        await until(lambda: parts.fills.ended(digest) == 1)
        assert spooled(parts) == []


async def test_rule_7_a_complete_spool_needs_only_the_upstreams_word(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.spool.mkdir(parents=True)
        (parts.spool / f"sha256-{digest.hex}.part").write_bytes(DATA)
        assert await whole(await parts.registry.blob(A, digest)) == DATA
        await until(lambda: parts.fills.ended(digest) == 1)
        assert await parts.store.blob_size(digest) == len(DATA)
    assert [call.split()[0] for call in upstream.calls] == ["stat_blob"]


async def test_rule_7_a_complete_spool_is_not_lost_to_an_upstream_that_says_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a HEAD some say no length, or 0; what is there has the digest."""
    upstream = Puppet()
    digest = upstream.add(DATA)

    async def stat(_repository: Repository, _digest: Digest) -> Descriptor:
        return Descriptor(digest, 0, MEDIA_TYPE)

    monkeypatch.setattr(upstream, "stat_blob", stat)
    async with joined(tmp_path, upstream) as parts:
        parts.spool.mkdir(parents=True)
        (parts.spool / f"sha256-{digest.hex}.part").write_bytes(DATA)
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == DATA


async def test_rule_7_a_spoilt_spool_is_never_served_whole_and_does_not_come_back(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    got = bytearray()
    async with joined(tmp_path, upstream) as parts:
        parts.spool.mkdir(parents=True)
        (parts.spool / f"sha256-{digest.hex}.part").write_bytes(bytes(500_000))
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).finish()
        blob = await opening
        with pytest.raises(Corrupt):
            await take(blob, 0, len(DATA), got)
        await blob.close()
        assert len(got) < len(DATA)
        await until(lambda: parts.fills.ended(digest) == 1)
        reopening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        assert transfer.start == 0
        transfer.finish()
        assert await whole(await reopening) == DATA


async def test_rule_7_a_spool_longer_than_the_blob_is_dropped_before_anybody_reads_it(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.spool.mkdir(parents=True)
        (parts.spool / f"sha256-{digest.hex}.part").write_bytes(DATA + b"more")
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        await upstream.next_transfer()
        transfer = await upstream.next_transfer()
        assert transfer.start == 0
        transfer.finish()
        assert await whole(await opening) == DATA


async def test_rule_7_a_spool_that_cannot_be_read_is_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rehash(_self: SpoolFile, _hasher: object, _offset: int, _stop: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(SpoolFile, "rehash", rehash)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.spool.mkdir(parents=True)
        (parts.spool / f"sha256-{digest.hex}.part").write_bytes(DATA[:1000])
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        assert transfer.start == 0
        transfer.finish()
        assert await whole(await opening) == DATA


class FullSpool(Spool):
    """A disk that takes `room` bytes of a file and no more."""

    def __init__(self, folder: Path, room: int) -> None:
        super().__init__(folder)
        self.room = room

    def open(self, digest: Digest) -> SpoolFile:
        file = super().open(digest)
        real, room = file.write, self.room

        def write(offset: int, chunks: Sequence[bytes | memoryview]) -> None:
            if offset + sum(map(len, chunks)) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(offset, chunks)

        file.write = write  # type: ignore[method-assign]  # where the kernel would report it
        return file


async def test_rule_8_a_disk_that_fills_up_fails_no_reader_and_keeps_nothing(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.fills._spool = FullSpool(parts.spool, 400_000)
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        blob = await opening
        other = await parts.registry.blob(A, digest)
        reading = [asyncio.create_task(whole(each)) for each in (blob, other)]
        for _ in range(10):
            transfer.send(100_000)
        assert await asyncio.gather(*reading) == [DATA, DATA]
        await until(lambda: parts.fills.ended(digest) == 1)
        assert spooled(parts) == []
        assert await parts.store.blob_size(digest) is None
    assert len(upstream.calls) == 1


async def test_rule_8_the_window_waits_for_the_slowest_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.cache.window.WINDOW_LIMIT", 200_000)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.fills._spool = FullSpool(parts.spool, 0)
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        slow = await opening
        fast = await parts.registry.blob(A, digest)
        for _ in range(10):
            transfer.send(100_000)
        quick = asyncio.create_task(take(fast, 0, len(DATA)))
        assert await take(slow, 0, 100_000) == DATA[:100_000]
        await asyncio.wait([quick], timeout=0.05)
        assert not quick.done(), "the fast reader has been let past the window"
        assert await take(slow, 100_000, len(DATA)) == DATA[100_000:]
        assert await quick == DATA
        await slow.close()
        await fast.close()


async def test_rule_8_a_reader_that_never_reads_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.cache.window.WINDOW_LIMIT", 200_000)
    monkeypatch.setattr(shown, "SLOWEST", 0.05)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.fills._spool = FullSpool(parts.spool, 0)
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        stuck = await opening
        good = await parts.registry.blob(A, digest)
        for _ in range(10):
            transfer.send(100_000)
        assert await whole(good) == DATA
        with pytest.raises(Unavailable, match="slowly"):
            await take(stuck, 0, len(DATA))
        await stuck.close()


async def test_rule_8_one_who_was_left_behind_holds_nobody_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.cache.window.WINDOW_LIMIT", 100_000)
    monkeypatch.setattr(shown, "SLOWEST", 1.0)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.fills._spool = FullSpool(parts.spool, 0)
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        stuck = await opening
        good = await parts.registry.blob(A, digest)
        for _ in range(20):
            transfer.send(50_000)
        async with asyncio.timeout(10):  # one wait of a second, not one for each of twenty chunks
            assert await whole(good) == DATA
        await stuck.close()


async def test_rule_8_one_who_comes_too_late_for_a_volatile_fill_gets_a_fill_of_his_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.cache.window.WINDOW_LIMIT", 200_000)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        parts.fills._spool = FullSpool(parts.spool, 0)
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        first = await opening
        transfer.send(100_000)
        transfer.send(100_000)
        transfer.send(100_000)
        assert await take(first, 0, 300_000) == DATA[:300_000]
        reopening = asyncio.create_task(parts.registry.blob(A, digest))
        second = await upstream.next_transfer()
        assert second.start == 0
        second.finish()
        assert await whole(await reopening) == DATA
        transfer.finish()
        assert await take(first, 300_000, len(DATA)) == DATA[300_000:]
        await first.close()


async def test_rule_8_a_store_that_fails_at_the_commit_fails_no_reader(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    (tmp_path / "root" / "docker").mkdir(parents=True)
    (tmp_path / "root" / "docker" / "registry").write_text("a file where a folder should be")
    async with joined(tmp_path / "root", upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == DATA
        await until(lambda: parts.fills.ended(digest) == 1)
        assert spooled(parts) == []


async def test_rule_9_what_does_not_fit_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spool, "free", lambda _self: 10_000)
    written: list[int] = []
    monkeypatch.setattr(SpoolFile, "write", lambda _self, offset, _chunks: written.append(offset))
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == DATA
    assert written == []


async def test_rule_10_batches_gather_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    real = SpoolFile.write
    busy = asyncio.Event()
    loop = asyncio.get_running_loop()

    def write(self: SpoolFile, offset: int, chunks: Sequence[bytes]) -> None:
        counts.append(len(chunks))
        if len(counts) == 1:
            asyncio.run_coroutine_threadsafe(busy.wait(), loop).result(10)
        real(self, offset, chunks)

    monkeypatch.setattr(SpoolFile, "write", write)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        for _ in range(100):
            transfer.send(10_000)
        await until(lambda: bool(counts) and transfer._queue.empty())
        busy.set()
        assert await whole(await opening) == DATA
    assert sum(counts) == 100
    assert len(counts) <= 4


async def test_a_stop_ends_the_fill_and_its_readers_and_keeps_the_spool(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        transfer.send(200_000)
        blob = await opening
        await take(blob, 0, 200_000)
        reading = asyncio.create_task(take(blob, 200_000, len(DATA)))
        await parts.fills.close()
        with pytest.raises(Unavailable, match="stopping"):
            await reading
        await blob.close()
        assert [path.stat().st_size for path in spooled(parts)] == [200_000]


async def test_a_fill_that_one_repository_may_not_have_does_not_fail_another(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA, "library/b")
    upstream.hold["blob"] = asyncio.Event()
    async with joined(tmp_path, upstream) as parts:
        refused = asyncio.create_task(parts.registry.blob(A, digest))
        await until(lambda: bool(upstream.calls))
        allowed = asyncio.create_task(parts.registry.blob(B, digest))
        await until(lambda: len(upstream.calls) == 2)
        upstream.hold["blob"].set()
        with pytest.raises(RegistryError) as caught:
            await refused
        assert caught.value.code is ErrorCode.BLOB_UNKNOWN
        (await upstream.next_transfer()).finish()
        assert await whole(await allowed) == DATA


async def test_a_stop_while_the_spool_is_being_opened_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened, goes_on = Spool.open, list[SpoolFile](), threading.Event()

    def slow(self: Spool, digest: Digest) -> SpoolFile:
        opened.append(real(self, digest))
        goes_on.wait(WAIT)
        return opened[0]

    monkeypatch.setattr(Spool, "open", slow)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        await until(lambda: bool(opened))
        closing = asyncio.create_task(parts.fills.close())
        await asyncio.sleep(0)
        goes_on.set()
        await closing
        with pytest.raises(Unavailable, match="stopping"):
            await opening
    assert opened[0].file.closed


async def test_a_stop_before_a_fill_has_begun_is_told_to_who_waits(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        reader = parts.fills.start(A, digest).reader()
        await parts.fills.close()
        with pytest.raises(Unavailable, match="stopping"):
            async with asyncio.timeout(WAIT):
                await reader.ready()
        await reader.close()
        assert parts.fills.running(A, digest) is None


async def test_no_fill_is_begun_once_the_application_stops(tmp_path: Path) -> None:
    """Nobody would wait for its end."""
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        await parts.fills.close()
        with pytest.raises(Unavailable, match="stopping"):
            parts.fills.start(A, digest)
    assert not upstream.calls


async def test_readers_get_what_is_written_before_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, goes_on = Front.feed, threading.Event()

    def slow(self: Front, batch: Sequence[bytes]) -> None:
        goes_on.wait(WAIT)
        real(self, batch)

    monkeypatch.setattr(Front, "feed", slow)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        transfer.send(200_000)
        blob = await opening
        try:
            assert await take(blob, 0, 200_000) == DATA[:200_000]
            transfer.finish()
            fill = parts.fills.running(A, digest)
            assert fill is not None
            assert fill._intake.hashed == 0
        finally:
            goes_on.set()
        assert await whole(blob) == DATA


async def test_a_thread_that_others_wait_for_is_given_back(tmp_path: Path) -> None:
    """A fill whose bytes never cease does not keep one of the few threads for itself."""
    hands, inflow = Hands(threads=1), Inflow(0, helps=False)
    file = Spool(tmp_path).open(Digest.of(DATA))
    begun, goes_on, turns = threading.Event(), threading.Event(), list[str]()

    def asked() -> bool:
        begun.set()
        goes_on.wait(WAIT)
        return not hands.are_wanted

    def told(_start: int, stop: int) -> None:
        turns.append(f"written {stop}")

    inflow.add(b"more")
    front = Front(Digest.of(DATA))
    first_batch = [(0, [b"some"])]
    writing = Writing(
        file, front, 0, lambda: first_batch.pop() if first_batch else inflow.take(), told=told, goes_on=asked
    )
    first = asyncio.create_task(hands.run(writing.run, then=writing.note))
    await until(begun.is_set)
    second = asyncio.create_task(hands.run(turns.append, "another's"))
    await until(lambda: hands.are_wanted)
    goes_on.set()
    await asyncio.gather(first, second)
    assert sorted(turns) == ["another's", "written 4"]
    assert inflow.gathered == 4, "it took more"
    file.close()
    hands.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
async def test_the_threads_of_fills_are_nicer_than_the_event_loop() -> None:
    """They alone: whoever answers hits does not wait behind what hashes."""

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, hands = priority(), Hands()
    try:
        assert await hands.run(priority) == min(19, before + NICER)
    finally:
        hands.shutdown()
    assert priority() == before


async def test_a_fill_that_is_ended_twice_waits_for_its_thread_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the thread would write on when the file is closed, to whatever has its descriptor then."""
    real, writing, goes_on, ended = SpoolFile.write, threading.Event(), threading.Event(), list[bool]()

    def slow(self: SpoolFile, offset: int, chunks: Sequence[bytes]) -> None:
        writing.set()
        goes_on.wait(WAIT)
        ended.append(self.file.closed)
        real(self, offset, chunks)

    monkeypatch.setattr(SpoolFile, "write", slow)
    upstream = Puppet()
    digest = upstream.add(DATA)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).send(200_000)
        await until(writing.is_set)
        (task,) = parts.fills._tasks
        for _ in range(3):
            task.cancel()
            for _turn in range(10):
                await asyncio.sleep(0)
        goes_on.set()
        await asyncio.wait([task])
        await (await opening).close()
        await until(lambda: bool(ended))
    assert ended == [False]
