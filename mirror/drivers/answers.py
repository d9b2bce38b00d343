"""Reading what a storage says: whatever it is, it fails as a DriverError and as nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mirror.drivers.base import DriverError

# What taking apart a document raises that is none of its kind; RecursionError: it is nested deeply.
NONSENSE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
MESSAGE_LIMIT = 200  # characters of a server's text
NO_ANSWER = "the storage answers with something that is no answer to this"


@contextmanager
def taken_apart(path: str, cause: str = NO_ANSWER) -> Iterator[None]:
    """Around what reads an answer, and does nothing else."""
    try:
        yield
    except NONSENSE as error:
        raise DriverError(path, cause) from error


def line(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """What a server says, in one line for the log and a terminal: no control character is left."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split())[:limit])


def document(body: bytes) -> dict[str, Any] | None:
    """A JSON object; None: it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
