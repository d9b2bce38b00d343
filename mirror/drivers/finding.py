"""Looking for the files of some patterns on a disk: no folder is listed of which one name is wanted.

Everything here blocks. Links to folders are followed as by a walk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mirror.drivers import base, paths
from mirror.drivers.base import WALK_BATCH, Entry
from mirror.drivers.files import naming
from mirror.drivers.patterns import Wanted, parse
from mirror.drivers.walking import Folder, entries, file, linked_folder, start


class Find:
    """One search below `root`/`path`, as drivers.base says. Called by one thread at a time."""

    def __init__(self, root: Path, path: str, patterns: Sequence[str]) -> None:
        """Raises ValueError for what is no pattern."""
        self._found: Iterator[Entry | None] | None = _find(root, path, parse(patterns))

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


def _find(root: Path, path: str, want: Wanted) -> Iterator[Entry | None]:
    """What there is; and None now and then, so that whoever takes it can look at the time."""
    with naming(path):
        first = start(root, path)
    stack = [(first, want)] if first is not None else []
    while stack:
        folder, want = stack.pop()
        yield None
        with naming(folder.path):
            if want.files is not None:
                yield from _files(folder.place, folder.path, want.files, linked=bool(folder.linked))
                continue
            for each in entries(folder.place):
                below = want.below(each.name)
                if not below or not paths.is_name(each.name):
                    continue
                path = f"{folder.path}/{each.name}" if folder.path else each.name
                if each.is_dir(follow_symlinks=False):
                    # Most are folders of one file: an object for each would take longer than to look at it.
                    if below.files is None:
                        stack.append((Folder(each.path, path, folder.linked), below))
                    else:
                        yield from _files(each.path, path, below.files, linked=bool(folder.linked))
                elif each.is_symlink():
                    behind = linked_folder(each, path, folder.linked)
                    if behind is not None:
                        stack.append((behind, below))
                elif below.ends:
                    yield file(each.path, path, linked=bool(folder.linked))


def _files(place: str, path: str, names: Sequence[str], *, linked: bool) -> Iterator[Entry | None]:
    for name in names:
        yield file(f"{place}/{name}", f"{path}/{name}" if path else name, linked=linked)
