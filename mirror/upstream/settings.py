"""What a client of an upstream registry is told: plain values, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL


@dataclass(frozen=True, slots=True)
class Settings:
    """One upstream. Times are in seconds; secrets stay out of `repr`.

    Raises ValueError when `remoteurl` is not an http(s) URL of a registry, or a limit makes no sense.
    """

    remoteurl: str  # a path is kept: https://host/prefix -> https://host/prefix/v2/...
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # OAuth2 refresh token; goes before the password
    helper: str = ""  # a command of the docker-credential protocol, in place of the three above
    helper_lifetime: float | None = None  # seconds that its answer is used; None: until it is refused
    docker_config: Path | None = None  # a docker config.json, in place of all of these
    realms: tuple[str, ...] = ()  # hosts (`host`, `host:port`) whose token servers may see the credentials
    ca_file: Path | None = None  # trusted besides the system's certificate authorities
    client_cert: Path | None = None  # PEM, with its key in the same file or in `client_key`
    client_key: Path | None = None
    insecure: bool = False  # certificates are not checked
    headers: Mapping[str, str] = field(
        default_factory=dict, repr=False
    )  # of every request to the registry itself
    http_proxy: str = ""  # http(s)://[user:password@]host:port, in place of the environment's; "direct": none
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

    @property
    def has_login(self) -> bool:
        """Whether there are a name and a password; as in registry:2, one without the other is nothing."""
        return bool(self.username and self.password)

    @property
    def has_credentials(self) -> bool:
        """Whether there is anything secret to send."""
        return self.has_login or bool(self.identity_token)


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


def public_name(url: URL) -> str:
    """How error texts call the registry: its host name; no address and no port, which are internal."""
    host = url.host or ""
    is_address = ":" in host or host.replace(".", "").isdigit()
    return "the upstream registry" if is_address or "." not in host else host
