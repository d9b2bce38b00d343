"""Whether the process answers at all."""

from __future__ import annotations

from aiohttp import web


def liveness() -> web.Response:
    """`/`, for load balancers: any method, no authentication, outside the prefix and the API's headers."""
    return web.Response(status=200, headers={"Cache-Control": "no-cache"})
