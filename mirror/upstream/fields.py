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


def media_type_in(headers: Mapping[str, str]) -> str:
    """Content-Type in lower case, without parameters."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether this is for people to look at: what stands in front of a registry says who has to log in.

    No registry and no storage gives a manifest, a blob or a list as such.
    """
    return media_type_in(headers) in ("text/html", "application/xhtml+xml")


def is_of_manifest(headers: Mapping[str, str]) -> bool:
    """Whether an answer to a question about a manifest is one: by its digest, or by its type."""
    media_type = media_type_in(headers)
    typed = "json" in media_type or media_type.startswith("application/vnd.")
    return not is_page(headers) and (typed or digest_in(headers) is not None)


def digest_in(headers: Mapping[str, str]) -> Digest | None:
    """Docker-Content-Digest, if it is one that can be checked."""
    try:
        return Digest.parse(headers.get("Docker-Content-Digest", ""))
    except DigestError:
        return None
