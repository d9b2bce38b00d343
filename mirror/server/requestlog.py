"""The request log (an event for each answer) and the access log (Apache's combined form on standard output).

Field names and forms are distribution's, for the pipelines that read them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter
from time import time as now
from typing import Any, TextIO

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError
from aiohttp.web_request import BaseRequest

from mirror import log as logs
from mirror.log import escape, redact_text
from mirror.logprepared import Alike
from mirror.logwriter import Lines, lines_to
from mirror.server.exchange import Exchange, begin, current

COMPLETED = "response completed"
SPOKE_TLS = "a client spoke TLS to the plain port (podman and skopeo try that first)"
REASON_LIMIT = 200  # characters of the parser's words about what is not HTTP

_ECHO = re.compile(r":\s*\n\n|:\s*(?:bytearray\()?b['\"]")  # where they begin to repeat what was sent

# The last two: bytes of the body that left, and seconds.
Answered = Callable[[BaseRequest, web.StreamResponse, Exchange, int, float], None]

log = structlog.get_logger()
_completed = Alike(
    "info",
    COMPLETED,
    numbers=("http.response.written",),
    fixed=("http.response.status",),
)


def access_logger(access_log: bool, answered: Answered | None = None) -> type[AbstractAccessLogger]:
    """The class whose `log` aiohttp calls after each answer, also after one to malformed HTTP.

    `answered` is called at last.
    """

    class RequestLog(AbstractAccessLogger):
        """Writes both logs."""

        def log(self, request: BaseRequest, response: web.StreamResponse, time: float) -> None:
            exchange = current()
            if exchange.quiet:
                return
            written = written_bytes(request, response, exchange)
            if access_log:
                output().write(access_line(request, response.status, written, now()))
            # aiohttp's `time` is the loop's, which counts whole milliseconds on uvloop.
            seconds = perf_counter() - exchange.began if exchange.began else time
            _event(request, response, exchange, written, seconds)
            if answered is not None:
                answered(request, response, exchange, written, seconds)

    return RequestLog


def written_bytes(request: BaseRequest, response: web.StreamResponse, exchange: Exchange) -> int:
    """Bytes of the body that left."""
    if exchange.sent is not None:
        return exchange.sent
    body = response.body if isinstance(response, web.Response) else None
    if request.method == "HEAD" or not isinstance(body, bytes | bytearray):
        return 0
    return len(body)


def _event(
    request: BaseRequest, response: web.StreamResponse, exchange: Exchange, written: int, seconds: float
) -> None:
    status = response.status
    fields = event_fields(request, response, exchange, written, seconds)
    fields |= _reason(exchange, status)
    failed = exchange.error is not None or status >= 400
    form = logs.form()
    if not failed and form is not None and form.threshold <= logging.INFO:  # noqa: SIM102 - it writes
        if _completed.write(form, fields, now()):
            return
    event = "response completed with error" if failed else COMPLETED
    log.log(logging.ERROR if status >= 500 else logging.INFO, event, **fields)


def event_fields(
    request: BaseRequest, response: web.StreamResponse, exchange: Exchange, written: int, seconds: float
) -> dict[str, Any]:
    """All but the reason of a failure."""
    fields: dict[str, Any] = {
        "http.request.host": request.host,
        "http.request.id": exchange.id,
        "http.request.method": request.method,
        "http.request.remoteaddr": client_address(request, exchange),
        "http.request.uri": request.path_qs,
        "http.request.useragent": request.headers.get("User-Agent", ""),
        "http.response.contenttype": response.headers.get("Content-Type", ""),
        "http.response.duration": duration(seconds),
        "http.response.status": response.status,
        "http.response.written": written,
        **exchange.variables,
    }
    if exchange.allowed.user:
        fields["auth.user.name"] = exchange.allowed.user
    for name, header in (("referer", "Referer"), ("contenttype", "Content-Type")):
        value = request.headers.get(header)
        if value is not None:
            fields[f"http.request.{name}"] = value
    fields |= _origin(exchange)
    return fields


def _origin(exchange: Exchange) -> dict[str, str]:
    """Where the answer came from: the header, the upstream, and its repository where that differs."""
    found = {"cache.status": exchange.cache_status} if exchange.cache_status else {}
    if exchange.provenance.namespace:
        found["upstream.namespace"] = exchange.provenance.namespace
    located = exchange.located
    if located is not None and located.name != exchange.variables.get("vars.name"):
        found["upstream.repository"] = located.name
    return found


def _reason(exchange: Exchange, status: int) -> dict[str, Any]:
    """`err.*`: what the client was told, or what broke its answer off."""
    error = exchange.error
    if error is not None:
        detail = {} if error.detail is None else {"err.detail": error.detail}
        return {"err.code": error.code.name.lower().replace("_", " "), "err.message": error.message, **detail}
    text = exchange.malformed or exchange.refusal
    return {"err.code": HTTPStatus(status).phrase.lower(), "err.message": text} if text else {}


def client_address(request: BaseRequest, exchange: Exchange) -> str:
    """The one that a trusted proxy says, else the peer. For the log only."""
    return exchange.client or peer_address(request.transport) or request.remote or ""


def peer_address(transport: asyncio.Transport | None) -> str | None:
    """The connection's; None where it has none (a Unix socket)."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    if not isinstance(peer, tuple):
        return None
    host, port = peer[0], peer[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def access_line(request: BaseRequest, status: int, written: int, at: float) -> str:
    """`ip - - [time] "GET /v2/ HTTP/1.1" 200 2 "referer" "agent"`; what clients sent stays quoted."""
    who = request.remote or "-"
    return f"{who} - - [{access_time(at)}{access_tail(request, status, written)}"


def access_time(at: float) -> str:
    """`at` as time.time(), in the local time zone: `31/Jan/2026:12:00:00 +0100`."""
    return _access_second(int(at))


@lru_cache(maxsize=2)
def _access_second(at: int) -> str:
    local = datetime.fromtimestamp(at).astimezone()
    return f"{local.day:02}/{_MONTHS[local.month - 1]}/{local:%Y:%H:%M:%S %z}"


def access_tail(request: BaseRequest, status: int, written: int) -> str:
    """What follows the time, with the line's end."""
    version = f"HTTP/{request.version.major}.{request.version.minor}"
    target = escape(f"{request.method} {_shown(request.path_qs)} {version}")
    referer = escape(_shown(request.headers.get("Referer", "")))
    agent = escape(request.headers.get("User-Agent", ""))
    return f'] "{target}" {status} {written} "{referer}" "{agent}"\n'


def _shown(url: str) -> str:
    """Without secrets, as the request log has it. Most have no place for one."""
    return redact_text(url) if "?" in url or "@" in url else url


# strftime's %b speaks the process' language.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def output() -> Lines:
    """Where the access log goes."""
    global _output  # noqa: PLW0603 - standard output is the process' own, too
    stream = sys.stdout
    if _output is None or _output[0] is not stream:
        lines = lines_to(stream)
        lines.lost = _say_lost
        _output = (stream, lines)
    return _output[1]


_output: tuple[TextIO, Lines] | None = None  # a look at what the stream is costs as much as writing the line


def _say_lost(count: int) -> str:
    """In the other log: what parses this one expects its form."""
    log.warning("accesslog.dropped", count=count)
    return ""


def duration(seconds: float) -> str:
    """As Go prints one: `851.692µs`, `12.5ms`, `1.5s`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{round(seconds / size, 6):.6f}".rstrip("0").rstrip(".") + unit
    return f"{max(seconds, 0.0) * 1e6:.3f}".rstrip("0").rstrip(".") + "µs"


class QuietBadInput(logging.Filter):
    """aiohttp logs malformed HTTP as an error with a traceback; it is the client's, and daily traffic.

    The request log tells it instead, with the parser's reason. NB: aiohttp calls this in the task that
    answers, so both see one exchange.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything else through."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        exchange = begin()
        exchange.malformed = " ".join(_ECHO.split(error.message)[0].split())[:REASON_LIMIT]
        if isinstance(error, BadHttpMethod) and "HTTPS" in error.message:  # no other sign of it is left here
            exchange.quiet = True
            log.debug("client.tls", detail=SPOKE_TLS)
        return False
