"""What goes wrong with Google Cloud Storage, as the kinds that drivers.base has. Messages hold no URL."""

from __future__ import annotations

from mirror.drivers.advice import Fault, coded, keys_of
from mirror.drivers.answers import document, line
from mirror.drivers.base import (
    DeniedError,
    DriverError,
    PathNotFoundError,
    ThrottledError,
    UnreachableError,
)
from mirror.drivers.objectstore import BehindError

FAULTS = {"401": Fault.LOGIN, "403": Fault.RIGHT, "404": Fault.BUCKET}  # Google has no other codes for these
KEYS = {
    **keys_of("gcs", login="keyfile", signature="keyfile", bucket="bucket"),
    "endpoint": "STORAGE_EMULATOR_HOST",  # where it is not Google
    "plain": "http:// in STORAGE_EMULATOR_HOST",
}
AGAIN = {408, 429, 500, 502, 503, 504}  # https://cloud.google.com/storage/docs/retry-strategy


def refused(path: str, status: int, body: bytes) -> DriverError:
    """An answer that is none of those that were hoped for."""
    return coded(_kind(path, status, body), str(status))


def _kind(path: str, status: int, body: bytes) -> DriverError:
    message = _message(body)
    told = f"the storage answers {status}{': ' if message else ''}{message}"
    if status == 404 and "bucket does not exist" not in message:
        return PathNotFoundError(path, "no such object")
    if status == 416:
        return BehindError(path, told)
    if status == 429:
        return ThrottledError(path, told)
    if status in (401, 403, 404):
        return DeniedError(path, told)
    return UnreachableError(path, told) if status >= 500 else DriverError(path, told)


def _message(body: bytes) -> str:
    """What Google says, for people: of a JSON document, or of a line of text."""
    text = body.decode("utf-8", "replace")
    error = (document(body) or {}).get("error")
    if isinstance(error, dict) and "message" in error:
        text = str(error["message"])
    elif text.lstrip().startswith(("<", "{", "[")):
        return ""
    return line(text)
