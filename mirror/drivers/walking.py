"""Walking a tree on a disk: one scandir for each folder, one stat for each file. Everything here blocks.

Links to folders are followed, as by every other verb of the driver: who looks for what is here must see what
can be read here. Links that go in circles end: no folder is entered by a link from below itself.

A tree has hundreds of thousands of folders, most with one file in them: what is done for each is kept small.
"""

from __future__ import annotations

import os
import stat as modes
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mirror.drivers import base, files, paths
from mirror.drivers.base import WALK_BATCH, DriverError, Entry
from mirror.drivers.files import naming

LINK_LIMIT = 8  # links on the way to a folder; a tree spread over several disks has one

_Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Folder:
    """One that is to be looked at."""

    place: str  # on the disk
    path: str  # of the driver
    linked: tuple[_Identity, ...] = ()  # the folders on the way here that were entered by a link


class Walk:
    """One walk below `root`/`path`, as drivers.base says. Called by one thread at a time."""

    def __init__(self, root: Path, path: str, leaves: Collection[str]) -> None:
        self._found: Iterator[Entry | None] | None = _walk(root, path, leaves)

    def batch(self) -> list[Entry] | None:
        """The next entries, as many as BATCH_TIME allows; None after the last. Raises DriverError."""
        if self._found is None:
            return None
        found: list[Entry] = []
        stop = time.monotonic() + base.BATCH_TIME
        for each in self._found:
            if each is not None:
                found.append(each)
            if len(found) == WALK_BATCH or time.monotonic() > stop:
                return found
        self._found = None
        return found


class Sweep:
    """One search below `root` for what unfinished writes left. Called by one thread at a time."""

    def __init__(self, root: Path, before: float) -> None:
        """What was touched after `before`, in seconds since the epoch, stays."""
        self._found: Iterator[str | None] | None = _temporaries(root)
        self._before = before

    def batch(self) -> int | None:
        """Go on for BATCH_TIME: how many were removed; None after the last. Raises DriverError."""
        if self._found is None:
            return None
        removed = 0
        stop = time.monotonic() + base.BATCH_TIME
        for place in self._found:
            if place is not None:
                with naming(paths.TEMPORARY):
                    removed += files.remove_stale(Path(place), self._before)
            if time.monotonic() > stop:
                return removed
        self._found = None
        return removed


def _walk(root: Path, path: str, leaves: Collection[str]) -> Iterator[Entry | None]:
    """What there is; and None now and then, so that whoever takes it can look at the time."""
    with naming(path):
        first = start(root, path)
    stack = [first] if first is not None else []
    while stack:
        folder = stack.pop()
        linked = folder.linked
        empty = True
        with naming(folder.path):
            for each in entries(folder.place):
                empty = False
                name = each.name
                if not paths.is_name(name):
                    continue
                path = f"{folder.path}/{name}" if folder.path else name
                if len(path) > paths.MAX_PATH_LENGTH:
                    continue
                if each.is_dir(follow_symlinks=False):
                    below: Folder | None = Folder(each.path, path, linked)
                elif each.is_symlink():
                    below = linked_folder(each, path, linked)
                else:
                    yield file(each.path, path, linked=bool(linked))
                    continue
                if below is None:
                    continue
                if name in leaves:
                    yield _leaf(below)
                else:
                    stack.append(below)
            yield _leaf(folder) if empty else None


def _temporaries(root: Path) -> Iterator[str | None]:
    """The places of what unfinished writes have left, or are just making; None now and then.

    Not behind links: what is there may be another's, who is still writing.
    """
    stack = [str(root)]
    while stack:
        place = stack.pop()
        with naming(""):
            for each in entries(place):
                if paths.is_temporary(each.name):
                    yield each.path
                elif each.is_dir(follow_symlinks=False) and paths.is_name(each.name):
                    stack.append(each.path)
        yield None


def start(root: Path, path: str) -> Folder | None:
    """Where it begins; None when that is no folder. Raises OSError."""
    place, linked = root, list[_Identity]()
    for part in paths.split(path):
        place /= part
        if place.is_symlink() and place.is_dir():
            linked.append(_identity(place.stat()))
    return Folder(str(place), path, tuple(linked)) if place.is_dir() else None


def entries(place: str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, if it is still there. Raises OSError."""
    try:
        found = os.scandir(place)
    except (FileNotFoundError, NotADirectoryError):
        return
    with found:
        yield from found


def file(place: str, path: str, *, linked: bool) -> Entry | None:
    """A regular file; None for what is none, is gone, or has a path that is too long. Raises OSError."""
    try:
        found = os.stat(place, follow_symlinks=False)  # noqa: PTH116 - a Path for each file would double the time
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not modes.S_ISREG(found.st_mode) or len(path) > paths.MAX_PATH_LENGTH:
        return None
    return Entry(path, found.st_size, found.st_mtime, linked=linked)


def linked_folder(each: os.DirEntry[str], path: str, linked: tuple[_Identity, ...]) -> Folder | None:
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
    return Folder(each.path, path, (*linked, identity))


def _leaf(folder: Folder) -> Entry | None:
    try:
        modified = Path(folder.place).lstat().st_mtime
    except FileNotFoundError:
        return None
    return Entry(folder.path, 0, modified, is_folder=True, linked=bool(folder.linked))


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino
