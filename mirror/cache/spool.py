"""Unfinished fills on the local disk: one growing file per blob, readable while it grows.

A file grows at its end, or at several places at once: then a map beside it says what is there (`spoolmap`).

A spool file is named after its digest, so that the first reader after a crash finds what is there. An
exclusive lock (flock) guards it: a second process on the same folder, or a second fill of the same digest
after the first went on without keeping, gets a private file instead, which is never resumed.

Everything here blocks; `fill` calls it in threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mirror.cache import spoolmap
from mirror.cache.extents import Extents
from mirror.cache.spoolmap import SpoolMap
from mirror.oci.digest import Digest, DigestError, Hasher
from mirror.sometimes import Sometimes

REHASH_PIECE = 8 << 20  # bytes hashed per call, so that a stop need not wait for a whole blob
READ_PIECE = 256 << 10  # bytes read at once for that: what a processor's own cache holds
TELL = 10.0  # seconds between two lines about the same trouble
SUFFIX = ".part"
PRIVATE = ".private"


class SpoolFile:
    """One spool file, open and locked; positions are explicit, so readers may share `file`.

    Several threads may write to it at once, each at places of its own.
    """

    def __init__(self, path: Path, file: BinaryIO, there: Extents, *, resumable: bool = True) -> None:
        self.path = path
        self.file = file
        self.there = there  # the bytes at hand when it was opened
        self._resumable = resumable
        self._end = there.end(0)  # while there is no map: all before it is there
        self._map: SpoolMap | None = None
        self._lock = threading.Lock()  # of the map
        if there.last > self._end:
            self._map = SpoolMap(path)

    def write(self, offset: int, chunks: Sequence[bytes | memoryview]) -> None:
        """Write all chunks from `offset` on. On OSError what stands behind it is undefined."""
        with self._lock:
            if self._resumable and self._map is None and offset > self._end:
                self._map = SpoolMap(self.path)
                self._map.begin(os.fstat(self.file.fileno()).st_ino, self._end)
        begin, descriptor = offset, self.file.fileno()
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset += written
                view = view[written:]
        with self._lock:
            if self._map is not None:
                self._map.wrote(begin, offset)
            elif begin <= self._end:
                self._end = max(self._end, offset)

    def rehash(self, hasher: Hasher, offset: int, stop: int) -> int:
        """Feed one piece of [offset, stop) to the hasher; returns the offset after it. Raises OSError."""
        descriptor, buffer = self.file.fileno(), memoryview(bytearray(READ_PIECE))
        stop = min(stop, offset + REHASH_PIECE)
        while offset < stop:
            count = os.preadv(descriptor, [buffer[: stop - offset]], offset)
            if not count:
                raise OSError(f"the file ends at {offset}")
            hasher.update(buffer[:count])
            offset += count
        return offset

    def truncate(self) -> None:
        """Forget the bytes at hand."""
        os.ftruncate(self.file.fileno(), 0)
        self.there, self._end = Extents(), 0
        self._drop_map()

    def completed(self) -> None:
        """All of it is there: its name alone says so from now on. Raises OSError."""
        self._drop_map()

    def unlink(self) -> None:
        """Remove the name; readers that hold the file read on."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._drop_map()  # NB: not before, or what is left would be taken for whole

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        self.file.close()

    def _drop_map(self) -> None:
        with self._lock:
            if self._map is not None:
                self._map.remove()
                self._map = None


class Spool:
    """The folder of spool files. `party`: whose these are, where they are not for all."""

    def __init__(self, folder: Path, party: str = "") -> None:
        self.folder = folder
        self.troubles = Sometimes(TELL)  # of fills that cannot write here: a full disk stops each of them
        # Hashed: a host's name can be as long as a file's may be.
        self._mark = "." + hashlib.sha256(party.encode()).hexdigest()[:32] if party else ""

    def apart(self, party: str) -> Spool:
        """The spool files of this party, in the same folder."""
        found = Spool(self.folder, party)
        found.troubles = self.troubles
        return found

    def open(self, digest: Digest) -> SpoolFile:
        """This digest's spool file with what an earlier fill left in it. Raises OSError (full, read-only)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{digest.algorithm}-{digest.hex}{self._mark}{SUFFIX}"
        file = _locked(path)
        if file is None:
            path = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PRIVATE}")
            file = path.open("x+b", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # so that `sweep` leaves it alone
            return SpoolFile(path, file, Extents(), resumable=False)
        try:
            return SpoolFile(path, file, _there(path, file))
        except BaseException:
            file.close()
            raise

    def free(self) -> int:
        """Bytes that may still be written here."""
        return shutil.disk_usage(self.folder).free

    def sizes(self) -> dict[Digest, int]:
        """Bytes that the files here take of the disk, whoever has them open. Raises OSError."""
        found: dict[Digest, int] = {}
        for path, status in self._files():
            digest = _digest(path)
            if digest is not None:
                found[digest] = found.get(digest, 0) + _bytes(status)
        return found

    def shed(self, wanted: int) -> tuple[int, int]:
        """Remove files that no fill has open, the longest untouched first, until `wanted` bytes are free.

        Returns how many files went, and how many bytes. Raises OSError.
        """
        count = freed = 0
        for path, status in sorted(self._files(), key=lambda found: found[1].st_mtime):
            if freed >= wanted:
                break
            if _remove(path, lambda _status: True):
                count, freed = count + 1, freed + _bytes(status)
        return count, freed

    def sweep(self, older_than: float, now: float) -> list[str]:
        """Remove private and empty files, and any untouched for `older_than` seconds; returns the names.

        Files that a fill has open are locked and stay. Raises OSError.
        """

        def is_due(path: Path, status: os.stat_result) -> bool:
            return path.suffix == PRIVATE or not status.st_size or now - status.st_mtime > older_than

        paths = sorted(path for path, _ in self._files())
        removed = [path.name for path in paths if _remove(path, partial(is_due, path))]
        for left in sorted(self.folder.glob(f"*{spoolmap.SUFFIX}")):  # of a file that went in a crash
            if not left.with_suffix("").exists():
                left.unlink(missing_ok=True)
                removed.append(left.name)
        return removed

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """All spool files, of every party. Raises OSError."""
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.endswith((SUFFIX, PRIVATE)):
                        with contextlib.suppress(FileNotFoundError):  # kept, or removed, meanwhile
                            found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
        except FileNotFoundError:
            return []
        return found


def _there(path: Path, file: BinaryIO) -> Extents:
    """What stands in this file. Where its map says nothing, nothing does. Raises OSError."""
    status = os.fstat(file.fileno())
    there = spoolmap.read(path, status.st_ino, status.st_size)
    if there is None:
        there = Extents()
        there.add(0, status.st_size)
    elif there.last <= there.end(0):  # no hole is left, but perhaps bytes behind, of which nothing is said
        file.truncate(there.last)
        spoolmap.beside(path).unlink(missing_ok=True)  # NB: not before, or they would be taken for right
    return there


def _digest(path: Path) -> Digest | None:
    """Whose file it is, by its name."""
    try:
        return Digest.parse(path.name.partition(".")[0].replace("-", ":", 1))
    except DigestError:
        return None


def _bytes(status: os.stat_result) -> int:
    """What a file takes of the disk: of one with holes what was written (st_blocks counts 512, stat(2))."""
    return min(status.st_size, status.st_blocks * 512)


def _remove(path: Path, is_due: Callable[[os.stat_result], bool]) -> bool:
    """Whether the file went: it is due, and no fill has it open."""
    with contextlib.suppress(OSError):
        file = _locked(path, 0)
        if file is not None:
            with file:
                if is_due(os.fstat(file.fileno())):
                    path.unlink()
                    spoolmap.beside(path).unlink(missing_ok=True)
                    return True
    return False


def _locked(path: Path, make: int = os.O_CREAT) -> BinaryIO | None:
    """Open (or make) and lock the file at `path`; None when somebody else holds it. Raises OSError."""
    while True:
        # The store takes the file with its permission bits: what the umask leaves, as in registry:2.
        file = os.fdopen(os.open(path, os.O_RDWR | make | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # NB: between open and lock its owner may have renamed it into the store: then our lock is on the
        # stored blob, and writing to it would spoil what is kept. Only a file that still has the name counts.
        try:
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except FileNotFoundError:
            pass
        file.close()
