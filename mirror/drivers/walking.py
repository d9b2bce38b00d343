"""Walking a tree on a disk: one scandir for each folder, one stat for each file. Everything here blocks.

Links to folders are followed, as by every other verb of the driver: who looks for what is here must see what
can be read here. Links that go in circles end: no folder is entered by a link from below itself.
"""

from __future__ import annotations

import os
import stat as modes
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mirror.drivers import paths
from mirror.drivers.base import WALK_BATCH, Entry
from mirror.drivers.files import naming

BATCH_TIME = 0.05  # seconds after which the thread is given back, also without a full batch
LINK_LIMIT = 8  # links on the way to a folder; a tree spread over several disks has one

_Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class _Folder:
    place: str  # on the disk
    path: str  # of the driver
    linked: tuple[_Identity, ...] = ()  # the folders on the way here that were entered by a link


class Walk:
    """One walk below `root`/`path`, as drivers.base says. Called by one thread at a time."""

    def __init__(self, root: Path, path: str) -> None:
        self._entries: Iterator[Entry | None] | None = _walk(root, paths.split(path), path)

    def batch(self) -> list[Entry] | None:
        """The next entries, as many as BATCH_TIME allows; None after the last. Raises DriverError."""
        if self._entries is None:
            return None
        found: list[Entry] = []
        stop = time.monotonic() + BATCH_TIME
        for entry in self._entries:
            if entry is not None:
                found.append(entry)
            if len(found) == WALK_BATCH or time.monotonic() > stop:
                return found
        self._entries = None
        return found


def _walk(root: Path, parts: tuple[str, ...], path: str) -> Iterator[Entry | None]:
    """The entries; and None now and then, so that whoever takes them can look at the time."""
    with naming(path):
        start = _start(root, parts, path)
    stack = [start] if start is not None else []
    while stack:
        folder = stack.pop()
        with naming(folder.path):
            empty = True
            for each in _scan(folder):
                empty = False
                if isinstance(each, _Folder):
                    stack.append(each)
                else:
                    yield each
            if empty and folder is not start:
                yield _empty(folder)
        yield None


def _start(root: Path, parts: tuple[str, ...], path: str) -> _Folder | None:
    """Where the walk begins; None when that is no folder."""
    place, linked = root, list[_Identity]()
    for part in parts:
        place /= part
        if place.is_symlink() and place.is_dir():
            linked.append(_identity(place.stat()))
    return _Folder(str(place), path, tuple(linked)) if place.is_dir() else None


def _scan(folder: _Folder) -> Iterator[Entry | _Folder | None]:
    """What is in a folder; None for what is not ours. Of a folder that is gone: None, for it is not empty."""
    try:
        entries = os.scandir(folder.place)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    with entries:
        for each in entries:
            path = f"{folder.path}/{each.name}" if folder.path else each.name
            if not paths.is_name(each.name) or len(path) > paths.MAX_PATH_LENGTH:
                yield None
            elif each.is_dir(follow_symlinks=False):
                yield _Folder(each.path, path, folder.linked)
            elif each.is_symlink():
                yield _behind(each, path, folder.linked)
            else:
                yield _file(each, path, bool(folder.linked))


def _file(each: os.DirEntry[str], path: str, linked: bool) -> Entry | None:
    try:
        found = each.stat(follow_symlinks=False)
    except FileNotFoundError:  # gone since it was seen
        return None
    if not modes.S_ISREG(found.st_mode):
        return None
    return Entry(path, found.st_size, found.st_mtime, linked=linked)


def _behind(each: os.DirEntry[str], path: str, linked: tuple[_Identity, ...]) -> _Folder | None:
    """The folder that a link stands for; None for any other link, and for one that was entered before."""
    try:
        found = each.stat()
    except OSError:  # dangling, or in circles by itself: reads as missing
        return None
    identity = _identity(found)
    if not modes.S_ISDIR(found.st_mode) or identity in linked or len(linked) == LINK_LIMIT:
        return None
    return _Folder(each.path, path, (*linked, identity))


def _empty(folder: _Folder) -> Entry | None:
    try:
        modified = Path(folder.place).lstat().st_mtime
    except FileNotFoundError:
        return None
    return Entry(folder.path, 0, modified, is_folder=True, linked=bool(folder.linked))


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino
