"""The fast lane: a request that repeats an earlier one byte for byte is answered from a table.

It stands in front of aiohttp, at the connection. What it must never do is answer otherwise than the handlers
would at that moment. So:

1. It takes whole heads only (one `data_received`, GET or HEAD, HTTP/1.1, no body), on a connection where
   everything before is answered. All else goes to aiohttp, unchanged.
2. It looks up the exact bytes. Whatever an answer depends on in the request is in them: path, host, `?ns=`,
   conditions, credentials.
3. It repeats an answer that the handlers gave, and for which the registry has given leave (`lease`). The
   lease is looked at at each repetition, and is ended by what it depends on in the same call.
4. It writes to clients that take what they are sent. The others wait in `middleware`, as ever.
5. Headers, log lines, uses and time-outs are those of the ordinary way; but for the time that it takes nobody
   can tell.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from aiohttp import web

from mirror.lease import Lessor
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.request import ManifestEndpoint
from mirror.server.exchange import Exchange, current
from mirror.server.laneanswer import Answer
from mirror.server.lanelog import LaneLog, Peer
from mirror.server.progress import LITTLE, held, limit_unread

HEAD_LIMIT = 4096  # bytes of a request; what clients send has 200 to 600, and a token's 1 to 2 KiB more
BODY_LIMIT = 64 << 10  # bytes of an answer's body: nearly all manifests and configurations
ANSWERS = 8192  # in the table
BYTES = 64 << 20  # of all that the table holds
# Requests of one connection that wait. More than one is usual: the client has an answer before we know.
PIPELINED = 8
SEEN = 8192  # heads that were answered once: only what comes again is worth a place
SECOND = 1.0  # how late the inventory is told of uses


class Lane:
    """The table. `lessor` is the registry's; `write_timeout` and `keepalive_timeout` in seconds."""

    def __init__(
        self, lessor: Lessor, *, access_log: bool, write_timeout: float, keepalive_timeout: float
    ) -> None:
        self._lessor = lessor
        self.write_timeout, self.keepalive_timeout = write_timeout, keepalive_timeout
        self._log = LaneLog(access_log)
        self._answers: dict[bytes, Answer] = {}  # the oldest first
        self._size = 0
        self._seen: dict[int, None] = {}  # hashes; a collision costs a place in the table
        self._used: list[Answer] = []
        self._riders: dict[asyncio.BaseTransport, Rider] = {}

    def answer(self, rider: Rider, head: bytes) -> bool:
        """Answer it, if that may be done here."""
        answer = self._answers.get(head)
        if answer is None:
            return False
        began = time.perf_counter()
        now = answer.lease.clock()
        if not answer.lease.holds(now):
            self._drop(head)
            return False
        if not rider.is_ready():
            return False
        if not answer.shown_from <= now < answer.shown_until:
            answer.show(now)
        rider.write(answer.head + answer.body if answer.body else answer.head)
        if not answer.hits:
            self._note(answer)
        answer.hits += 1
        self._log.add(answer.told, rider.peer, now, time.perf_counter() - began)
        return True

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

    def lacks(self, request: web.Request) -> bool:
        """Whether a place is kept free for the answer to this request: it came before, and may come again."""
        rider = self._rider(request)
        head = rider.head if rider is not None else None
        if head is None:
            return False
        known = hash(head)
        if known in self._seen:
            return True
        while len(self._seen) >= SEEN:
            del self._seen[next(iter(self._seen))]
        self._seen[known] = None
        return False

    def answered(self, request: web.BaseRequest, response: web.StreamResponse, exchange: Exchange) -> None:
        """The ordinary way has given this answer: it may be repeated, if there is leave."""
        rider = self._rider(request)
        if rider is None:
            return
        head = rider.answered(is_plain(request, response))
        if head is not None and exchange.lease is not None:
            answer = Answer.of(request, response, exchange, exchange.lease)
            if answer is not None:
                self._keep(head, answer)

    def flush(self) -> None:
        """Tell of all uses, and write what is to be logged."""
        used, self._used = self._used, []
        for answer in used:
            self._tell(answer)
        self._log.flush()

    def enter(self, transport: asyncio.Transport, inner: Inner) -> Rider:
        """A connection has begun."""
        rider = self._riders[transport] = Rider(self, transport, inner)
        return rider

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """It has ended."""
        del self._riders[transport]

    def _rider(self, request: web.BaseRequest) -> Rider | None:
        return self._riders.get(request.transport) if request.transport is not None else None

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


class Inner(Protocol):
    """Of aiohttp's protocol (web.RequestHandler), what is public and needed here."""

    def keep_alive(self, val: bool) -> None:
        """Cancels the timer of an idle connection."""

    def force_close(self) -> None: ...


class Rider:
    """One connection: what of it is answered, and when it was heard last."""

    __slots__ = (
        "_begun",
        "_guarded",
        "_heads",
        "_inner",
        "_lane",
        "_last",
        "_loop",
        "_mixed",
        "_timer",
        "_transport",
        "_unlooked",
        "peer",
    )

    def __init__(self, lane: Lane, transport: asyncio.Transport, inner: Inner) -> None:
        self._lane, self._transport, self._inner = lane, transport, inner
        self._loop = asyncio.get_running_loop()
        self.peer = Peer(transport)
        self._heads: list[bytes] = []  # at aiohttp, and not answered; it answers one after the other
        self._begun = b""  # a head whose end is still to come
        self._mixed = False  # something else came: from then on nobody here knows what is answered
        self._last = 0.0  # loop.time() of the last repetition
        self._timer: asyncio.TimerHandle | None = None
        self._guarded = False  # the kernel's own guard is set
        self._unlooked = 0  # bytes written since the client was seen to take them

    @property
    def head(self) -> bytes | None:
        """The request that is being answered by aiohttp."""
        return self._heads[0] if self._heads else None

    def takes(self, data: bytes) -> bool:
        """Whether these bytes were a request that is answered now; else they are aiohttp's."""
        if self._mixed:
            return False
        if not self._heads and not self._begun and self._lane.answer(self, data):
            return True
        self._begun += data
        if is_head(self._begun):
            self._heads.append(self._begun)
            self._begun = b""
        elif len(self._begun) > HEAD_LIMIT or b"\r\n\r\n" in self._begun:
            self._mixed = True
        if self._mixed or len(self._heads) > PIPELINED:
            self._lose_count()
        return False

    def answered(self, plain: bool) -> bytes | None:
        """aiohttp has answered; what it was, where that is known."""
        if not self._heads or not plain:
            self._lose_count()
            return None
        return self._heads.pop(0)

    def _lose_count(self) -> None:
        self._mixed = True
        self._heads, self._begun = [], b""

    def is_ready(self) -> bool:
        """Whether the client takes what it is sent."""
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size():
            return False
        if self._unlooked > LITTLE:
            if held(transport) > LITTLE:
                return False
            self._unlooked = 0
        return True

    def write(self, data: bytes) -> None:
        """An answer."""
        self._transport.write(data)
        self._unlooked += len(data)
        # aiohttp's timer would find the connection idle: ours takes its place until aiohttp's next answer.
        self._inner.keep_alive(True)
        self._last = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._lane.keepalive_timeout, self._look)
        if not self._guarded:
            self._guarded = True
            limit_unread(self._transport, self._lane.write_timeout)

    def leave(self) -> None:
        """The connection has ended."""
        self._lane.leave(self._transport)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Close the connection if it idles; not while aiohttp has work, and a timer of its own after it."""
        self._timer = None
        if self._mixed or self._heads or self._begun:
            return
        left = self._last + self._lane.keepalive_timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._inner.force_close()


def is_head(data: bytes) -> bool:
    """Whether this is one whole head of GET or HEAD, as every parser understands it."""
    return (
        len(data) <= HEAD_LIMIT
        and data.startswith((b"GET ", b"HEAD "))
        and data.find(b"\r\n\r\n") == len(data) - 4
        and data.count(b"\n") == data.count(b"\r\n")
    )


def is_plain(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Whether the next bytes of this connection are a new request, and nothing else."""
    return (
        request.version == (1, 1)
        and bool(response.keep_alive)
        and not request.body_exists
        and "Upgrade" not in request.headers
        and "Expect" not in request.headers
    )
