"""A blob's bytes, straight from the upstream's connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NoReturn

from mirror.oci.descriptor import Descriptor
from mirror.registry import Unavailable
from mirror.upstream.calls import Calls
from mirror.upstream.causes import address, cause_of, late
from mirror.upstream.failures import TransportError, Trouble
from mirror.upstream.fetch import Answer
from mirror.upstream.inlet import WORTH, Inlet, Tap, take_over


class RemoteBlob:
    """A Blob that is read once, forwards. The digest is not checked here: whoever keeps the bytes does."""

    def __init__(self, descriptor: Descriptor, start: int, stop: int, calls: Calls, answer: Answer) -> None:
        """[start, stop) comes."""
        self._descriptor = descriptor
        self._start = self._position = start
        self._stop = stop
        self._calls = calls
        self._answer = answer
        self._tap: Tap | None = None  # once the connection was taken over

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
        while self._position < stop:
            part = await self._part((stop if self._position >= start else start) - self._position)
            if self._position > start:
                yield part

    async def draw(self, stop: int, worth: int) -> AsyncGenerator[bytes | Inlet, None]:
        """See `registry.Drawn`; raises what `read` does."""
        response = self._answer.response
        assert response is not None
        while self._position < stop:
            if self._tap is not None:
                inlet = self._tap.inlet(stop - self._position)
                try:
                    yield inlet
                finally:
                    self._took(inlet, self._tap)
                if self._position < stop:
                    await self._look(inlet, self._tap)
                continue
            if self._stop - self._position - response.content._size >= min(worth, WORTH):
                gathered, self._tap = take_over(response, min(worth, WORTH))
                for part in gathered:
                    wanted = self._calls.transport.traffic.came(part)[: stop - self._position]
                    self._came(len(wanted))
                    yield wanted
                if gathered or self._tap is not None:
                    continue
            yield await self._part(stop - self._position)

    async def _part(self, limit: int) -> bytes:
        """What comes next, `limit` bytes at most."""
        response = self._answer.response
        assert response is not None
        try:
            part = await self._calls.transport.part(response, limit)
        except TransportError as error:
            self._calls.broken(error, self._answer)
        if not part:
            self._ended_early()
        self._came(len(part))
        return part

    def _took(self, inlet: Inlet, tap: Tap) -> None:
        self._calls.transport.traffic.bytes += inlet.taken
        self._came(inlet.taken)
        if self._position == self._stop:
            self._tap = None
            tap.finish()

    async def _look(self, inlet: Inlet, tap: Tap) -> None:
        """After something was taken of what came, or nothing was there."""
        response = self._answer.response
        assert response is not None
        host = address(response.url)
        if inlet.failure is not None:
            text = cause_of(inlet.failure).text
            self._calls.broken(TransportError(Trouble.BROKEN, cause=text, host=host), self._answer)
        if inlet.has_ended:
            self._ended_early()
        if inlet.is_dry:
            stall = self._calls.transport.stall
            try:
                await tap.readable(stall)
            except TimeoutError:
                error = TransportError(Trouble.STALLED, cause=late(Trouble.STALLED, stall), host=host)
                self._calls.broken(error, self._answer)

    def _ended_early(self) -> NoReturn:
        self._answer.visit.failed()
        whole = f"{self._position} of {self._descriptor.size} bytes"
        raise Unavailable(f"{self._calls.name} ended a blob after {whole}", status=502)

    def _came(self, count: int) -> None:
        self._position += count
        self._calls.transport.traffic.pulled.add("blob", count=count)
        if self._position == self._stop:
            self._answer.visit.succeeded()

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it: nothing is drained."""
        tap, self._tap = self._tap, None
        if tap is not None:
            tap.close()
        self._answer.close()
