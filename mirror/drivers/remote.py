"""What the drivers of remote storages have in common: what is no file of theirs, and local files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

from mirror.drivers import paths
from mirror.drivers.base import DriverError, NoSpaceError, OpenFile, PathNotFoundError
from mirror.drivers.slice import Source


def check_file(path: str) -> None:
    """Raises DriverError for what can be no file."""
    paths.split(path)
    if not path:
        raise PathNotFoundError(path, "not a file")


def check_writable(path: str) -> None:
    """Raises DriverError for what can be neither written nor deleted."""
    if not paths.split(path):
        raise DriverError(path, "the root is a folder, and stays")


async def open_source(source: Path, path: str) -> Source:
    """A file to move in, opened. Raises DriverError."""
    try:
        return await asyncio.to_thread(Source, source)
    except FileNotFoundError as error:
        raise PathNotFoundError(path, "the file to move in is not there") from error
    except OSError as error:
        raise DriverError(path, f"cannot read the file to move in: {error.strerror}") from error


async def remove_source(path: str, source: Path) -> None:
    """A file was moved in. Raises DriverError."""
    try:
        await asyncio.to_thread(source.unlink)
    except OSError as error:
        raise DriverError(path, f"cannot remove the file moved in: {error.strerror}") from error


async def copy_out(path: str, file: OpenFile, target: Path) -> None:
    """The open file as a local one, which appears whole; closed then. Raises DriverError."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        async with contextlib.aclosing(file.chunks(0, file.size)) as chunks:
            await _write_out(path, part, chunks)
        await asyncio.to_thread(part.replace, target)
    except OSError as error:
        raise DriverError(path, f"cannot be moved out: {error.strerror}") from error
    finally:
        await file.close()
        remove = partial(part.unlink, missing_ok=True)
        # NB: what waits for a thread goes with whoever is cancelled, unless it is shielded.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, remove))


async def _write_out(path: str, target: Path, chunks: AsyncGenerator[bytes, None]) -> None:
    """NB: it is opened for each chunk, and made once: who is cancelled leaves nothing open, and at most an
    empty file, where it was just being made.
    """

    def begin() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(exist_ok=False)

    def append(data: bytes) -> None:
        with target.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(data)

    await asyncio.to_thread(begin)
    try:
        async for chunk in chunks:
            await asyncio.to_thread(append, chunk)
    except OSError as error:
        raise NoSpaceError(path, f"cannot be moved out: {error.strerror}") from error
