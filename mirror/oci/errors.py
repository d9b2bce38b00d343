"""Error codes, statuses, envelope (distribution-spec, "Error Codes"; distribution registry/api/errcode)."""

from __future__ import annotations

from enum import Enum
from typing import Any

from mirror import jsontext


class ErrorCode(Enum):
    """A code with the status that distribution gives it and the standard message."""

    UNKNOWN = (500, "unknown error")
    UNSUPPORTED = (405, "The operation is unsupported.")
    UNAUTHORIZED = (401, "authentication required")
    DENIED = (403, "requested access to the resource is denied")
    UNAVAILABLE = (503, "service unavailable")
    TOOMANYREQUESTS = (429, "too many requests")
    DIGEST_INVALID = (400, "provided digest did not match uploaded content")
    SIZE_INVALID = (400, "provided length did not match content length")
    RANGE_INVALID = (416, "invalid content range")
    NAME_INVALID = (400, "invalid repository name")
    TAG_INVALID = (400, "manifest tag did not match URI")
    NAME_UNKNOWN = (404, "repository name not known to registry")
    MANIFEST_UNKNOWN = (404, "manifest unknown")
    MANIFEST_INVALID = (400, "manifest invalid")
    MANIFEST_UNVERIFIED = (400, "manifest failed signature verification")
    MANIFEST_BLOB_UNKNOWN = (400, "blob unknown to registry ")
    BLOB_UNKNOWN = (404, "blob unknown to registry")
    BLOB_UPLOAD_UNKNOWN = (404, "blob upload unknown to registry")
    BLOB_UPLOAD_INVALID = (404, "blob upload invalid")
    PAGINATION_NUMBER_INVALID = (400, "invalid number of results requested")

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message


def envelope(
    code: ErrorCode, message: str | None = None, detail: Any = None, *, always_detail: bool = False
) -> bytes:
    """The JSON body of an error answer, newline included; a `detail` of None is left out, unless told."""
    error: dict[str, Any] = {"code": code.name, "message": message or code.message}
    if detail is not None or always_detail:
        error["detail"] = detail
    return jsontext.encoded({"errors": [error]}, separators=(",", ":")) + b"\n"
