"""Repository names, tags and references (distribution-spec, "Pulling manifests": <name>, <reference>)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.oci.digest import Digest

MAX_NAME_LENGTH = 255  # distribution's limit for the whole name

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


class InvalidNameError(ValueError):
    """Not a repository name (OCI code NAME_INVALID) or not a tag (TAG_INVALID)."""


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository name such as `library/alpine`, without a registry's host."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Raises InvalidNameError unless the name follows the spec and has 255 characters at most."""
        if len(text) > MAX_NAME_LENGTH or _NAME.match(text) is None:
            raise InvalidNameError(f"invalid repository name {text[:300]!r}")
        return cls(text)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A tag such as `3.20`: at most 128 characters, no leading dot or dash."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Raises InvalidNameError unless the tag follows the spec."""
        if _TAG.match(text) is None:
            raise InvalidNameError(f"invalid tag {text[:300]!r}")
        return cls(text)

    def __str__(self) -> str:
        return self.name


Reference = Tag | Digest
