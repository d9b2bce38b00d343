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
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from mirror.oci.digest import Digest, Hasher

REHASH_PIECE = 8 << 20  # bytes hashed per call, so that a stop need not wait for a whole blob
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
        # Hashed: a host's name can be as long as a file's may be.
        self._mark = "." + hashlib.sha256(party.encode()).hexdigest()[:32] if party else ""

    def apart(self, party: str) -> Spool:
        """The spool files of this party, in the same folder."""
        return Spool(self.folder, party)

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

    def sweep(self, older_than: float, now: float) -> list[str]:
        """Remove private and empty files, and any untouched for `older_than` seconds; returns the names.

        Files that a fill has open are locked and stay.
        """
        removed: list[str] = []
        try:
            found = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return removed
        for path in found:
            if path.suffix not in (SUFFIX, PRIVATE):
                continue
            with contextlib.suppress(OSError), path.open("r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(file.fileno())
                if path.suffix == PRIVATE or not status.st_size or now - status.st_mtime > older_than:
                    path.unlink()
                    removed.append(path.name)
        return removed


def _locked(path: Path) -> BinaryIO | None:
    """Open (or make) and lock the file at `path`; None when somebody else holds it."""
    while True:
        # The store takes the file with its permission bits: what the umask leaves, as in registry:2.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
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
