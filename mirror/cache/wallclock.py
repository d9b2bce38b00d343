"""The wall clock, and how far it was put forward lately: by that alone nothing is old.

Files and uses bear the time that the clock showed. When it is put forward (a machine that does not know the
time starts in 1970, and the network sets it right), all that was young a moment ago looks as old as the jump
is wide. So whoever spares what is young asks what the clock may have shown so long ago, as it stood at any
time since. Put back, it only makes things look younger, or as if they came from the future: they stay.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

STEP = 1.0  # seconds; by less than that clocks are always set
STEPS = 100  # steps forward that are known; beyond, two that differ least count as one, the earlier
SLEEPING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # runs on while the machine sleeps


def elapsed() -> float:
    """Seconds since some moment, by a clock that nobody sets."""
    return time.clock_gettime(SLEEPING)


@dataclass(frozen=True, slots=True)
class _Before:
    """How far the wall clock was ahead of the steady one, and until when, by that: at the latest."""

    ahead: float
    until: float


class WallClock:
    """`wall` is the clock, in seconds since the epoch; `steady` one that only runs on. A call gives the time.

    A step counts from the first call after it: the seldomer the calls, the longer what was is believed.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = elapsed) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()
        self._before: deque[_Before] = deque()  # each ahead by less, and known for longer ago, than the next

    def __call__(self) -> float:
        now, steady = self._wall(), self._steady()
        if abs(now - steady - self._ahead) >= STEP:
            self._step(now - steady, steady)
        return now

    def ago(self, seconds: float) -> float:
        """The earliest that the clock may have shown so many seconds ago, as it has stood since."""
        self()
        since = self._steady() - seconds
        return since + next((each.ahead for each in self._before if each.until >= since), self._ahead)

    def _step(self, ahead: float, steady: float) -> None:
        """It was set. What was further ahead than now makes nothing look older."""
        self._before.append(_Before(self._ahead, steady))
        while self._before and self._before[-1].ahead >= ahead:
            self._before.pop()
        self._ahead = ahead
        if len(self._before) > STEPS:
            steps = list(self._before)
            at = min(range(STEPS), key=lambda each: steps[each + 1].ahead - steps[each].ahead)
            steps[at : at + 2] = [_Before(steps[at].ahead, steps[at + 1].until)]
            self._before = deque(steps)
