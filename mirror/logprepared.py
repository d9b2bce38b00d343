"""Many lines of one event, of which only some fields differ: rendered once, with holes.

A line is what structlog would write, byte for byte, at a hundredth of the cost: the event goes once through
the same processors, redaction and formatter, with a mark in the place of each field that differs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Final

from structlog.typing import EventDict

from mirror.log import Form, redacted_value
from mirror.logwriter import encoded

TIME: Final = "time"  # the hole that every line has
SHAPES = 256  # of one event
# Most texts come again: hosts, clients' names, repositories. So many are kept as they were shown, of SHORT
# characters at most: 300 KB.
TEXTS, SHORT = 1024, 100


@dataclass(frozen=True, slots=True)
class Prepared:
    """`names` of the holes in the order in which they stand in the line, and the `texts` around them.

    Values are given as they are to stand there: by `form.quote`, once for those that come again.
    """

    texts: tuple[bytes, ...]  # one more than holes
    names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        form: Form,
        method: str,
        event: str,
        fields: Mapping[str, Any],
        holes: Sequence[str],
        numbers: Sequence[str] = (),
    ) -> Prepared | None:
        """`holes` are the texts that differ, besides the time; `numbers` the integers. None where one is not
        in the line, once.
        """
        marks = {"m" + secrets.token_hex(16): name for name in (TIME, *holes)}
        mark_of: dict[str, str | int] = {name: mark for mark, name in marks.items()}
        for name in numbers:
            mark_of[name] = 10**40 + secrets.randbelow(10**40)
            marks[str(mark_of[name])] = name
        made: EventDict = {"event": event, **fields, **{name: mark_of[name] for name in (*holes, *numbers)}}
        for step in form.before:
            made = step(None, method, made)
        line = form.render(None, method, {**made, "level": method, TIME: mark_of[TIME]}) + "\n"
        found = re.split("(" + "|".join(marks) + ")", line)
        names = tuple(marks[mark] for mark in found[1::2])
        if sorted(names) != sorted(marks.values()):
            return None
        return cls(tuple(map(encoded, found[::2])), names)

    def filled(self, name: str, value: bytes) -> Prepared:
        """With one hole less."""
        at = self.names.index(name)
        before, after = self.texts[at : at + 2]
        texts = (*self.texts[:at], before + value + after, *self.texts[at + 2 :])
        return Prepared(texts, self.names[:at] + self.names[at + 1 :])


class Alike:
    """Lines of one event, each written at once. `numbers` are fields that have an integer, `fixed` such that
    have few values in all; all other fields are texts, each redacted, cut and quoted as in any line.

    There is one Prepared for each set of fields, in their order, and of fixed values: SHAPES at most.
    """

    def __init__(self, method: str, event: str, numbers: Sequence[str], fixed: Sequence[str]) -> None:
        self._method, self._event, self._numbers, self._fixed = method, event, numbers, fixed
        self._form: Form | None = None
        self._shapes: dict[tuple[object, ...], Prepared | None] = {}
        self._shown: Callable[[str], bytes]
        self._clock = Clock()

    def write(self, form: Form, fields: Mapping[str, Any], now: float) -> bool:
        """Whether the line is written; else structlog has to make it. `now` as time.time()."""
        if form is not self._form or len(self._shapes) > SHAPES:
            self._form, self._shapes = form, {}
            self._shown = lru_cache(TEXTS)(partial(shown, form))
        shape = (*fields, *[fields[name] for name in self._fixed])
        if shape not in self._shapes:
            holes = [name for name in fields if name not in (*self._numbers, *self._fixed)]
            self._shapes[shape] = Prepared.of(
                form, self._method, self._event, fields, holes, numbers=self._numbers
            )
        prepared = self._shapes[shape]
        if prepared is None:
            return False
        parts = [prepared.texts[0]]
        for name, text in zip(prepared.names, prepared.texts[1:], strict=True):
            if name == TIME:
                parts.append(self._clock.text(now))
            elif name in self._numbers:
                parts.append(b"%d" % fields[name])
            else:
                value = fields[name]
                parts.append(self._shown(value) if len(value) <= SHORT else shown(form, value))
            parts.append(text)
        form.lines.write_several((b"".join(parts),))
        return True


def shown(form: Form, text: str) -> bytes:
    """A field's text as it stands in a line."""
    return encoded(form.quote(redacted_value(text)))


class Clock:
    """A time (time.time()) as the log has it: `2026-01-31T12:00:00.123456Z`."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def text(self, now: float) -> bytes:
        """The date is made anew each second only."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()
        return b"%s%06dZ" % (self._text, (now - second) * 1e6)
