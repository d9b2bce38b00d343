"""One parser for every endpoint of the distribution spec: method, path and query -> Request.

A request is judged in distribution's order: the path is cleaned; a route must fit it; a slash too many or
too few at the end is answered by a redirect; a blob's bad digest is told; then the method is looked at;
then the query. Whatever is not an endpoint leaves as an exception of this module, and nothing else is
raised.

The last components alone decide about the route (`…/manifests/X`, `…/blobs/X`, `…/blobs/uploads/X`,
`…/tags/list`), so splitting from the right finds the longest name, also for a repository that has
components named `blobs` or `tags`, and needs no regular expression that could backtrack.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mirror.oci import target
from mirror.oci.digest import Digest, DigestError, looks_like_digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import InvalidNameError, Reference, Repository, Tag

MAX_PATH = 2048  # characters; a name (255) with the longest digest and an upload's id has far fewer

_READ = ("GET", "HEAD")
_LIST = ("GET",)  # distribution answers HEAD of a listing by 405
_UUID = re.compile(r"[a-zA-Z0-9._=-]+\Z")


@dataclass(frozen=True, slots=True)
class Base:
    """`/v2/`: answered alike for every method."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """`/v2/_catalog`. `n` is None when not asked for, and never negative; its maximum is the server's."""

    n: int | None
    last: str


@dataclass(frozen=True, slots=True)
class Tags:
    """`/v2/<name>/tags/list`. `n` as in Catalog."""

    repository: Repository
    n: int | None
    last: str


@dataclass(frozen=True, slots=True)
class ManifestEndpoint:
    """`/v2/<name>/manifests/<reference>`."""

    repository: Repository
    reference: Reference


@dataclass(frozen=True, slots=True)
class BlobEndpoint:
    """`/v2/<name>/blobs/<digest>`."""

    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class Uploads:
    """`/v2/<name>/blobs/uploads/`, not by POST: no upload is meant (404 BLOB_UPLOAD_UNKNOWN)."""

    repository: Repository


@dataclass(frozen=True, slots=True)
class Upload:
    """`/v2/<name>/blobs/uploads/<uuid>`, any method: we never gave one out (404 BLOB_UPLOAD_INVALID)."""

    repository: Repository
    uuid: str


@dataclass(frozen=True, slots=True)
class Referrers:
    """`/v2/<name>/referrers/<digest>`; `artifact_type` is the filter, None for all."""

    repository: Repository
    digest: Digest
    artifact_type: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """OPTIONS on any endpoint but the base: 200, no body, `Allow`. `about` is as in RequestError."""

    allow: tuple[str, ...]
    about: Repository | None = field(default=None, compare=False)


Endpoint = Base | Catalog | Tags | ManifestEndpoint | BlobEndpoint | Uploads | Upload | Referrers | Options


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for; `namespace` is the text of `?ns=` (containerd), unchecked, None when empty."""

    endpoint: Endpoint
    namespace: str | None


class RequestError(Exception):
    """Not an endpoint that we serve; each subclass has its own form of answer.

    `about` is the repository whose endpoint was asked in a way that it does not know, where there is one.
    """

    about: Repository | None = None


class NotFound(RequestError):
    """No route fits the path: 404, plain text."""


class Moved(RequestError):
    """301. `location` is percent-encoded, begins with one slash below the prefix, and keeps the query."""

    def __init__(self, location: str) -> None:
        self.location = location
        super().__init__(location)


class MethodNotAllowed(RequestError):
    """The endpoint knows no such method: 405, plain text, `Allow`."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        self.allow = allow
        super().__init__(", ".join(allow))


class ReadOnly(RequestError):
    """A push or a delete, which a proxy refuses: 405, UNSUPPORTED as JSON, `Allow`."""

    def __init__(self, repository: Repository, allow: tuple[str, ...]) -> None:
        self.repository = repository
        self.allow = allow
        super().__init__(f"{repository} cannot be changed here")


class BadRequest(RequestError):
    """400 as JSON, with the code (DIGEST_INVALID, PAGINATION_NUMBER_INVALID) and registry:3's detail."""

    def __init__(self, code: ErrorCode, detail: Any) -> None:
        self.code = code
        self.message = code.message
        self.detail = detail
        super().__init__(f"{code.name}: {detail}")


def parse(method: str, path: str, query: str) -> Request:
    """What is asked for by `method`, the percent-decoded `path` below the prefix, and the raw `query`.

    Raises RequestError (one of its five kinds) and nothing else. The liveness answer at `/` is not an
    endpoint of the spec: NotFound.
    """
    if len(path) > MAX_PATH or not path.startswith("/"):
        raise NotFound(path[:MAX_PATH])
    cleaned = target.clean(path)
    if cleaned != path:
        raise Moved(target.location(cleaned, query))
    namespace = target.field(query, "ns") or None
    core = path.removesuffix("/")
    if core == "/v2":
        _strict_slash(path, query, wanted=True)
        return Request(Base(), namespace)
    if core == "/v2/_catalog":
        _strict_slash(path, query, wanted=False)
        return Request(_catalog(method, query), namespace)
    build, repository, item = _route(core)
    _strict_slash(path, query, wanted=build is _uploads)
    try:
        endpoint = build(repository, item, method, query)
        if isinstance(endpoint, Options):
            endpoint = replace(endpoint, about=repository)
        return Request(endpoint, namespace)
    except RequestError as error:
        error.about = repository
        raise


def _strict_slash(path: str, query: str, *, wanted: bool) -> None:
    """Raises Moved to the path with, or without, its last slash."""
    if path.endswith("/") != wanted:
        raise Moved(target.location(path + "/" if wanted else path[:-1], query))


# Makes the endpoint of a route from repository, last component, method and query.
_Build = Callable[[Repository, str, str, str], Endpoint]


def _route(core: str) -> tuple[_Build, Repository, str]:
    """The route that a clean path without its last slash fits. Raises NotFound."""
    head, _, item = core.rpartition("/")
    name, _, marker = head.rpartition("/")
    if marker == "uploads" and name.endswith("/blobs"):
        marker, name = "blobs/uploads", name.removesuffix("/blobs")
    if not name.startswith("/v2/"):
        raise NotFound(core)
    try:
        build = _builder(marker, item)
        if build is None:
            raise NotFound(core)
        return build, Repository.parse(name.removeprefix("/v2/")), item
    except InvalidNameError as error:
        raise NotFound(core) from error


def _builder(marker: str, item: str) -> _Build | None:
    """Who makes the endpoint of `…/marker/item`; None when no route fits. Raises InvalidNameError."""
    if marker == "manifests":
        if not looks_like_digest(item):
            Tag.parse(item)
        return _manifest
    if marker == "blobs":
        if item == "uploads":
            return _uploads
        return _blob if looks_like_digest(item) else None
    if marker == "tags":
        return _tags if item == "list" else None
    if marker == "blobs/uploads":
        return _upload if _UUID.match(item) else None
    if marker == "referrers":
        return _referrers if looks_like_digest(item) else None
    return None


def _catalog(method: str, query: str) -> Endpoint:
    options = _options(method, _LIST)
    # registry:3's detail is the text that was sent here, and for tags the int that Go made of it.
    return options or Catalog(_count(query, as_text=True), target.field(query, "last"))


def _tags(repository: Repository, _item: str, method: str, query: str) -> Endpoint:
    options = _options(method, _LIST)
    return options or Tags(repository, _count(query, as_text=False), target.field(query, "last"))


def _manifest(repository: Repository, item: str, method: str, _query: str) -> Endpoint:
    if method in ("PUT", "DELETE"):
        raise ReadOnly(repository, _READ)
    options = _options(method, _READ)
    if options is not None:
        return options
    # The route has checked the tag.
    return ManifestEndpoint(repository, _digest(item) if looks_like_digest(item) else Tag(item))


def _blob(repository: Repository, item: str, method: str, _query: str) -> Endpoint:
    digest = _digest(item)
    if method == "DELETE":
        raise ReadOnly(repository, _READ)
    return _options(method, _READ) or BlobEndpoint(repository, digest)


def _uploads(repository: Repository, _item: str, method: str, _query: str) -> Endpoint:
    if method == "POST":
        raise ReadOnly(repository, _READ)
    if method in ("PATCH", "PUT", "DELETE"):  # distribution looks for the upload first, and finds none
        return Uploads(repository)
    return _options(method, _READ) or Uploads(repository)


def _upload(repository: Repository, item: str, _method: str, _query: str) -> Endpoint:
    return Upload(repository, item)


def _referrers(repository: Repository, item: str, method: str, query: str) -> Endpoint:
    digest = _digest(item)
    artifact_type = target.field(query, "artifactType") or None
    return _options(method, _READ) or Referrers(repository, digest, artifact_type)


def _options(method: str, allow: tuple[str, ...]) -> Options | None:
    """None for a method that the endpoint has. Raises MethodNotAllowed for one that it has not."""
    if method in allow:
        return None
    if method == "OPTIONS":
        return Options(allow)
    raise MethodNotAllowed(allow)


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except DigestError as error:
        raise BadRequest(ErrorCode.DIGEST_INVALID, str(error)) from error


def _count(query: str, *, as_text: bool) -> int | None:
    """`n`, None when not given. Raises BadRequest, with `n` in the detail as text or as a number."""
    text = target.field(query, "n")
    if not text:
        return None
    value, fits = target.atoi(text)
    if not fits or value < 0:
        raise BadRequest(ErrorCode.PAGINATION_NUMBER_INVALID, {"n": text if as_text else value})
    return value
