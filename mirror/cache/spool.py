"""Unfinished fills on the local disk: one growing file per blob, readable while it grows.

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
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mirror.oci.digest import Digest, DigestError, Hasher
from mirror.sometimes import Sometimes

REHASH_PIECE = 8 << 20  # bytes hashed per call, so that a stop need not wait for a whole blob
TELL = 10.0  # seconds between two lines about the same trouble
SUFFIX = ".part"
PRIVATE = ".private"


class SpoolFile:
    """One spool file, open and locked; positions are explicit, so readers may share `file`."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self.file = file
        self.size = size  # bytes at hand when it was opened

    def write(self, offset: int, chunks: Sequence[bytes]) -> None:
        """Write all chunks from `offset` on. On OSError what stands behind it is undefined."""
        descriptor = self.file.fileno()
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset += written
                view = view[written:]

    def rehash(self, hasher: Hasher, offset: int) -> int:
        """Feed one piece from `offset` to the hasher; returns the offset after it (the same at the end)."""
        data = os.pread(self.file.fileno(), min(REHASH_PIECE, self.size - offset), offset)
        hasher.update(data)
        return offset + len(data)

    def truncate(self) -> None:
        """Forget the bytes at hand."""
        os.ftruncate(self.file.fileno(), 0)
        self.size = 0

    def unlink(self) -> None:
        """Remove the name; readers that hold the file read on."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def close(self) -> None:
        self.file.close()


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
        return SpoolFile(path, file, os.fstat(file.fileno()).st_size)

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
        return [path.name for path in paths if _remove(path, partial(is_due, path))]

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
