"""Lists: tags, the catalog, referrers."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from mirror import jsontext
from mirror.oci.errors import ErrorCode
from mirror.oci.links import page_link
from mirror.oci.names import Repository
from mirror.oci.request import Catalog, Referrers, Tags
from mirror.registry import Page, RegistryError
from mirror.server import errors
from mirror.server.settings import Context

INDEX = "application/vnd.oci.image.index.v1+json"
PAGES_GROW = 10  # times as long as the one before is each page that is looked over
PAGE_MAX = 100_000  # names of one; the store gives no longer ones
CATALOG_DEFAULT = 100  # names; distribution's page when a client does not say `n`


async def tags(context: Context, _request: web.Request, endpoint: Tags) -> web.Response:
    """All tags, or a page. As registry:3.1.1: `n` above the maximum is lowered to it, `n=0` is empty."""
    name = context.name
    n = None if endpoint.n is None else min(endpoint.n, context.settings.tags_max)
    if n == 0:
        page = Page((), more=False)
    else:
        page = await context.registry.tags(endpoint.repository, n, endpoint.last)
    content = {"name": name, "tags": list(page.names)}
    return _page(context, content, page, f"/v2/{name}/tags/list", n)


async def catalog(context: Context, _request: web.Request, endpoint: Catalog) -> web.Response:
    """The repositories that are kept here. Raises PAGINATION_NUMBER_INVALID for `n` above the maximum."""
    most = context.settings.catalog_max
    n = min(CATALOG_DEFAULT, most) if endpoint.n is None else endpoint.n
    if n > most:
        raise RegistryError(ErrorCode.PAGINATION_NUMBER_INVALID, detail={"n": n})
    page = await _listed(context, n, endpoint.last) if n else Page((), more=False)
    return _page(context, {"repositories": list(page.names)}, page, "/v2/_catalog", n)


async def _listed(context: Context, n: int, last: str) -> Page:
    """The next `n` repositories that are shown at all: others are looked over, page by page.

    NB: each page is read from the tree's top. So pages grow: else a client that asks for one name, where
    thousands are not shown, would have each of these found by a look of its own (3000: for 20 s).
    """
    names: list[str] = []
    more, size = True, n
    while more and len(names) <= n:
        page = await context.registry.repositories(size, last)
        size = min(size * PAGES_GROW, PAGE_MAX)
        names += [name for name in page.names if context.settings.listed(Repository(name))]
        more = page.more and bool(page.names)
        last = page.names[-1] if page.names else last
    return Page(tuple(names[:n]), more or len(names) > n)


async def referrers(context: Context, _request: web.Request, endpoint: Referrers) -> web.Response:
    """An index of what refers to a digest; unknown names have none (the spec forbids a 404 for them).

    Where the registry has no such API the answer is 404: clients then look for the fallback tag.
    """
    try:
        found = await context.registry.referrers(endpoint.repository, endpoint.digest)
    except RegistryError as error:
        if error.code is ErrorCode.UNSUPPORTED:
            return errors.not_found()
        if error.code not in (ErrorCode.NAME_UNKNOWN, ErrorCode.MANIFEST_UNKNOWN):
            raise
        errors.note_status(error)
        found = ()
    headers = {"Content-Type": INDEX}
    if endpoint.artifact_type is not None:
        found = tuple(entry for entry in found if entry.get("artifactType") == endpoint.artifact_type)
        headers["OCI-Filters-Applied"] = "artifactType"
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(found)}
    return web.Response(body=_encode(index), headers=headers)


def _page(context: Context, content: dict[str, Any], page: Page, path: str, n: int | None) -> web.Response:
    """A page, with a link to the next one where there is one; `path` is below the prefix."""
    headers = {"Content-Type": errors.JSON}
    if page.more and page.names and n:
        headers["Link"] = page_link(context.prefix + path, n, page.names[-1], namespace=context.namespace)
    return web.Response(body=_encode(content), headers=headers)


def _encode(content: dict[str, Any]) -> bytes:
    """As Go's encoder writes it: no spaces, a line break at the end."""
    return jsontext.encoded(content, separators=(",", ":")) + b"\n"
