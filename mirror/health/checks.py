"""Checks as in the registry: each runs every interval, and fails from its threshold's failure in a row on.

The first run comes after one interval, so that a mirror that has just begun is well until it is known not to
be. Nobody waits for a check: what is told is what the last one found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

LIMIT = (
    30.0  # seconds after which a check that has not ended is a failure; it is not begun again before it has
)
INTERVAL = 10.0  # seconds, the registry's own default, also for an interval of 0
LEAST = 0.01  # seconds between two runs of one check

log = structlog.get_logger()

Probe = Callable[[], Awaitable[None]]  # raises CheckError


class CheckError(Exception):
    """What is wrong, in the words that `/debug/health` shows."""


class Check:
    """One of them. `threshold` 0 and 1: the first failure counts."""

    def __init__(self, name: str, probe: Probe, *, interval: float = INTERVAL, threshold: int = 0) -> None:
        self.name = name
        self.error: str | None = None  # None: well, or not often enough otherwise
        self._probe = probe
        self._interval = max(interval or INTERVAL, LEAST)
        self._threshold = max(threshold, 1)
        self._failures = 0  # in a row

    def found(self, error: str | None) -> bool:
        """What a run found; whether what is told of the check has changed between well and not."""
        before = self.error
        self._failures = 0 if error is None else min(self._failures + 1, self._threshold)
        self.error = error if self._failures >= self._threshold else None
        return (before is None) != (self.error is None)

    async def run(self, changed: Callable[[], None]) -> None:
        """Until cancelled; `changed` is called when the check fails, and when it is well again."""
        while True:
            await asyncio.sleep(self._interval)
            running = asyncio.ensure_future(self._outcome())
            try:
                # NB: a thread that hangs on a disk cannot be ended: the next run waits for it.
                done, _ = await asyncio.wait({running}, timeout=LIMIT)
                if not done:
                    self._note(f"no outcome within {LIMIT:g} s", changed)
                self._note(await running, changed)
            finally:
                running.cancel()

    async def _outcome(self) -> str | None:
        try:
            await self._probe()
        except CheckError as error:
            return str(error)
        except Exception as error:  # whatever it is, the thing is not well
            log.exception("health.crashed", check=self.name)
            return f"the check itself failed: {type(error).__name__}"
        return None

    def _note(self, error: str | None, changed: Callable[[], None]) -> None:
        if not self.found(error):
            return
        if self.error is None:
            log.info("health.well", check=self.name)
        else:
            log.error("health.failing", check=self.name, reason=self.error)
        changed()


class Checks:
    """All of them. `changed` is told whether any fails, whenever that of one has changed."""

    def __init__(self, checks: Sequence[Check], changed: Callable[[bool], None]) -> None:
        self.all = tuple(checks)
        self._changed = changed

    def failures(self) -> dict[str, str]:
        """What is wrong, by the checks' names; empty while all is well."""
        return {check.name: check.error for check in self.all if check.error is not None}

    async def run(self) -> None:
        """Run them until cancelled."""
        async with asyncio.TaskGroup() as group:
            for check in self.all:
                group.create_task(check.run(lambda: self._changed(bool(self.failures()))))
