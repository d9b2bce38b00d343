"""What a driver can do: bytes at paths. The conformance suite is tests/drivers/conformance.py.

A path is relative, of components `[A-Za-z0-9._-]+` joined by "/", without "." and ".."; "" is the root.
Every method may raise DriverError, whose text names the path and the cause. Work that blocks runs in
threads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


class DriverError(Exception):
    """A storage operation failed; `path` and `cause` say where and why."""

    def __init__(self, path: str, cause: str) -> None:
        self.path = path
        self.cause = cause
        super().__init__(f"{path or '/'}: {cause}")


class PathNotFoundError(DriverError):
    """Nothing is at this path."""

    def __init__(self, path: str, cause: str = "no such file or folder") -> None:
        super().__init__(path, cause)


class NoSpaceError(DriverError):
    """The disk or the quota is full."""


@dataclass(frozen=True, slots=True)
class Info:
    """What is at a path; `size` in bytes is 0 for a folder."""

    size: int
    is_folder: bool


class OpenFile(Protocol):
    """A file opened for reading, of one moment: a later write or delete at its path does not change it."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def local(self) -> BinaryIO | None:
        """An open regular file on this machine, for sendfile; None where the bytes are elsewhere."""

    def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop), in chunks of at most 1 MiB."""

    async def close(self) -> None:
        """Safe to call twice."""


class StorageDriver(Protocol):
    """Bytes at paths."""

    name: str

    async def get(self, path: str, limit: int) -> bytes:
        """A small file whole. DriverError when it has more than `limit` bytes."""

    async def put(self, path: str, data: bytes) -> None:
        """Write a small file: atomic (readers see the old or the new one) and durable on return."""

    async def move_in(self, source: Path, path: str) -> None:
        """Make a complete local file the one at `path`: atomic, durable on return; `source` is gone then.

        On failure `source` is still there.
        """

    async def open(self, path: str) -> OpenFile: ...

    async def stat(self, path: str) -> Info: ...

    async def list(self, path: str) -> list[str]:
        """The names in a folder, sorted; PathNotFoundError when there is no such folder."""

    async def delete(self, path: str) -> None:
        """Delete a file, or a folder with all that is in it. PathNotFoundError when there is none."""

    async def close(self) -> None:
        """Release what the driver holds. Nothing is called afterwards."""
