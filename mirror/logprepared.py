"""Many lines of one event, of which only some fields differ: rendered once, with holes.

A line is what structlog would write, byte for byte, at a hundredth of the cost: the event goes once through
the same processors, redaction and formatter, with a mark in the place of each field that differs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final

from structlog.typing import EventDict

from mirror.log import Form

TIME: Final = "time"  # the hole that every line has


class Prepared:
    """`holes` are the fields that differ, in the order in which `line` gets them; the time comes first.

    Values are given as they are to stand there: by `form.quote`, once for those that come again.
    """

    __slots__ = ("_format", "_pick")

    def __init__(self, format_: str, order: Sequence[int]) -> None:
        self._format = format_
        self._pick: itemgetter[Any] = itemgetter(*order)

    @classmethod
    def of(
        cls, form: Form, method: str, event: str, fields: Mapping[str, Any], holes: Sequence[str]
    ) -> Prepared | None:
        """None where it cannot be done: a hole is not in the line, once."""
        marks = {name: "m" + secrets.token_hex(16) for name in (TIME, *holes)}
        made: EventDict = {"event": event, **fields, **{name: marks[name] for name in holes}}
        for step in form.before:
            made = step(None, method, made)
        line = form.render(None, method, {**made, "level": method, TIME: marks[TIME]})
        found = re.split("(" + "|".join(marks.values()) + ")", line)
        names = {mark: number for number, mark in enumerate(marks.values())}
        order = [names[mark] for mark in found[1::2]]
        if sorted(order) != list(range(len(marks))):
            return None
        constant = [text.replace("%", "%%") for text in found[::2]]
        return cls("%s".join(constant) + "\n", order)

    def line(self, *values: str) -> str:
        """The line, with its end."""
        line: str = self._format % self._pick(values)
        return line


class Clock:
    """A time (time.time()) as the log has it: `2026-01-31T12:00:00.123456Z`."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, now: float) -> str:
        """The date is made anew each second only."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._text}{int((now - second) * 1e6):06}Z"
