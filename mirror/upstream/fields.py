"""Header fields of an upstream's answer, read with distrust: what makes no sense is not there."""

from __future__ import annotations

from collections.abc import Mapping

from mirror.oci.digest import Digest, DigestError
from mirror.oci.ranges import ContentRange, ContentRangeError

LENGTH_DIGITS = 19  # what a 63-bit number has at the most


def length_in(headers: Mapping[str, str]) -> int | None:
    """Content-Length."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < LENGTH_DIGITS else None


def range_in(headers: Mapping[str, str]) -> ContentRange | None:
    """Content-Range."""
    try:
        return ContentRange.parse(headers.get("Content-Range", ""))
    except ContentRangeError:
        return None


def digest_in(headers: Mapping[str, str]) -> Digest | None:
    """Docker-Content-Digest, if it is one that can be checked."""
    try:
        return Digest.parse(headers.get("Docker-Content-Digest", ""))
    except DigestError:
        return None
