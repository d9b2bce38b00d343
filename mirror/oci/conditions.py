"""Conditional requests (RFC 9110 section 13). A content's entity tag is its digest in quotes, and strong.

There are no modification times here, so a condition with a date is never true.
"""

from __future__ import annotations

import re

from mirror.oci.digest import Digest

# A list's element and the comma after it: an entity tag, weak or not, or a bare word.
_ELEMENT = re.compile(r'[ \t]*+(?:(?:W/)?"([^"]*+)"|([^", \t]++))[ \t]*+(?:,[ \t,]*+|\Z)')


def etag(digest: Digest) -> str:
    """The value of the ETag header."""
    return f'"{digest}"'


def none_match(header: str | None, digest: Digest, *, bare: bool) -> bool:
    """Whether If-None-Match names this content: 304 (section 13.1.2, weak comparison).

    `header` is the lines joined by commas. `bare`: the digest counts without quotes too; distribution
    takes it so for manifests, not for blobs. What follows something malformed is not looked at.
    """
    text = (header or "").strip(" \t,")
    if text == "*":
        return True
    wanted = str(digest)
    position = 0
    while found := _ELEMENT.match(text, position):
        quoted, word = found.groups()
        if quoted == wanted or (bare and word == wanted):
            return True
        position = found.end()
        if position == len(text):
            break
    return False


def if_range(header: str | None, digest: Digest) -> bool:
    """Whether a Range header counts: no If-Range, or this content's strong tag (section 13.1.5)."""
    text = (header or "").strip(" \t")
    return not text or text == etag(digest)
