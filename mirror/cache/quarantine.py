"""Where damaged content lies for a while, so that somebody may find out what became of it.

It is no longer part of what is kept: no answer is made from it, and `cache.maxsize` does not count it. So it
has limits of its own. All of it blocks: call it in threads. Raises OSError.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

AGE = 30 * 86400.0  # seconds; by then somebody has looked, or never will
FILES = 100  # a disk that spoils more has told its story
BYTES = 1 << 30  # what a folder that nobody thinks of may take from the disk
CLEANED_AT_ONCE = 1000  # files looked at in one turn; there are FILES, unless somebody puts others there


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What went."""

    files: int
    bytes: int


class Quarantine:
    """`folder`: need not be there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def accept(self, file: Path) -> bool:
        """Whether a file that was just moved here stays; else it is deleted, for there is too much."""
        found = self._files()
        if len(found) <= FILES and sum(info.st_size for _, info in found) <= BYTES:
            return True
        file.unlink(missing_ok=True)
        return False

    def clean(self, now: float) -> Cleaned:
        """Delete what has been here for longer than AGE. `now`: seconds since the epoch.

        NB: by the time of its last change (ctime), which a move is: when it was written is as long ago as it
        was kept.
        """
        old = [(path, info) for path, info in self._files() if info.st_ctime < now - AGE]
        for path, _ in old:
            path.unlink(missing_ok=True)
        return Cleaned(len(old), sum(info.st_size for _, info in old))

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
                    if len(found) == CLEANED_AT_ONCE:
                        break
        except FileNotFoundError:  # no folder; or somebody takes the files away now, which is their turn
            return []
        return found
