"""One endpoint: a bounded queue, and one event after the other to it.

1. What it is to be told is put into the queue, which waits for nothing. A queue that is full, by events or
   by bytes, loses its oldest events; that is counted, and said now and then.
2. An event counts as told at a status below 400, as in the registry; but a redirect that would make a GET of
   it, and lose it, is a failure. Anything else is tried again: soon, with pauses that grow up to `backoff`,
   and after `threshold` failures in a row once in each `backoff`.
3. The order is kept: an event that is not taken holds those behind it, for AGE at most.
4. Much of an event is a client's or an image's own words. One that cannot be told is lost, and no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
import structlog

from mirror import outgoing
from mirror.notify.event import ACTION, CONTENT_TYPE, Source, envelope, references_in
from mirror.pulled import Pulled
from mirror.sometimes import Sometimes
from mirror.tally import Tally

QUEUE = 10_000  # events that wait
# Of all of them. Most take 1 KiB; a client's header may have 32, a manifest whose references are told 256.
QUEUE_BYTES = 32 << 20
OVERHEAD = 1 << 10  # bytes of an event besides the texts that others write
AGE = 86400.0  # seconds after which an event that nobody takes is given up
FIRST_PAUSE = 0.05  # seconds; doubled with each failure
SAID = 60.0  # seconds between two lines about lost events

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """`notifications.endpoints[]`; times in seconds. `name` is the endpoint's in the log and the metrics."""

    name: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = 1.0
    threshold: int = 10
    backoff: float = 1.0
    ignored_types: frozenset[str] = frozenset()
    ignored_actions: frozenset[str] = frozenset()


@dataclass(slots=True)
class Counts:
    """As registry:3 counts: `failures` are answers that took nothing, `errors` those that did not come.

    Each attempt is one of them, or a success.
    """

    events: int = 0
    successes: int = 0
    failures: int = 0
    errors: int = 0
    dropped: int = 0
    statuses: Tally = field(default_factory=Tally)


class Endpoint:
    """See the module's text. `client` gives the session that requests are made with.

    `queue` and `queue_bytes`: what may wait.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        client: Callable[[], aiohttp.ClientSession],
        queue: int = QUEUE,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.name = settings.name
        self.counts = Counts()
        self.settings = settings
        self._source = source
        self._client = client
        self._limit, self._limit_bytes = queue, queue_bytes
        self._queue: deque[Pulled] = deque()
        self._bytes = 0  # of what is in it
        self._sending = False
        self._some = asyncio.Event()  # something waits
        self._idle = asyncio.Event()  # nothing does, or it is not taken now
        self._idle.set()
        self._failures = 0  # in a row
        self._lost = Sometimes(SAID)

    @property
    def pending(self) -> int:
        """Events that are not told yet."""
        return len(self._queue) + self._sending

    def wants(self, media_type: str) -> bool:
        """Whether it is to be told of such a thing."""
        settings = self.settings
        return ACTION not in settings.ignored_actions and media_type not in settings.ignored_types

    def take(self, pulled: Pulled) -> None:
        """To be told, with the references of its body; never waits, never fails."""
        self.counts.events += 1
        self._queue.append(pulled)
        self._bytes += _size(pulled)
        while len(self._queue) > self._limit or self._bytes > self._limit_bytes:
            self._next()
            self._drop("the queue is full")
        self._some.set()
        if not self._failures:
            self._idle.clear()

    async def told(self) -> None:
        """Wait until all is told, or something is not taken."""
        await self._idle.wait()

    async def run(self) -> None:
        """Tell what comes, until cancelled."""
        while True:
            await self._some.wait()
            while self._queue:
                pulled = self._next()
                self._sending = True
                try:
                    await self._deliver(pulled)
                except asyncio.CancelledError:
                    self._queue.appendleft(pulled)
                    self._bytes += _size(pulled)
                    raise
                except Exception:  # a defect: told whole, and those behind it are told
                    log.exception("notification.crashed", endpoint=self.name)
                    self._drop("it cannot be told")
                finally:
                    self._sending = False
            self._some.clear()
            self._idle.set()

    def _next(self) -> Pulled:
        """The oldest, taken out of the queue."""
        pulled = self._queue.popleft()
        self._bytes -= _size(pulled)
        return pulled

    async def _deliver(self, pulled: Pulled) -> None:
        """Until it is taken, or too old."""
        settings = self.settings
        body = envelope(pulled, references_in(pulled.body), self._source)
        began = time.monotonic()
        while True:
            if self._failures >= settings.threshold:
                await asyncio.sleep(settings.backoff)
            elif self._failures:
                await asyncio.sleep(min(settings.backoff, FIRST_PAUSE * 2 ** min(self._failures, 20)))
            reason = await self._attempt(body)
            if reason is None:
                if self._failures >= settings.threshold:
                    log.info("notification.resumed", endpoint=self.name, failures=self._failures)
                self._failures = 0
                return
            self._failures += 1
            self._idle.set()
            if self._failures == settings.threshold:
                log.warning(
                    "notification.failing", endpoint=self.name, failures=self._failures, reason=reason
                )
            if time.monotonic() - began > AGE:
                self._drop(reason)
                return

    async def _attempt(self, body: bytes) -> str | None:
        """Why it was not taken; None: it was."""
        settings = self.settings
        try:
            status = await outgoing.ask(
                self._client(),
                "POST",
                settings.url,
                headers=settings.headers,
                body=body,
                content_type=CONTENT_TYPE,
                timeout=settings.timeout,
                followed=outgoing.FOLLOWED_BY_POST,
            )
        except outgoing.OutgoingError as error:
            self.counts.errors += 1
            return str(error)
        self.counts.statuses.add(_status(status))
        if status in outgoing.FOLLOWED_BY_HEAD:
            self.counts.failures += 1
            return f"it answered {status}, along which no event can be sent: configure where that leads"
        if not HTTPStatus.OK <= status < HTTPStatus.BAD_REQUEST:
            self.counts.failures += 1
            return f"it answered {status}"
        self.counts.successes += 1
        return None

    def _drop(self, reason: str) -> None:
        self.counts.dropped += 1
        count = self._lost.count(time.monotonic())
        if count:
            log.warning("notification.dropped", endpoint=self.name, count=count, reason=reason)


def _size(pulled: Pulled) -> int:
    """Bytes that it takes, about: what is short by its nature is in OVERHEAD."""
    texts = (pulled.host, pulled.user_agent, pulled.media_type, pulled.url)
    return OVERHEAD + len(pulled.body) + sum(map(len, texts))


def _status(status: int) -> str:
    """As Go writes one: `200 OK`. Endpoints are the operator's; their own numbers are one label."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return "other"
