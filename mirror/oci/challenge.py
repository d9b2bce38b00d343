"""WWW-Authenticate (RFC 9110 sections 11.2, 11.3, 11.6.1).

    WWW-Authenticate = #challenge
    challenge        = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
    auth-param       = token BWS "=" BWS ( token / quoted-string )

A comma parts challenges and parameters alike: what follows it is a parameter when a "=" and a value come
next, and a scheme otherwise. Registries send several schemes in one line as well as in several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

MAX_LENGTH = 16 << 10  # characters of all lines together; real ones have some hundred

# All repeats are possessive: nothing is tried twice, so the time is linear in the line's length.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # RFC 9110's token
_GAP = r"[ \t,]*+"
_SCHEME = re.compile(rf"{_GAP}({_WORD})(?![ \t]*+=)(?=[ \t,]|\Z)")
_PARAMETER = re.compile(
    rf'{_GAP}({_WORD})[ \t]*+=[ \t]*+(?:({_WORD})|"((?:[^"\\]|\\.)*+)")(?=[ \t,]|\Z)', re.DOTALL
)
_TOKEN68 = re.compile(r"[ \t]++([0-9A-Za-z._~+/-]++=*+)(?=[ \t]*+(?:,|\Z))")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. Either `parameters` or `token68` is empty."""

    scheme: str  # lower case
    parameters: Mapping[str, str]  # names in lower case; the first of a name counts
    token68: str | None


def parse(lines: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all WWW-Authenticate lines, in order. Never raises.

    What cannot be understood ends its line: what was understood before it counts. A line that takes the
    lines beyond MAX_LENGTH is ignored with those after it, rather than cut in the middle of a realm.
    """
    challenges: list[Challenge] = []
    room = MAX_LENGTH
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        challenges.extend(_line(line))
    return tuple(challenges)


def _line(line: str) -> Iterator[Challenge]:
    position = 0
    while found := _SCHEME.match(line, position):
        scheme, position = found[1].lower(), found.end()
        # A parameter is never taken for a token68: its value follows the "=".
        if token68 := _TOKEN68.match(line, position):
            position = token68.end()
            yield Challenge(scheme, {}, token68[1])
            continue
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(line, position):
            name, word, quoted = parameter.groups()
            parameters.setdefault(name.lower(), word if quoted is None else _ESCAPED.sub(r"\1", quoted))
            position = parameter.end()
        yield Challenge(scheme, parameters, None)
        rest = line[position:].lstrip(" \t")
        if not rest.startswith(","):
            return


@dataclass(frozen=True, slots=True)
class Said:
    """A registry's answer as far as it is about who may: `challenges` are WWW-Authenticate lines.

    `retry_after` is in seconds.
    """

    status: int
    challenges: tuple[str, ...] = ()
    retry_after: float | None = None
