"""Every answer that is not content: the one place where failures become statuses, headers and bodies.

The exchange remembers each, so that the request log gives the reason that the client got.
Texts and headers are distribution's (`registry:3`), whose error answers come from Go's net/http.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from aiohttp import web
from multidict import CIMultiDict

from mirror.access.base import Refused
from mirror.access.base import detail as detail_of
from mirror.oci.errors import ErrorCode, envelope
from mirror.oci.request import BadRequest, MethodNotAllowed, Moved, ReadOnly, RequestError
from mirror.registry import RegistryError
from mirror.server.exchange import current
from mirror.server.locating import place
from mirror.server.settings import Context

JSON = "application/json"
RETRY_AFTER_MAX = 24 * 3600  # seconds; what an upstream asks beyond a day would stop a client for good

_TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}


def plain(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """What Go's http.Error writes."""
    current().refusal = text
    return web.Response(status=status, body=text.encode() + b"\n", headers={**_TEXT, **(headers or {})})


def not_found() -> web.Response:
    """The answer to a path that is no endpoint."""
    return plain(404, "404 page not found")


def failure(error: RegistryError, variables: Mapping[str, str] | None = None) -> web.Response:
    """A registry's failure as the client sees it; `variables` of the request are for distribution's details.

    NB: a 401 carries no WWW-Authenticate. It says that the upstream refuses *us*; with a challenge of ours
    docker would send its user's Docker Hub login to this mirror, and podman an empty one for ever.
    """
    exchange = current()
    exchange.error = error
    note_status(error)
    headers = {"Content-Type": JSON}
    if error.retry_after is not None and error.retry_after >= 0:
        headers["Retry-After"] = str(math.ceil(min(error.retry_after, RETRY_AFTER_MAX)))
    detail = _detail(error.code, variables or {})
    if detail is None:
        detail = error.detail
    body = envelope(error.code, error.message, detail)
    return web.Response(status=error.status, body=body, headers=headers)


def refused(error: Refused) -> web.Response:
    """No leave, as distribution says it; the log has the reason, which the client is not told."""
    exchange = current()
    exchange.error = RegistryError(error.code, error.reason)
    headers = CIMultiDict({"Content-Type": JSON})
    if error.retry_after is not None and error.retry_after >= 0:
        headers["Retry-After"] = str(math.ceil(min(error.retry_after, RETRY_AFTER_MAX)))
    for line in error.challenges:
        headers.add("WWW-Authenticate", line)
    if error.code is ErrorCode.UNAUTHORIZED:
        body = envelope(error.code, error.message, detail_of(exchange.wanted), always_detail=True)
    else:
        body = envelope(error.code, error.message)
    return web.Response(status=error.code.status, body=body, headers=headers)


def note_status(error: RegistryError) -> None:
    """Tell the upstream's status where it is known by the answer: a refusal is passed on as it came.

    A 5xx may be our word for anything that went wrong on the way, and needs to have been noted before.
    """
    provenance = current().provenance
    asked = provenance.fwd and not provenance.hit and not provenance.detail
    if asked and provenance.fwd_status is None and error.status < 500:
        provenance.fwd_status = error.status


def _detail(code: ErrorCode, variables: Mapping[str, str]) -> str | dict[str, str] | None:
    """What distribution 3 says in `detail` about something unknown, whoever found it so.

    In the client's words: what the registry says in its own may name the repository otherwise.
    """
    name, reference = variables.get("vars.name"), variables.get("vars.reference")
    if code is ErrorCode.NAME_UNKNOWN and name:
        return {"name": name}
    if code is ErrorCode.MANIFEST_UNKNOWN and reference:
        tag = ":" not in reference
        return f"unknown tag={reference}" if tag else f"unknown manifest name={name} revision={reference}"
    return variables.get("vars.digest") if code is ErrorCode.BLOB_UNKNOWN else None


def refusal(context: Context, request: web.Request, error: RequestError) -> web.Response:
    """A request that never reaches the registry."""
    if isinstance(error, Moved):
        return _moved(request, context.prefix + error.location)
    if isinstance(error, MethodNotAllowed):
        return plain(405, "Method not allowed", {"Allow": ", ".join(error.allow)})
    if isinstance(error, ReadOnly):
        return _read_only(context, request, error)
    if isinstance(error, BadRequest):
        return failure(RegistryError(error.code, error.message, error.detail, status=400))
    return not_found()


def internal(request_id: str) -> web.Response:
    """The answer to a defect of ours: where to look, and nothing else."""
    message = f"internal error, see the log of the mirror, request id {request_id}"
    return failure(RegistryError(ErrorCode.UNKNOWN, message))


def _moved(request: web.Request, location: str) -> web.Response:
    """What Go's http.Redirect writes: a body for GET only."""
    headers = {"Location": location}
    body = b""
    if request.method in ("GET", "HEAD"):
        headers["Content-Type"] = "text/html; charset=utf-8"
        body = f'<a href="{escape(location)}">Moved Permanently</a>.\n\n'.encode()
    return web.Response(status=301, body=body, headers=headers)


def _read_only(context: Context, request: web.Request, error: ReadOnly) -> web.Response:
    """405 UNSUPPORTED with words of our own.

    docker takes the standard message for a passing trouble and tries for 50 s before it fails; any other
    message it prints at once.
    """
    there = place(context, request, error.repository) or "the registry itself"
    advice = f"delete it in {there} instead" if request.method == "DELETE" else f"push to {there} instead"
    message = f"this is a read-only pull-through mirror: {advice}"
    response = failure(RegistryError(ErrorCode.UNSUPPORTED, message))
    response.headers["Allow"] = ", ".join(error.allow)
    return response
