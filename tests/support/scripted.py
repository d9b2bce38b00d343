"""A scripted upstream registry: a real server on loopback that serves what it is given, records every
request, and misbehaves as told.

    upstream = Upstream(auth=Bearer())
    image = upstream.add_image("library/alpine", "3", layers=[b"one", b"two"])
    upstream.fault("GET", r"/blobs/", Fault(cut_after=100), times=1)
    async with serve(upstream) as url:          # in this event loop
        ...
    with in_thread(upstream) as url:            # in a thread with its own loop, for blocking tests
        ...
    assert upstream.lines() == ["HEAD /v2/library/alpine/manifests/3", ...]

Content may be added and faults set at any time. A server serves one Upstream; an Upstream is served once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import ssl
import threading
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

from aiohttp import web

from tests.support.faults import Answer, Fault, Reply, Sender
from tests.support.waiting import PATIENCE

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

__all__ = ["Basic", "Bearer", "Fault", "Image", "Reply", "Seen", "Upstream", "in_thread", "serve"]


@dataclass(slots=True)
class Seen:
    """A request as it arrived; `sent` body bytes were handed to its connection, `done` once answered."""

    method: str
    path: str  # decoded, without the query
    query: str  # raw
    headers: Mapping[str, str]  # case-insensitive; getall() for lines
    body: bytes
    connection: int  # the same number: the same connection
    status: int = 0
    sent: int = 0
    done: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f"?{self.query}" if self.query else "")


@dataclass(frozen=True, slots=True)
class Basic:
    """Basic authentication for everything below /v2/."""

    username: str = "user"
    password: str = "pass"


@dataclass(slots=True)
class Bearer:
    """Token authentication: the token server is `/token` of the same server, unless `realm` says otherwise.

    With a username the token server demands it (and gives nothing to others), with `identity_token` it
    demands the OAuth2 POST. `tokens` are the valid ones with their scopes: clear it to revoke them all.
    """

    service: str = "registry.test"
    realm: str | None = None
    username: str | None = None
    password: str | None = None
    identity_token: str | None = None
    expires_in: int | None = 300  # seconds, as announced; None: left out
    answer_field: str = "token"  # or access_token
    prefix: str = "token"  # of the tokens' text
    tokens: dict[str, str] = field(default_factory=dict)
    issued: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """The parts of a made image; digests as text."""

    digest: str
    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def blobs(self) -> dict[str, bytes]:
        """Config and layers by digest."""
        return {sha256(data): data for data in (self.config, *self.layers)}


@dataclass(slots=True)
class Content:
    """One repository."""

    blobs: dict[str, bytes | memoryview] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # digest -> media type, body
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Rule:
    method: str
    path: re.Pattern[str]
    fault: Fault
    left: int | None


def sha256(data: bytes | memoryview) -> str:
    """`sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Upstream:
    """The registry's content, its faults, and what it has seen."""

    def __init__(
        self,
        *,
        auth: Basic | Bearer | None = None,
        referrers: bool = True,
        page: int | None = None,
        ranges: bool = True,
    ) -> None:
        """`page`: the most tags on one page of tags/list, also without ?n=. `ranges`: whether it says that it
        gives parts of blobs, which it does in any case."""
        self.ranges = ranges
        self.auth = auth
        self.referrers = referrers
        self.page = page
        self.challenges: list[str] | None = None  # WWW-Authenticate lines instead of the true one
        self.url = ""  # set when served, without a trailing slash
        self.seen: list[Seen] = []
        self.repositories: dict[str, Content] = {}
        self._rules: list[_Rule] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._transports: set[object] = set()  # of all requests: held, so that no other gets the same id()
        self._released: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # content

    def repository(self, name: str) -> Content:
        """The named repository, made when it is not there."""
        return self.repositories.setdefault(name, Content())

    def add_blob(self, name: str, data: bytes | memoryview) -> str:
        """Returns the digest. Of a view, no copy is made."""
        digest = sha256(data)
        self.repository(name).blobs[digest] = data
        return digest

    def add_manifest(
        self, name: str, body: bytes | dict[str, Any], *tags: str, media_type: str | None = None
    ) -> str:
        """Returns the digest. The media type is the document's own unless given."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = media_type or json.loads(raw).get("mediaType", OCI_MANIFEST)
        digest = sha256(raw)
        content = self.repository(name)
        content.manifests[digest] = (kind, raw)
        content.tags.update(dict.fromkeys(tags, digest))
        return digest

    def add_image(self, name: str, *tags: str, layers: Sequence[bytes] = (b"layer",)) -> Image:
        """An OCI image with its blobs."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "of": [name, *tags]}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(OCI_CONFIG, config),
            "layers": [_descriptor(OCI_LAYER, layer) for layer in layers],
        }
        for data in (config, *layers):
            self.add_blob(name, data)
        body = json.dumps(document).encode()
        return Image(self.add_manifest(name, body, *tags), body, config, tuple(layers))

    def add_index(self, name: str, *tags: str, children: Sequence[Image] = ()) -> str:
        """An OCI index of images; returns its digest."""
        entries = [_descriptor(OCI_MANIFEST, child.manifest) for child in children]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self.add_manifest(name, document, *tags)

    # faults

    def fault(self, method: str, path: str, fault: Fault, times: int | None = None) -> None:
        """Do this to the next `times` requests (None: to all) of the method ("*": any) whose path has the
        regular expression in it. The first rule that fits wins. A request that gets 401 for want of
        authentication uses up no fault, unless the fault is `early`.
        """
        self._rules.append(_Rule(method, re.compile(path), fault, times))

    def clear_faults(self, path: str = "") -> None:
        """Behave again: all faults end, or those set for this path. What hangs goes on until `release`."""
        self._rules[:] = [rule for rule in self._rules if path and rule.path.pattern != path]

    def release(self) -> None:
        """End everything that hangs or stalls, now and from now on. From any thread."""
        if self._loop is not None and self._released is not None:
            self._loop.call_soon_threadsafe(self._released.set)

    # what was seen

    def lines(self, method: str = "", path: str = "") -> list[str]:
        """The requests so far as `GET /v2/...?query`, of this method, with this regex in the path."""
        return [str(seen) for seen in self.find(method, path)]

    def find(self, method: str = "", path: str = "") -> list[Seen]:
        """As `lines`, with headers and all."""
        return [s for s in self.seen if method in ("", s.method) and re.search(path, s.path)]

    async def arrived(self, method: str = "", path: str = "", count: int = 1) -> None:
        """Wait (PATIENCE at most) until `count` requests were seen, as by `find`. In the server's loop."""
        async with asyncio.timeout(PATIENCE):
            while len(self.find(method, path)) < count:
                arrival = asyncio.get_running_loop().create_future()
                self._waiting.append(arrival)
                await arrival

    # serving

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The aiohttp handler of everything."""
        seen = Seen(
            request.method,
            request.path,
            request.rel_url.raw_query_string,
            request.headers,
            await request.read(),
            id(request.transport),
        )
        self.seen.append(seen)
        self._transports.add(request.transport)
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            if not arrival.done():
                arrival.set_result(None)
        denied = self._denied(request) if request.path.startswith("/v2/") else None
        fault = self._fault_for(request, denied=denied is not None)
        if denied is not None and not fault.early:
            reply, fault = denied, Fault()
        else:
            reply = fault.apply(self._answer(request, seen, fault))
        if fault.echo:
            reply = _echo(reply.status, request)
        assert self._released is not None
        sender = Sender(request, fault, self._released)
        try:
            seen.status = reply.status
            return await sender.send(reply)
        finally:
            seen.sent, seen.done = sender.sent, True

    def _fault_for(self, request: web.Request, *, denied: bool) -> Fault:
        for rule in self._rules:
            if rule.method not in ("*", request.method) or not rule.path.search(request.path):
                continue
            if rule.left == 0 or (denied and not rule.fault.early):
                continue
            if rule.left is not None:
                rule.left -= 1
            return rule.fault
        return Fault()

    def _denied(self, request: web.Request) -> Reply | None:
        """The 401, if these credentials are not enough."""
        given = request.headers.get("Authorization", "")
        match self.auth:
            case Basic(username, password):
                if given == _basic(username, password):
                    return None
                challenge = 'Basic realm="registry"'
            case Bearer() as bearer:
                scope = _scope_of(request.path)
                if scope in bearer.tokens.get(given.removeprefix("Bearer "), "").split(" "):
                    return None
                realm = bearer.realm or f"{self.url}/token"
                challenge = f'Bearer realm="{realm}",service="{bearer.service}",scope="{scope}"'
            case _:
                return None
        return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": self.challenges or [challenge]})

    def _answer(self, request: web.Request, seen: Seen, fault: Fault) -> Reply:
        path, query = request.path, request.query
        if path == "/token":
            return self._token(request, seen)
        if path == "/v2/":
            return Reply(200, {"Content-Type": "application/json"}, b"{}")
        parts = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|referrers)/([^/]+)", path)
        if parts is None:
            return Reply(404, {"Content-Type": "text/plain"}, b"404 page not found\n")
        name, verb, reference = parts.groups()
        content = self.repositories.get(name)
        if content is None:
            return _error(404, "NAME_UNKNOWN")
        if verb == "tags":
            return self._tags(path, name, content, query.get("n"), query.get("last", ""))
        if verb == "referrers":
            return self._referrers(content, reference)
        if verb == "manifests":
            digest = content.tags.get(reference, reference)
            if digest not in content.manifests:
                return _error(404, "MANIFEST_UNKNOWN")
            kind, body = content.manifests[digest]
            return Reply(200, {"Content-Type": kind, "Docker-Content-Digest": digest}, body)
        if reference not in content.blobs:
            return _error(404, "BLOB_UNKNOWN")
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": reference}
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        wanted = None if fault.ignore_range else request.headers.get("Range")
        return _ranged(Reply(200, headers, content.blobs[reference]), wanted)

    def _token(self, request: web.Request, seen: Seen) -> Reply:
        bearer = self.auth
        if not isinstance(bearer, Bearer):
            return Reply(404)
        form = parse_qs(seen.body.decode()) if request.method == "POST" else parse_qs(seen.query)
        allowed = True
        if bearer.identity_token is not None:
            allowed = request.method == "POST" and form.get("refresh_token") == [bearer.identity_token]
        elif bearer.username is not None:
            allowed = request.headers.get("Authorization") == _basic(bearer.username, bearer.password or "")
        if not allowed:
            return _error(401, "UNAUTHORIZED")
        bearer.issued += 1
        token = f"{bearer.prefix}-{bearer.issued}"
        bearer.tokens[token] = " ".join(form.get("scope", []))
        answer: dict[str, Any] = {bearer.answer_field: token}
        if bearer.expires_in is not None:
            answer["expires_in"] = bearer.expires_in
        return _json(200, answer)

    def _tags(self, path: str, name: str, content: Content, n: str | None, last: str) -> Reply:
        tags = [tag for tag in sorted(content.tags) if tag > last]
        limit = min([len(tags), *([int(n)] if n else []), *([self.page] if self.page else [])])
        headers: dict[str, str | list[str]] = {}
        if limit < len(tags) and limit:
            following = urlencode({"last": tags[limit - 1], "n": limit})
            headers["Link"] = f'<{path}?{following}>; rel="next"'
        return _json(200, {"name": name, "tags": tags[:limit]}, headers)

    def _referrers(self, content: Content, digest: str) -> Reply:
        if not self.referrers:
            return Reply(404, {"Content-Type": "text/plain"}, b"404 page not found\n")
        found = []
        for own, (kind, body) in content.manifests.items():
            document = json.loads(body)
            if document.get("subject", {}).get("digest") == digest:
                entry = {"mediaType": kind, "digest": own, "size": len(body)}
                found.append({**entry, "artifactType": document.get("artifactType", "")})
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        return Reply(200, {"Content-Type": OCI_INDEX}, json.dumps(index).encode())

    async def _start(self, host: str, tls: ssl.SSLContext | None) -> web.AppRunner:
        assert not self.url, "an Upstream is served once"
        self._loop, self._released = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        app.on_response_prepare.append(_drop_headers)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, host, 0, ssl_context=tls)
        await site.start()
        self.url = f"{'https' if tls else 'http'}://{host}:{runner.addresses[0][1]}"
        return runner

    async def _stop(self, runner: web.AppRunner) -> None:
        assert self._released is not None
        self._released.set()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def serve(
    upstream: Upstream, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncGenerator[str, None]:
    """Serve in this event loop, on a free port; gives the URL. `host`: any of 127.0.0.0/8."""
    runner = await upstream._start(host, tls)
    try:
        yield upstream.url
    finally:
        await upstream._stop(runner)


@contextlib.contextmanager
def in_thread(
    upstream: Upstream, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Generator[str, None, None]:
    """Serve in a thread with an event loop of its own, for tests that block; gives the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="scripted upstream")
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(upstream._start(host, tls), loop).result(PATIENCE)
        try:
            yield upstream.url
        finally:
            asyncio.run_coroutine_threadsafe(upstream._stop(runner), loop).result(PATIENCE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


async def _drop_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name in response.dropped if isinstance(response, Answer) else ():
        response.headers.popall(name, None)


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _scope_of(path: str) -> str:
    found = re.fullmatch(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+", path)
    return f"repository:{found[1]}:pull" if found else ""


def _json(status: int, document: Any, headers: Mapping[str, str | list[str]] | None = None) -> Reply:
    return Reply(
        status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode()
    )


def _error(status: int, code: str, headers: Mapping[str, str | list[str]] | None = None) -> Reply:
    return _json(status, {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}, headers)


def _echo(status: int, request: web.Request) -> Reply:
    """As some proxies and debugging registries do: what was asked, in the answer's text and headers."""
    told = " ".join(f"{name}: {value}" for name, value in request.headers.items())
    document = {"errors": [{"code": "DENIED", "message": told, "detail": {"url": str(request.url)}}]}
    return _json(status, document, {"X-Asked": told})


def _ranged(reply: Reply, wanted: str | None) -> Reply:
    """The part of a 200 answer that `Range: bytes=a-b`, `a-` or `-n` asks for."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if found is None or found[0] == "bytes=-":
        return reply
    size, (first, last) = len(reply.body), found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        return Reply(416, {"Content-Range": f"bytes */{size}"})
    headers = {**reply.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Reply(206, headers, memoryview(reply.body)[start:stop])
