"""What stands where in a spool file with holes: a small file beside it, to which a line is added at a time.

1. A spool file without a map has no holes: all of its length is there. The map is made before the first byte
   is written behind a hole, and removed when there is none left.
2. A line is added after its bytes were written. What a killed process had written stays with the system (the
   page cache), so what a line says is there; of what no line says yet, NOTE bytes at most are lost.
3. What a power cut leaves is not in the order in which it was written: a map of another boot of the machine,
   or of another file, says nothing, and nothing of its file is believed.

A line that was cut off says less than it would, or nothing: numbers lose their last digits.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mirror.cache.extents import Extents

SUFFIX = ".map"  # behind the name of the spool file
NOTE = 1 << 20  # bytes that are written between two lines: a line for each batch would be a million of them
DIGITS = 19  # of a number at most: no file is longer than 2**63 bytes
LIMIT = 64 << 20  # bytes of a map that are read; some 3 million lines
BOOT = Path("/proc/sys/kernel/random/boot_id")


class SpoolMap:
    """The map of the spool file at `path`, open for more. Everything here blocks, and raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = beside(path)
        self._fresh = Extents()  # written, and in no line yet
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o666)
        self._add(["\n"] if os.fstat(self._file).st_size else [])  # the last line may have been cut off

    def begin(self, inode: int, end: int) -> None:
        """The first lines: of that file, all before `end` is there."""
        os.ftruncate(self._file, 0)
        self._add([_title(inode), _line(0, end)])

    def wrote(self, start: int, stop: int) -> None:
        """These bytes stand in the file now."""
        self._fresh.add(start, stop)
        if self._fresh.total >= NOTE:
            self.note()

    def note(self) -> None:
        """Write down what is in no line yet."""
        fresh, self._fresh = self._fresh, Extents()
        if fresh:
            self._add([_line(start, stop) for start, stop in fresh])

    def close(self) -> None:
        """It stays."""
        if self._file >= 0:
            with contextlib.suppress(OSError):  # a full disk: what is not noted is fetched again
                self.note()
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        """The spool file has no holes any more, or is gone."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._path.unlink(missing_ok=True)

    def _add(self, lines: list[str]) -> None:
        data = "".join(lines).encode()
        if os.write(self._file, data) < len(data):
            raise OSError("the disk is full")


def beside(path: Path) -> Path:
    """Where the map of this spool file is."""
    return path.with_name(path.name + SUFFIX)


def read(path: Path, inode: int, size: int) -> Extents | None:
    """What stands in the spool file, which has `size` bytes; None without a map. Raises OSError."""
    try:
        with beside(path).open("rb") as file:
            lines = file.read(LIMIT).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return None
    found = Extents()
    if lines[0] + "\n" != _title(inode) or not _boot():
        return found
    for line in lines[1:]:
        words = line.split(" ")
        if len(words) == 2 and all(map(_is_number, words)):
            found.add(int(words[0]), min(int(words[1]), size))
    return found


def _is_number(word: str) -> bool:
    return len(word) <= DIGITS and word.isascii() and word.isdigit()


def _title(inode: int) -> str:
    return f"mirror spool map 1 {inode} {_boot()}\n"


def _line(start: int, stop: int) -> str:
    return f"{start} {stop}\n"


def _boot() -> str:
    """What tells one boot of the machine from another; "" where nothing does."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""
