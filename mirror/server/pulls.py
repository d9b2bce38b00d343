"""What is told of an answer to those who are notified of pulls."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

from mirror.pulled import Pulled
from mirror.server.exchange import Exchange
from mirror.server.requestlog import client_address

Notify = Callable[[Pulled], None]

# registry:2 tells of a blob that a client knew, and not of a manifest that it knew.
TOLD = {"manifest": ("manifests", frozenset({200})), "blob": ("blobs", frozenset({200, 206, 304, 307}))}


def pulled(
    request: web.BaseRequest,
    response: web.StreamResponse,
    exchange: Exchange,
    sent: int,
    *,
    base: str,
    prefix: str,
) -> Pulled | None:
    """None where nothing was pulled, or not all of it. `base` is the mirror's own URL; "": as it was asked.

    `sent`: bytes of the body.
    """
    found, kind = exchange.descriptor, TOLD.get(exchange.handler)
    if found is None or kind is None or exchange.error is not None:
        return None
    place, statuses = kind
    name = exchange.variables.get("vars.name", "")
    if response.status not in statuses or request.method not in ("GET", "HEAD"):
        return None
    has_body = request.method == "GET" and response.status != 304
    if has_body and sent < int(response.headers.get("Content-Length", 0)):
        return None
    reference = exchange.variables.get("vars.reference", "")
    is_manifest = exchange.handler == "manifest"
    body = response.body if is_manifest and isinstance(response, web.Response) else None
    return Pulled(
        at=time.time(),
        request_id=exchange.id,
        address=client_address(request, exchange),
        host=exchange.host,
        method=request.method,
        user_agent=request.headers.get("User-Agent", ""),
        user=exchange.allowed.user,
        repository=name,
        digest=str(found.digest),
        media_type=found.media_type,
        size=found.size,
        tag=reference if ":" not in reference else "",
        url=f"{base or f'{exchange.scheme or request.scheme}://{exchange.host}'}{prefix}/v2/{name}/{place}/{found.digest}",
        body=body if isinstance(body, bytes) else b"",
    )
