"""Endpoints that need no registry: the version check, OPTIONS, and the uploads that cannot exist here."""

from __future__ import annotations

from aiohttp import web

from mirror.oci.errors import ErrorCode
from mirror.oci.request import Base, Options, Upload, Uploads
from mirror.registry import RegistryError
from mirror.server.errors import JSON
from mirror.server.settings import Context


async def version(_context: Context, _request: web.Request, _endpoint: Base) -> web.Response:
    """`/v2/`: the API is there. Never asks the upstream, so a daemon starts while that is down."""
    return web.Response(body=b"{}", headers={"Content-Type": JSON})


async def options(_context: Context, _request: web.Request, endpoint: Options) -> web.Response:
    """200 and what is allowed."""
    return web.Response(status=200, headers={"Allow": ", ".join(endpoint.allow)})


async def uploads(_context: Context, _request: web.Request, _endpoint: Uploads) -> web.Response:
    """Anything but POST at an upload's start. Raises BLOB_UPLOAD_UNKNOWN."""
    raise RegistryError(ErrorCode.BLOB_UPLOAD_UNKNOWN)


async def upload(_context: Context, _request: web.Request, _endpoint: Upload) -> web.Response:
    """An upload of whatever id: we never began one. Raises BLOB_UPLOAD_INVALID."""
    raise RegistryError(ErrorCode.BLOB_UPLOAD_INVALID, detail={})
