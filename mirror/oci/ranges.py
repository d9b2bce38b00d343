"""Range and Content-Range (RFC 9110 section 14), judged as Go's http.ServeContent does it.

Where the two differ we follow the RFC: a unit other than bytes is ignored, and a number beyond 64 bits is
a large number. As in Go, a range that is not understood is 416 and never silently the whole content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# podman asks for the missing pieces of a zstd:chunked layer in one request of some hundred ranges; each
# costs a part's header of about 200 bytes.
MAX_RANGES = 256
MAX_POSITION = 2**63 - 1  # bytes; larger numbers are read as this one
_POSITION_DIGITS = 19  # no larger number has fewer; and int() refuses texts of thousands of digits

_UNIT = re.compile(r"bytes=", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]*)[ \t]*-[ \t]*([0-9]*)\Z")
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\Z", re.IGNORECASE)


class Unsatisfiable(ValueError):
    """416; `str()` is Go's text for the body."""


class ContentRangeError(ValueError):
    """Not a Content-Range of bytes that fits together."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes [start, stop); never empty."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes [start, stop) of a content of `size` bytes (None: the sender does not say)."""

    start: int
    stop: int
    size: int | None

    @classmethod
    def parse(cls, text: str) -> ContentRange:
        """Read `bytes a-b/size`, the form of a 206 answer. Raises ContentRangeError."""
        found = _CONTENT_RANGE.match(text.strip(" \t"))
        if found is None:
            raise ContentRangeError(f"invalid Content-Range {text[:80]!r}")
        start, stop = int(found[1]), int(found[2]) + 1
        size = None if found[3] == "*" else int(found[3])
        if start >= stop or stop > (MAX_POSITION if size is None else min(size, MAX_POSITION)):
            raise ContentRangeError(f"invalid Content-Range {text[:80]!r}")
        return cls(start, stop, size)

    def __str__(self) -> str:
        return f"bytes {self.start}-{self.stop - 1}/{'*' if self.size is None else self.size}"


def parse_range(header: str | None, size: int) -> tuple[ByteRange, ...] | None:
    """The ranges that are asked of a content of `size` bytes, in the order asked; None: serve it whole.

    Ranges that begin after the end are left out, the others end with the content. It is served whole when
    nothing is asked for, or more than MAX_RANGES, or more bytes in all than it has ("probably an attack,
    or a dumb client", Go), or when it is empty. Raises Unsatisfiable when a range is malformed (Go's text
    is "invalid range") or when none overlaps the content.
    """
    unit = _UNIT.match(header) if header else None
    if header is None or unit is None:
        return None  # RFC 9110 section 14.2: "MUST ignore a Range header field that contains" another unit
    if header.count(",") >= MAX_RANGES:
        return None
    asked = [text.strip(" \t") for text in header[unit.end() :].split(",")]
    ranges = [_one(text, size) for text in asked if text]
    found = tuple(one for one in ranges if one is not None)
    if size == 0 or not ranges or sum(one.length for one in found) > size:
        return None
    if not found:
        raise Unsatisfiable("invalid range: failed to overlap")
    return found


def _one(text: str, size: int) -> ByteRange | None:
    """One range cut to the content; None when it lies outside. Raises Unsatisfiable."""
    found = _RANGE.match(text)
    if found is None or text.strip("- \t") == "":
        raise Unsatisfiable("invalid range")
    first, last = found.groups()
    if not first:  # the last so many bytes
        start, stop = max(size - _position(last), 0), size
    else:
        start = _position(first)
        stop = min(_position(last) + 1, size) if last else size
        if last and _position(last) < start:
            raise Unsatisfiable("invalid range")
    return ByteRange(start, stop) if start < stop else None


def _position(digits: str) -> int:
    significant = digits.lstrip("0")
    if len(significant) > _POSITION_DIGITS:
        return MAX_POSITION
    return min(int(significant or "0"), MAX_POSITION)
