"""Who may have an answer, before any registry is asked for it: access, then what nobody is given.

In distribution's order: after the route, before the method, the digest and the query are judged. A path that
is no endpoint, and a redirect to one, are answered to everybody.
"""

from __future__ import annotations

from aiohttp import web

from mirror.access.base import CATALOG, Access, Asked, records
from mirror.oci import request as oci
from mirror.oci import target
from mirror.oci.errors import ErrorCode
from mirror.oci.names import InvalidNameError, Repository
from mirror.registry import RegistryError
from mirror.server.exchange import current
from mirror.server.locating import located
from mirror.server.settings import Context

DENIED = "this mirror does not give this repository: {key} in its configuration forbids it"


async def admit_base(context: Context, request: web.Request) -> None:
    """`/v2/`. Raises Refused."""
    namespace = context.settings.registry_at(context.namespace, current().host)
    await _authorize(context, request, (), namespace=namespace)


async def admit(
    context: Context, request: web.Request, asked: Repository, endpoint: oci.Endpoint
) -> Repository:
    """A repository's endpoint. Returns the registry's name for what the client calls `asked`.

    Who it is comes first: a stranger learns nothing of what is served here. Raises Refused, and RegistryError
    for what is not served, or given to nobody.
    """
    try:
        found = located(context.settings, context.namespace, asked)
    except RegistryError:
        await _authorize(context, request, _wanted(request, asked, None))
        raise
    await _authorize(context, request, _wanted(request, asked, found), found, _target(endpoint))
    key = context.settings.forbids(found)
    if key is not None:
        raise RegistryError(ErrorCode.DENIED, DENIED.format(key=key))
    return found


async def admit_misuse(context: Context, request: web.Request, asked: Repository | None) -> None:
    """A request that gives away no content: a push, OPTIONS, a wrong digest; of the catalog where None is
    asked. Raises Refused."""
    if context.settings.access is None:
        return
    if asked is None:
        await _authorize(context, request, (CATALOG,))
        return
    namespace = target.field(request.rel_url.raw_query_string, "ns") or None
    try:
        found = located(context.settings, namespace, asked)
    except RegistryError:
        found = None
    await _authorize(context, request, _wanted(request, asked, found), found)


def _wanted(request: web.Request, asked: Repository, found: Repository | None) -> tuple[Access, ...]:
    """What leave is needed for: the repository by the name that this mirror knows it by.

    Not by the client's, so that another spelling, or `?ns=`, is no way around somebody's rights.
    """
    name = (found or asked).name
    if name == f"library/{asked.name}":
        name = asked.name  # docker makes its scope of what it was told: `MIRROR/alpine`
    query = request.rel_url.raw_query_string
    return records(request.method, name, _source(target.field(query, "from")))


async def _authorize(
    context: Context,
    request: web.Request,
    wanted: tuple[Access, ...],
    repository: Repository | None = None,
    what: str = "",
    namespace: str = "",
) -> None:
    access = context.settings.access
    if access is None:
        return
    exchange = current()
    exchange.wanted = wanted
    exchange.allowed = await access.authorize(
        Asked(
            authorization=request.headers.get("Authorization", ""),
            records=wanted,
            host=exchange.host,
            scheme=exchange.scheme or _own_scheme(request),
            address=exchange.client or request.remote or "",
            repository=repository,
            target=what,
            namespace=namespace,
        )
    )


def _own_scheme(request: web.Request) -> str:
    """https, as distribution takes it, unless we speak TLS ourselves: then there is no doubt either."""
    return "https" if request.scheme == "https" else ""


def _target(endpoint: oci.Endpoint | None) -> str:
    """What of the repository is given away: below its name, as the registry itself would be asked for it."""
    match endpoint:
        case oci.ManifestEndpoint(reference=reference):
            return f"manifests/{reference}"
        case oci.BlobEndpoint(digest=digest):
            return f"blobs/{digest}"
        case oci.Tags() | oci.Referrers():
            return "tags/list"
    return ""


def _source(text: str) -> str:
    """The repository to mount from. What is no name is none: nothing is ever mounted here."""
    try:
        return Repository.parse(text).name if text else ""
    except InvalidNameError:
        return ""
