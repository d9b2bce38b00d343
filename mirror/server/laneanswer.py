"""An answer that may be repeated: its bytes, with holes for what the time changes."""

from __future__ import annotations

import math
from email.utils import formatdate

from aiohttp import web

from mirror.access.base import Allowed
from mirror.lease import Lease
from mirror.provenance import Provenance
from mirror.pulled import Pulled
from mirror.server import lanelog
from mirror.server.account import Counted
from mirror.server.cachestatus import cache_status
from mirror.server.exchange import Exchange

OVERHEAD = 4096  # bytes that an answer takes besides its body: headers, what is logged, the lease
STATUSES = (200, 304, 307)
_DATE, _STATUS = "date", "cache-status"  # the two headers that say something about the time


class Answer:
    """`data` is to be made anew (`show`) outside of [shown_from, shown_until), in the lease's time."""

    __slots__ = (
        "_allowed",
        "_body_size",
        "_texts",
        "counted",
        "data",
        "hits",
        "lease",
        "nanoseconds",
        "pulled",
        "shown_from",
        "shown_until",
        "told",
    )

    def __init__(
        self, lease: Lease, texts: list[str], body: bytes, told: lanelog.Told, allowed: Allowed
    ) -> None:
        self.lease = lease
        self._allowed = allowed.holds
        self.data = body  # head and body, in one piece; at first only the body
        self.told = told
        self.hits = 0  # that nobody was told of
        self.nanoseconds = 0  # that these took together
        self.counted: Counted | None = None  # what each of them counts as
        self.pulled: Pulled | None = None  # what is told of each, but for who and when; None: nobody is told
        self._body_size = len(body)
        self.shown_from = self.shown_until = 0.0
        self._texts = texts  # a name in the place of each hole: at the odd places

    @classmethod
    def of(
        cls, request: web.BaseRequest, response: web.StreamResponse, exchange: Exchange, lease: Lease
    ) -> Answer | None:
        """Of an answer that was sent. None where it said something that its repetition would not say."""
        told = exchange.provenance
        is_hit = told.hit and not told.detail and not told.warning
        if not is_hit or response.status not in STATUSES or exchange.error is not None:
            return None
        texts = [f"HTTP/1.1 {response.status} {response.reason}\r\n"]
        for name, value in response.headers.items():
            if name.lower() in (_DATE, _STATUS):
                texts[-1] += f"{name}: "
                texts += [name.lower(), "\r\n"]
            else:
                texts[-1] += f"{name}: {value}\r\n"
        texts[-1] += "\r\n"
        if sorted(texts[1::2]) != [_STATUS, _DATE]:  # one of each; an operator may have added others
            return None
        body = exchange.body if request.method == "GET" and response.status == 200 else b""
        return cls(lease, texts, body, lanelog.Told.of(request, response, exchange), exchange.allowed)

    def holds(self, now: float) -> bool:
        """Whether it may be repeated at this moment, to whoever sends these credentials."""
        return self.lease.holds(now) and (self._allowed is None or self._allowed())

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return self._body_size + OVERHEAD

    def show(self, now: float) -> None:
        """Make `data` as it is to be sent now."""
        fresh_until = self.lease.fresh_until
        left = None if fresh_until is None else fresh_until - now
        status = cache_status(Provenance(hit=True, ttl=left))
        holes = {_DATE: formatdate(int(now), usegmt=True), _STATUS: status}
        texts = [holes[text] if number % 2 else text for number, text in enumerate(self._texts)]
        body = self.data[len(self.data) - self._body_size :]
        self.data = "".join(texts).encode("utf-8") + body
        self.told.say(status)
        self.shown_from = math.floor(now)
        self.shown_until = self.shown_from + 1.0
        if fresh_until is not None and left is not None:
            # `ttl` is in whole seconds: the same number until this moment, and another right after it.
            last = fresh_until - math.floor(left)
            self.shown_from = max(self.shown_from, math.nextafter(last - 1.0, math.inf))
            self.shown_until = min(self.shown_until, math.nextafter(last, math.inf))
