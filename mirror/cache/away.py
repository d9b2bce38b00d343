"""What counts as an upstream that has no say now, and how it is said."""

from __future__ import annotations

from mirror import provenance
from mirror.registry import Corrupt, RateLimited, RegistryError, Unavailable

AWAY = (Unavailable, RateLimited, Corrupt)  # the upstream has no say now: a kept copy may be given

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def ago(seconds: float) -> str:
    """A time in words, rounded down to its largest unit: `3 h`."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def incomplete(missing: int, total: int, reason: RegistryError | str) -> Unavailable:
    """An image of which too little is here, while the rest cannot be had.

    Said at its manifest, where clients still go to the registry itself: once podman or skopeo has a manifest
    from a mirror, it takes every blob from there or fails.
    """
    said = reason.message if isinstance(reason, RegistryError) else reason
    wait = reason.retry_after if isinstance(reason, RegistryError) else None
    text = f"{missing} of {total} parts of this image are not kept here, and cannot be had: {said}"
    return Unavailable(text, retry_after=wait)


def note_failure(error: RegistryError, trouble: RegistryError | None) -> None:
    """Tell the answer's provenance how asking the upstream ended.

    `trouble`: why it would not have been asked, as the condition said before; None where it was asked.
    """
    told = provenance.current()
    told.stored = False
    if isinstance(error, RateLimited):
        told.detail, told.warning = "limited", error.message
        if trouble is None:
            told.fwd_status = error.status
    elif not isinstance(error, AWAY):
        told.fwd_status = error.status
    elif trouble is not None:
        told.detail = "breaker"
