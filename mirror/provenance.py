"""What is told about one answer: where it came from, in the terms of RFC 9211 (Cache-Status).

Noted by whoever decides (`cache`), read by whoever writes the answer (`server`), through a context variable:
it says what was done, and nothing is ever decided by it.

NB: a task that several requests share runs in the context of the one that started it. What it notes would be
told of that request alone: note in the code that each request runs itself.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Provenance:
    """One answer's origin. Names and meanings of the first fields are RFC 9211's, section 2."""

    hit: bool = False  # from what is kept, without asking; excludes `fwd`
    fwd: str = ""  # why the upstream was asked: uri-miss, stale, partial, bypass, request
    fwd_status: int | None = None  # what it answered; the server adds a refusal's (below 500)
    ttl: float | None = None  # seconds that the answer will be fresh; negative: has been stale
    stored: bool = False  # it is being kept
    collapsed: bool = False  # another request's question was shared
    detail: str = ""  # a token for operators: stale, negative, breaker, limited, local
    warning: str = ""  # for `Warning: 299`, in a client's words, no host of ours; empty for none
    namespace: str = ""  # which upstream; noted by the server, empty where none is meant

    def served_stale(self, ttl: float | None, detail: str, warning: str) -> None:
        """A kept copy that is due for a check is given all the same."""
        self.hit, self.fwd, self.ttl, self.detail, self.warning = True, "", ttl, detail, warning

    def refused_lately(self, ttl: float | None = None) -> None:
        """The upstream's refusal of a moment ago is given again; `ttl` as above."""
        self.hit, self.fwd, self.ttl, self.detail = True, "", ttl, "negative"
        self.stored = self.collapsed = False


_current: ContextVar[Provenance | None] = ContextVar("provenance", default=None)


def begin() -> Provenance:
    """The provenance of the answer that is being made from here on."""
    provenance = Provenance()
    _current.set(provenance)
    return provenance


def current() -> Provenance:
    """The provenance of this request's answer; where there is no request, one that nobody reads."""
    return _current.get() or Provenance()
