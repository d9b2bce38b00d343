"""Which upstreams have answered lately: what is not all here is given only while the rest can be had.

A breaker opens after failures; but the first client of an outage, or of a mirror that has just started, finds
none. If its image is kept in part it would be given a manifest, and fail at a blob.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cachetools import TTLCache

NAMESPACES = 1024  # upstreams that are remembered; a forgotten one is asked once more
LATELY = 10.0  # seconds that an answer counts for; an outage that is younger is found out at a blob


class Pulse:
    """`now` is a monotonic clock, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._heard: TTLCache[str, None] = TTLCache(NAMESPACES, LATELY, timer=now)

    def heard(self, namespace: str) -> None:
        """It gave an answer, whatever it was."""
        self._heard[namespace] = None

    def lately(self, namespace: str) -> bool:
        """Whether it did a moment ago."""
        return namespace in self._heard
