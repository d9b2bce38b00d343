"""Whether the process answers, and whether it should be asked: for load balancers and orchestrators.

`/` is the registry's own liveness. `/healthz` and `/readyz` are ours. None of them needs a login, looks at a
disk or asks an upstream: what is said of those is what is known anyway.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from aiohttp import web

from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError

LIVE, READY = "/healthz", "/readyz"
DETAIL = "health check failed: please see /debug/health"
_PLAIN = {"Cache-Control": "no-cache"}

Warnings = Callable[[], list[str]]


class Gate:
    """Whether the API answers. Shut while a check fails: then everything is 503, also what is kept."""

    __slots__ = ("is_shut", "is_stopping")

    def __init__(self) -> None:
        self.is_shut = False
        self.is_stopping = False  # what is under way is answered; nobody new should come

    def set_failing(self, failing: bool) -> None:
        """A check fails, or all are well."""
        self.is_shut = failing

    def refusal(self) -> RegistryError:
        """What is answered while it is shut, in the registry's words."""
        return RegistryError(ErrorCode.UNAVAILABLE, detail=DETAIL)


def liveness() -> web.Response:
    """`/`, for load balancers: any method, no authentication, outside the prefix and the API's headers."""
    return web.Response(status=200, headers=_PLAIN)


def orchestrated(path: str, gate: Gate, warnings: Warnings) -> web.Response:
    """`/healthz` and `/readyz`, by any method.

    The first says that the process answers, which a restart could change. The second, whether clients should
    come: not while a check fails, and not while it stops. An upstream that cannot be asked is a warning, for
    what is kept can be given, and so is object storage; the texts name registries as clients do, and no host
    of ours.
    """
    if path == LIVE:
        return _said(200, {"status": "ok"})
    if gate.is_shut or gate.is_stopping:
        reason = DETAIL if gate.is_shut else "the mirror is stopping"
        return _said(503, {"status": "not ready", "reason": reason})
    found = warnings()
    return _said(200, {"status": "ready", **({"warnings": found} if found else {})})


def _said(status: int, body: dict[str, object]) -> web.Response:
    headers = {**_PLAIN, "Content-Type": "application/json"}
    return web.Response(status=status, body=json.dumps(body).encode() + b"\n", headers=headers)
