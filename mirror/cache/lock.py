"""Who deletes: one process at a time.

Where the file system has no locks (NFS without its lock daemon, some of FUSE and 9p) this goes on without,
and says so once: a folder that grows over its limits is worse than two who delete in it at the same time, of
whom each finds not there what the other has deleted.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import structlog

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of flock: not here, whoever asks

log = structlog.get_logger()


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
        self._told = False  # that there are no locks

    @property
    def is_held(self) -> bool:
        """Whether something that takes long has it, in this process."""
        return self._mine.locked()

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
                self._file = await asyncio.to_thread(self._open, self._path)
            self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders and self._file is not None:
                self._file.close()
                self._file = None

    def _open(self, path: Path) -> BinaryIO:
        """In a thread. Closing the file lets go. Raises HeldError, OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        try:
            self._lock(file)
        except BaseException:
            file.close()
            raise
        return file

    def _lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HeldError from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if not self._told:
                self._told = True
                log.warning("keeper.no_locks", file=str(self._path), reason=error.strerror)
