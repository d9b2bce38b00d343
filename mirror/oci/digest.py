"""Content digests (OCI image-spec, descriptor.md#digests): `sha256:<hex>` and `sha512:<hex>`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

HEX_LENGTH = {"sha256": 64, "sha512": 128}

# distribution's route grammar: what looks like a digest, of whatever algorithm.
_SHAPE = re.compile(r"([a-z0-9]+(?:[.+_-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)\Z")
_SHA256 = re.compile(r"sha256:[a-f0-9]{64}\Z")
_HEX = re.compile(r"[a-f0-9]+\Z")


class Hasher(Protocol):
    """The part of hashlib's objects that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Hasher: ...


class DigestError(ValueError):
    """Not a digest that we can check; `str()` names the reason in distribution's words."""


@dataclass(frozen=True, slots=True)
class Digest:
    """One digest, valid from construction through `parse` or `of`."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """`algorithm:hex` -> Digest. Raises DigestError (OCI code DIGEST_INVALID)."""
        if _SHA256.match(text) is not None:  # as nearly all are
            return cls("sha256", text[7:])
        found = _SHAPE.match(text)
        if found is None:
            raise DigestError("invalid checksum digest format")
        algorithm, value = found[1], found[2]
        length = HEX_LENGTH.get(algorithm)
        if length is None:
            raise DigestError("unsupported digest algorithm")
        if len(value) != length:
            raise DigestError("invalid checksum digest length")
        if _HEX.match(value) is None:
            raise DigestError("invalid checksum digest format")
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of these bytes."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> Hasher:
        """A new hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        """Whether these bytes are what the digest names."""
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex

    def __hash__(self) -> int:
        """As good as of both parts, and cheaper: digests are keys of most that is remembered."""
        return hash(self.hex)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def looks_like_digest(text: str) -> bool:
    """Whether a reference is meant as a digest, valid or not: tags cannot contain a colon."""
    return _SHAPE.match(text) is not None
