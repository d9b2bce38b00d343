"""Whether a file that grows is sent while it grows, or once all of it is there.

Sending takes time of the same processors that receive, hash and give the bytes to clients who wait for them.
What comes slowly leaves room for that; what is whole within a moment is left alone until then: the object is
there a moment later at most, and the clients have their bytes sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

SOON = 2.0  # seconds; a file that is whole within them is not sent before. No longer is anything held back.
KNOWN = 0.25  # seconds of growth after which its pace is believed


class Pace:
    """Of one file, which is to have `size` bytes; `send` is told how many there are, once they may go."""

    def __init__(self, size: int, send: Callable[[int], None]) -> None:
        self._size = size
        self._send = send
        self._began = 0.0  # when it was looked at first
        self._first = 0  # bytes that it had then
        self._count = 0  # bytes that it has
        self._timer: asyncio.TimerHandle | None = None

    def reached(self, count: int) -> None:
        """It has so many bytes now."""
        now, self._count = monotonic(), max(count, self._count)
        if self._timer is None:
            self._began, self._first = now, count
            self._timer = asyncio.get_running_loop().call_later(SOON, self._due)
        if count >= self._size or is_worth(self._size - count, count - self._first, now - self._began):
            self._send(count)

    def end(self) -> None:
        """Nothing is to be sent any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        """Also where no more of it comes."""
        self._send(self._count)


def is_worth(left: int, come: int, seconds: float) -> bool:
    """Whether to send a file of which `come` bytes have come in so many seconds, and so many are left."""
    return seconds >= SOON or (seconds >= KNOWN and left * seconds > come * SOON)
