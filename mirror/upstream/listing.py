"""Lists of an upstream: tags and referrers, page by page (distribution-spec, "Content Discovery").

A next link is the upstream's word: it must lead to the same host, only its query is used, none is followed
twice, and pages and bytes are counted.
"""

from __future__ import annotations

import asyncio
import json
import math
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from mirror.oci.digest import Digest, DigestError
from mirror.oci.errors import ErrorCode
from mirror.oci.links import next_link
from mirror.oci.manifest import OCI_INDEX
from mirror.oci.names import InvalidNameError, Repository, Tag
from mirror.registry import MANIFEST_LIMIT, Corrupt, Page, RegistryError, Unavailable
from mirror.upstream.calls import Calls
from mirror.upstream.fetch import Answer
from mirror.upstream.redirects import as_written

TAGS_LIMIT = 8 << 20  # bytes a page: registry:2 sends all tags at once; 100,000 long ones are 4 MiB
PAGES = 1000  # of tags; ghcr.io gives 100 tags a page unless asked for more
TOTAL_LIMIT = 32 << 20  # bytes of all pages of one list
REFERRER_PAGES = 50  # of 4 MiB at the most; a list of referrers is an index
DEPTH = 16  # of what is nested in an entry of referrers; annotations and platforms have two
INLINE = 256 << 10  # bytes of JSON that are read on the event loop: a few milliseconds


async def tags(calls: Calls, repository: Repository, n: int | None, last: str) -> Page:
    """Tags after `last`: one page of at most `n` as the upstream makes it, or for None all of them.

    An upstream without paging (registry:2) sends everything: what was not asked for is left out.
    Raises NAME_UNKNOWN, Corrupt, and what `Calls.send` raises.
    """
    asked: dict[str, str] = {} if n is None else {"n": str(n)}
    query = urlencode({**asked, **({"last": last} if last else {})})
    pages = 1 if n is not None else PAGES
    documents, more = await _pages(calls, repository, "tags/list", query, pages, ErrorCode.NAME_UNKNOWN)
    names: list[str] = []
    for document in documents:
        found = document.get("tags")  # null for none, in registry:2
        names.extend(name for name in (found if isinstance(found, list) else ()) if _is_tag(name))
    if last and last in names:
        names = names[names.index(last) + 1 :]
    if n is None and more:
        raise Unavailable(f"{calls.name} has more than {PAGES} pages of tags here", status=502)
    if n is not None and len(names) > n:
        return Page(tuple(names[:n]), more=True)
    return Page(tuple(names), more)


async def referrers(calls: Calls, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
    """The entries of the upstream's referrers index, all pages.

    Raises UNSUPPORTED where there is no such API ("404 Not Found" for whatever digest; Docker Hub, older
    registries), Corrupt, and what `Calls.send` raises.
    """
    documents, more = await _pages(
        calls, repository, f"referrers/{digest}", "", REFERRER_PAGES, ErrorCode.UNSUPPORTED
    )
    if more:
        raise Unavailable(f"{calls.name} has more than {REFERRER_PAGES} pages of referrers here", status=502)
    entries: list[dict[str, Any]] = []
    for document in documents:
        found = document.get("manifests")
        if not isinstance(found, list):
            raise Corrupt(f"{calls.name} sent a list of referrers that is no index")
        entries.extend(entry for entry in found if _is_descriptor(entry))
    return tuple(entries)


async def _pages(
    calls: Calls, repository: Repository, path: str, query: str, most: int, missing: ErrorCode
) -> tuple[list[dict[str, Any]], bool]:
    """At most `most` pages from `query` on, and whether another one follows. Raises RegistryError."""
    documents: list[dict[str, Any]] = []
    seen = {query}
    left = TOTAL_LIMIT
    while True:
        limit = MANIFEST_LIMIT if missing is ErrorCode.UNSUPPORTED else TAGS_LIMIT
        accept = f"{OCI_INDEX}, application/json" if missing is ErrorCode.UNSUPPORTED else "application/json"
        answer = await calls.send(
            "GET", repository, path, headers={"Accept": accept}, limit=min(limit, left), query=query
        )
        if answer.status != HTTPStatus.OK:
            _fail(calls, answer, missing)
        left -= len(answer.body)
        documents.append(await _document(calls, answer))
        following = _next(calls, repository, path, answer)
        if following is None or len(documents) == most:
            return documents, following is not None
        if following in seen or left <= 0:
            raise Unavailable(f"{calls.name} sends a list without an end", status=502)
        seen.add(following)
        query = following


def _fail(calls: Calls, answer: Answer, missing: ErrorCode) -> None:
    """Raise what this status means."""
    if missing is ErrorCode.UNSUPPORTED and answer.status in (400, 404, 405):
        raise RegistryError(missing, f"{calls.name} has no referrers API")
    calls.fail(answer, missing, "this repository")


async def _document(calls: Calls, answer: Answer) -> dict[str, Any]:
    try:
        big = len(answer.body) > INLINE
        document = await asyncio.to_thread(json.loads, answer.body) if big else json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{calls.name} sent a list that is not JSON") from error
    if not isinstance(document, dict):
        raise Corrupt(f"{calls.name} sent a list that is no JSON object")
    return document


def _next(calls: Calls, repository: Repository, path: str, answer: Answer) -> str | None:
    """The raw query of the next page. Raises Unavailable for a link that leads elsewhere."""
    link = next_link(answer.links)
    if link is None:
        return None
    own = calls.url(repository, path)
    try:
        target = own.join(as_written(link))
    except ValueError as error:
        raise Unavailable(f"{calls.name} links the next page of a list to no URL", status=502) from error
    if target.host != own.host:  # the host only: a registry behind a TLS proxy gets scheme and port wrong
        raise Unavailable(f"{calls.name} links the next page of a list to another host", status=502)
    return target.raw_query_string


def _is_tag(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(Tag.parse(name))
    except InvalidNameError:
        return False


def _is_descriptor(entry: object) -> bool:
    """Whether an index's entry names something: a media type, a digest and a size; and can be told at all."""
    if not isinstance(entry, dict) or not isinstance(entry.get("mediaType"), str):
        return False
    try:
        Digest.parse(str(entry.get("digest")))
    except DigestError:
        return False
    size = entry.get("size")
    return isinstance(size, int) and not isinstance(size, bool) and size >= 0 and _is_plain(entry, DEPTH)


def _is_plain(value: object, depth: int) -> bool:
    """Whether this is JSON for others, too: `NaN` and 1e999 are none, and nesting ends every parser."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(each, depth - 1) for each in inner)
    return True
