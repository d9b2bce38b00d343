"""Who deletes: one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO


class HeldError(Exception):
    """Another process is deleting at the moment."""


class Lock:
    """Who deletes: an exclusive lock (flock) on a file beside the inventory. None: no other process can."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._mine = asyncio.Lock()  # of what takes long
        self._taking = asyncio.Lock()
        self._file: BinaryIO | None = None
        self._holders = 0

    @asynccontextmanager
    async def held(self, *, wait: bool = False) -> AsyncGenerator[None, None]:
        """For what takes long. Of this process's own turns `wait` waits for the end.

        Raises HeldError when somebody has it, OSError where the file cannot be had.
        """
        if self._mine.locked() and not wait:
            raise HeldError
        async with self._mine, self.shared():
            yield

    @asynccontextmanager
    async def shared(self) -> AsyncGenerator[None, None]:
        """Against other processes, but beside what takes long in this one: a fill cannot wait for that.

        All that deletes finds what another has deleted meanwhile not there, and that is no error.
        Raises HeldError, OSError.
        """
        async with self._taking:
            if not self._holders and self._path is not None:
                self._file = await asyncio.to_thread(_lock, self._path)
            self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders and self._file is not None:
                self._file.close()
                self._file = None


def _lock(path: Path) -> BinaryIO:
    """In a thread. Closing the file lets go. Raises HeldError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise HeldError from error
    return file
