"""The Authorization header of Basic authentication (RFC 7617), as Go's net/http reads it."""

from __future__ import annotations

import base64
import binascii

SCHEME = "basic "


def parse(authorization: str) -> tuple[bytes, bytes] | None:
    """User and password; None for anything else. Never raises.

    The first colon parts them; which characters the bytes mean is nobody's business here.
    """
    if authorization[: len(SCHEME)].lower() != SCHEME:
        return None
    try:
        plain = base64.b64decode(authorization[len(SCHEME) :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    user, colon, password = plain.partition(b":")
    return (user, password) if colon else None
