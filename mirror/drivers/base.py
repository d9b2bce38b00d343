"""What a driver can do: bytes at paths. The conformance suite is tests/drivers/conformance.py.

A path is relative, of components `[A-Za-z0-9._-]+` joined by "/", without "." and ".."; "" is the root.
Every method may raise DriverError, whose text names the path and the cause. Work that blocks runs in
threads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

WALK_BATCH = 250  # entries; whoever handles one on the event loop takes 2 ms or so
BATCH_TIME = 0.05  # seconds after which a driver gives its thread back, also without a full batch


class DriverError(Exception):
    """A storage operation failed; `path` and `cause` say where and why.

    `reason` is a remote storage's own code for it, such as NoSuchBucket, or the status where it gives none.
    """

    reason = ""

    def __init__(self, path: str, cause: str) -> None:
        self.path = path
        self.cause = cause
        super().__init__(f"{path or '/'}: {cause}")


class PathNotFoundError(DriverError):
    """Nothing is at this path."""

    def __init__(self, path: str, cause: str = "no such file or folder") -> None:
        super().__init__(path, cause)


class NoSpaceError(DriverError):
    """The disk or the quota is full."""


class DeniedError(DriverError):
    """A remote storage does not let us: no credentials or wrong ones, a right that is missing, no bucket."""


class ThrottledError(DriverError):
    """A remote storage wants fewer requests, also after it was asked more slowly."""


class UnreachableError(DriverError):
    """A remote storage does not answer, or not in time, or answers that it is broken (5xx)."""


@dataclass(frozen=True, slots=True)
class Info:
    """What is at a path; `size` in bytes is 0 for a folder.

    `modified` is when it was last written, in seconds since the epoch; 0.0 for a folder where the driver has
    none of its own.
    """

    size: int
    is_folder: bool
    modified: float


@dataclass(frozen=True, slots=True)
class Entry:
    """What `walk` finds: a file, or a folder that it did not enter, or has nothing to enter.

    `linked` says that the way to it leads through a symbolic link to a folder: it is read like any other, but
    may belong to somebody else too.
    """

    path: str
    size: int  # bytes; 0 for a folder
    modified: float  # seconds since the epoch
    is_folder: bool = False
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where whoever has this URL can fetch a file by itself.

    `size` is the file's, in bytes. `until`, in seconds since the epoch: nobody is to be given the URL after
    that; it works for some time longer.
    """

    url: str
    size: int
    until: float


class OpenFile(Protocol):
    """A file opened for reading, of one moment: a later write or delete at its path does not change it."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def local(self) -> BinaryIO | None:
        """An open regular file on this machine, for sendfile; None where the bytes are elsewhere."""

    def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop), in chunks of at most 1 MiB."""

    async def close(self) -> None:
        """Safe to call twice."""


class Incoming(Protocol):
    """A file that is taken while it grows. Plain functions, which wait for nothing."""

    def reached(self, count: int) -> None:
        """Its first `count` bytes are in it, and stay as they are."""

    def end(self) -> None:
        """It is not wanted, unless it was moved in. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class Advice:
    """For people: where a storage is, which is for the operator alone, and what would help, for everybody."""

    where: str
    what: str


@runtime_checkable
class Remote(Protocol):
    """What a driver of a storage elsewhere can do beside all else, or one on such a driver."""

    def trouble(self) -> str:
        """Why the storage is left alone now, for people; "" while it is asked."""

    def denials(self) -> int:
        """How often the storage has not let us, so far."""

    def advice(self, error: DriverError) -> Advice:
        """What would help after this failure to look at its root."""


@runtime_checkable
class Copying(Protocol):
    """What a driver can do beside all else that reads from copies, or one on such a driver."""

    async def open_copy(self, path: str) -> OpenFile | None:
        """The copy of a file, whatever became of the file itself; None: there is none."""

    async def open_below(self, path: str) -> OpenFile:
        """As `open`, but never a copy."""

    async def drop_copy(self, path: str) -> None:
        """There is no copy of it then."""


@runtime_checkable
class Near(Protocol):
    """What a driver can do beside all else whose files may be in memory here, or one on such a driver."""

    def stat_at_once(self, wanted: Sequence[str]) -> list[Info | None] | None:
        """What is at each path; None in the place of what is not there. None: that cannot be said of all of
        them without waiting.
        """


class StorageDriver(Protocol):
    """Bytes at paths."""

    name: str

    async def start(self) -> None:
        """Make what takes a moment to make, and would else be made when it is first needed.

        Raises DeniedError, UnreachableError where that may pass; any other DriverError where it cannot.
        """

    async def get(self, path: str, limit: int) -> bytes:
        """A small file whole. DriverError when it has more than `limit` bytes."""

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        """Small files whole, as by `get`: the first of these, as many as take some BATCH_TIME or have `total`
        bytes together, at least one (so there is one more of at most `limit` bytes).

        In the place of what cannot be had stands the error with which `get` fails.
        """

    async def put(self, path: str, data: bytes) -> None:
        """Write a small file: atomic (readers see the old or the new one) and durable on return."""

    def incoming(self, source: Path, path: str, size: int) -> Incoming | None:
        """Begin to take a local file that is to have `size` bytes, and to be moved in then.

        Nothing is at `path` before that. None: there is nothing to be gained. The caller sees to its end.
        """

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        """Make a complete local file the one at `path`: atomic, durable on return; `source` is gone then.

        On failure `source` is still there. `incoming` is what has been taken of it.
        """

    async def open(self, path: str, start: int = 0) -> OpenFile:
        """Open a file. `start` is where reading is about to begin: a remote storage sends from there on."""

    async def elsewhere(self, path: str) -> Elsewhere | None:
        """Where others can fetch the file by GET; None: only through us. PathNotFoundError, as `open`.

        That it is there is known from a moment ago, within a minute.
        """

    async def stat(self, path: str) -> Info: ...

    def walk(self, path: str, leaves: Collection[str] = ()) -> AsyncGenerator[list[Entry], None]:
        """All files in a folder's tree, and the folders with nothing in them (itself too), in any order.

        A folder with one of the names `leaves` is given instead of what is in it. Batches have at most
        WALK_BATCH entries; they may be empty: nothing was found for a while. Where there is no such folder,
        there is no entry. What is written or deleted meanwhile may be given or not. Any other failure is
        raised, so that a walk which ends has seen everything.
        """

    def find(self, path: str, patterns: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        """The files below a folder that fit any of these patterns: as `walk`, without looking at all others.

        A pattern is a path below the folder. In it `*` stands for any one name, and `**`, which may only come
        first, for any folders, or none, on the way to the first that has the name behind it; folders with a
        name that stands behind any of the `**` are on no way. Raises ValueError for what is no pattern.
        """

    async def list(self, path: str) -> list[str]:
        """The names in a folder, sorted; PathNotFoundError when there is no such folder."""

    async def delete(self, path: str) -> None:
        """Delete a file, or a folder with all that is in it. PathNotFoundError when there is none."""

    async def prune(self, path: str, keep: str) -> None:
        """Remove a folder if it is empty, then the one above it, and so on up to `keep`, which stays.

        `path` is below `keep`, and need not be there. A write into one of these folders at the same time
        succeeds: a folder with anything in it stays, and a write makes a folder again that went.
        """

    async def remove(
        self, doomed: Sequence[str], keep: str, *, durable: bool, listed: bool = False
    ) -> Sequence[bool]:
        """Delete these one after the other, each as by `delete` and then `prune`; whether each was there.

        With `listed` all are files that the caller knows of: they may go in any order, a remote storage does
        not look for them first, and what is told of each says nothing.
        With `durable` none of them is there again after a power cut, once this has returned; without it any
        may be, and they may have gone in any order.
        """

    async def sweep(self, before: float) -> int:
        """Remove what broken-off writes and deletions left, untouched since `before`; how many there were.

        `before` is in seconds since the epoch. A write that goes on and was not touched since then fails.
        """

    async def move_out(self, path: str, target: Path) -> None:
        """Make a file of ours the local file `target`, replacing what is there; gone from `path` then.

        Whatever stops it: the file is at one of the two places, or at both.
        """

    async def close(self) -> None:
        """Release what the driver holds. Nothing is called afterwards."""
