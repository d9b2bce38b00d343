"""The application: each kind of endpoint and its handler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from mirror.oci import request as oci
from mirror.registry import Registry
from mirror.server import (
    admitting,
    base,
    blobs,
    connections,
    health,
    listing,
    manifests,
    middleware,
    pulls,
    requestlog,
)
from mirror.server.account import HANDLERS as HANDLED
from mirror.server.exchange import Exchange, current, variables
from mirror.server.lane import Lane
from mirror.server.locating import Named
from mirror.server.settings import Context, Handler, Settings
from mirror.server.turns import Turns

__all__ = ["Settings", "build"]

MAX_LINE = 8190  # characters of a request line; aiohttp's own, which fits every path of the API

HANDLERS: Mapping[type, Handler] = {
    oci.Base: base.version,
    oci.Options: base.options,
    oci.Uploads: base.uploads,
    oci.Upload: base.upload,
    oci.ManifestEndpoint: manifests.manifest,
    oci.BlobEndpoint: blobs.blob,
    oci.Tags: listing.tags,
    oci.Catalog: listing.catalog,
    oci.Referrers: listing.referrers,
}


def build(registry: Registry, settings: Settings | None = None) -> web.Application:
    """The HTTP application over a registry. It carries its own limits and logs, whoever runs it."""
    settings = settings or Settings()
    prefix = settings.prefix.strip("/")
    lane = _lane(settings)
    context = Context(registry, settings, f"/{prefix}" if prefix else "", lane)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await _dispatch(context, request)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        await middleware.add_headers(context, request, response)

    application = web.Application(
        middlewares=[connections.bounded, middleware.guard(context)],
        handler_args={
            "access_log_class": requestlog.access_logger(settings.access_log, _answered(context)),
            "logger": _protocol_logger(),
            "auto_decompress": False,  # no body is read, so none is unpacked
            "keepalive_timeout": settings.keepalive_timeout,
            "lingering_time": 0,  # ours is bounded in bytes as well (middleware.py)
            "max_line_size": MAX_LINE,
            # Of one header: bearer tokens with many scopes are longer than aiohttp's 8190.
            "max_field_size": settings.limits.head_size // 2,
        },
    )
    application[connections.LIMITS] = settings.limits
    application[connections.PROXIES] = settings.proxies
    application[connections.HEADS] = {}
    application[connections.TURNS] = Turns()
    application[connections.LANE] = lane
    application[connections.DOORS] = []
    application.on_response_prepare.append(prepare)
    if lane is not None:

        async def flush(_application: web.Application) -> None:
            lane.flush()

        application.on_shutdown.append(flush)
    application.router.add_route("*", "/{path:.*}", handle, expect_handler=middleware.no_continue)
    return application


def _lane(settings: Settings) -> Lane | None:
    if settings.lessor is None:
        return None
    return Lane(
        settings.lessor,
        access_log=settings.access_log,
        write_timeout=settings.write_timeout,
        keepalive_timeout=settings.keepalive_timeout,
        proxies=settings.proxies,
        secret_heads=settings.access is not None,
        account=settings.account,
        gate=settings.gate,
        notify=settings.notify,
    )


def _answered(context: Context) -> requestlog.Answered:
    """What happens after each answer of the ordinary way: it is counted, told, and kept for repetition."""
    settings = context.settings

    def answered(
        request: web.BaseRequest,
        response: web.StreamResponse,
        exchange: Exchange,
        sent: int,
        seconds: float,
    ) -> None:
        counted = settings.account.of(request, response, exchange, sent)
        settings.account.add(counted, seconds)
        pulled = None
        if settings.notify is not None:
            pulled = pulls.pulled(
                request, response, exchange, sent, base=settings.public_url, prefix=context.prefix
            )
            if pulled is not None:
                settings.notify(pulled)
        if context.lane is not None:
            context.lane.answered(request, response, exchange, counted, pulled)

    return answered


async def _dispatch(context: Context, request: web.Request) -> web.StreamResponse:
    """One request to its handler. Raises RequestError, RegistryError and Refused."""
    path, settings, exchange = request.path, context.settings, current()
    if path in (health.LIVE, health.READY):
        exchange.is_api = False
        return health.orchestrated(path, settings.gate, settings.warnings)
    if settings.gate.is_shut:
        exchange.is_api = False
        raise settings.gate.refusal()
    if path == "/":
        exchange.is_api = False
        return health.liveness()
    if not path.startswith(context.prefix):
        raise oci.NotFound(path)
    query = request.rel_url.raw_query_string
    try:
        parsed = oci.parse(request.method, path.removeprefix(context.prefix), query)
    except (oci.NotFound, oci.Moved):
        raise
    except oci.RequestError as error:
        exchange.routed = True
        await admitting.admit_misuse(context, request, error.about)
        raise
    exchange.routed = True
    exchange.variables = variables(parsed)
    endpoint = parsed.endpoint
    exchange.handler = HANDLED[type(endpoint)]
    context = replace(context, namespace=parsed.namespace) if parsed.namespace is not None else context
    if isinstance(endpoint, Named):
        asked = endpoint.repository
        context = replace(context, name=asked.name)
        found = await admitting.admit(context, request, asked, endpoint)
        if found != asked:
            endpoint = replace(endpoint, repository=found)
    elif isinstance(endpoint, oci.Base):
        await admitting.admit_base(context, request)
    else:
        about = endpoint.about if isinstance(endpoint, oci.Options) else None
        await admitting.admit_misuse(context, request, about)
    with settings.account.handling(exchange.handler):
        return await HANDLERS[type(endpoint)](context, request, endpoint)


def _protocol_logger() -> logging.Logger:
    """aiohttp's messages about connections, without those about malformed requests."""
    logger = logging.getLogger("mirror.server")
    logger.setLevel(logging.DEBUG)  # the filter must see a TLS hello, which aiohttp tells at debug only
    if not any(isinstance(known, requestlog.QuietBadInput) for known in logger.filters):
        logger.addFilter(requestlog.QuietBadInput())
    return logger
