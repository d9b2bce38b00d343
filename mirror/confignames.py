"""The names of upstreams: what clients call a registry, and patterns of such names.

A namespace is the host, or `host:port`, that stands in front of an image's name; an alias may be a plain
word, too. What comes from an upstream is stored below its namespace, with `_` in place of the `:`; which is
why no name has a `_`.
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import PlainValidator

from mirror.configvalues import parse_text
from mirror.upstream import suffixes

OPEN: Final = "*"  # the namespace that stands for every public host
HUB: Final = "docker.io"
DEFAULT_REMOTEURL: Final = "https://registry-1.docker.io"
HUB_NAMES: Final = (HUB, "registry-1.docker.io", "index.docker.io")  # one registry, whatever it is called
RESERVED: Final = frozenset({"library"})  # Docker Hub's own first component: all its images would be shut out

NAME_MAX: Final = 255  # characters; that of a repository's name, of which it is the beginning
STARS_MAX: Final = 4  # of a pattern; each multiplies the ways in which a name may fit
NAME_FORM: Final = "a host such as ghcr.io, or host:port, in lower case, of letters, digits, - and ."
PATTERN_FORM: Final = (
    f"a host with at most {STARS_MAX} * and a domain of its own behind the last one, such as *.example.com "
    'or *-docker.pkg.dev; "*" alone stands for every public host'
)

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"  # RFC 1123 §2.1
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[1-9][0-9]{{0,4}})?\Z")
_PORT_MAX = 65535


def parse_name(value: object) -> str:
    """`ghcr.io`, `localhost:5000`, `hub`: as clients write it."""
    text = parse_text(value)
    if text in RESERVED:
        raise ValueError(f"another name: {text}/ begins the names of Docker Hub's own images")
    if _is_name(text):
        return text
    host = text.lower().removeprefix("https://").removeprefix("http://").rstrip("/")
    raise ValueError(f"{NAME_FORM}: write {host}" if _is_name(host) else NAME_FORM)


def parse_namespace(value: object) -> str:
    """A name, or a pattern in which `*` stands for letters, digits, `.` and `-`."""
    text = parse_text(value)
    if OPEN not in text or text == OPEN:
        return text if text == OPEN else parse_name(text)
    host, _, port = text.partition(":")
    whole = OPEN not in port and _is_name(text.replace(OPEN, "a"))  # so that something can fit
    if not whole or text.count(OPEN) > STARS_MAX or not _is_domain(_ending(host)):
        raise ValueError(PATTERN_FORM)
    return text


def is_pattern(namespace: str) -> bool:
    """Whether it stands for more than one registry."""
    return OPEN in namespace


def is_anybodys(namespace: str) -> bool:
    """Whether a client could get itself a host that this pattern fits, and have the mirror ask it."""
    domain = _ending(namespace.partition(":")[0])
    return namespace == OPEN or (OPEN in namespace and suffixes.split(domain, shared=True).suffix == domain)


def default_url(namespace: str) -> str:
    """Where the registry of this name is, unless the configuration says otherwise."""
    return DEFAULT_REMOTEURL if namespace in HUB_NAMES else f"https://{namespace}"


def host_of(remoteurl: str) -> str:
    """The `host` or `host:port` of a URL that `parse_remoteurl` has taken, in lower case."""
    return urlsplit(remoteurl).netloc.lower()


def _ending(host: str) -> str:
    """The domain that a pattern's hosts have in common.

    `*example.com` also fits evilexample.com, so that what it really says is `*.com`.
    """
    return host.rpartition(OPEN)[2].partition(".")[2]


def _is_name(text: str) -> bool:
    port = text.partition(":")[2]
    return len(text) <= NAME_MAX and _NAME.match(text) is not None and int(port or 0) <= _PORT_MAX


def _is_domain(text: str) -> bool:
    """Whether somebody in particular has it: not `com`, not `co.uk`, no part of an address."""
    last = text.rpartition(".")[2]
    return _is_name(text) and "." in text and not last.isdigit() and suffixes.split(text).suffix != text


Name = Annotated[str, PlainValidator(parse_name)]
Namespace = Annotated[str, PlainValidator(parse_namespace)]
