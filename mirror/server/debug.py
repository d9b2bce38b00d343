"""The debug server: plain HTTP, no login, on an address of its own, for operators, as in the registry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from mirror import jsontext
from mirror.server import connections
from mirror.server.errors import plain
from mirror.server.limits import Limits

JSON = "application/json; charset=utf-8"  # here registry:2 and registry:3 say so
METRICS = "text/plain; version=0.0.4; charset=utf-8"  # what every Prometheus reads
CONNECTIONS = 64  # a scraper, a probe, and people who look
CLOSE = 1.0  # seconds that answers have at the end
NO_PPROF = (
    "404 page not found: pprof's profiles are those of Go programs, and this is none. "
    "For stacks and a profile: py-spy dump --pid PID, py-spy record --pid PID"
)


@dataclass(frozen=True, slots=True)
class Debug:
    """What there is to be said. `metrics` None: there is nothing at `metrics_path`."""

    failures: Callable[[], Mapping[str, str]]  # of health checks
    variables: Callable[[], Awaitable[dict[str, Any]]]
    metrics: Callable[[], Awaitable[bytes]] | None = None
    metrics_path: str = "/metrics"


@asynccontextmanager
async def serving(debug: Debug, host: str, port: int) -> AsyncGenerator[int, None]:
    """Serve it until the end of the block; the port that was taken. Raises OSError when it cannot listen."""
    runner = web.AppRunner(build(debug), shutdown_timeout=CLOSE, access_log=None)
    await runner.setup()
    try:
        site = connections.Site(runner, host or None, port)
        await site.start()
        yield site.port
    finally:
        await runner.cleanup()


def build(debug: Debug) -> web.Application:
    """The application."""

    async def handle(request: web.Request) -> web.Response:
        path = request.path
        if path == "/debug/health":
            return _health(debug, request)
        if path == "/debug/vars":
            return _json(200, await debug.variables(), indent=1)
        if debug.metrics is not None and path == debug.metrics_path:
            return web.Response(body=await debug.metrics(), headers={"Content-Type": METRICS})
        if path.startswith("/debug/pprof"):
            return plain(404, NO_PPROF)
        return plain(404, "404 page not found")

    application = web.Application(handler_args={"lingering_time": 0}, middlewares=[connections.bounded])
    application[connections.LIMITS] = Limits(CONNECTIONS, CONNECTIONS)
    application[connections.HEADS] = {}
    application[connections.LANE] = None
    application.on_response_prepare.append(_prepare)
    application.router.add_route("*", "/{path:.*}", handle)
    return application


def _health(debug: Debug, request: web.Request) -> web.Response:
    if request.method != "GET":
        return plain(404, "404 page not found")
    failures = dict(debug.failures())
    return _json(503 if failures else 200, failures)


def _json(status: int, value: Any, indent: int | None = None) -> web.Response:
    separators = (",", ":") if indent is None else None
    body = jsontext.encoded(value, indent=indent, separators=separators)
    return web.Response(status=status, body=body, headers={"Content-Type": JSON})


async def _prepare(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)  # aiohttp's default names the versions that run here
