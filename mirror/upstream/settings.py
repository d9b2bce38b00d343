"""What a client of an upstream registry is told: plain values, checked once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from mirror.upstream import proxies

HEADERS_LIMIT = 32  # configured headers; most servers take a hundred in all
HEADER_LIMIT = 4 << 10  # characters of one value; many servers take 8 KiB of all lines together

# What a request is about, who asks, and how messages are framed: said by the client, or by aiohttp.
OWN_HEADERS = frozenset({"accept", "authorization", "host", "range", "if-range", "proxy-authorization"}) | {
    *("accept-encoding", "connection", "content-length", "content-type", "expect", "keep-alive"),
    *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
}

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")


@dataclass(frozen=True, slots=True)
class Settings:
    """One upstream. Times are in seconds; secrets stay out of `repr`.

    Raises ValueError, whose text holds no secret, when `remoteurl` is not an http(s) URL of a registry, or
    anything else here cannot be used whatever the files say.
    """

    remoteurl: str  # a path is kept: https://host/prefix -> https://host/prefix/v2/...
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # OAuth2 refresh token; goes before the password
    helper: str = field(default="", repr=False)  # a credential helper's command, in place of these
    helper_lifetime: float | None = None  # seconds that its answer is used; None: until it is refused
    docker_config: Path | None = None  # a docker config.json, in place of all these
    realms: tuple[str, ...] = ()  # hosts (`host`, `host:port`) whose token servers may see the credentials
    ca_file: Path | None = None  # trusted besides the system's certificate authorities
    client_cert: Path | None = None  # PEM, with its key in the same file or in `client_key`
    client_key: Path | None = None
    public_only: bool = False  # connections to public addresses only: a client has chosen the host
    insecure: bool = False  # nobody's certificate is checked; https all the same
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # of requests to the registry itself
    http_proxy: str = field(default="", repr=False)  # in place of the environment's; see `proxies`
    connect: float = 5.0  # name, TCP and TLS together; registry:2 waits 30 s for TCP alone
    firstbyte: float = 30.0  # from the request sent to the whole header; storage behind a registry is slow
    stall: float = 30.0  # between two parts of a body
    retries: int = 2  # attempts after the first, of one request
    connections: int = 32  # to one host; further requests wait
    user_agent: str = "mirror"
    namespace: str = ""  # the name by which clients know the upstream; empty: its host's
    reserve: float = 0.1  # share of the upstream's rate limit below which it is asked less; 0: never less

    def __post_init__(self) -> None:
        registry_url(self.remoteurl)
        if min(self.connect, self.firstbyte, self.stall) <= 0 or self.retries < 0 or self.connections < 1:
            raise ValueError("time-outs and connections must be positive, retries not negative")
        if not 0.0 <= self.reserve <= 1.0:
            raise ValueError("the reserve is a share, from 0 to 1")
        _check_credentials(self)
        _check_headers(self.headers)


def registry_url(text: str) -> URL:
    """`remoteurl` as a URL without a trailing slash. Raises ValueError, whose text holds no secret."""
    try:
        url = URL(text.strip())
        if url.scheme not in ("http", "https") or not url.host or url.explicit_port == 0:
            raise ValueError("it must be like https://registry.example")
    except ValueError as error:
        raise ValueError(f"not the URL of a registry: {error}") from None
    if url.user is not None or url.password is not None:
        raise ValueError("the URL of a registry holds no credentials: use proxy.username and proxy.password")
    if url.raw_query_string or url.raw_fragment:
        raise ValueError("the URL of a registry has no query and no fragment")
    return url.with_path(url.raw_path.rstrip("/"), encoded=True)


def public_name(url: URL, namespace: str = "") -> str:
    """How error texts call the registry: as clients do, else by its host. No address, no port."""
    for name in (namespace, url.host or ""):
        is_address = ":" in name or name.replace(".", "").isdigit()
        if "." in name and not is_address:
            return name
    return "the upstream registry"


def _check_credentials(settings: Settings) -> None:
    lifetime = settings.helper_lifetime
    if lifetime is not None and not lifetime >= 0:
        raise ValueError("the helper's lifetime is in seconds, from 0 on")
    if settings.helper:
        try:
            words = shlex.split(settings.helper)
        except ValueError:
            words = []
        if not words:
            raise ValueError("the helper is not a command: its quotes do not match, or there is none")
    if settings.client_key is not None and settings.client_cert is None:
        raise ValueError("a client key is of no use without its certificate")
    if settings.http_proxy and settings.http_proxy != proxies.DIRECT:
        proxies.parse(settings.http_proxy, "the configured proxy")


def _check_headers(headers: Mapping[str, str]) -> None:
    """They must be sendable (RFC 9110 §5.1, §5.5), and not be the client's own business."""
    for name, value in headers.items():
        if _HEADER_NAME.match(name) is None:
            raise ValueError("a header's name is made of letters, digits and hyphens")
        if name.lower() in OWN_HEADERS:
            raise ValueError(f"the header {name} cannot be configured: the mirror sends its own")
        if _HEADER_VALUE.match(value) is None or len(value) > HEADER_LIMIT:
            raise ValueError(f"the value of the header {name} cannot be sent")
    if len(headers) > HEADERS_LIMIT:
        raise ValueError(f"more than {HEADERS_LIMIT} headers")
