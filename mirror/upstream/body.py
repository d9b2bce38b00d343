"""A blob's bytes, straight from the upstream's connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from mirror.oci.descriptor import Descriptor
from mirror.registry import Unavailable
from mirror.upstream.calls import Calls
from mirror.upstream.failures import TransportError
from mirror.upstream.fetch import Answer


class RemoteBlob:
    """A Blob that is read once, forwards. The digest is not checked here: whoever keeps the bytes does."""

    def __init__(self, descriptor: Descriptor, start: int, stop: int, calls: Calls, answer: Answer) -> None:
        """[start, stop) comes."""
        self._descriptor = descriptor
        self._start = self._position = start
        self._stop = stop
        self._calls = calls
        self._answer = answer

    @property
    def descriptor(self) -> Descriptor:
        return self._descriptor

    @property
    def start(self) -> int:
        return self._start

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) as they arrive, at most 1 MiB at once: all of them, or an exception.

        `start` may lie ahead, then what is between is read and dropped. Raises Unavailable when the upstream
        stops (504) or breaks off (502). Raises ValueError for bytes that have gone by, or that there are not.
        """
        if not self._position <= start <= stop <= self._stop:
            raise ValueError(f"[{start}, {stop}) cannot be read at {self._position}")
        response = self._answer.response
        assert response is not None
        while self._position < stop:
            limit = (stop if self._position >= start else start) - self._position
            try:
                part = await self._calls.transport.part(response, limit)
            except TransportError as error:
                self._calls.broken(error, self._answer)
            if not part:
                self._answer.visit.failed()
                whole = f"{self._position} of {self._descriptor.size} bytes"
                raise Unavailable(f"{self._calls.name} ended a blob after {whole}", status=502)
            self._position += len(part)
            self._calls.transport.traffic.pulled.add("blob", count=len(part))
            if self._position == self._stop:
                self._answer.visit.succeeded()
            if self._position > start:
                yield part

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it: nothing is drained."""
        self._answer.close()
