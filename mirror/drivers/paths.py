"""The grammar of paths (drivers.base), and the names that drivers keep to themselves."""

from __future__ import annotations

import re

from mirror.drivers.base import DriverError

MAX_PATH_LENGTH = (
    1024  # bytes; S3's limit for a key; our longest path (name 255, tag 128, two digests) is below 700
)
TEMPORARY = ".tmp-"  # begins the names of unfinished writes: never listed, never opened

_TEMPORARY = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{32}\Z")
_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
# Of names that begin with no dot, as all of ours: looked at in one go, for each small read.
_USUAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\Z")


def is_temporary(text: str) -> bool:
    """Whether this is a whole name of an unfinished write, as drivers make them."""
    return text.startswith(TEMPORARY) and _TEMPORARY.match(text) is not None


def is_name(text: str) -> bool:
    """Whether this can be one component of a path, and is not a temporary name."""
    return _NAME.match(text) is not None and text not in {".", ".."} and not text.startswith(TEMPORARY)


def split(path: str) -> tuple[str, ...]:
    """The components of a path; () for the root. Raises DriverError for what is no path."""
    if not path:
        return ()
    parts = tuple(path.split("/"))
    if len(path) > MAX_PATH_LENGTH or not all(is_name(part) for part in parts):
        raise DriverError(path[:MAX_PATH_LENGTH], "not a path within the store")
    return parts


def check(path: str) -> None:
    """Raises DriverError for what is no path, as `split`."""
    if len(path) > MAX_PATH_LENGTH or _USUAL.match(path) is None:
        split(path)


def is_path(path: str) -> bool:
    """Whether a key below our root can be a path: keys with `//` and the like are not ours."""
    try:
        return bool(split(path))
    except DriverError:
        return False


def check_below(path: str, folder: str) -> None:
    """Raises DriverError unless both are paths, and `path` is below `folder`."""
    parts, above = split(path), split(folder)
    if len(parts) <= len(above) or parts[: len(above)] != above:
        raise DriverError(path, f"is not below {folder or '/'}")
