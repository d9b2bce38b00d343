"""Addresses and URLs in the configuration; by the same rules as `mirror.configvalues`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import PlainSerializer, PlainValidator

from mirror.configvalues import parse_text

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110 §5.1: token
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")  # RFC 9110 §5.5: field-value, without CR, LF, NUL
DIRECT = "direct"  # in the place of a proxy: none

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SOCKET_PATH_MAX = 107  # bytes, unix(7)

_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?\Z")
_PORT = re.compile(r"\A[^/]*:[0-9]+\Z")  # of an address; a path has a slash, or no colon at its end
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?\Z")
_URL_FORM = "an http or https URL with a host, such as https://registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; `host` "" is every address of the machine, `port` 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SocketPath:
    """A Unix socket to listen at; relative to the working directory."""

    path: Path

    def __str__(self) -> str:
        text = str(self.path)
        return f"./{text}" if _PORT.search(text) else text  # so that it is read as a path again


def parse_socket_path(value: object) -> SocketPath:
    """The path of a Unix socket."""
    text = parse_text(value)
    if not text or "\0" in text or len(os.fsencode(text)) > SOCKET_PATH_MAX:
        raise ValueError(
            f"the path of a socket, such as /run/mirror/http.sock, of at most {SOCKET_PATH_MAX} bytes"
        )
    if _PORT.search(text):
        raise ValueError(
            "the path of a socket, such as /run/mirror/http.sock (for one of such a name ./NAME:PORT), as "
            "http.net is unix; for a port, http.net: tcp"
        )
    return SocketPath(Path(text))


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """`10.0.0.0/8`, `192.0.2.1`, `2001:db8::/32`."""
    try:
        return ip_network(parse_text(value))
    except ValueError:
        allowed = "an address such as 192.0.2.1, or a network such as 10.0.0.0/8 or fd00::/8"
        raise ValueError(allowed) from None


def parse_address(value: object) -> Address:
    """`:5000`, `127.0.0.1:5000`, `[::1]:5000`, `name:5000`."""
    allowed = "HOST:PORT, such as :5000, 127.0.0.1:5000 or [::1]:5000, with a port from 0 to 65535"
    host, colon, port = parse_text(value).rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError(allowed)
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not _is_host(host, in_brackets=bracketed) and (host or bracketed):
        raise ValueError(allowed)
    return Address(host, int(port))


def parse_remoteurl(value: object) -> str:
    """The URL of a registry, without a slash at its end; a path stays.

    `/v2` at its end is refused, as requests add it; so are a user and password: a URL is logged, shown in
    errors and in `ps`.
    """
    text = parse_text(value)
    if "://" not in text:
        raise ValueError(f"a URL with its scheme: write https://{text}" if _is_endpoint(text) else _URL_FORM)
    url = _split_url(text)
    if url.username is not None or url.password is not None:
        raise ValueError("a URL without user and password: give those in username and password beside it")
    if url.query or url.fragment or "?" in text or "#" in text:
        raise ValueError("a URL without ?query and #fragment")
    if _URL_PATH.match(url.path) is None:
        raise ValueError("a URL whose path is of letters, digits and . _ ~ - only")
    base = text.rstrip("/")
    if base.endswith("/v2"):
        raise ValueError(f"a URL without the API's own path: write {base.removesuffix('/v2')}")
    return base


def parse_http_proxy(value: object) -> str:
    """A proxy's URL, also with user and password, or `direct`. Without a path but `/`."""
    text = parse_text(value)
    if text == DIRECT:
        return text
    allowed = "http://HOST:PORT or https://HOST:PORT of a proxy, or direct for none"
    try:
        url = _split_url(text)
    except ValueError:
        raise ValueError(allowed) from None
    if url.path.strip("/") or "?" in text or "#" in text:
        raise ValueError(allowed)
    return text.rstrip("/")


def parse_url(value: object) -> str:
    """Any http or https URL, or nothing."""
    text = parse_text(value)
    if text:
        _split_url(text)
    return text


def parse_required_url(value: object) -> str:
    """Any http or https URL."""
    _split_url(text := parse_text(value))
    return text


def parse_prefix(value: object) -> str:
    """The path below which the API is served, `/team/a`: without a slash at its end, "" for none."""
    text = parse_text(value)
    if text and (not text.startswith("/") or _URL_PATH.match(text) is None or "/." in text):
        raise ValueError("a path such as /registry/, of letters, digits and . _ ~ - only")
    return text.rstrip("/")


def parse_realm_host(value: object) -> str:
    """HOST or HOST:PORT, in lower case."""
    text = parse_text(value)
    if not _is_endpoint(text) or "/" in text:
        raise ValueError("a host such as auth.example.com, or HOST:PORT; no scheme and no path")
    return text.lower()


def _split_url(text: str) -> SplitResult:
    """Raises ValueError unless it is http(s)://host[:port]… in printable ASCII."""
    try:
        url = urlsplit(text)
        port = url.port  # this, too, raises ValueError
    except ValueError:
        raise ValueError(_URL_FORM) from None
    printable = text.isascii() and text.isprintable() and " " not in text
    if not printable or url.scheme not in ("http", "https") or port == 0:
        raise ValueError(_URL_FORM)
    if not _is_host(url.hostname or "", in_brackets="[" in url.netloc):
        raise ValueError(_URL_FORM)
    return url


def _is_endpoint(text: str) -> bool:
    """Whether it could stand between `https://` and the end of a URL."""
    try:
        url = _split_url(f"https://{text}")
    except ValueError:
        return False
    return url.username is None and not url.query and not url.fragment


def _is_host(host: str, *, in_brackets: bool) -> bool:
    if not in_brackets:
        return _HOST_NAME.match(host) is not None
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


AddressValue = Annotated[Address, PlainValidator(parse_address), PlainSerializer(str)]
ListenValue = Annotated[Address | SocketPath, PlainValidator(parse_address), PlainSerializer(str)]
NetworkValue = Annotated[IPv4Network | IPv6Network, PlainValidator(parse_network), PlainSerializer(str)]
OptionalAddress = Annotated[
    Address | None, PlainValidator(parse_address), PlainSerializer(lambda address: str(address or ""))
]
RemoteUrl = Annotated[str, PlainValidator(parse_remoteurl)]
Url = Annotated[str, PlainValidator(parse_url)]
RequiredUrl = Annotated[str, PlainValidator(parse_required_url)]
Prefix = Annotated[str, PlainValidator(parse_prefix)]
HttpProxy = Annotated[str, PlainValidator(parse_http_proxy)]
RealmHost = Annotated[str, PlainValidator(parse_realm_host)]
