"""The breakers of one upstream: one per origin, so that a dead token server or blob storage is told from a
dead registry. Their changes go to the log.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import structlog
from cachetools import LRUCache
from yarl import URL

from mirror.upstream.breaker import Breaker, State
from mirror.upstream.causes import address
from mirror.upstream.failures import ANSWERS, FAILURES, TransportError, Trouble
from mirror.upstream.redirects import origin

ORIGINS = 64  # a registry has some five: itself, token server, blob storage in a few regions

_log = structlog.get_logger()


class Role(Enum):
    """What an origin is to the registry; `value` is how it is called to operators."""

    REGISTRY = "registry"
    TOKENS = "token server"
    MANIFESTS = "manifests"  # where manifests and lists are redirected to (registry.k8s.io)
    BLOBS = "blobs"  # where blobs are redirected to


class Breakers:
    """`now` is the clock that all times are of; `chance` gives numbers from [0, 1)."""

    def __init__(self, now: Callable[[], float], chance: Callable[[], float] = random.random) -> None:
        self.now = now
        self.chance = chance
        self._breakers: LRUCache[tuple[str, str, int | None], Breaker] = LRUCache(ORIGINS)
        self._last: dict[Role, tuple[str, Breaker]] = {}  # the host that last had this role

    def enter(self, url: URL, role: Role, *, again: bool) -> Visit:
        """Leave to ask this URL's origin, to be used in a `with`; `again` as in `Breaker.failed`.

        Raises TransportError(SHUT) while the origin is not asked.
        """
        place = origin(url)
        breaker = self._breakers.get(place)
        if breaker is None:
            breaker = self._breakers[place] = Breaker()
        host = address(url)
        self._last[role] = (host, breaker)
        left = breaker.admit(self.now())
        if left is not None:
            text = f"not asked for another {left:.1f} s, after {breaker.failures} failures in a row"
            raise TransportError(
                Trouble.SHUT,
                cause=text,
                host=host,
                retry_after=left,
                storage=role in (Role.MANIFESTS, Role.BLOBS),
            )
        return Visit(self, breaker, host, again=again)

    @property
    def all_closed(self) -> bool:
        """Whether nobody who has a role is refused or on probation."""
        return all(breaker.is_closed for _, breaker in self._last.values())

    def is_shut(self, url: URL) -> bool:
        """Whether this URL's origin would be refused now."""
        breaker = self._breakers.get(origin(url))
        return breaker is not None and breaker.wait(self.now()) is not None

    def wait(self, role: Role, now: float) -> float | None:
        """Seconds for which whoever last had this role is not asked; None if it would be."""
        last = self._last.get(role)
        return last[1].wait(now) if last is not None else None

    def describe(self, now: float) -> list[dict[str, Any]]:
        """The origins that last had a role, for operators."""
        return [_described(role, host, breaker, now) for role, (host, breaker) in self._last.items()]


class Visit:
    """One request's leave to ask an origin. It ends with a verdict, at the latest when the `with` does; only
    for a body that was left on its connection another one may follow.
    """

    __slots__ = ("_again", "_breaker", "_host", "_owner", "_turn")

    def __init__(self, owner: Breakers, breaker: Breaker, host: str, *, again: bool) -> None:
        self._owner = owner
        self._breaker = breaker
        self._host = host
        self._again = again
        self._turn = breaker.turn

    def answered(self, status: int, *, whole: bool) -> None:
        """An answer came; `whole` unless its body is still on the connection.

        5xx counts as none, but for 501, by which a registry says what it does not do.
        """
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
            self.failed()
        elif whole:
            self.succeeded()
        else:
            self._told(self._breaker.failures, closed=self._breaker.began(self._turn))
            self._turn = self._breaker.turn  # what is to be said of the body counts in the state that is now

    def succeeded(self) -> None:
        """A whole answer came."""
        self._told(self._breaker.failures, closed=self._breaker.succeeded(self._turn))

    def failed(self) -> None:
        """No answer came, none of use, or it broke off."""
        breaker, owner = self._breaker, self._owner
        was_closed = breaker.is_closed
        pause = breaker.failed(self._turn, owner.now(), owner.chance(), again=self._again)
        if pause is not None and was_closed:
            _log.warning(
                "upstream.breaker.opened", host=self._host, failures=breaker.failures, pause=round(pause, 3)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was raised is the verdict: a failure, an answer all the same, or neither (also: cancelled)."""
        if error is None:
            return
        trouble = error.trouble if isinstance(error, TransportError) else None
        if trouble in FAILURES:
            self.failed()
        elif trouble in ANSWERS:
            self.succeeded()
        else:
            self._breaker.returned(self._turn)

    def _told(self, failures: int, *, closed: bool) -> None:
        if closed:
            _log.info("upstream.breaker.closed", host=self._host, failures=failures)


def _described(role: Role, host: str, breaker: Breaker, now: float) -> dict[str, Any]:
    state = breaker.state(now)
    left = breaker.wait(now)
    described: dict[str, Any] = {
        "host": host,
        "role": role.value,
        "state": state.value,
        "failures": breaker.failures,
    }
    if state is not State.CLOSED:
        described["retry_in"] = round(left or 0.0, 1)
    return described
