"""The fast lane: a request that repeats an earlier one byte for byte is answered from a table.

It stands in front of aiohttp, at the connection. What it must never do is answer otherwise than the handlers
would at that moment. So:

1. It takes whole heads only (one `data_received`, GET or HEAD, HTTP/1.1, no body), on a connection where
   everything before is answered. All else goes to aiohttp, unchanged.
2. It looks up the exact bytes. Whatever an answer depends on in the request is in them: path, host, `?ns=`,
   conditions, credentials; whether a proxy's headers are believed, and the scheme, is said by a mark behind
   them.
3. It repeats an answer that the handlers gave, and for which the registry has given leave (`lease`). The
   lease is looked at at each repetition, and is ended by what it depends on in the same call. So is what the
   access controller has said of the credentials (`Allowed.holds`): no answer outlives them.
4. It writes to clients that take what they are sent. The others wait in `middleware`, as ever.
5. Headers, log lines, uses and time-outs are those of the ordinary way; but for the time that it takes nobody
   can tell.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import replace

from aiohttp import web

from mirror.lease import Lessor
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.request import ManifestEndpoint
from mirror.pulled import Pulled
from mirror.server.account import Account, Counted
from mirror.server.exchange import Exchange, current, new_id
from mirror.server.forwarded import Network, is_trusted
from mirror.server.health import Gate
from mirror.server.laneanswer import Answer
from mirror.server.lanelog import LaneLog
from mirror.server.lanerider import Inner, Rider, is_plain
from mirror.server.pulls import Notify

BODY_LIMIT = 64 << 10  # bytes of an answer's body: nearly all manifests and configurations
ANSWERS = 8192  # in the table
BYTES = 64 << 20  # of all that the table holds
SEEN = 8192  # heads that were answered once: only what comes again is worth a place
# Behind the bytes of each request, since they do not say it: whether its peer may say for whom it asks, and
# whether it came by TLS. NB: each of one byte, and never none: so what a client sends ends before the mark,
# and no request of one kind can be found as one of another, whatever is in it.
PLAIN, TRUSTED, SECURE, SECURE_TRUSTED = b"p", b"t", b"s", b"u"
SECOND = 1.0  # how late the inventory is told of uses


class Lane:
    """The table. `lessor` is the registry's; `write_timeout` and `keepalive_timeout` in seconds.

    `secret_heads`: requests have passwords in them, and are kept as keyed hashes.
    """

    def __init__(
        self,
        lessor: Lessor,
        *,
        access_log: bool,
        write_timeout: float,
        keepalive_timeout: float,
        proxies: tuple[Network, ...] = (),
        secret_heads: bool = False,
        account: Account | None = None,
        gate: Gate | None = None,
        notify: Notify | None = None,
    ) -> None:
        self._lessor = lessor
        self._key = secrets.token_bytes(32) if secret_heads else None
        self._account = account or Account()
        self._gate = gate or Gate()
        self._notify = notify
        self._write_timeout, self._keepalive_timeout = write_timeout, keepalive_timeout
        self._proxies = proxies
        self._log = LaneLog(access_log)
        self._answers: dict[bytes, Answer] = {}  # the oldest first
        self._size = 0
        self._seen: dict[int, None] = {}  # hashes; a collision costs a place in the table
        self._used: list[Answer] = []
        self._riders: dict[asyncio.BaseTransport, Rider] = {}

    def takes(self, rider: Rider, data: bytes) -> bool:
        """Whether these bytes were a request that is answered now; else they are aiohttp's."""
        head = data + rider.mark
        if self._key is not None:
            head = self._place(head)
        answer = self._answers.get(head)
        return answer is not None and rider.is_idle and self._repeat(rider, head, answer)

    def _repeat(self, rider: Rider, head: bytes, answer: Answer) -> bool:
        began = time.perf_counter_ns()
        now = answer.lease.clock()
        if self._gate.is_shut:
            return False
        if not answer.holds(now):
            self._drop(head)
            return False
        if not rider.is_ready():
            return False
        if not answer.shown_from <= now < answer.shown_until:
            answer.show(now)
        rider.write(answer.data)
        if not answer.hits:
            self._note(answer)
        answer.hits += 1
        request_id = self._pulled(answer.pulled, rider, now) if answer.pulled is not None else ""
        nanoseconds = time.perf_counter_ns() - began
        answer.nanoseconds += nanoseconds
        self._log.add(answer.told, rider.peer, now, nanoseconds, request_id)
        return True

    def _pulled(self, pulled: Pulled, rider: Rider, now: float) -> str:
        """Tell of a repetition; its request's id."""
        made = new_id()
        if self._notify is not None:
            self._notify(
                replace(pulled, at=now, request_id=made, address=pulled.address or rider.peer.address)
            )
        return made

    def lease_manifest(
        self, request: web.Request, endpoint: ManifestEndpoint, digest: Digest, body: bytes | None
    ) -> None:
        """The answer to this request will be this manifest, or (body None) its descriptor: take a lease."""
        if self.lacks(request) and len(body or b"") <= BODY_LIMIT:
            exchange = current()
            exchange.lease = self._lessor.lease_manifest(endpoint.repository, endpoint.reference, digest)
            exchange.body = body or b""

    def lease_blob(self, repository: Repository, digest: Digest, body: bytes) -> None:
        """The answer to this request will be all of this blob: take a lease. To be asked first: `lacks`."""
        if digest.matches(body):
            exchange = current()
            exchange.lease = self._lessor.lease_blob(repository, digest, len(body))
            exchange.body = body

    def lease_elsewhere(
        self, request: web.Request, repository: Repository, digest: Digest, size: int, until: float
    ) -> None:
        """The answer to this request will be a place that is to be given `until` then: take a lease."""
        if self.lacks(request):
            exchange = current()
            exchange.lease = self._lessor.lease_blob(repository, digest, size, until)
            exchange.body = b""

    def lacks(self, request: web.Request) -> bool:
        """Whether a place is kept free for the answer to this request: it came before, and may come again."""
        rider = self._rider(request)
        head = rider.head if rider is not None else None
        if rider is None or head is None:
            return False
        known = hash(head + rider.mark)
        if known in self._seen:
            return True
        while len(self._seen) >= SEEN:
            del self._seen[next(iter(self._seen))]
        self._seen[known] = None
        return False

    def answered(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        exchange: Exchange,
        counted: Counted,
        pulled: Pulled | None,
    ) -> None:
        """The ordinary way has given this answer: it may be repeated, if there is leave.

        The last two: what it counts as, and what is told of it.
        """
        rider = self._rider(request)
        if rider is None:
            return
        head = rider.answered(is_plain(request, response))
        if head is not None and exchange.lease is not None:
            answer = Answer.of(request, response, exchange, exchange.lease)
            if answer is not None:
                answer.counted = counted
                if pulled is not None:
                    answer.pulled = replace(pulled, address=exchange.client)
                self._keep(self._place(head + rider.mark), answer)

    def flush(self) -> None:
        """Tell of all uses, and write what is to be logged."""
        used, self._used = self._used, []
        for answer in used:
            self._tell(answer)
        self._log.flush()

    def enter(self, transport: asyncio.Transport, inner: Inner) -> Rider:
        """A connection has begun."""
        rider = self._riders[transport] = Rider(
            transport,
            inner,
            write_timeout=self._write_timeout,
            keepalive_timeout=self._keepalive_timeout,
            mark=_mark(transport, is_trusted(transport, self._proxies)),
        )
        return rider

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """It has ended."""
        self._riders.pop(transport).leave()

    def _rider(self, request: web.BaseRequest) -> Rider | None:
        return self._riders.get(request.transport) if request.transport is not None else None

    def _place(self, head: bytes) -> bytes:
        """What an answer is found by."""
        return head if self._key is None else hashlib.blake2b(head, digest_size=32, key=self._key).digest()

    def _keep(self, head: bytes, answer: Answer) -> None:
        self._drop(head)
        self._answers[head] = answer
        self._size += len(head) + answer.size
        while self._size > BYTES or len(self._answers) > ANSWERS:
            self._drop(next(iter(self._answers)))

    def _drop(self, head: bytes) -> None:
        answer = self._answers.pop(head, None)
        if answer is not None:
            self._size -= len(head) + answer.size
            self._tell(answer)

    def _note(self, answer: Answer) -> None:
        if not self._used:
            asyncio.get_running_loop().call_later(SECOND, self.flush)
        self._used.append(answer)

    def _tell(self, answer: Answer) -> None:
        hits, answer.hits = answer.hits, 0
        if hits:
            answer.lease.used(hits, answer.lease.clock())
            seconds, answer.nanoseconds = answer.nanoseconds / 1e9, 0
            if answer.counted is not None:
                self._account.repeat(answer.counted, seconds, hits)


def _mark(transport: asyncio.Transport, trusted: bool) -> bytes:
    """Of a connection's requests."""
    if transport.get_extra_info("sslcontext") is None:
        return TRUSTED if trusted else PLAIN
    return SECURE_TRUSTED if trusted else SECURE
