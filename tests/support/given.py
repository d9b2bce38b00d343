"""A clock that stands still while the machine gives this process no time."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

TICK = 0.005  # seconds between two looks of a thread that does nothing else
LATE = 0.020  # seconds; looks that are further apart were not for us to make


class GivenTime:
    """Seconds, to be compared with one another; what an idle thread oversleeps is left out.

    So what is measured are the waits and the work of who is tested, not those of other processes; a machine
    that is stopped, or busy, is not taken for a slow answer. Code that blocks the event loop counts: it keeps
    the thread from no more than the interpreter's turns, which are shorter than LATE.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost = 0.0
        self._looked = time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="given time", daemon=True)

    def __enter__(self) -> Self:
        self._looked = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self) -> float:
        with self._lock:
            now = time.perf_counter()
            return now - self._lost - self._late(now)

    def _late(self, now: float) -> float:
        """Of the time since the last look what is to be left out."""
        gap = now - self._looked
        return gap - TICK if gap > LATE else 0.0

    def _look(self) -> None:
        while not self._ended.wait(TICK):
            with self._lock:
                now = time.perf_counter()
                self._lost += self._late(now)
                self._looked = now
