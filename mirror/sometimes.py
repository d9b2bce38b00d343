"""What happens often and is told now and then, with how often it was."""

from __future__ import annotations


class Sometimes:
    """Tells once per interval how often something happened since it was last told."""

    def __init__(self, interval: float) -> None:
        self._interval = interval  # seconds
        self._told: float | None = None
        self._since = 0

    def count(self, now: float) -> int:
        """It happened: how often, or 0 while it is too early to tell. `now`: time.monotonic()."""
        self._since += 1
        if self._told is not None and now - self._told < self._interval:
            return 0
        self._told, count, self._since = now, self._since, 0
        return count
