"""What `objects` wants of an object store other than S3: few verbs, on paths. Each may raise DriverError.

Every verb has its own time-outs and attempts, and gives up within a bounded time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mirror.drivers.base import Advice, DriverError, Incoming
from mirror.drivers.flat import Page
from mirror.drivers.slice import Source


class BehindError(DriverError):
    """An object ends before the byte that was asked for."""


class ChangedError(DriverError):
    """What was read before is no longer there: another object is, or none."""


@dataclass(frozen=True, slots=True)
class Meta:
    """An object: bytes, what tells it from a later one at its path, seconds since the epoch (whole ones)."""

    size: int
    version: str
    modified: float


class Body(Protocol):
    """An object that is being read, from where it was asked for on."""

    meta: Meta

    async def read(self, limit: int) -> bytes:
        """At most so many bytes; none at its end. Raises UnreachableError when it breaks off."""

    def close(self) -> None:
        """Safe to call twice."""


class Upload(Incoming, Protocol):
    """An object on its way while its file grows."""

    async def is_completed(self, size: int) -> bool:
        """The file is complete, and has so many bytes: make the object; False: it has to be sent anew."""


class ObjectStore(Protocol):
    """Objects at paths, below one root."""

    name: str

    async def open(self) -> None:
        """Make what takes a moment to make."""

    async def head(self, path: str) -> Meta:
        """Raises PathNotFoundError."""

    async def get(self, path: str, start: int, version: str = "") -> Body:
        """From a byte on; BehindError, PathNotFoundError; ChangedError unless it is of that version."""

    async def put(self, path: str, data: bytes) -> None:
        """Whole, or not at all."""

    async def put_file(self, path: str, source: Source) -> None:
        """Whole, or not at all."""

    def begin(self, path: str, file: Path, size: int) -> Upload | None:
        """None: it is not worth while, or too many are under way."""

    def pages(self, prefix: str, after: str = "") -> AsyncGenerator[Page, None]:
        """As flat.List."""

    async def names(self, folder: str) -> set[str]:
        """What is in a folder."""

    async def delete(self, doomed: Sequence[str], *, listed: bool = False) -> list[bool]:
        """Delete these objects, none of them twice; whether each was there, unless all are just `listed`."""

    async def size_of(self, path: str) -> int:
        """As `head`."""

    async def presign(self, path: str, seconds: float) -> str:
        """A URL by which anybody can GET the object for so long; "": none can be made."""

    def trouble(self) -> str:
        """Why the store is left alone; "" while it is asked."""

    def denials(self) -> int:
        """As Remote.denials."""

    def advice(self, error: DriverError) -> Advice:
        """As Remote.advice."""

    def broke(self, error: DriverError) -> None:
        """A body broke off with this."""

    async def close(self) -> None:
        """Safe to call twice. Waits for what is being sent, or was told to end."""
