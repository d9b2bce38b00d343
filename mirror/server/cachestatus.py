"""Provenance -> the header fields that tell a client about it: Cache-Status and Warning. No I/O."""

from __future__ import annotations

import math
import re

from mirror.log import redact_text
from mirror.provenance import Provenance

NAME = "mirror"  # who says it, in both fields
HIT = f"{NAME}; hit"
LOCAL = f"{NAME}; detail=local"  # no cache and no upstream had a part in it
WARNING_LIMIT = 200  # characters of a warning's text; log lines and terminals show them whole
DETAIL_LIMIT = 64  # characters
INTEGER_MAX = 999_999_999_999_999  # RFC 8941 section 3.3.1

_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*\Z")  # RFC 8941 section 3.3.4
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
# IPv4 and bracketed IPv6, with a port: hosts of ours, which are nobody's business.
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b|\[[0-9A-Fa-f:.%]{2,60}\](?::\d{1,5})?")


def cache_status(provenance: Provenance) -> str:
    """The value of Cache-Status (RFC 9211): a list of one, `mirror`, with its parameters.

    `hit` and `fwd` exclude each other, and `fwd-status`, `stored` and `collapsed` mean something beside `fwd`
    only (section 2.1 to 2.6). Where `fwd-status` is absent, the upstream's is the answer's own.
    """
    if provenance.hit:
        if provenance.ttl is None and not provenance.detail:
            return HIT  # every warm blob
        text = HIT
    elif provenance.fwd:
        text = f"{NAME}; fwd={provenance.fwd}"
        if provenance.fwd_status is not None:
            text += f"; fwd-status={provenance.fwd_status}"
    elif provenance.detail:
        text = NAME
    else:
        return LOCAL
    if provenance.ttl is not None:
        text += f"; ttl={_integer(provenance.ttl)}"
    if provenance.fwd and not provenance.hit:
        if provenance.stored:
            text += "; stored"
        if provenance.collapsed:
            text += "; collapsed"
    if provenance.detail:
        text += f"; detail={_item(provenance.detail)}"
    return text


def warning(text: str) -> str:
    """The value of Warning (RFC 7234 section 5.5): 299, "miscellaneous persistent", by us, the text quoted.

    What could be a host of ours or a secret is taken out, though the texts should have none.
    """
    shown = _ADDRESS.sub("(address)", redact_text(_UNPRINTABLE.sub(" ", text).strip()))
    return f"299 {NAME} {_quoted(shown[:WARNING_LIMIT])}"


def _integer(seconds: float) -> int:
    """Whole seconds, downwards: what was fresh until a moment ago is not fresh for another 0 s."""
    return math.floor(max(-INTEGER_MAX, min(seconds, INTEGER_MAX)))


def _item(text: str) -> str:
    """A token where it is one, else a string (RFC 8941 sections 3.3.3 and 3.3.4)."""
    text = _UNPRINTABLE.sub(" ", text)[:DETAIL_LIMIT]
    return text if _TOKEN.match(text) else _quoted(text)


def _quoted(text: str) -> str:
    """Printable ASCII as a quoted string, whose form is the same in RFC 8941 and RFC 9110."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
