"""What the filesystem driver does in its threads: system calls, and OSError turned into DriverError.

Everything here blocks. `path` is the driver's path, for errors; `target` is where that is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat as modes
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mirror.drivers import paths
from mirror.drivers.base import BATCH_TIME, DriverError, Info, NoSpaceError, PathNotFoundError

COPY_CHUNK = 1 << 20  # bytes; a copy to another file system holds no more in memory
# A folder may go between its making and its use: a prune on its way up takes one in each try at worst, and a
# repository's link has at most 6 below a name of few components.
MAKE_TRIES = 16
STALE_AFTER = 24 * 3600.0  # seconds; a temporary name untouched for so long belongs to a process that died
SWEEP_LIMIT = 64  # names looked at for stale ones per write: ours are in folders of a few names

# Without O_NOFOLLOW this opens whatever a link points to; without O_NONBLOCK a FIFO waits for its writer.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn an OSError into the DriverError that fits, with the path of the store instead of the machine's."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or type(error).__name__
        if error.errno in _MISSING:
            raise PathNotFoundError(path, cause) from error
        if error.errno in _FULL:
            raise NoSpaceError(path, cause) from error
        raise DriverError(path, cause) from error


def open_regular(target: str, path: str) -> tuple[BinaryIO, int]:
    """A regular file for reading, and its size. PathNotFoundError also for what is there but no file."""
    with naming(path):
        descriptor = os.open(target, _READ)
        try:
            found = os.fstat(descriptor)
            if not modes.S_ISREG(found.st_mode):
                raise PathNotFoundError(path, "not a file")
            return os.fdopen(descriptor, "rb", buffering=0), found.st_size
        except BaseException:
            os.close(descriptor)
            raise


def read_at(file: BinaryIO, path: str, offset: int, count: int) -> bytes:
    """At least one byte and at most `count` from `offset`; the file's own position stays as it is."""
    with naming(path):
        data = os.pread(file.fileno(), count, offset)
    if not data:
        raise DriverError(path, f"ends at {offset} or before, where more was expected")
    return data


def read_whole(target: str, path: str, limit: int) -> bytes:
    """A file's bytes; DriverError when they are more than `limit`."""
    file, size = open_regular(target, path)
    with file:
        if size > limit:
            raise DriverError(path, f"has {size} bytes, more than the {limit} allowed")
        parts, offset = [], 0
        while offset < size:
            parts.append(read_at(file, path, offset, size - offset))
            offset += len(parts[-1])
    return b"".join(parts)


def read_many(targets: Sequence[tuple[str, str]], limit: int, total: int) -> list[bytes | DriverError]:
    """The first of these files, as drivers.base says; the error in the place of each that cannot be had."""
    found: list[bytes | DriverError] = []
    stop = time.monotonic() + BATCH_TIME
    for target, path in targets:
        try:
            data = read_whole(target, path, limit)
        except DriverError as error:
            found.append(error)
        else:
            found.append(data)
            total -= len(data)
        if total <= 0 or time.monotonic() > stop:
            break
    return found


def stat(target: str, path: str) -> Info:
    """What is at `target`; a link that stands for a folder is a folder, any other is nothing."""
    with naming(path):
        found = os.lstat(target)
        if modes.S_ISLNK(found.st_mode):
            found = Path(target).stat()
            if not modes.S_ISDIR(found.st_mode):
                raise PathNotFoundError(path, "not a file")
    if modes.S_ISDIR(found.st_mode):
        return Info(0, True, found.st_mtime)
    if not modes.S_ISREG(found.st_mode):
        raise PathNotFoundError(path, "not a file")
    return Info(found.st_size, False, found.st_mtime)


def names(target: Path, path: str) -> list[str]:
    """The names in a folder that are names of ours; `lost+found` and temporary ones are left out."""
    with naming(path), os.scandir(target) as entries:
        return sorted(entry.name for entry in entries if paths.is_name(entry.name))


def write(target: Path, path: str, data: bytes) -> None:
    """Write a file whole: rules 1 and 2 of the driver."""

    def fill(temporary: Path) -> None:
        descriptor = os.open(temporary, _CREATE, 0o666)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    with naming(path):
        _place(target, fill)


def move_in(source: Path, target: Path, path: str) -> None:
    """Make `source` the file at `target`. `source` goes last of all, once everything is durable."""
    with naming(path):
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

        def fill(temporary: Path) -> None:
            _link_or_copy(source, descriptor, temporary)

        try:
            os.fsync(descriptor)
            _place(target, fill)
        finally:
            os.close(descriptor)
        source.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; on another file system, a copy. Raises OSError."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _link_or_copy(source, descriptor, target)
    finally:
        os.close(descriptor)


def _link_or_copy(source: Path, descriptor: int, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copy(descriptor, target)


def _place(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a complete file at a temporary name, then rename it to `target`, durably.

    NB: rename does nothing when both names are already the same file, as after a `move_in` that failed at
    its end: the temporary name is removed in any case.
    """
    for tries_left in reversed(range(MAKE_TRIES)):
        temporary = target.parent / temporary_name()
        try:
            make_folder(target.parent)
            fill(temporary)
            temporary.replace(target)
            sync_folder(target.parent)
        except FileNotFoundError:
            if not tries_left:
                raise
        else:
            return
        finally:
            # Not there when all went well; and a failure here must not hide the first one.
            with contextlib.suppress(OSError):
                temporary.unlink()


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, each durable before anything is put into it."""
    if folder.is_dir():
        sweep(folder)
        return
    missing = [folder]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir()
        sync_folder(each.parent)


def temporary_name() -> str:
    """A new name that no verb of the driver sees."""
    return paths.TEMPORARY + uuid.uuid4().hex


def sweep(folder: Path) -> None:
    """Remove what processes that died left in `folder`, as far as that works: it is no one's concern now."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [entry for entry in islice(entries, SWEEP_LIMIT) if entry.name.startswith(paths.TEMPORARY)]
        for entry in left:
            with contextlib.suppress(OSError):
                remove_stale(Path(entry.path), time.time() - STALE_AFTER)


def remove_stale(temporary: Path, before: float) -> bool:
    """Remove a file or a tree unless it was touched after `before` (seconds since the epoch); whether it was.

    Raises OSError.
    """
    try:
        found = temporary.lstat()
    except FileNotFoundError:  # it was finished
        return False
    # ctime: renames and writes set it, and nobody can set it back.
    if found.st_ctime >= before:
        return False
    if modes.S_ISDIR(found.st_mode):
        shutil.rmtree(temporary)
    else:
        temporary.unlink(missing_ok=True)
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def copy(source: int, temporary: Path) -> None:
    """Copy an open file to a new one, durable on return."""
    descriptor = os.open(temporary, _CREATE, 0o666)
    try:
        offset = 0
        while data := os.pread(source, COPY_CHUNK, offset):
            _write_all(descriptor, data)
            offset += len(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system knows that (some network ones do not)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
