"""One reader of a fill."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from mirror.oci.descriptor import Descriptor
from mirror.registry import FileSpan, Part

if TYPE_CHECKING:
    from mirror.cache.fill import Fill

MEDIA_TYPE = "application/octet-stream"  # whatever the upstream says of a blob's type


class FillBlob:
    """One reader of a fill: the Blob that a request gets while the fill is under way."""

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        self.position = 0  # bytes before it are not wanted any more
        self.stop = 0  # nor those from here on; 0 before it reads
        self.lost = False  # the bytes at its position are gone

    @property
    def descriptor(self) -> Descriptor:
        assert self._fill.size is not None, "await ready() first"
        return Descriptor(self._fill.digest, self._fill.size, MEDIA_TYPE)

    @property
    def start(self) -> int:
        return 0

    async def ready(self) -> None:
        """Wait until the size is known (an empty blob: until it is verified). Raises the fill's failure."""
        fill = self._fill
        while fill.size is None or (fill.size == 0 and not fill.verified):
            if fill.failure is not None:
                raise fill.failure
            await fill.changed()

    async def read(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        """See Blob.read: parts come as they arrive, the last one after the digest matched."""
        self.position, self.stop = start, stop
        while self.position < stop:
            part = self._fill.part(self.position, stop)
            if part is None:
                await self._fill.changed()
                continue
            yield part
            self.position += part.count if isinstance(part, FileSpan) else len(part)
            self._fill.moved_on()

    async def close(self) -> None:
        self._fill.leave(self)
