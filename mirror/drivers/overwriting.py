"""Who looks for a file while it is written here: that it is not there says nothing then.

S3 promises that readers see the old object or the new one. Swift as old as Debian 12's (2.30) does not keep
that where an object has one replica: it lists the object's versions on its disk, and answers 404 when the
one that it is about to open was replaced in between. Its next answer is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mirror.drivers.base import PathNotFoundError

LOOKS = 3  # in a row; each may have met another write

Answer = TypeVar("Answer")


class Overwriting:
    """What is written and looked for now, by paths. Other processes' writes are not known here."""

    def __init__(self) -> None:
        self._writes = Counter[str]()
        self._looks: dict[str, list[_Look]] = {}

    @contextmanager
    def write(self, path: str) -> Iterator[None]:
        """Around the one request with which the file appears."""
        self._writes[path] += 1
        for look in self._looks.get(path, ()):
            look.met_a_write = True
        try:
            yield
        finally:
            self._writes[path] -= 1
            if not self._writes[path]:
                del self._writes[path]

    async def look(self, path: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """What `ask` gives, or raises; LOOKS times at most where it found nothing while there was a write."""
        for _ in range(LOOKS - 1):
            with self._looking(path) as look:
                try:
                    return await ask()
                except PathNotFoundError:
                    if not look.met_a_write:
                        raise
        return await ask()

    @contextmanager
    def _looking(self, path: str) -> Iterator[_Look]:
        look = _Look(path in self._writes)
        looks = self._looks.setdefault(path, [])
        looks.append(look)
        try:
            yield look
        finally:
            looks.remove(look)
            if not looks:
                del self._looks[path]


class _Look:
    """One request. `met_a_write`: the file was being written when it began, or has been since."""

    def __init__(self, met_a_write: bool) -> None:
        self.met_a_write = met_a_write
