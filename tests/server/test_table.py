"""Each endpoint, method and input -> status, headers, exact body (distribution's, registry:3 form)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mirror.oci.digest import Digest
from mirror.server.routes import Settings
from tests.server.memory import OCI, MemoryRegistry
from tests.server.raw import ask, serving

BODY = b'{"schemaVersion":2}'
D = Digest.of(BODY)
BLOB = b"0123456789"
B = Digest.of(BLOB)
NONE = "sha256:" + "0" * 64
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
MIRROR = "this is a read-only pull-through mirror: "
PUSH = f"{MIRROR}push to hub.test/library/x instead"
DELETE = f"{MIRROR}delete it in hub.test/library/x instead"
READ = {"Allow": "GET, HEAD"}
LIST = {"Allow": "GET"}
NOSNIFF = {"X-Content-Type-Options": "nosniff", "Content-Type": TEXT}
ETAGS = {"ETag": f'"{B}"', "Docker-Content-Digest": str(B), "Cache-Control": "max-age=31536000"}
BLOB_HEADERS = {**ETAGS, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
MANIFEST_HEADERS = {"ETag": f'"{D}"', "Docker-Content-Digest": str(D), "Content-Type": OCI}


def error(code: str, message: str, detail: str = "") -> str:
    """The envelope as text; `detail` is JSON."""
    tail = f',"detail":{detail}' if detail else ""
    return f'{{"errors":[{{"code":"{code}","message":"{message}"{tail}}}]}}\n'


@dataclass(frozen=True)
class Case:
    """A request, and all that must be in its answer."""

    method: str
    target: str
    status: int
    body: str | None = ""
    answered: dict[str, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.target[:60]} {self.sent}"


UNKNOWN_TAG = error("MANIFEST_UNKNOWN", "manifest unknown", '"unknown tag=nope"')
UNKNOWN_BLOB = error("BLOB_UNKNOWN", "blob unknown to registry", f'"{NONE}"')
BAD_DIGEST = "provided digest did not match uploaded content"
NOT_FOUND = "404 page not found\n"
NOT_ALLOWED = "Method not allowed\n"
UNSUPPORTED = error("UNSUPPORTED", PUSH)
UPLOAD_INVALID = error("BLOB_UPLOAD_INVALID", "blob upload invalid", "{}")
UPLOAD_UNKNOWN = error("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
PAGINATION = "invalid number of results requested"
AT = "/v2/library/x"

CASES = [
    *(Case(m, "/v2/", 200, "{}", {"Content-Type": JSON}) for m in ("GET", "POST", "DELETE", "OPTIONS")),
    Case("HEAD", "/v2/", 200, answered={"Content-Length": "2", "Content-Type": JSON}),
    Case("GET", "/v2", 301, '<a href="/v2/">Moved Permanently</a>.\n\n', {"Location": "/v2/"}),
    Case("POST", "/v2", 301, "", {"Location": "/v2/"}),
    Case("GET", "/v2/_catalog/?n=1", 301, None, {"Location": "/v2/_catalog?n=1"}),
    Case("GET", "//evil.test/v2/", 301, None, {"Location": "/evil.test/v2/"}),
    Case("GET", "/v1/search?q=x", 404, NOT_FOUND, NOSNIFF),
    Case("GET", "/v2/UPPER/x/tags/list", 404, NOT_FOUND, NOSNIFF),
    Case("GET", f"{AT}/manifests/-bad", 404, NOT_FOUND),
    Case("GET", f"{AT}/%00/manifests/v1", 404, NOT_FOUND),
    Case("OPTIONS", "*", 404, NOT_FOUND),
    # manifests
    Case("GET", f"{AT}/manifests/v1", 200, BODY.decode(), MANIFEST_HEADERS, absent=("Accept-Ranges",)),
    Case("GET", f"{AT}/manifests/{D}?ns=docker.io", 200, BODY.decode(), MANIFEST_HEADERS),
    Case("HEAD", f"{AT}/manifests/v1", 200, "", {**MANIFEST_HEADERS, "Content-Length": str(len(BODY))}),
    Case("GET", f"{AT}/manifests/v1", 200, BODY.decode(), sent={"Range": "bytes=0-3"}),
    Case("GET", f"{AT}/manifests/v1", 200, BODY.decode(), sent={"Accept": "\x80;;q=,,*/*;q=x,\t"}),
    Case("GET", f"{AT}/manifests/v1", 200, BODY.decode(), sent={"Accept": "text/html"}),
    Case("GET", f"{AT}/manifests/v1", 200, BODY.decode(), sent={"If-None-Match": f'"{NONE}"'}),
    Case("GET", f"{AT}/manifests/v1", 304, "", {"ETag": f'"{D}"'}, {"If-None-Match": str(D)}),
    Case("GET", f"{AT}/manifests/v1", 304, "", sent={"If-None-Match": f'"a", W/"{D}"'}),
    Case("HEAD", f"{AT}/manifests/v1", 304, "", sent={"If-None-Match": "*"}),
    Case("GET", f"{AT}/manifests/nope", 404, UNKNOWN_TAG, {"Content-Type": JSON}),
    Case("HEAD", f"{AT}/manifests/nope", 404, answered={"Content-Length": str(len(UNKNOWN_TAG))}),
    Case("POST", f"{AT}/manifests/v1", 405, NOT_ALLOWED, {**READ, **NOSNIFF}),
    Case("PATCH", f"{AT}/manifests/v1", 405, NOT_ALLOWED, READ),
    Case("OPTIONS", f"{AT}/manifests/v1", 200, "", READ),
    Case("PUT", f"{AT}/manifests/v1", 405, UNSUPPORTED, {**READ, "Content-Type": JSON}),
    Case("DELETE", f"{AT}/manifests/{D}", 405, error("UNSUPPORTED", DELETE), READ),
    Case("GET", f"{AT}/manifests/sha256:0", 400, None, {"Content-Type": JSON}),
    # blobs
    Case("GET", f"{AT}/blobs/{B}", 200, BLOB.decode(), BLOB_HEADERS),
    Case("HEAD", f"{AT}/blobs/{B}", 200, "", {**BLOB_HEADERS, "Content-Length": "10"}),
    Case("HEAD", f"{AT}/blobs/{B}", 200, "", {"Content-Length": "10"}, {"Range": "bytes=1-2"}),
    Case("GET", f"{AT}/blobs/{B}", 304, "", ETAGS, {"If-None-Match": f'"{B}"'}),
    Case("GET", f"{AT}/blobs/{B}", 200, BLOB.decode(), sent={"If-None-Match": str(B)}),
    Case("GET", f"{AT}/blobs/{NONE}", 404, UNKNOWN_BLOB, {"Content-Type": JSON}),
    Case("GET", f"{AT}/blobs/{NONE}", 404, UNKNOWN_BLOB, sent={"If-None-Match": f'"{NONE}"'}),
    Case("GET", f"/v2/other/blobs/{B}", 404, None, sent={"If-None-Match": "*"}),
    Case(
        "GET",
        f"{AT}/blobs/sha256:12",
        400,
        error("DIGEST_INVALID", BAD_DIGEST, '"invalid checksum digest length"'),
        {"Content-Type": JSON},
    ),
    Case("DELETE", f"{AT}/blobs/{B}", 405, error("UNSUPPORTED", DELETE), READ),
    Case("PUT", f"{AT}/blobs/{B}", 405, NOT_ALLOWED, READ),
    # uploads
    Case("POST", f"{AT}/blobs/uploads/", 405, UNSUPPORTED, {**READ, "Content-Type": JSON}),
    Case("POST", f"{AT}/blobs/uploads/?mount={B}&from=a", 405, UNSUPPORTED, READ),
    Case("GET", f"{AT}/blobs/uploads/", 404, UPLOAD_UNKNOWN),
    Case("PATCH", f"{AT}/blobs/uploads/1-2", 404, UPLOAD_INVALID),
    Case("GET", f"{AT}/blobs/uploads/1-2", 404, UPLOAD_INVALID),
    # lists
    Case("GET", f"{AT}/tags/list", 200, '{"name":"library/x","tags":["v1","v2","v3"]}\n', absent=("Link",)),
    Case(
        "GET",
        f"{AT}/tags/list?n=2",
        200,
        '{"name":"library/x","tags":["v1","v2"]}\n',
        {"Link": f'<{AT}/tags/list?last=v2&n=2>; rel="next"', "Content-Type": JSON},
    ),
    Case(
        "GET",
        f"{AT}/tags/list?n=1&ns=ghcr.io",
        200,
        None,
        {"Link": f'<{AT}/tags/list?last=v1&n=1&ns=ghcr.io>; rel="next"'},
    ),
    Case("GET", f"{AT}/tags/list?n=2&last=v2", 200, '{"name":"library/x","tags":["v3"]}\n', absent=("Link",)),
    Case("GET", f"{AT}/tags/list?n=0", 200, '{"name":"library/x","tags":[]}\n', absent=("Link",)),
    Case("GET", f"{AT}/tags/list?n=9999", 200, '{"name":"library/x","tags":["v1","v2","v3"]}\n'),
    Case("GET", f"{AT}/tags/list?n=-1", 400, error("PAGINATION_NUMBER_INVALID", PAGINATION, '{"n":-1}')),
    Case("HEAD", f"{AT}/tags/list", 405, "", LIST),
    Case("PUT", f"{AT}/tags/list", 405, NOT_ALLOWED, LIST),
    Case(
        "GET",
        "/v2/no/such/tags/list",
        404,
        error("NAME_UNKNOWN", "repository name not known to registry", '{"name":"no/such"}'),
    ),
    Case("GET", "/v2/_catalog", 200, '{"repositories":["a","library/x"]}\n', {"Content-Type": JSON}),
    Case(
        "GET",
        "/v2/_catalog?n=1",
        200,
        '{"repositories":["a"]}\n',
        {"Link": '</v2/_catalog?last=a&n=1>; rel="next"'},
    ),
    Case("GET", "/v2/_catalog?n=0", 200, '{"repositories":[]}\n', absent=("Link",)),
    Case("GET", "/v2/_catalog?n=1001", 400, error("PAGINATION_NUMBER_INVALID", PAGINATION, '{"n":1001}')),
    Case("GET", "/v2/_catalog?n=x", 400, error("PAGINATION_NUMBER_INVALID", PAGINATION, '{"n":"x"}')),
    Case("DELETE", "/v2/_catalog", 405, NOT_ALLOWED, LIST),
]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_an_endpoint_answers_as_documented(case: Case, registry: MemoryRegistry) -> None:
    """Status, headers, body, and what is common to all of the API."""
    for tag in ("v1", "v2", "v3"):
        registry.add_manifest(tag, BODY)
    registry.add_blob(BLOB)
    registry.names.append("a")
    settings = Settings(
        headers={"X-Ours": ("1", "2")}, namespace_of=lambda _repository: "hub.test", access_log=False
    )
    async with serving(registry, settings) as port:
        answer = await ask(port, case.target, case.method, case.sent)
    assert answer.status == case.status
    if case.body is not None:
        assert answer.body.decode() == case.body
    for name, value in case.answered.items():
        assert answer.one(name) == value
    for name in (*case.absent, "Server", "Content-Encoding", "WWW-Authenticate", "Transfer-Encoding"):
        assert answer.one(name) is None
    if case.target != "*":
        assert answer.one("Docker-Distribution-Api-Version") == "registry/2.0"
    routed = case.status != 301 and case.body != NOT_FOUND
    assert answer.headers.get("x-ours", []) == (["1", "2"] if routed else [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_root_is_liveness_and_nothing_else(method: str, registry: MemoryRegistry) -> None:
    """200, no body, none of the API's headers, no call."""
    async with serving(registry, Settings(headers={"X-Ours": ("1",)}, access_log=False)) as port:
        answer = await ask(port, "/", method)
    assert (answer.status, answer.body, answer.one("Cache-Control")) == (200, b"", "no-cache")
    assert answer.one("Docker-Distribution-Api-Version") is None
    assert answer.one("X-Ours") is None
    assert registry.calls == []
