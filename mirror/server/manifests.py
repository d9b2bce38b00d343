"""Manifests and indexes, by tag and by digest.

What the reference names is sent, whatever the client accepts. distribution converts or hides by `Accept`, of
which some clients send one line and some six in changing order: one tag then has three digests. A client that
cannot read a type sees so by Content-Type.
"""

from __future__ import annotations

import re

from aiohttp import web

from mirror.oci.conditions import etag, none_match
from mirror.oci.descriptor import Descriptor
from mirror.oci.request import ManifestEndpoint
from mirror.server.exchange import current
from mirror.server.settings import Context

# A media type comes out of JSON that somebody wrote: it must not become a header of its own.
_MEDIA_TYPE = re.compile(r"[!-~]{1,128}/[!-~]{1,128}(?:; ?[!-~]{1,128})?\Z")
_UNREADABLE_TYPE = "application/octet-stream"


async def manifest(context: Context, request: web.Request, endpoint: ManifestEndpoint) -> web.Response:
    """GET and HEAD. Range is ignored, as distribution does.

    If-None-Match also takes the digest without quotes, as distribution does; a 304 has the ETag, which
    RFC 9110 section 15.4.5 demands and distribution forgets.
    """
    registry = context.registry
    if request.method == "HEAD":
        descriptor = await registry.stat_manifest(endpoint.repository, endpoint.reference)
        body = None
    else:
        raw = await registry.manifest(endpoint.repository, endpoint.reference)
        descriptor, body = raw.descriptor, raw.body
    current().descriptor = descriptor
    if context.lane is not None:
        context.lane.lease_manifest(request, endpoint, descriptor.digest, body)
    headers = {"Docker-Content-Digest": str(descriptor.digest), "ETag": etag(descriptor.digest)}
    condition = ",".join(request.headers.getall("If-None-Match", ())) or None
    if none_match(condition, descriptor.digest, bare=True):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = content_type(descriptor)
    headers["Content-Length"] = str(descriptor.size)
    return web.Response(status=200, body=body, headers=headers)


def content_type(descriptor: Descriptor) -> str:
    """The media type where it can be a header's value."""
    return descriptor.media_type if _MEDIA_TYPE.match(descriptor.media_type) else _UNREADABLE_TYPE
