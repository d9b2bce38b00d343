"""Walking a tree on a disk: one scandir for each folder, one stat for each file. Everything here blocks.

Links to folders are followed, as by every other verb of the driver: who looks for what is here must see what
can be read here. Links that go in circles end: no folder is entered by a link from below itself.
"""

from __future__ import annotations

import os
import stat as modes
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mirror.drivers import files, paths
from mirror.drivers.base import WALK_BATCH, DriverError, Entry
from mirror.drivers.files import naming

BATCH_TIME = 0.05  # seconds after which the thread is given back, also without a full batch
LINK_LIMIT = 8  # links on the way to a folder; a tree spread over several disks has one

_Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class _Folder:
    place: str  # on the disk
    path: str  # of the driver
    linked: tuple[_Identity, ...] = ()  # the folders on the way here that were entered by a link


@dataclass(frozen=True, slots=True)
class _Temporary:
    """What an unfinished write has left, or is just making."""

    place: str


class Walk:
    """One walk below `root`/`path`, as drivers.base says. Called by one thread at a time."""

    def __init__(self, root: Path, path: str, leaves: Collection[str]) -> None:
        self._found: Iterator[Entry | _Temporary | None] | None = _walk(root, path, leaves)

    def batch(self) -> list[Entry] | None:
        """The next entries, as many as BATCH_TIME allows; None after the last. Raises DriverError."""
        if self._found is None:
            return None
        entries: list[Entry] = []
        stop = time.monotonic() + BATCH_TIME
        for each in self._found:
            if isinstance(each, Entry):
                entries.append(each)
            if len(entries) == WALK_BATCH or time.monotonic() > stop:
                return entries
        self._found = None
        return entries


class Sweep:
    """One search below `root` for what unfinished writes left. Called by one thread at a time."""

    def __init__(self, root: Path, before: float) -> None:
        """What was touched after `before`, in seconds since the epoch, stays."""
        self._found: Iterator[Entry | _Temporary | None] | None = _walk(root, "", ())
        self._before = before

    def batch(self) -> int | None:
        """Go on for BATCH_TIME: how many were removed; None after the last. Raises DriverError."""
        if self._found is None:
            return None
        removed = 0
        stop = time.monotonic() + BATCH_TIME
        for each in self._found:
            if isinstance(each, _Temporary):
                with naming(paths.TEMPORARY):
                    removed += files.remove_stale(Path(each.place), self._before)
            if time.monotonic() > stop:
                return removed
        self._found = None
        return removed


def _walk(root: Path, path: str, leaves: Collection[str]) -> Iterator[Entry | _Temporary | None]:
    """What there is; and None now and then, so that whoever takes it can look at the time."""
    with naming(path):
        start = _start(root, path)
    stack = [start] if start is not None else []
    while stack:
        folder = stack.pop()
        with naming(folder.path):
            empty = True
            for each in _scan(folder):
                empty = False
                if not isinstance(each, _Folder):
                    yield each
                elif each.path.rpartition("/")[2] in leaves:
                    yield _leaf(each)
                else:
                    stack.append(each)
            if empty:
                yield _leaf(folder)
        yield None


def _start(root: Path, path: str) -> _Folder | None:
    """Where the walk begins; None when that is no folder."""
    place, linked = root, list[_Identity]()
    for part in paths.split(path):
        place /= part
        if place.is_symlink() and place.is_dir():
            linked.append(_identity(place.stat()))
    return _Folder(str(place), path, tuple(linked)) if place.is_dir() else None


def _scan(folder: _Folder) -> Iterator[Entry | _Folder | _Temporary | None]:
    """What is in a folder; None for what is not ours. Of a folder that is gone: None, for it is not empty."""
    try:
        entries = os.scandir(folder.place)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    with entries:
        for each in entries:
            path = f"{folder.path}/{each.name}" if folder.path else each.name
            if paths.is_temporary(each.name):
                # Behind a link may be another's, who is still writing.
                yield None if folder.linked else _Temporary(each.path)
            elif not paths.is_name(each.name) or len(path) > paths.MAX_PATH_LENGTH:
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
    if not modes.S_ISDIR(found.st_mode) or identity in linked:
        return None
    if len(linked) == LINK_LIMIT:
        raise DriverError(path, f"more than {LINK_LIMIT} links on the way here")
    return _Folder(each.path, path, (*linked, identity))


def _leaf(folder: _Folder) -> Entry | None:
    try:
        modified = Path(folder.place).lstat().st_mtime
    except FileNotFoundError:
        return None
    return Entry(folder.path, 0, modified, is_folder=True, linked=bool(folder.linked))


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino
