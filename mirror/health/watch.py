"""Whether a storage elsewhere can be used: looked at when the mirror starts, and whenever it has refused.

While all is well nothing is asked. A storage that does not let us (a key that was changed, a bucket that
went) is not away: it answers, so that nothing else would say what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

INTERVAL = 5.0  # seconds between two looks at the count of refusals, which costs nothing
AGAIN = 30.0  # seconds between two looks at a storage that cannot be used

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the storage cannot be used: for the operator, and for everybody, who need not know where it is."""

    told: str
    shown: str


class Watch:
    """`look` says what is wrong; None: nothing. `denials`: so far, of any request.

    `error` is what everybody may know.
    """

    def __init__(self, look: Callable[[], Awaitable[Trouble | None]], denials: Callable[[], int]) -> None:
        self.error: str | None = None
        self._look = look
        self._denials = denials

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._note(await self._look())
            seen = self._denials()  # also those of the look itself
            if self.error is not None:
                await asyncio.sleep(AGAIN)
                continue
            while self._denials() == seen:  # noqa: ASYNC110 - whoever is refused tells nobody
                await asyncio.sleep(INTERVAL)

    def _note(self, trouble: Trouble | None) -> None:
        error = None if trouble is None else trouble.shown
        if trouble is not None and error != self.error:
            log.error("storage.unusable", reason=trouble.told)
        elif error is None and self.error is not None:
            log.info("storage.usable")
        self.error = error
