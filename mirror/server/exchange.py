"""What is remembered of one request until its answer is logged."""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field

from mirror.oci.names import Repository
from mirror.oci.request import Request
from mirror.provenance import Provenance
from mirror.provenance import begin as begin_provenance
from mirror.registry import RegistryError


@dataclass(slots=True)
class Exchange:
    """One request and its answer. aiohttp runs each request in a context of its own, so does `current`."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
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


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def begin() -> Exchange:
    """The exchange of the request that is being handled from here on."""
    exchange = Exchange(provenance=begin_provenance())
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
