"""What is remembered of one request until its answer is logged."""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from mirror.access.base import NOBODY, Access, Allowed
from mirror.lease import Lease
from mirror.oci.descriptor import Descriptor
from mirror.oci.names import Repository
from mirror.oci.request import Request
from mirror.provenance import Provenance
from mirror.provenance import begin as begin_provenance
from mirror.registry import RegistryError

IDS = 256  # made at a time: of 4 KiB of random bytes, which takes 20 µs
_VARIANT = {f"{digit:x}": "89ab"[digit % 4] for digit in range(16)}
_random: list[str] = []  # 32 hexadecimal digits each


def new_id() -> str:
    """A random UUID (RFC 4122, version 4); the system is asked for many at a time."""
    if not _random:
        data = os.urandom(16 * IDS).hex()
        _random.extend(data[at : at + 32] for at in range(0, len(data), 32))
    made = _random.pop()
    return f"{made[:8]}-{made[8:12]}-4{made[13:16]}-{_VARIANT[made[16]]}{made[17:20]}-{made[20:]}"


@dataclass(slots=True)
class Exchange:
    """One request and its answer. aiohttp runs each request in a context of its own, so does `current`."""

    id: str = field(default_factory=new_id)
    began: float = 0.0  # time.perf_counter(); 0.0 where no handler saw it
    client: str = ""  # the address that a trusted proxy says; "" for the connection's own
    host: str = ""  # by which the mirror was asked
    scheme: str = ""  # `http` or `https`, as a trusted proxy says it; "" where none does
    handler: str = ""  # the kind of endpoint, for the metrics; "" for what is none
    is_api: bool = True  # the answer has the API's headers, as all have but those for orchestrators
    routed: bool = False  # an endpoint of the API: `http.headers` are for these only
    variables: dict[str, str] = field(default_factory=dict)  # `vars.*` of the request log
    provenance: Provenance = field(default_factory=Provenance)  # where the answer came from
    located: Repository | None = None  # what the route's repository is to the registry
    cache_status: str = ""  # the header's value, from the moment when the headers are written
    error: RegistryError | None = None  # what was answered, or what broke the answer off
    refusal: str = ""  # a failure that was answered with a plain text
    malformed: str | None = None  # why this is not HTTP; no handler saw it
    quiet: bool = False  # it is told elsewhere, and has no line in the request log and the access log
    sent: int | None = None  # bytes of a body that was streamed
    allowed: Allowed = NOBODY  # who asks, and for how long he may
    wanted: tuple[Access, ...] = ()  # what he must have leave for
    descriptor: Descriptor | None = None  # of the manifest or blob that is given
    lease: Lease | None = None  # leave to repeat the answer
    body: bytes = b""  # of an answer that may be repeated


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def begin() -> Exchange:
    """The exchange of the request that is being handled from here on."""
    exchange = Exchange(began=time.perf_counter(), provenance=begin_provenance())
    _current.set(exchange)
    return exchange


def current() -> Exchange:
    """The exchange of this request; an empty one for what never reached a handler (malformed HTTP)."""
    return _current.get() or Exchange()


def variables(request: Request) -> dict[str, str]:
    """The route's variables by the names that distribution logs them under."""
    found: dict[str, str] = {}
    for attribute, name in _NAMES.items():
        value = getattr(request.endpoint, attribute, None)
        if value is not None:
            found[name] = value.name if isinstance(value, Repository) else str(value)
    return found


_NAMES = {
    "repository": "vars.name",
    "reference": "vars.reference",
    "digest": "vars.digest",
    "uuid": "vars.uuid",
}
