"""What the tests of several object stores do alike."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.error import HTTPError

WITHIN = 60.0  # seconds


def size(path: Path) -> int | None:
    """Bytes of a file; None: there is none."""
    return path.stat().st_size if path.exists() else None


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    """What somebody without a login gets there."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=WITHIN) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()
