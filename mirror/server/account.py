"""What was answered, in numbers: one place for answers of both ways, the handlers' and the fast lane's.

Labels are bounded: handlers, methods and statuses by what is known here, upstreams by the configuration (what
is not configured by name is OTHER).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web

from mirror.oci import request as oci
from mirror.provenance import Provenance
from mirror.server.exchange import Exchange
from mirror.tally import Distributions, Tally

# distribution's, prometheus in docker/go-metrics and registry/handlers/app.go
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
SIZES = tuple(float(1024 << power) for power in range(22))

HANDLERS: dict[type, str] = {
    oci.Base: "base",
    oci.Catalog: "catalog",
    oci.Tags: "tags",
    oci.ManifestEndpoint: "manifest",
    oci.BlobEndpoint: "blob",
    oci.Uploads: "blob_upload",
    oci.Upload: "blob_upload_chunk",
    oci.Referrers: "referrers",  # ours from here on
    oci.Options: "options",
}
OTHER = "other"
NAMESPACES = 1024  # of which it is remembered what they count as
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
TYPES = ("blob", "manifest")


@dataclass(frozen=True, slots=True)
class Counted:
    """One answer, or many that are the same. Sizes in bytes, of one."""

    handler: str
    method: str
    status: int
    received: int  # of the request, about
    sent: int  # of the body
    upstream: str = ""  # its namespace, as it is configured
    type: str = ""  # blob, manifest; "" for all else
    outcome: str = ""  # where the answer came from; see `outcome`


class Account:
    """`label` gives what an upstream's namespace counts as."""

    def __init__(self, label: Callable[[str], str] = lambda namespace: namespace) -> None:
        self._label = lru_cache(NAMESPACES)(label)
        self.requests = Tally()  # handler, code, method
        self.seconds = Distributions(SECONDS)  # handler, method
        self.received = Distributions(SIZES)  # handler
        self.sent = Distributions(SIZES)  # handler
        self.in_flight = Tally((name,) for name in HANDLERS.values())
        self.asked = Tally((type_,) for type_ in TYPES)
        self.hits = Tally((type_,) for type_ in TYPES)
        self.misses = Tally((type_,) for type_ in TYPES)
        self.pushed = Tally((type_,) for type_ in TYPES)  # bytes to clients
        self.outcomes = Tally()  # upstream, type, outcome
        self.given = Tally()  # upstream, type: bytes to clients
        self.saved = Tally()  # upstream, type: of these, bytes that crossed no upstream link for this answer
        self.repeated = 0  # answers of the fast lane, which are in all the others, too

    @contextmanager
    def handling(self, handler: str) -> Iterator[None]:
        """A request is being answered, until the end of the block."""
        self.in_flight.add(handler)
        try:
            yield
        finally:
            self.in_flight.add(handler, count=-1)

    def of(
        self, request: web.BaseRequest, response: web.StreamResponse, exchange: Exchange, sent: int
    ) -> Counted:
        """What an answer counts as."""
        handler = exchange.handler or OTHER
        method = request.method.lower() if request.method in METHODS else OTHER
        received = len(request.path_qs) + sum(
            len(name) + len(value) + 4 for name, value in request.raw_headers
        )
        received += len(request.method) + 12  # the spaces, `HTTP/1.1`, the end of the line and of the head
        if handler not in TYPES:
            return Counted(handler, method, response.status, received, sent)
        told = exchange.provenance
        upstream = self._label(told.namespace) if told.namespace else OTHER
        return Counted(handler, method, response.status, received, sent, upstream, handler, outcome(told))

    def add(self, counted: Counted, seconds: float, count: int = 1) -> None:
        """Such an answer was given, so often; in so many seconds, the mean of several."""
        handler, method, type_ = counted.handler, counted.method, counted.type
        self.requests.add(handler, str(counted.status), method, count=count)
        self.seconds.observe((handler, method), seconds, count)
        self.received.observe((handler,), counted.received, count)
        self.sent.observe((handler,), counted.sent, count)
        if not type_:
            return
        sent = counted.sent * count
        upstream, result = counted.upstream, counted.outcome
        self.asked.add(type_, count=count)
        if result in HITS:
            self.hits.add(type_, count=count)
        elif result in MISSES:
            self.misses.add(type_, count=count)
        self.pushed.add(type_, count=sent)
        self.outcomes.add(upstream, type_, result, count=count)
        self.given.add(upstream, type_, count=sent)
        if result in SAVING:
            self.saved.add(upstream, type_, count=sent)

    def repeat(self, counted: Counted, seconds: float, count: int) -> None:
        """The fast lane gave such an answer again, so often, in `seconds` all together."""
        self.repeated += count
        self.add(counted, seconds / count, count)


HIT, CHECKED, STALE, NEGATIVE = "hit", "checked", "stale", "negative"
JOINED, MISS, REFUSED = "joined", "miss", "refused"
HITS = frozenset({HIT, CHECKED, STALE, NEGATIVE})
MISSES = frozenset({MISS, JOINED})
SAVING = frozenset({HIT, CHECKED, STALE, JOINED})


def outcome(told: Provenance) -> str:
    """Where an answer about a blob or a manifest came from.

    hit: from what is kept; checked: the same, and the upstream was asked whether it is still so; stale: the
    same, though it could not be asked; negative: a refusal that is remembered; joined: another request's
    question or fill was shared; miss: the upstream was asked, or would have been but for a breaker or quota;
    refused: none of these, as for a registry that is not served.
    """
    if told.hit:
        if told.detail == "negative":
            return NEGATIVE
        return STALE if told.detail else HIT
    if told.fwd == "stale" and told.fwd_status == HTTPStatus.OK and not told.stored and not told.detail:
        return CHECKED
    if told.collapsed:
        return JOINED
    return MISS if told.fwd or told.detail else REFUSED
