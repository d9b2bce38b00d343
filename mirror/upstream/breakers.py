"""The breakers of one upstream: one per origin, so that a dead token server or blob storage is told from a
dead registry; and one per origin and repository, so that a repository whose requests always fail is not taken
for a dead registry. Their changes go to the log.

What is asked with a caller's own credentials (`rights: caller`) has breakers for itself, and no verdict on an
origin that it has reached: whoever can have a registry fail by what he sends must shut it for nobody else.
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
from mirror.upstream.failures import ANSWERS, FAILURES, UNREACHED, TransportError, Trouble
from mirror.upstream.redirects import origin

ORIGINS = 64  # a registry has some five: itself, token server, blob storage in a few regions
SCOPES = 256  # of those that fail, and as many of callers; a forgotten one is asked a few times more

Origin = tuple[str, str, int | None]
_Table = LRUCache[tuple[Origin, str], Breaker]

_log = structlog.get_logger()


class Role(Enum):
    """What an origin is to the registry; `value` is how it is called to operators."""

    REGISTRY = "registry"
    TOKENS = "token server"
    MANIFESTS = "manifests"  # where manifests and lists are redirected to (registry.k8s.io)
    BLOBS = "blobs"  # where blobs are redirected to


OWN = (Role.REGISTRY.value, Role.TOKENS.value)  # without which nothing can be asked


class Breakers:
    """`now` is the clock that all times are of; `chance` gives numbers from [0, 1)."""

    def __init__(self, now: Callable[[], float], chance: Callable[[], float] = random.random) -> None:
        self.now = now
        self.chance = chance
        self._breakers: LRUCache[Origin, Breaker] = LRUCache(ORIGINS)
        self._failing: _Table = LRUCache(SCOPES)
        # NB: apart, or made-up credentials would push out the others.
        self._callers: _Table = LRUCache(SCOPES)
        self._last: dict[Role, tuple[str, Origin, Breaker]] = {}  # the host that last had this role

    def enter(self, url: URL, role: Role, *, again: bool, scope: str = "", is_callers: bool = False) -> Visit:
        """Leave to ask this URL's origin, to be used in a `with`; `again` and `scope` as in `Breaker.failed`.

        `is_callers`: with somebody else's credentials, who is a part of `scope`. He is never the probe: what
        he asks for may take long on purpose. Raises TransportError(SHUT) while the origin is not asked, at
        all or about this.
        """
        place, now = origin(url), self.now()
        breaker = self._breakers.get(place)
        if breaker is None:
            breaker = self._breakers[place] = Breaker()
        host = address(url)
        self._last[role] = (host, place, breaker)
        table = self._callers if is_callers else self._failing
        own = table.get((place, scope)) or Breaker()
        left, failures = own.wait(now), own.failures
        if left is None:
            left = breaker.wait(now) if is_callers else breaker.admit(now, scope)
            failures = breaker.failures
        if left is None:
            own.admit(now)  # nobody has come in between
        else:
            text = f"not asked for another {left:.1f} s, after {failures} failures in a row"
            raise TransportError(
                Trouble.SHUT,
                cause=text,
                host=host,
                retry_after=left,
                storage=role in (Role.MANIFESTS, Role.BLOBS),
            )
        mine = Turn(own, place, scope, table)
        return Visit(self, Turn(breaker, place, "", table), mine, host, again=again, is_callers=is_callers)

    @property
    def all_closed(self) -> bool:
        """Whether nobody who has a role is refused or on probation, and nothing fails."""
        return not self._failing and all(breaker.is_closed for _, _, breaker in self._last.values())

    def is_shut(self, url: URL, scope: str = "", *, is_callers: bool = False) -> bool:
        """Whether this URL's origin would be refused now, at all or about this."""
        place, now = origin(url), self.now()
        table = self._callers if is_callers else self._failing
        found = (self._breakers.get(place), table.get((place, scope)))
        return any(breaker is not None and breaker.wait(now) is not None for breaker in found)

    def wait(self, role: Role, now: float, scope: str) -> float | None:
        """Seconds for which whoever last had this role is not asked about this; None if it would be."""
        last = self._last.get(role)
        if last is None:
            return None
        _, place, breaker = last
        own = self._failing.get((place, scope))
        return (own.wait(now) if own is not None else None) or breaker.wait(now)

    def describe(self, now: float, scope: str = "") -> list[dict[str, Any]]:
        """The origins that last had a role, for operators; what is about this only, has a `scope`."""
        described = []
        for role, (host, place, breaker) in self._last.items():
            own = self._failing.get((place, scope))
            # A repository's own: where it alone is shut, or alone has failed.
            worse = own is not None and (not own.is_closed or (breaker.last is None and own.last is not None))
            if breaker.is_closed and own is not None and worse:
                described.append({**_described(role, host, own, now), "scope": scope})
            else:
                described.append(_described(role, host, breaker, now))
        return described

    def known(self, turn: Turn) -> Breaker:
        """What is remembered of the turn's scope; its own breaker if nothing is. For visits."""
        return turn.table.get((turn.place, turn.scope)) or turn.breaker

    def remember(self, turn: Turn) -> Breaker:
        """As `known`, which from now on is remembered. For visits."""
        return turn.table.setdefault((turn.place, turn.scope), turn.breaker)

    def forget(self, turn: Turn) -> None:
        """The turn's scope works. For visits."""
        turn.table.pop((turn.place, turn.scope), None)


class Turn:
    """What a request's verdict has to name to one breaker; `scope` is empty for that of a whole origin."""

    __slots__ = ("breaker", "number", "place", "scope", "table")

    def __init__(self, breaker: Breaker, place: Origin, scope: str, table: _Table) -> None:
        self.breaker = breaker
        self.number = breaker.turn
        self.place = place
        self.scope = scope
        self.table = table  # where a scope's breaker is remembered


class Visit:
    """One request's leave to ask an origin. It ends with a verdict, at the latest when the `with` does; only
    for a body that was left on its connection another one may follow.
    """

    __slots__ = ("_again", "_host", "_is_callers", "_origin", "_own", "_owner")

    def __init__(
        self, owner: Breakers, origin: Turn, own: Turn, host: str, *, again: bool, is_callers: bool
    ) -> None:
        """`origin` is for the origin's breaker, `own` for that of what is asked for."""
        self._owner = owner
        self._origin = origin
        self._own = own
        self._host = host
        self._again = again
        self._is_callers = is_callers

    def answered(self, status: int, *, whole: bool) -> None:
        """An answer came; `whole` unless its body is still on the connection.

        5xx counts as none, but for 501, by which a registry says what it does not do.
        """
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
            self.failed(cause=f"answered {status}")
        elif whole:
            self.succeeded()
        else:
            for turn in self._turns():
                self._told(turn, turn.breaker.failures, closed=turn.breaker.began(turn.number))
                turn.number = (
                    turn.breaker.turn
                )  # what is to be said of the body counts in the state that is now

    def succeeded(self) -> None:
        """A whole answer came."""
        for turn in self._turns():
            self._told(turn, turn.breaker.failures, closed=turn.breaker.succeeded(turn.number))
        if not self._own.breaker.failures:
            self._owner.forget(self._own)

    def failed(self, *, reached: bool = True, cause: str = "") -> None:
        """No answer came, none of use, or it broke off. Not `reached`: nobody took the request.

        `cause`: why, in an operator's words.
        """
        scope = self._own.scope if reached else ""
        if reached and self._is_callers:
            self._origin.breaker.returned(self._origin.number)
        else:
            self._fail(self._origin, scope, cause)
        if scope:
            self._own.breaker = self._owner.remember(self._own)
            self._fail(self._own, "", cause)
        else:
            self._own.breaker.returned(self._own.number)

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
            cause = error.cause if isinstance(error, TransportError) else ""
            self.failed(reached=trouble not in UNREACHED, cause=cause)
        elif trouble in ANSWERS:
            self.succeeded()
        else:
            for turn in self._turns():
                turn.breaker.returned(turn.number)

    def _turns(self) -> tuple[Turn, Turn]:
        """Both; what others have found out about the same meanwhile counts."""
        self._own.breaker = self._owner.known(self._own)
        return self._origin, self._own

    def _fail(self, turn: Turn, scope: str, cause: str) -> None:
        breaker, owner = turn.breaker, self._owner
        was_closed = breaker.is_closed
        now, chance = owner.now(), owner.chance()
        pause = breaker.failed(turn.number, now, chance, again=self._again, scope=scope, cause=cause)
        if pause is not None and was_closed:
            _log.warning(
                "upstream.breaker.opened",
                host=self._host,
                failures=breaker.failures,
                pause=round(pause, 3),
                **_about(turn),
            )

    def _told(self, turn: Turn, failures: int, *, closed: bool) -> None:
        if closed:
            _log.info("upstream.breaker.closed", host=self._host, failures=failures, **_about(turn))


def _about(turn: Turn) -> dict[str, str]:
    return {"scope": turn.scope} if turn.scope else {}


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
    if breaker.last is not None:
        described["failed"] = {
            "ago": round(max(0.0, now - breaker.last.at), 1),
            "cause": breaker.last.cause,
            "limit": breaker.threshold,
        }
    return described
