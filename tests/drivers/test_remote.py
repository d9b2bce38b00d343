"""What the drivers of remote storages have in common, where their own suites do not look."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.drivers.remote import copy_out

WITHIN = 60.0  # seconds


def names(folder: Path) -> list[str]:
    """What lies there."""
    return [path.name for path in folder.iterdir()]


class Stalling:
    """An OpenFile of which the first byte comes, and no other."""

    size = 2
    local = None

    def __init__(self) -> None:
        self.stalls = asyncio.Event()

    async def chunks(self, _start: int, _stop: int) -> AsyncGenerator[bytes, None]:
        yield b"x"
        self.stalls.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is held."""


async def test_moving_out_leaves_nothing_where_whoever_wants_it_is_cancelled(tmp_path: Path) -> None:
    """While all threads are busy, at a stop for one."""
    file = Stalling()
    loop, done = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    moving = asyncio.create_task(copy_out("file", file, tmp_path / "target"))
    async with asyncio.timeout(WITHIN):
        await file.stalls.wait()
    assert names(tmp_path) != []
    busy = loop.run_in_executor(None, done.wait, WITHIN)
    for _ in range(3):
        moving.cancel()
        await asyncio.sleep(0)
    done.set()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert await busy
    await asyncio.to_thread(lambda: None)  # what waited before this has been done
    assert names(tmp_path) == []
