"""The lines of both logs about repeated answers: what `requestlog` would write, rendered in advance.

A repetition costs a place in a list. A moment later all that wait become lines at once, and leave in one
write for each log. A process that is killed outright loses what waits, no more: LATER and MOST.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, Final

import structlog
from aiohttp import web

from mirror import log as logs
from mirror.logprepared import TIME, Clock, Prepared
from mirror.logwriter import encoded
from mirror.server.exchange import Exchange, new_id
from mirror.server.requestlog import (
    COMPLETED,
    access_tail,
    access_time,
    duration,
    event_fields,
    output,
    peer_address,
    written_bytes,
)

LATER = 0.005  # seconds that a line waits for others
MOST = 256  # lines that wait: some 200 KB

ID, REMOTE, DURATION, STATUS = (
    "http.request.id",
    "http.request.remoteaddr",
    "http.response.duration",
    "cache.status",
)
# The holes of a line, in the order of their names, as every form has them; the time is before or after them.
HOLES: Final = (ID, REMOTE, DURATION)
MILLISECOND = 1_000_000  # ns

log = structlog.get_logger()


class Peer:
    """Who is connected, as both logs say it."""

    __slots__ = ("access", "address", "form", "quoted")

    def __init__(self, transport: asyncio.Transport) -> None:
        peername = transport.get_extra_info("peername")
        host = str(peername[0]) if isinstance(peername, list | tuple) else str(peername or "")
        self.address = peer_address(transport) or host
        self.access = f"{host or '-'} - - [".encode()
        self.form: logs.Form | None = None
        self.quoted = b""  # the address, in this form


class Line:
    """What is the same in the lines about one answer, as long as its `cache.status` and the form are."""

    __slots__ = ("access", "fields", "remote", "texts", "time_first")

    def __init__(self, fields: dict[str, Any], access: bytes) -> None:
        self.fields = fields
        self.access = access
        self.texts: tuple[bytes, ...] = ()  # around the holes; none: structlog makes the line
        self.time_first = True
        self.remote: bytes | None = None  # the address where a header says it; None: the connection's


class Told:
    """What is logged of one answer, each time that it is repeated."""

    __slots__ = ("_access", "_fields", "_form", "_line", "_prepared", "_status")

    def __init__(self, fields: dict[str, Any], access: str) -> None:
        self._fields = fields  # without what differs; with the address where a header says it
        self._access = access.encode()  # from the time on
        self._status = ""
        self._form: logs.Form | None = None
        self._prepared: Prepared | None = None  # in this form
        self._line: Line | None = None  # with this status

    @classmethod
    def of(cls, request: web.BaseRequest, response: web.StreamResponse, exchange: Exchange) -> Told:
        """As `requestlog` has logged it."""
        written = written_bytes(request, response, exchange)
        fields = event_fields(request, response, exchange, written, 0.0)
        for name in (ID, DURATION, STATUS):
            fields.pop(name, None)
        if not exchange.client:
            del fields[REMOTE]
        return cls(fields, access_tail(request, response.status, written))

    def say(self, status: str) -> None:
        """From now on this is what `Cache-Status` says."""
        self._status, self._line = status, None

    def line(self, form: logs.Form | None) -> Line:
        """In this form; None: structlog makes it."""
        if self._line is not None and self._form is form:
            return self._line
        if self._form is not form:
            self._form = form
            self._prepared = (
                None if form is None else Prepared.of(form, "info", COMPLETED, self._fields, (*HOLES, STATUS))
            )
        line = self._line = Line({**self._fields, STATUS: self._status}, self._access)
        if form is not None and self._prepared is not None:
            made = self._prepared.filled(STATUS, encoded(form.quote(self._status)))
            if made.names in ((TIME, *HOLES), (*HOLES, TIME)):
                line.texts, line.time_first = made.texts, made.names[0] == TIME
            if REMOTE in self._fields:
                line.remote = encoded(form.quote(self._fields[REMOTE]))
        return line


_ENDS = [b"%03x" % number for number in range(0x1000)]


class Ids:
    """Request ids that no other has: random UUIDs (version 4) but for the last three digits, which count."""

    def __init__(self) -> None:
        self._start = b""
        self._next = len(_ENDS)

    def take(self) -> bytes:
        """One that was not given before."""
        if self._next == len(_ENDS):
            self._start, self._next = new_id()[:-3].encode(), 0
        self._next += 1
        return self._start + _ENDS[self._next - 1]


class LaneLog:
    """Both logs; `access_log`: whether there is the second."""

    def __init__(self, access_log: bool) -> None:
        self._has_access = access_log
        self._ids, self._clock = Ids(), Clock()
        self._second, self._stamp = -1, b""
        self._form: logs.Form | None = None
        self._micro = (b"", b"")  # what stands around a number of microseconds
        self._events_wanted = True
        self._waiting: list[tuple[Line, Peer, float, int, bytes]] = []
        self._stream = sys.stdout
        self._lines = output()

    def add(self, told: Told, peer: Peer, now: float, nanoseconds: int, request_id: str = "") -> None:
        """An answer was repeated; it took so long. `request_id`: where it was told already."""
        waiting = self._waiting
        if not waiting:
            self._begin()
        waiting.append((told.line(self._form), peer, now, nanoseconds, request_id.encode()))
        if len(waiting) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Write the lines."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        if self._has_access:
            if sys.stdout is not self._stream:
                self._stream = sys.stdout
                self._lines = output()
            self._lines.write_several([self._access(*each) for each in waiting])
        if self._events_wanted:
            self._write_events(waiting)

    def _begin(self) -> None:
        """The first that waits: all of them leave together, in the form that is set now."""
        asyncio.get_running_loop().call_later(LATER, self.flush)
        form = logs.form()
        if form is not self._form:
            self._form = form
            before, _, after = form.quote("1µs").partition("1") if form is not None else ("", "", "")
            self._micro = (encoded(before), encoded(after))
        self._events_wanted = form is None or form.threshold <= logging.INFO

    def _access(self, line: Line, peer: Peer, now: float, _nanoseconds: int, _id: bytes) -> bytes:
        if (second := int(now)) != self._second:
            self._second, self._stamp = second, access_time(now).encode()
        return b"".join((peer.access, self._stamp, line.access))

    def _write_events(self, waiting: list[tuple[Line, Peer, float, int, bytes]]) -> None:
        form = self._form
        if form is None:
            for line, peer, _now, nanoseconds, request_id in waiting:
                self._log(line, peer, nanoseconds, request_id)
            return
        before, after = self._micro
        take, clock = self._ids.take, self._clock.text
        made: list[bytes] = []
        for line, peer, now, nanoseconds, request_id in waiting:
            if not line.texts:
                self._log(line, peer, nanoseconds, request_id)
                continue
            if peer.form is not form:
                peer.form, peer.quoted = form, encoded(form.quote(peer.address))
            remote = peer.quoted if line.remote is None else line.remote
            if nanoseconds < MILLISECOND:
                took = b"%s%g%s" % (before, nanoseconds / 1000, after)  # as `duration` has it
            else:
                took = encoded(form.quote(duration(nanoseconds / 1e9)))
            made_id = request_id or take()
            one, two, three, four, five = line.texts
            if line.time_first:
                made.append(b"".join((one, clock(now), two, made_id, three, remote, four, took, five)))
            else:
                made.append(b"".join((one, made_id, two, remote, three, took, four, clock(now), five)))
        form.lines.write_several(made)

    def _log(self, line: Line, peer: Peer, nanoseconds: int, request_id: bytes) -> None:
        """By way of structlog, or not at all below the level."""
        fields = {
            REMOTE: peer.address,
            **line.fields,
            ID: request_id.decode() or new_id(),
            DURATION: duration(nanoseconds / 1e9),
        }
        log.info(COMPLETED, **fields)
