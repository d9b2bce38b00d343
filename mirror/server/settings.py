"""What the server is told by whoever builds it: plain values, and the registry that it asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from mirror.access.base import AccessController
from mirror.lease import Lessor
from mirror.oci.names import Repository
from mirror.registry import Registry
from mirror.server.account import Account
from mirror.server.forwarded import Network
from mirror.server.health import Gate, Warnings
from mirror.server.lane import Lane
from mirror.server.limits import Limits
from mirror.server.pulls import Notify

WRITE_TIMEOUT = 60.0  # seconds; nginx' send_timeout, which the networks between us and clients are used to
KEEPALIVE_TIMEOUT = 90.0  # seconds; Go's clients drop an idle connection of theirs after 90 s


# (`?ns=` or None, Host or "", the name in the path) -> the name by which the registry knows the repository.
# Raises RegistryError NAME_UNKNOWN for what is not served here.
Locate = Callable[[str | None, str, Repository], Repository]
# (`?ns=` or None, Host or "") -> the namespace of the registry that `/v2/` means there.
RegistryAt = Callable[[str | None, str], str]
# That name -> which upstream has it, as people type it: `quay.io`. "" where that is not known.
NamespaceOf = Callable[[Repository], str]
# That name -> the key of the configuration that forbids it, `proxy.deny`; None: none does.
Forbids = Callable[[Repository], str | None]


def _as_asked(_namespace: str | None, _host: str, repository: Repository) -> Repository:
    return repository


def _the_only_one(_namespace: str | None, _host: str) -> str:
    return "docker.io"


def _docker_hub(_repository: Repository) -> str:
    return "docker.io"


def _nothing(_repository: Repository) -> None:
    return None


def _everything(_repository: Repository) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Settings:
    """`http.*`, `catalog.*`, `tags.*` and `log.accesslog`, as far as answers depend on them."""

    prefix: str = ""  # http.prefix: where `/v2/` begins; with or without slashes at its ends
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # http.headers
    catalog_max: int = 1000  # catalog.maxentries
    tags_max: int = 1000  # tags.maxtags
    locate: Locate = _as_asked  # which repository a request means
    registry_at: RegistryAt = _the_only_one  # whose way to log in `/v2/` tells, where clients log in there
    namespace_of: NamespaceOf = _docker_hub  # where the answer to a push sends people, and for the log
    access: AccessController | None = None  # who may pull; None: everybody, whatever credentials he sends
    forbids: Forbids = _nothing  # what is given to nobody
    listed: Callable[[Repository], bool] = _everything  # what the catalog shows, by those names
    access_log: bool = True  # Apache's combined form on standard output
    write_timeout: float = WRITE_TIMEOUT  # seconds that a client may go without reading anything
    keepalive_timeout: float = KEEPALIVE_TIMEOUT  # seconds that an idle connection stays open
    lessor: Lessor | None = None  # the registry's, for the fast lane; None: there is no lane
    proxies: tuple[Network, ...] = ()  # http.trustedproxies: who may say for whom it asks
    public_url: str = ""  # http.host: how events name the mirror; "": as each client does
    gate: Gate = field(default_factory=Gate)
    warnings: Warnings = list  # what `/readyz` says of upstreams
    account: Account = field(default_factory=Account)  # what is counted of answers
    notify: Notify | None = None  # who is told of pulls; None: nobody
    limits: Limits = field(default_factory=Limits)  # http.limits, but for the two times above


@dataclass(frozen=True, slots=True)
class Context:
    """What every handler gets."""

    registry: Registry
    settings: Settings
    prefix: str  # settings.prefix as it is put before a path: "" or "/x"
    lane: Lane | None = None  # where answers are kept that may be repeated
    namespace: str | None = None  # this request's `?ns=`: which registry containerd means
    name: str = ""  # the repository as this request's client calls it; handlers' endpoints have the located


# The third argument is the endpoint that the handler is for: the table in routes.py says which.
Handler = Callable[[Context, web.Request, Any], Awaitable[web.StreamResponse]]
