"""Image references as people type them: `alpine`, `quay.io/org/app:1`, `localhost:5000/x@sha256:...`.

The grammar is docker's (distribution/reference): what stands before the first slash is a host if it has a dot
or a colon or is `localhost`; without a tag or a digest, `latest` is meant. What skopeo, helm and browsers
write in front of it is taken off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.oci.digest import Digest, DigestError
from mirror.oci.names import InvalidNameError, Reference, Repository, Tag

MAX_LENGTH = 1024  # characters; a host (255), a name (255), a tag (128) and a digest (135) have fewer
MAX_HOST_LENGTH = 255  # characters, as in DNS

TRANSPORTS = ("docker://", "oci://", "https://", "http://")

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?\Z")


class ImageError(ValueError):
    """Not an image reference; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a typed reference means, before any registry's own rules (`library/` is Docker Hub's to add)."""

    host: str | None  # host[:port] in lower case; None where none was typed
    repository: Repository
    reference: Reference  # the digest where there is one: a tag beside it says nothing then

    @classmethod
    def parse(cls, text: str) -> Image:
        """Raises ImageError."""
        if len(text) > MAX_LENGTH:
            raise ImageError(f"longer than {MAX_LENGTH} characters: not an image reference")
        transport = next((known for known in TRANSPORTS if text.startswith(known)), "")
        host, rest = _host(text.removeprefix(transport))
        rest, _, digest = rest.partition("@")
        slash = rest.rfind("/")
        colon = rest.find(":", slash + 1)
        name, tag = (rest, "") if colon < 0 else (rest[:colon], rest[colon + 1 :])
        try:
            repository = Repository.parse(name)
            named = Tag.parse(tag) if colon >= 0 else Tag("latest")
            if "@" in text:
                return cls(host, repository, Digest.parse(digest))
        except (InvalidNameError, DigestError) as error:
            raise ImageError(f"{text!r} is not an image reference: {_reason(error, name)}") from error
        return cls(host, repository, named)


def _host(text: str) -> tuple[str | None, str]:
    """The host, and what follows it."""
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first):
        return None, text
    if len(first) > MAX_HOST_LENGTH or _HOST.match(first) is None:
        raise ImageError(f"{text!r} is not an image reference: {first!r} is no host[:port]")
    return first.lower(), rest


def _reason(error: ValueError, name: str) -> str:
    if name != name.lower():
        return "repository names are in lower case"
    return str(error)
