"""Which upstreams were lately too slow for the deadline: their next askers do not wait at all.

An upstream that hangs would cost every due tag the whole deadline, until its requests have run into their
time-outs and the breaker knows. So the first that waits in vain tells the others: until a check comes back in
time, kept copies go out at once, and a few checks go on behind.
"""

from __future__ import annotations

from cachetools import LRUCache

NAMESPACES = 1024  # upstreams that are remembered; for a forgotten one the next asker waits again
BEHIND = 4  # checks that run at a slow upstream behind answers from what is kept


class Patience:
    """`deadline` in seconds: how long a client that could have a kept copy waits for a check."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._slow: LRUCache[str, bool] = LRUCache(NAMESPACES)
        self._running: dict[str, int] = {}  # checks under way; as many entries as upstreams being asked

    def wait(self, namespace: str) -> float:
        """Seconds that a client may be held."""
        return 0.0 if self.is_out(namespace) else self.deadline

    def is_out(self, namespace: str) -> bool:
        """Whether nobody waits for this upstream: it was too slow lately, or there is no time to wait."""
        return not self.deadline or self._slow.get(namespace, False)

    def worth(self, namespace: str) -> bool:
        """Whether to begin another check."""
        return not self.is_out(namespace) or self._running.get(namespace, 0) < BEHIND

    def overran(self, namespace: str) -> None:
        """A client has waited for the whole of the deadline, in vain."""
        self._slow[namespace] = True

    def began(self, namespace: str) -> None:
        """A check is under way."""
        self._running[namespace] = self._running.get(namespace, 0) + 1

    def ended(self, namespace: str, seconds: float) -> None:
        """It is over, after so long, however it went."""
        left = self._running.pop(namespace) - 1
        if left:
            self._running[namespace] = left
        if seconds <= self.deadline:
            self._slow.pop(namespace, None)
