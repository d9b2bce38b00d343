"""Pagination by the Link header (RFC 8288; distribution-spec, "Listing Tags")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote_plus

from mirror.oci import target

MAX_LENGTH = 16 << 10  # characters of all lines together; a real one has some hundred

# Possessive repeats: the time is linear in the line's length.
_TARGET = re.compile(r"[ \t,]*+<([^>]*+)>")
_PARAMETER = re.compile(
    r'[ \t]*+;[ \t]*+(?:([^ \t;,="<>]++)[ \t]*+(?:=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^ \t;,"]*+)))?)?',
    re.DOTALL,
)


def next_link(lines: Iterable[str]) -> str | None:
    """The target of the first link with rel="next", as sent: it may be relative. Never raises.

    What is malformed ends its line; lines beyond MAX_LENGTH in all are ignored.
    """
    room = MAX_LENGTH
    for line in lines:
        room -= len(line)
        if room < 0:
            return None
        found = _next_in(line)
        if found is not None:
            return found
    return None


def _next_in(line: str) -> str | None:
    position = 0
    while link := _TARGET.match(line, position):
        position = link.end()
        relation: str | None = None
        while parameter := _PARAMETER.match(line, position):
            position = parameter.end()
            name, quoted, word = parameter.groups()
            # RFC 8288 section 3.3: of several rel parameters the first counts.
            if relation is None and name is not None and name.lower() == "rel":
                relation = (word if quoted is None else quoted) or ""
        if relation is not None and "next" in relation.lower().split():
            return link[1].strip()
        if not line[position:].lstrip(" \t").startswith(","):
            return None
    return None


def page_link(path: str, n: int, last: str, *, namespace: str | None = None) -> str:
    """A Link value in distribution's form: `</v2/_catalog?last=library%2Ffoo&n=1>; rel="next"`.

    `path` is decoded and has the prefix; `last` is the last name of this page. `namespace` is the
    request's `?ns=`, without which the next page would come from another upstream.
    """
    query = f"last={quote_plus(last, errors='replace')}&n={n}"
    if namespace is not None:
        query += f"&ns={quote_plus(namespace, errors='replace')}"
    return f'<{target.location(path, query)}>; rel="next"'
