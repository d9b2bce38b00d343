"""What may be the name of a registry: `host` or `host:port`, in lower case, and patterns of such names.

A name is also the first component of all that is kept of its registry; a colon is no part of a component, so
that it is written `_` there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mirror.oci.names import MAX_NAME_LENGTH
from mirror.upstream import suffixes

HUB = "docker.io"
HUB_NAMES = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})  # one registry

_HOST_LENGTH = 253  # characters, RFC 1035 section 2.3.4
_PUBLIC_CACHED = 1024  # hosts; a look at the suffix list takes 4 us, and clients name the same few hosts
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"  # RFC 1123 section 2.1
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?\Z")
_PORT = re.compile(r"_([0-9]{1,5})\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
# In the suffix list, and yet no place for registries: names of addresses, of home networks, of Tor.
_NOT_PUBLIC = ("arpa", "onion")


def folder(name: str) -> str:
    """`localhost:5555` -> `localhost_5555`."""
    return name.replace(":", "_")


def unfold(component: str) -> str:
    """The inverse of `folder` for names that have no `_` of their own."""
    return _PORT.sub(r":\1", component)


def is_name(text: str) -> bool:
    """Whether this is `host` or `host:port` in lower case; `folder` of it can begin a repository."""
    return len(text) <= MAX_NAME_LENGTH and _NAME.match(text) is not None


def is_address(host: str) -> bool:
    """Whether resolvers may take it for an IPv4 address: 10.0.0.1, 167772161, 10.1, 0x7f.1, also nonsense.

    (WHATWG URL standard, "ends in a number": the last label decides.)
    """
    return _NUMBER.match(host.rpartition(".")[2]) is not None


def is_image_host(name: str) -> bool:
    """Whether clients take it for a host where an image's name begins with it (docker's rule)."""
    return "." in name or ":" in name or name == "localhost"


def is_public(host: str) -> bool:
    """Whether a host that only a client named may be asked: it has a registered domain, and no port.

    Single labels, addresses, `.local`, `.internal`, `.svc` and whatever else is no public suffix are names of
    this network, which is not the client's to reach through us. The first call blocks: see `suffixes.split`.
    """
    if len(host) > _HOST_LENGTH or ":" in host or not is_name(host) or is_address(host):
        return False
    return _has_domain(host)


@lru_cache(maxsize=_PUBLIC_CACHED)
def _has_domain(host: str) -> bool:
    found = suffixes.split(host)
    return bool(found.suffix and found.domain) and found.suffix.rpartition(".")[2] not in _NOT_PUBLIC


def from_header(host: str) -> str:
    """The host that a Host header names, without port; "" for an address, `localhost` and nonsense."""
    text = host.lower()
    name, colon, port = text.rpartition(":")
    if colon and port.isdecimal():
        text = name
    text = text.removesuffix(".")
    if not is_name(text) or ":" in text or is_address(text) or text == "localhost":
        return ""
    return text


@dataclass(frozen=True, slots=True)
class Pattern:
    """`*.dkr.ecr.*.amazonaws.com`: each `*` stands for one or more of a-z, 0-9, `.` and `-`.

    `pieces` are what stands between the `*` of the host; `port` is ":port" or "". Matching is linear: for a
    sequence of literals with gaps, the leftmost place of each is as good as any.
    """

    text: str
    pieces: tuple[str, ...]
    port: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises ValueError for what can fit no name; `*` alone is no pattern, but the open mode."""
        if text == "*" or not is_name(text.replace("*", "a")):
            raise ValueError(f"not a pattern of registry names: {text!r}")
        host, colon, port = text.partition(":")
        if "*" in port or "*" not in host:
            raise ValueError(f"the * of a pattern must be in its host: {text!r}")
        return cls(text, tuple(host.split("*")), colon + port)

    @property
    def weight(self) -> int:
        """How much it says: of several patterns that fit, the one with the most literal characters counts."""
        return sum(map(len, self.pieces)) + len(self.port)

    def fits(self, name: str) -> bool:
        """Whether it stands for this registry."""
        if not name.endswith(self.port) or not is_name(name):
            return False
        host = name[: len(name) - len(self.port)]
        if ":" in host or is_address(host):
            return False
        at = self._middle(host)
        return at >= 0 and len(host) - len(self.pieces[-1]) > at and host.endswith(self.pieces[-1])

    def beginning(self, host: str) -> str:
        """The shortest registry's name that `host` begins with before a further dot; "" for none.

        A pattern that ends in a `*`, or in a bare `.com`, could mean this mirror's own name: it says nothing.
        """
        last = self.pieces[-1]
        if self.port or "." not in last.removeprefix("."):
            return ""
        at = self._middle(host)
        found = host.find(last + ".", at + 1) if at >= 0 else -1
        return host[: found + len(last)] if found >= 0 else ""

    def _middle(self, host: str) -> int:
        """Where the last `*` may begin; -1 when the pieces before it do not fit."""
        if not host.startswith(self.pieces[0]):
            return -1
        at = len(self.pieces[0])
        for piece in self.pieces[1:-1]:
            found = host.find(piece, at + 1)
            if found < 0:
                return -1
            at = found + len(piece)
        return at
