"""Room for what comes: beside what broken fills have left, and what other fills have yet to write."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from mirror.cache.eviction import Disk, Limits
from mirror.cache.spool import Spool
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX
from mirror.oci.names import Tag
from mirror.sometimes import Sometimes
from tests.cache.kit import A, joined, until, whole
from tests.cache.test_keeper import HOUR, KIB, shop
from tests.support.puppet import Puppet


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as entries:
        yield entries


def told(logs: list[EventDict], name: str) -> list[EventDict]:
    """The events of this name."""
    return [event for event in logs if event["event"] == name]


def _leave(spool: Spool, data: bytes, modified: float) -> Path:
    """What a broken fill of these bytes has left: all but one of them."""
    with closing(spool.open(Digest.of(data))) as file:
        file.write(0, [data[:-1]])
        os.utime(file.path, (modified, modified))
        return file.path


async def test_what_broken_fills_have_left_counts_and_goes_before_any_image(
    tmp_path: Path, logs: list[EventDict]
) -> None:
    async with shop(tmp_path, Limits(maxsize=60 * KIB)) as at:
        image = await at.image(A, "1", b"a" * 10 * KIB)
        at.clock.now += HOUR
        newer, older = _leave(at.spool, b"n" * 20 * KIB, 200.0), _leave(at.spool, b"o" * 20 * KIB, 100.0)
        assert await at.keeper.make_room(Digest.of(b"c"), 8 * KIB)
        assert newer.exists()
        assert older.exists()
        assert await at.keeper.make_room(Digest.of(b"d"), 8 * KIB)
        assert newer.exists()
        assert not older.exists()
        assert await at.has(A, image)
        assert [(event["files"], event["bytes"]) for event in told(logs, "spool.shed")] == [(1, 20 * KIB - 1)]


async def test_a_spool_file_that_a_fill_has_open_stays_and_counts_once(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=30 * KIB)) as at:
        data = b"d" * 20 * KIB
        with closing(at.spool.open(Digest.of(data))) as file:
            file.write(0, [data[: 15 * KIB]])
            assert await at.keeper.make_room(Digest.of(data), len(data))
            assert await at.keeper.make_room(Digest.of(b"e"), 10 * KIB)
            assert not await at.keeper.make_room(Digest.of(b"f"), KIB)
            assert file.path.exists()


async def test_a_pass_takes_what_broken_fills_have_left_first(tmp_path: Path) -> None:
    async with shop(tmp_path, Limits(maxsize=30 * KIB)) as at:
        image = await at.image(A, "1", b"a" * 20 * KIB)
        at.clock.now += HOUR
        left = _leave(at.spool, b"l" * 20 * KIB, 100.0)
        await at.keeper._look()
        assert not left.exists()
        assert await at.has(A, image)


async def test_what_other_fills_have_yet_to_write_is_not_free(tmp_path: Path) -> None:
    """Half of the first fill is written: so much the disk knows of, the other half is to come."""
    disk = Disk(1000 * KIB, 130 * KIB)
    async with shop(tmp_path, Limits(minfree=100 * KIB), disk=disk) as at:
        data = b"d" * 20 * KIB
        with closing(at.spool.open(Digest.of(data))) as file:
            file.write(0, [data[: 10 * KIB]])
            assert await at.keeper.make_room(Digest.of(data), len(data))
            assert not await at.keeper.make_room(Digest.of(b"e"), 21 * KIB)
            assert await at.keeper.make_room(Digest.of(b"e"), 20 * KIB)


async def test_what_finds_no_room_is_told_now_and_then_with_the_limit_and_what_to_do(
    tmp_path: Path, logs: list[EventDict]
) -> None:
    async with shop(tmp_path, Limits(maxsize=20 * KIB)) as at:
        await at.image(A, "1", b"a" * 15 * KIB)
        for number in range(3):
            assert not await at.keeper.make_room(Digest.of(bytes([number])), 12 * KIB)
        at.keeper.admission.refused = Sometimes(0.0)
        assert not await at.keeper.make_room(Digest.of(b"large"), 21 * KIB)
    first, large = told(logs, "keeper.no_room")
    assert first["limit"] == "cache.maxsize 20KiB"
    assert (first["wanted"], first["count"]) == (12 * KIB, 1)
    assert "raise cache.maxsize" in first["advice"]
    assert "an empty cache" in large["advice"]


async def test_the_limit_that_is_in_the_way_is_named(tmp_path: Path, logs: list[EventDict]) -> None:
    disk = Disk(1000 * KIB, 60 * KIB)
    async with shop(tmp_path, Limits(maxsize_share=0.8, minfree_share=0.05), disk=disk) as at:
        assert not await at.keeper.make_room(Digest.of(b"c"), 11 * KIB)
    (event,) = told(logs, "keeper.no_room")
    assert (event["limit"], event["free"], event["wanted"]) == ("cache.minfree 5%", 60 * KIB, 11 * KIB)


class Closed:
    """Room that there is none of, until `free` is set."""

    def __init__(self) -> None:
        self.free = False
        self.reserved = 0

    async def admit(self, _digest: Digest, size: int) -> int:
        return size if self.free else 0

    async def make_room(self, _digest: Digest, size: int) -> bool:
        self.reserved += size if self.free else 0
        return self.free

    def release(self, _digest: Digest, size: int, *, admitted: int = 0) -> None:
        self.reserved -= size


async def test_a_manifest_asks_for_room_and_is_kept_once_there_is_some(tmp_path: Path) -> None:
    upstream, room = Puppet(), Closed()
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    upstream.add_manifest(body, "library/a", "1")
    async with joined(tmp_path, upstream, room=room) as parts:
        for room.free in (False, True):
            assert (await parts.registry.manifest(A, Tag("1"))).body == body
            await parts.registry.settle()
            assert await parts.store.blob_size(Digest.of(body)) == (len(body) if room.free else None)
        assert room.reserved == 0


async def test_where_the_disk_is_full_what_broken_fills_have_left_goes(tmp_path: Path) -> None:
    upstream = Puppet()
    data = b"d" * 3 * KIB
    digest = upstream.add(data)
    async with joined(tmp_path, upstream) as parts:
        spool = parts.fills._spool
        left = _leave(spool, b"left" * KIB, 100.0)
        spool.free = lambda: 2 * KIB if left.exists() else 4 * KIB  # type: ignore[method-assign] # a full disk
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == data
        await until(lambda: parts.fills.ended(digest) == 1)
        assert not left.exists()
        assert await parts.store.blob_size(digest) == len(data)


async def test_a_full_disk_is_told_now_and_then(tmp_path: Path, logs: list[EventDict]) -> None:
    upstream = Puppet()
    digests = [upstream.add(data) for data in (b"1" * KIB, b"2" * KIB)]
    async with joined(tmp_path, upstream) as parts:
        parts.fills._spool.free = lambda: 0  # type: ignore[method-assign] # a full disk
        for digest in digests:
            opening = asyncio.create_task(parts.registry.blob(A, digest))
            (await upstream.next_transfer()).finish()
            await whole(await opening)
        folder = str(parts.fills._spool.folder)
    (event,) = told(logs, "fill.not_keeping")
    assert (event["count"], event["folder"]) == (1, folder)
    assert event["reason"] == f"{KIB} bytes are wanted, 0 are free"
    assert event["hint"].startswith("with cache.minfree or cache.maxsize the mirror makes room")
