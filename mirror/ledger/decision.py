"""What is done in a thread while somebody waits for it: wholly done, or known not to be."""

from __future__ import annotations

import threading


class LeftError(Exception):
    """Nobody waits for it any more: it is not to be done."""


class Decision:
    """Between a thread and whoever waits for it: which of the two was faster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_left = self._is_made = False

    def make(self) -> None:
        """In the thread, as the last thing that can still be taken back. Raises LeftError."""
        with self._lock:
            if self._is_left:
                raise LeftError
            self._is_made = True

    def leave(self) -> bool:
        """Wait no longer; whether it was made before, and so is done or being done."""
        with self._lock:
            self._is_left = True
            return self._is_made
