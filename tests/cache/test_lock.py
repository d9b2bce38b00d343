"""Who deletes, on file systems of all kinds."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.cache.eviction import Limits
from mirror.cache.lock import HeldError, Lock
from tests.cache.kit import A
from tests.cache.test_keeper import HOUR, KIB, Shop, shop


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(_file: object, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


async def expire(at: Shop) -> list[tuple[str, str]]:
    """Two passes: what the log says of the lock, and its level."""
    with capture_logs() as lines:
        for _ in range(2):
            await at.keeper._look()
    return [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("keeper.")]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
async def test_where_there_are_no_locks_it_goes_on_without_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with shop(tmp_path, Limits(ttl=HOUR)) as at:
        images = [await at.image(A, tag, tag.encode() * KIB) for tag in "12"]
        at.clock.now += HOUR - 1
        await at.keeper._look()
        at.clock.now += 2
        await at.inventory.flush()
        failing(monkeypatch, number)
        assert await expire(at) == [("keeper.no_locks", "warning")]
        for image in images:
            assert not await at.has(A, image)


async def test_a_lock_that_fails_for_another_reason_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(tmp_path, Limits(ttl=HOUR)) as at:
        image = await at.image(A, "1", b"a" * KIB)
        at.clock.now += HOUR - 1
        await at.keeper._look()
        at.clock.now += 2
        await at.inventory.flush()
        with monkeypatch.context() as patch:
            failing(patch, errno.EIO)
            assert await expire(at) == [("keeper.postponed", "warning")] * 2
        assert await at.has(A, image)
        await at.keeper._look()
        assert not await at.has(A, image)


async def test_a_lock_that_another_has_is_held_and_one_that_failed_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    async with mine.held():
        with pytest.raises(HeldError):
            async with other.shared():
                pass
    with monkeypatch.context() as patch:
        failing(patch, errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            async with mine.held():
                pass
    async with other.held():
        pass
