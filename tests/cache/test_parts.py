"""Spool, window and coalescer: the small parts of the cache."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.cache import window as window_module
from mirror.cache.spool import Spool
from mirror.cache.window import Window
from mirror.coalesce import Coalescer
from mirror.oci.digest import Digest
from tests.cache.kit import until

DIGEST = Digest.of(b"x")


def test_a_second_holder_of_a_spool_file_gets_a_private_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, second = spool.open(DIGEST), spool.open(DIGEST)
    first.write(0, [b"first"])
    second.write(0, [b"second"])
    assert first.path != second.path
    assert first.path.read_bytes() == b"first"
    second.unlink()
    first.close()
    second.close()
    again = spool.open(DIGEST)
    assert (again.path, list(again.there)) == (first.path, [(0, 5)])
    again.close()


def test_a_spool_file_that_was_moved_into_the_store_is_never_written_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    first = spool.open(DIGEST)
    first.write(0, [b"kept"])
    first.path.rename(tmp_path / "kept")
    second = spool.open(DIGEST)
    assert not second.there
    second.write(0, [b"other"])
    assert (tmp_path / "kept").read_bytes() == b"kept"
    first.close()
    second.close()


def test_rehash_goes_through_the_file_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.cache.spool.REHASH_PIECE", 1000)
    data = os.urandom(2500)
    (tmp_path / f"sha256-{DIGEST.hex}.part").write_bytes(data)
    file = Spool(tmp_path).open(DIGEST)
    hasher, steps, offset = hashlib.sha256(), 0, 0
    while offset < len(data):
        offset, steps = file.rehash(hasher, offset, len(data)), steps + 1
    assert (steps, hasher.hexdigest()) == (3, hashlib.sha256(data).hexdigest())
    file.close()


def test_the_sweep_takes_old_and_private_files_that_nobody_holds(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    digests = [Digest.of(bytes([n])) for n in range(3)]
    old, new, held = (spool.open(digest) for digest in digests)
    for each in (old, new, held):
        each.write(0, [b"some"])
    spool.open(Digest.of(b"empty")).close()
    private = spool.open(digests[2])
    (tmp_path / "README").write_text("not ours")
    for each in (old, held):
        os.utime(each.path, (1, 1))
    for each in (old, new, private):
        each.close()
    removed = spool.sweep(older_than=3600, now=time.time())
    assert removed == sorted([old.path.name, private.path.name, f"sha256-{Digest.of(b'empty').hex}.part"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["README", new.path.name, held.path.name]
    )
    held.close()
    assert Spool(tmp_path / "none").sweep(1, 1) == []


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=20),
    data=st.data(),
)
def test_a_window_gives_the_bytes_that_were_put_in(chunks: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(chunks)
    base = data.draw(st.integers(0, 1000))
    window = Window(base)
    for chunk in chunks:
        window.append(chunk)
    position = base
    while position < window.end:
        stop = data.draw(st.integers(position + 1, window.end))
        part = window.read(position, stop)
        assert part
        assert part == whole[position - base :][: len(part)]
        assert len(part) <= stop - position
        position += len(part)
        window.drop_before(position)
        assert window.base <= position
    assert window.base == window.end == base + len(whole)


def test_a_window_is_bounded_but_takes_any_chunk_when_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "WINDOW_LIMIT", 10)
    window = Window(0)
    assert window.has_room(100)
    window.append(b"12345678")
    assert window.has_room(2)
    assert not window.has_room(3)
    window.drop_oldest()
    assert window.has_room(100)


async def test_the_coalescer_does_a_keys_work_once_at_a_time() -> None:
    coalescer: Coalescer[str, int] = Coalescer()
    started, go = 0, asyncio.Event()

    async def work() -> int:
        nonlocal started
        started += 1
        await go.wait()
        return started

    many = [asyncio.create_task(coalescer.run("a", work)) for _ in range(10)]
    await until(lambda: started == 1)
    many[0].cancel()
    go.set()
    assert await asyncio.gather(*many[1:]) == [1] * 9
    assert await coalescer.run("a", work) == 2
    assert many[0].cancelled()


async def test_the_coalescer_gives_all_the_same_failure_and_forgets_it() -> None:
    coalescer: Coalescer[str, int] = Coalescer()
    error = RuntimeError("no")

    async def fail() -> int:
        raise error

    async def succeed() -> int:
        return 1

    results = await asyncio.gather(*(coalescer.run("a", fail) for _ in range(3)), return_exceptions=True)
    assert results == [error] * 3
    assert await coalescer.run("a", succeed) == 1


async def test_the_coalescer_ends_its_work_when_closed() -> None:
    coalescer: Coalescer[str, None] = Coalescer()
    task = coalescer.start("a", asyncio.Event().wait)  # type: ignore[arg-type]  # it never returns
    await asyncio.sleep(0)
    await coalescer.close()
    assert task.cancelled()
