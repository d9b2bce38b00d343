"""A circuit breaker: whether somebody is asked, judged by the last answers. Decides only; times are seconds
of one monotonic clock, given by the caller.

    closed --failures in a row--> open --its pause has passed--> half-open --success--> closed
                                   ^---------------- failure ---------'

1. In a row: no success in between, whatever was asked for.
2. A request counts once: its quick retries, and the attempts to go on with one blob, ask about the same
   moment or the same thing (`again`). So neither a restarted proxy nor one bad blob opens a breaker.
3. Half-open lets one request through, the probe; the others are refused at once. A probe without a verdict
   is given back, and one that never ends is replaced after PROBE.
4. A verdict on a request that was let through before the last change says nothing about now. Requests that
   hang for half a minute would otherwise open a breaker again that has closed since. `turn` counts changes.
5. What may be the fault of one thing (`scope`: a repository) counts once for each in a row. So one that
   always fails does not shut out all others, and asking for it again and again keeps nothing shut: once the
   pause is over it is let through without being the probe, and its failure says nothing new. It has a
   breaker of its own, in `breakers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FAILURES = (
    5  # in a row that open it: less than the pull of an image asks, more than chance does to a good server
)
PAUSE = 1.0  # seconds, the first one; it doubles with each failed probe
PAUSE_LIMIT = 10.0  # seconds: so long may a recovery go unnoticed
SCOPES = 64  # that are told apart in a row; those after them count each time
PROBE = 30.0  # seconds for a probe: by default an answer may take as long to begin


class State(Enum):
    """`value` is how it is called to operators."""

    CLOSED = "closed"  # all is well
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Failure:
    """The last one: when, and why in an operator's words (empty where that is not known)."""

    at: float
    cause: str


class Breaker:
    """See the module's text. After `admit` gave None, `turn` is what the request's verdict has to name."""

    def __init__(self, failures: int = FAILURES, limit: float = PAUSE_LIMIT) -> None:
        """`failures` in a row open it; `limit` is the longest pause in seconds."""
        self.turn = 0
        self.failures = 0  # in a row
        self.last: Failure | None = None  # also one that does not count; None once an answer has begun
        self.threshold = failures
        self._limit = limit
        self._state = State.CLOSED
        self._pause = PAUSE  # the next one, without jitter
        self._opens_at = 0.0  # the end of the pause, while open
        self._probe_ends: float | None = None  # while half-open: None when there is no probe
        self._scopes: set[str] = set()  # those that have failed in this row

    @property
    def is_closed(self) -> bool:
        """Whether everybody is let through."""
        return self._state is State.CLOSED

    def state(self, now: float) -> State:
        """The state that the next request will find."""
        return State.HALF_OPEN if self._state is State.OPEN and now >= self._opens_at else self._state

    def wait(self, now: float) -> float | None:
        """What `admit` would say, without being asked."""
        match self._state:
            case State.CLOSED:
                return None
            case State.OPEN:
                return self._opens_at - now if now < self._opens_at else None
            case State.HALF_OPEN:
                if self._probe_ends is None or now >= self._probe_ends:
                    return None
                return min(PAUSE, self._probe_ends - now)  # a probe mostly knows sooner

    def admit(self, now: float, scope: str = "") -> float | None:
        """None: go, and come back with a verdict. Else seconds until it is worth asking."""
        left = self.wait(now)
        if left is None and self._state is not State.CLOSED and scope not in self._scopes:
            self._change(State.HALF_OPEN)  # also when it is half-open: a probe that is replaced has no say
            self._probe_ends = now + PROBE
        return left

    def succeeded(self, turn: int) -> bool:
        """A whole answer came. Returns whether that closed the breaker."""
        if turn != self.turn:
            return False
        self.failures, self._pause, self.last = 0, PAUSE, None
        self._scopes.clear()
        return self._close()

    def began(self, turn: int) -> bool:
        """An answer has begun that can still break off. Returns whether that closed the breaker.

        It closes it on trial: failures and pause stand until an answer is whole, so the next failure opens it
        for longer.
        """
        if turn != self.turn:
            return False
        self.last = None
        return self._close()

    def failed(
        self,
        turn: int,
        now: float,
        chance: float,
        *,
        again: bool = False,
        pause: float | None = None,
        scope: str = "",
        cause: str = "",
    ) -> float | None:
        """No answer came, or none of use. Returns the pause in seconds if that opened the breaker.

        `chance` is from [0, 1): a pause is shortened by up to a half, so that many mirrors do not come back
        together. `again`: see rule 2. `pause` replaces the breaker's own. `scope`: see rule 5; empty for what
        is nobody's in particular. `cause`: see `Failure`.
        """
        if turn != self.turn:
            return None
        self.last = Failure(now, cause)
        if scope in self._scopes:
            self.returned(turn)
            return None
        if self._state is State.CLOSED and again:
            return None
        if scope and len(self._scopes) < SCOPES:
            self._scopes.add(scope)
        self.failures += 1
        if self._state is State.CLOSED and self.failures < self.threshold:
            return None
        length = min(self._limit, self._pause * (0.5 + chance / 2) if pause is None else pause)
        self._pause = min(self._limit, self._pause * 2)
        self._opens_at = now + length
        self._change(State.OPEN)
        return length

    def returned(self, turn: int) -> None:
        """The request ended without a verdict: it was cancelled, or failed by our own doing."""
        if turn == self.turn and self._state is State.HALF_OPEN:
            self._probe_ends = None

    def _close(self) -> bool:
        if self._state is State.CLOSED:
            return False
        self._change(State.CLOSED)
        return True

    def _change(self, state: State) -> None:
        self._state = state
        self._probe_ends = None
        self.turn += 1
