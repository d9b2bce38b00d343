"""The lines of both logs about repeated answers: what `requestlog` would write, rendered in advance.

The lines of one turn of the event loop leave in one write.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import structlog
from aiohttp import web

from mirror import log as logs
from mirror.logprepared import Clock, Prepared
from mirror.server.exchange import Exchange, new_id
from mirror.server.requestlog import (
    COMPLETED,
    access_tail,
    access_time,
    duration,
    event_fields,
    forwarded_address,
    output,
    peer_address,
    written_bytes,
)

ID, REMOTE, DURATION, STATUS = (
    "http.request.id",
    "http.request.remoteaddr",
    "http.response.duration",
    "cache.status",
)
MILLISECOND = 1e-3

log = structlog.get_logger()


class Peer:
    """Who is connected, as both logs say it."""

    __slots__ = ("address", "form", "host", "quoted")

    def __init__(self, transport: asyncio.Transport) -> None:
        peername = transport.get_extra_info("peername")
        self.host = str(peername[0]) if isinstance(peername, list | tuple) else str(peername or "")
        self.address = peer_address(transport) or self.host
        self.form: logs.Form | None = None
        self.quoted = ""  # in this form


class Told:
    """What is logged of one answer, each time that it is repeated."""

    __slots__ = ("access", "cache_status", "fields", "form", "prepared", "quoted")

    def __init__(self, fields: dict[str, Any], access: str) -> None:
        self.fields = fields  # without what differs; with the address where a header says it
        self.access = access  # from the time on
        self.cache_status = ""
        self.quoted: str | None = None  # the same, in the form; None: not yet
        self.form: logs.Form | None = None
        self.prepared: Prepared | None = None

    @classmethod
    def of(cls, request: web.BaseRequest, response: web.StreamResponse, exchange: Exchange) -> Told:
        """As `requestlog` has logged it."""
        written = written_bytes(request, response, exchange)
        fields = event_fields(request, response, exchange, written, 0.0)
        for name in (ID, DURATION, STATUS):
            fields.pop(name, None)
        if not forwarded_address(request):
            del fields[REMOTE]
        return cls(fields, access_tail(request, response.status, written))

    def prepare(self, form: logs.Form | None) -> None:
        """For lines of this form; None: structlog makes them."""
        self.form, self.quoted, self.prepared = form, None, None
        if form is not None:
            holes = (ID, DURATION, STATUS) if REMOTE in self.fields else (ID, DURATION, STATUS, REMOTE)
            self.prepared = Prepared.of(form, "info", COMPLETED, self.fields, holes)


class LaneLog:
    """Both logs; `access_log`: whether there is the second."""

    def __init__(self, access_log: bool) -> None:
        self._access = access_log
        self._clock = Clock()
        self._second, self._stamp = -1, ""
        self._form: logs.Form | None = None
        self._micro = ("", "")  # what stands around a number of microseconds
        self._events: list[str] = []
        self._accesses: list[str] = []
        self._stream = sys.stdout
        self._lines = output()
        self._waiting = False

    def add(self, told: Told, peer: Peer, now: float, seconds: float, request_id: str = "") -> None:
        """An answer was repeated; it took so long. `request_id`: where it was told already."""
        if not self._waiting:
            self._waiting = True
            self._begin()
        if self._access:
            if int(now) != self._second:
                self._second, self._stamp = int(now), access_time(now)
            self._accesses.append(f"{peer.host or '-'} - - [{self._stamp}{told.access}")
        form = self._form
        if form is not None and form.threshold > logging.INFO:
            return
        if told.form is not form or form is None:
            told.prepare(form)
        if told.prepared is None or form is None:
            self._log(told, peer, seconds, request_id)
            return
        if told.quoted is None:
            told.quoted = form.quote(told.cache_status)
        if peer.form is not form:
            peer.form, peer.quoted = form, form.quote(peer.address)
        before, after = self._micro
        if seconds < MILLISECOND:
            number = f"{seconds * 1e6:.3f}".rstrip("0").rstrip(".")  # as `duration` has it
            took = f"{before}{number}{after}"
        else:
            took = form.quote(duration(seconds))
        text = self._clock.text(now)
        self._events.append(told.prepared.line(text, request_id or new_id(), took, told.quoted, peer.quoted))

    def flush(self) -> None:
        """Write the lines."""
        self._waiting = False
        if self._events and self._form is not None:
            events, self._events = self._events, []
            self._form.lines.write_several(events)
        if self._accesses:
            accesses, self._accesses = self._accesses, []
            if sys.stdout is not self._stream:
                self._stream = sys.stdout
                self._lines = output()
            self._lines.write_several(accesses)

    def _begin(self) -> None:
        """The first line of a turn: they leave at its end, in the form that is set now."""
        asyncio.get_running_loop().call_soon(self.flush)
        form = logs.form()
        if form is not self._form:
            self._form = form
            before, _, after = form.quote("1µs").partition("1") if form is not None else ("", "", "")
            self._micro = (before, after)

    def _log(self, told: Told, peer: Peer, seconds: float, request_id: str) -> None:
        """By way of structlog, or not at all below the level."""
        fields = {
            REMOTE: peer.address,
            **told.fields,
            ID: request_id or new_id(),
            DURATION: duration(seconds),
        }
        fields[STATUS] = told.cache_status
        log.info(COMPLETED, **fields)
