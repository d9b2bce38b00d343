"""One request to its end: retries, redirects, caps. The answer is final, whatever its status."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import aiohttp
import structlog
from yarl import URL

from mirror.upstream import redirects, retry
from mirror.upstream.breakers import Breakers, Role, Visit
from mirror.upstream.causes import address
from mirror.upstream.failures import TransportError, Trouble, from_trouble
from mirror.upstream.transport import Transport

ERROR_LIMIT = 64 << 10  # bytes of an error body that are looked at
_WORTH = frozenset({Trouble.REFUSED, Trouble.NAME, Trouble.PROXY, Trouble.BROKEN})
# Not worth another attempt: time-outs, which have used up what a client can wait, and what is the same again.

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """A request to make. `limit`: bytes that a successful body may have; None leaves it on the connection.

    `useful`: whether a success has what was asked for; if not, that counts as a failure of its server.
    `blob`: it is a blob that is asked for; `again` and `scope`: as in `Breaker.failed`; `is_callers`: as in
    `Breakers.enter`. `heard` is told each
    answer that is no redirect, also those after which the request is sent again.
    """

    method: str
    url: URL
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    data: Mapping[str, str] | None = field(default=None, repr=False)
    limit: int | None = ERROR_LIMIT
    blob: bool = False
    again: bool = False
    scope: str = ""
    is_callers: bool = False
    heard: Callable[[Answer], None] | None = None
    useful: Callable[[Answer], bool] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer. `body` is whole for a success, the beginning for an error.

    `response` is set where a success was left on its connection: whoever has the answer closes it.
    `elsewhere`: it came from another origin than the one asked. `visit` is to be told how the body ends.
    """

    status: int
    headers: Mapping[str, str]
    challenges: tuple[str, ...]  # WWW-Authenticate lines
    links: tuple[str, ...]  # Link lines
    body: bytes
    elsewhere: bool
    visit: Visit
    response: aiohttp.ClientResponse | None = None

    def close(self) -> None:
        """Drop the connection unless its body was read. Safe to call twice."""
        if self.response is not None:
            self.response.close()


class Fetcher:
    """Makes requests for one upstream. Each origin on the way is asked only if its breaker lets it be."""

    def __init__(self, transport: Transport, retries: int, breakers: Breakers, registry: URL) -> None:
        self._transport = transport
        self._retries = retries
        self._breakers = breakers
        self._registry = redirects.origin(registry)

    async def fetch(self, call: Call, name: str) -> Answer:
        """The final answer. Raises Unavailable or Corrupt, which call the server `name`, when none came."""
        clock = asyncio.get_running_loop().time
        started = clock()
        outcome: Answer | TransportError | None = None
        made = 0
        for attempt in itertools.count():
            latest = await self._outcome(call, attempt + 1)
            if outcome is not None and _is_shut(latest):
                break  # the breaker has opened meanwhile: what was found before tells more
            outcome, made = latest, attempt + 1
            pause = self._pause(attempt, outcome, clock() - started)
            if pause is None or self._breakers.is_shut(call.url, call.scope, is_callers=call.is_callers):
                break
            _log.info("upstream.retried", pause_ms=round(pause * 1000), **_about(call, outcome))
            await asyncio.sleep(pause)
        assert outcome is not None
        if isinstance(outcome, Answer):
            return outcome
        _log.log(_level(outcome.trouble), "upstream.failed", attempts=made, **_about(call, outcome))
        raise from_trouble(outcome, name) from outcome

    def _pause(self, attempt: int, outcome: Answer | TransportError, elapsed: float) -> float | None:
        """Seconds until the next attempt; None for none."""
        answer = outcome if isinstance(outcome, Answer) else None
        after = answer.headers.get("Retry-After") if answer else None
        return retry.decide(
            attempt,
            answer.status if answer else None,
            worth=isinstance(outcome, TransportError) and outcome.trouble in _WORTH,
            wait=retry.retry_after(after, datetime.now(UTC)),
            elapsed=elapsed,
            retries=self._retries,
            chance=random.random(),  # noqa: S311 - jitter, no secret
        )

    async def _outcome(self, call: Call, attempt: int) -> Answer | TransportError:
        try:
            answer = await self._attempt(call, attempt)
        except TransportError as error:
            return error
        if call.heard is not None:
            call.heard(answer)
        return answer

    async def _attempt(self, call: Call, attempt: int) -> Answer:
        """The first answer that is no redirect, with its body. Raises TransportError."""
        step: Answer | redirects.Hop = redirects.Hop(call.url, call.headers)
        while isinstance(step, redirects.Hop):
            role = self._role(call, step)
            again = call.again or attempt > 1
            with self._breakers.enter(
                step.url, role, again=again, scope=call.scope, is_callers=call.is_callers
            ) as visit:
                step = await self._step(call, step, visit, attempt)
        return step

    async def _step(
        self, call: Call, hop: redirects.Hop, visit: Visit, attempt: int
    ) -> Answer | redirects.Hop:
        """One request: an answer, or where it redirects to. Raises TransportError."""
        response = await self._counted(call, hop, attempt)
        kept = False
        try:
            if response.status in redirects.STATUSES:
                visit.succeeded()
                if call.data is not None:
                    raise TransportError(Trouble.REDIRECT, "secrets are not sent on")
                following = redirects.follow(hop, response.headers.get("Location"))
                await self._transport.scrap(response, ERROR_LIMIT)
                return following
            answer = await self._answer(call, response, visit, elsewhere=hop.elsewhere)
            kept = answer.response is not None
            if call.useful is not None and response.ok and not call.useful(answer):
                visit.failed(cause="an answer of no use")
            else:
                visit.answered(answer.status, whole=not kept)
            return answer
        finally:
            if not kept:
                response.close()

    def _role(self, call: Call, hop: redirects.Hop) -> Role:
        """What this hop's origin is to the registry; whoever else is asked first is its token server."""
        first = hop.trail[0] if hop.trail else hop.url
        if redirects.origin(first) != self._registry:
            return Role.TOKENS
        if not hop.elsewhere:
            return Role.REGISTRY
        return Role.BLOBS if call.blob else Role.MANIFESTS

    async def _counted(self, call: Call, hop: redirects.Hop, attempt: int) -> aiohttp.ClientResponse:
        """One request of an attempt, up to the header of its answer. Raises TransportError."""
        role, began = self._role(call, hop).value, time.perf_counter()
        try:
            response = await self._request(call, hop, attempt)
        except TransportError as error:
            self._transport.traffic.failed(role, error.trouble.name.lower())
            raise
        self._transport.traffic.answered(role, response.status, time.perf_counter() - began)
        return response

    async def _request(self, call: Call, hop: redirects.Hop, attempt: int) -> aiohttp.ClientResponse:
        """The same; told at debug."""
        if not _log.is_enabled_for(logging.DEBUG):
            return await self._transport.request(call.method, hop.url, hop.headers, call.data)
        started = time.perf_counter()
        outcome: dict[str, int | str] = {}
        try:
            response = await self._transport.request(call.method, hop.url, hop.headers, call.data)
            outcome = {"status": response.status}
            return response
        except TransportError as error:
            outcome = {"cause": error.cause}
            raise
        finally:
            _log.debug(
                "upstream.request",
                method=call.method,
                host=address(hop.url),
                path=hop.url.raw_path,
                attempt=attempt,
                duration_ms=round((time.perf_counter() - started) * 1000, 3),
                **outcome,
            )

    async def _answer(
        self, call: Call, response: aiohttp.ClientResponse, visit: Visit, *, elsewhere: bool
    ) -> Answer:
        headers = response.headers
        challenges, links = headers.getall("WWW-Authenticate", ()), headers.getall("Link", ())
        answer = Answer(response.status, headers, tuple(challenges), tuple(links), b"", elsewhere, visit)
        success = response.ok
        encoded = headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")
        if call.method == "HEAD":
            return answer
        if not success:
            body = await self._transport.scrap(response, ERROR_LIMIT)
            return replace(answer, body=b"" if encoded else body)
        if encoded:
            raise TransportError(Trouble.ENCODED)
        if call.limit is None:
            return replace(answer, response=response)
        body = await self._transport.body(response, call.limit)
        if len(body) > call.limit:
            raise TransportError(Trouble.OVERSIZE, f"over {call.limit} bytes")
        return replace(answer, body=body)


def _is_shut(outcome: Answer | TransportError) -> bool:
    return isinstance(outcome, TransportError) and outcome.trouble is Trouble.SHUT


def _level(trouble: Trouble) -> int:
    """How loud a failure is told; what a breaker refuses is many requests, and has been told once."""
    return {Trouble.STOPPING: logging.INFO, Trouble.SHUT: logging.DEBUG}.get(trouble, logging.WARNING)


def _about(call: Call, outcome: Answer | TransportError) -> dict[str, str]:
    """What the log says of an attempt that brought no use. The path only: queries may hold secrets."""
    about = {"method": call.method, "host": address(call.url), "path": call.url.raw_path}
    if isinstance(outcome, Answer):
        return {**about, "cause": f"answered {outcome.status}"}
    if outcome.host and outcome.host != about["host"]:
        about["redirected_to"] = outcome.host
    hint = {"hint": outcome.hint} if outcome.hint else {}
    return {**about, "cause": outcome.cause, **hint}
