"""A storage that does not answer is left alone for a moment, so that nobody waits for it in turn."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from mirror.drivers.advice import coded
from mirror.drivers.base import DeniedError, DriverError, UnreachableError

FAILURES = 3  # in a row, of which each had its own attempts
NOT_ASKED = "not asked now: "  # what a cause begins with that was found before
PAUSE = 5.0  # seconds; then one request at a time tries

log = structlog.get_logger()


class Breaker:
    """Told of each request's outcome. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self._cause = self._reason = ""
        self.denials = 0  # so far: how often the storage did not let us

    @property
    def trouble(self) -> str:
        """Why the storage is left alone; "" while it is asked."""
        return self._cause if self._failures >= FAILURES else ""

    def check(self, path: str) -> None:
        """Raises UnreachableError while the storage is left alone; else the caller may ask it."""
        if self._failures < FAILURES:
            return
        now = self._clock()
        if now < self._until:
            raise coded(UnreachableError(path, f"{NOT_ASKED}{self._cause}"), self._reason)
        self._until = now + PAUSE  # this one tries

    def failed(self, cause: str, reason: str = "") -> None:
        """A request got no answer; `reason` as the error has it."""
        self._failures += 1
        self._cause, self._reason = cause, reason
        if self._failures == FAILURES:
            log.error("storage.away", cause=cause)
        self._until = self._clock() + PAUSE

    def refused(self, error: DriverError) -> None:
        """A request was answered, but not with what was hoped for."""
        self.denials += isinstance(error, DeniedError)
        self.answered()

    def answered(self) -> None:
        """The storage said something, if only that it refuses."""
        if self._failures >= FAILURES:
            log.info("storage.back")
        self._failures = 0
