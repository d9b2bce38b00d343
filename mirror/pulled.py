"""One pull, as it is told to who is to be notified of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pulled:
    """A manifest or a blob was asked for by GET or HEAD, and given. Texts are empty where there is none."""

    at: float  # seconds since the epoch
    request_id: str
    address: str  # HOST:PORT of the client, or what a header says
    host: str  # the Host header
    method: str
    user_agent: str
    user: str  # who has logged in here
    repository: str  # as the client calls it
    digest: str
    media_type: str
    size: int  # bytes of the whole manifest or blob
    tag: str  # by which it was asked for
    url: str
    body: bytes = b""  # a manifest's, where it was given, for its references
