"""The parts of a request target: a clean path, a Location, fields of a query, numbers in them.

Everything is read as Go's net/url, path and strconv read it, because clients were written against
distribution. Nothing here raises.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote_plus

MAX_FIELDS = 32  # fields of a query that are looked at; no endpoint has more than four
INT64_MAX = 2**63 - 1  # Go's int
_INT64_DIGITS = 20  # no int64 has more; and int() refuses texts of thousands of digits

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_PATH_SAFE = "/:@!$&'()*+,;=~"
_QUERY_SAFE = _PATH_SAFE + "?%"


def clean(path: str) -> str:
    """Go's path.Clean with the last slash kept, as gorilla/mux does it: no empty, `.` or `..` component."""
    if "//" not in path and "/." not in path:
        return path
    # normpath keeps two leading slashes, which a client would read as a host: an open redirect.
    cleaned = "/" + posixpath.normpath(path).lstrip("/")
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def location(path: str, query: str) -> str:
    r"""A decoded clean path and a raw query as a Location without a host.

    What could be read as a host (`/\evil`) or as another header (CR, LF) leaves percent-encoded.
    """
    encoded = quote(path, safe=_PATH_SAFE, errors="replace")
    return f"{encoded}?{quote(query, safe=_QUERY_SAFE, errors='replace')}" if query else encoded


def field(query: str, key: str) -> str:
    """The first value of a field of a raw query, decoded; "" when it is not there."""
    if not query:
        return ""
    for pair in query.split("&", MAX_FIELDS)[:MAX_FIELDS]:
        name, _, value = pair.partition("=")
        if unquote_plus(name) == key:
            return unquote_plus(value)
    return ""


def atoi(text: str) -> tuple[int, bool]:
    """Go's strconv.Atoi: the number, and whether the text is one of 64 bits.

    If not, the number is what Go gives along with its error: 0, or the nearest int64.
    """
    if _INTEGER.match(text) is None:
        return 0, False
    digits = text.lstrip("+-").lstrip("0")[:_INT64_DIGITS] or "0"
    value = -int(digits) if text.startswith("-") else int(digits)
    nearest = max(-INT64_MAX - 1, min(value, INT64_MAX))
    return nearest, nearest == value
