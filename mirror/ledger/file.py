"""The ledger's files: SQLite databases that may be lost, and never keep the mirror from starting.

1. All of it blocks, and belongs to one thread.
2. What cannot be read (damaged, written by another version) is set aside under another name, and a new file
   begun. Whoever uses the file holds a shared lock on a file beside it; setting aside takes the exclusive
   one. So no process is left with a database whose name is another's: it would delete that one's journal.
3. Whatever else fails (no folder, no room, read-only, locked) raises NotKept, and may be tried again.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

import structlog

from mirror.ledger import schema
from mirror.ledger.records import TagRecord
from mirror.ledger.schema import TAGS, Key
from mirror.ledger.tables import Tables, UnusableError, code_of, prepare

BUSY_SECONDS = 1.0  # how long to wait for another process's write; ours take up to 60 ms
ROWS_BETWEEN = 10_000  # rows written between two counts, which take 20 ms, and 200 with what goes then
PROBE_BYTES = 64 << 10  # what a journal takes at first: its index has 32 KiB
SET_ASIDE_LIMIT = 3  # files; to see what happened, the last ones do

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNEXPLAINED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

_Identity = tuple[int, int] | None  # device and inode of a file; None: there is none
_T = TypeVar("_T")

log = structlog.get_logger()


class NotKept(Exception):
    """The file cannot be used now; `str()` says why. `busy`: only because another process writes."""

    def __init__(self, reason: str, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.busy = busy


class DatabaseFile:
    """See the module's text. All methods but `close` raise NotKept."""

    def __init__(self, path: Path, tables: Tables) -> None:
        self._path = path
        self._tables = tables
        self._connection: sqlite3.Connection | None = None
        self._identity: _Identity = None  # of what `_connection` has open
        self._lock_file: BinaryIO | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can be read without being opened first. For any thread."""
        return self._connection is not None

    def open(self) -> None:
        """Open the file, if it is not open; make it, if there is none that can be used."""
        if self._connection is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock(fcntl.LOCK_SH)
            identity = self._look()
            try:
                self._connect()
            except UnusableError as error:
                self._replace(identity, str(error))
        except (OSError, sqlite3.Error, UnusableError) as error:
            self.close()
            raise NotKept(_reason(error, self._path.parent), busy=_is_busy(error)) from error

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._disconnect()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def discard(self) -> None:
        """Delete the file. Raises NotKept also where another process uses it."""
        self._disconnect()
        try:
            self._lock(fcntl.LOCK_EX)
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        except OSError as error:
            raise NotKept(_reason(error, self._path.parent)) from error
        finally:
            self.close()

    def renew(self) -> bool:
        """Close what somebody has deleted or replaced, which is told; whether it was.

        What is written there would be lost.
        """
        if self._connection is None or self._look() == self._identity:
            return False
        self.close()
        log.warning("ledger.replaced", file=str(self._path), reason="it was deleted, or another put there")
        return True

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do it; once more in a new file, when this one turns out to be damaged."""
        self.open()
        assert self._connection is not None
        try:
            try:
                return work(self._connection)
            except sqlite3.DatabaseError as error:
                if code_of(error) not in _DAMAGED:
                    raise
                identity = self._identity
                self._disconnect()
                self._replace(identity, str(error))
            return work(self._connection)
        except (OSError, sqlite3.Error, UnusableError) as error:
            if not _is_busy(error):
                self.close()
            raise NotKept(_reason(error, self._path.parent), busy=_is_busy(error)) from error

    def _connect(self) -> None:
        """Raises sqlite3.Error, UnusableError."""
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            prepare(connection, self._tables)
        except sqlite3.Error as error:
            connection.close()
            if code_of(error) in _DAMAGED:
                raise UnusableError(str(error)) from error
            raise
        except UnusableError:
            connection.close()
            raise
        self._connection, self._identity = connection, self._look()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # a full disk; the journal stays, and is read at the next opening
                self._connection.close()
            self._connection = None

    def _replace(self, identity: _Identity, reason: str) -> None:
        """Set this file aside, unless another process has done so, and open what is there then.

        Raises OSError, also where another process has the file open; sqlite3.Error, UnusableError.
        """
        self._lock(fcntl.LOCK_EX)
        if identity is not None and self._look() == identity:
            self._set_aside(reason)
        self._connect()
        self._lock(fcntl.LOCK_SH)

    def _set_aside(self, reason: str) -> None:
        name = f"{self._path.name}.broken-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        aside = self._path.with_name(name)
        self._path.rename(aside)  # a journal that is still there belongs to nothing then: SQLite drops it
        log.warning("ledger.set_aside", file=str(aside), reason=reason)
        names = sorted(found.name for found in self._path.parent.iterdir())  # in the order of their times
        ours = [
            name for name in names if name.startswith(f"{self._path.name}.broken-") and name.endswith("Z")
        ]
        for old in map(self._path.with_name, ours[:-SET_ASIDE_LIMIT]):
            old.unlink(missing_ok=True)

    def _lock(self, how: int) -> None:
        """Raises BlockingIOError where another process does not let go; then no lock is left."""
        if self._lock_file is None:
            self._lock_file = self._path.with_name(self._path.name + ".lock").open("ab")
        try:
            fcntl.flock(self._lock_file, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another process uses the ledger") from error

    def _look(self) -> _Identity:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


class LedgerFile(DatabaseFile):
    """The upstreams' last words about tags. All methods but `close` raise NotKept."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, TAGS)
        self._uncounted = ROWS_BETWEEN  # rows written since they were counted

    def read(self, key: Key) -> TagRecord | None:
        """What is written about a tag."""
        return self.run(lambda connection: schema.read(connection, key))

    def write(self, changes: Mapping[Key, TagRecord | None]) -> None:
        """Write all of them, or none; None deletes. Without any, only open the file."""
        self.renew()
        if not changes:
            self.open()
            return
        self.run(lambda connection: schema.write(connection, changes))
        self._uncounted += len(changes)
        if self._uncounted >= ROWS_BETWEEN:
            self.run(schema.prune)
            self._uncounted = 0


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and code_of(error) in _BUSY


def _reason(error: Exception, folder: Path) -> str:
    """Why; of what SQLite has no better word for than an error of the disk, what the disk says itself."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, sqlite3.Error) and code_of(error) in _UNEXPLAINED:
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(PROBE_BYTES))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as cause:
            return f"{cause.strerror or cause} ({error})"
        return f"{error} ({error.sqlite_errorname})"
    return str(error)
