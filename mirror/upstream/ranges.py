"""Whether an upstream gives parts of its blobs, as far as its answers tell. Decides only.

Its storage is who does it, which may be several hosts; what one says is believed of all. Who is wrong about
it (a 200 to a Range) is asked for parts again after an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

BELIEVED = 3600.0  # seconds


class Ranges:
    """`now` is the clock that times are of."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._given = False
        self._until = 0.0  # the last word is believed until then

    @property
    def given(self) -> bool:
        """Whether parts can be asked for; not before anything was heard."""
        return self._given and self._now() < self._until

    def heard(self, status: int, headers: Mapping[str, str], *, asked: bool) -> None:
        """An answer with a blob, or with a part of it. `asked`: for a part.

        That parts would be given (Accept-Ranges, RFC 9110 section 14.3) is no proof against what was done.
        """
        if asked:
            self._say(status == HTTPStatus.PARTIAL_CONTENT)
            return
        offered = headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        if offered and (self._given or self._now() >= self._until):
            self._say(True)

    def refused(self) -> None:
        """An answer to a question for a part was wrong."""
        self._say(False)

    def _say(self, given: bool) -> None:
        self._given, self._until = given, self._now() + BELIEVED
