"""Cache-Status and Warning on every kind of answer, and the same facts in the request log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.registry import RateLimited, RegistryError, Unavailable
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import ask, exchange, parse_broken, serving

BODY = b'{"schemaVersion":2}'
D = Digest.of(BODY)
BLOB = b"0123456789"
B = Digest.of(BLOB)
AT = "/v2/library/x"
LOCAL = "mirror; detail=local"
HIT: dict[str, Any] = {"hit": True}
MISS: dict[str, Any] = {"fwd": "uri-miss"}
STALE: dict[str, Any] = {"hit": True, "ttl": -5.0, "detail": "stale", "warning": "old"}
CHECKED: dict[str, Any] = {"fwd": "stale", "fwd_status": 200, "ttl": 60.0}


@dataclass(frozen=True)
class Case:
    """A request, what the registry says of its answer or fails with, and the header."""

    method: str
    target: str
    status: int
    expected: str = LOCAL
    notes: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    fails: RegistryError | None = None
    warning: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.target[:50]} {self.status} {self.expected}"


ETAG = {"If-None-Match": f'"{B}"'}
OLD = '299 mirror "old"'
CASES = [
    # what has nothing to do with any upstream
    *(Case(method, "/", 200) for method in ("GET", "HEAD", "POST")),
    *(Case(method, "/v2/", 200) for method in ("GET", "HEAD", "DELETE")),
    Case("GET", "/v2", 301),
    Case("GET", "//v2/", 301),
    Case("GET", "/nothing", 404),
    Case("GET", "/v2/UPPER/tags/list", 404),
    Case("GET", f"{AT}/%00/manifests/v1", 404),
    Case("GET", "/" + "a" * 4000, 404),
    Case("OPTIONS", "*", 404),
    Case("OPTIONS", f"{AT}/manifests/v1", 200),
    Case("POST", f"{AT}/manifests/v1", 405),
    Case("PUT", f"{AT}/manifests/v1", 405),
    Case("POST", f"{AT}/blobs/uploads/", 405),
    Case("PATCH", f"{AT}/blobs/uploads/1", 404),
    Case("GET", f"{AT}/blobs/uploads/", 404),
    Case("GET", f"{AT}/blobs/sha256:12", 400),
    Case("GET", "/v2/_catalog", 200),
    Case("GET", "/v2/_catalog?n=x", 400),
    # manifests
    Case("GET", f"{AT}/manifests/v1", 200, "mirror; hit", HIT),
    Case("HEAD", f"{AT}/manifests/v1", 200, "mirror; hit; ttl=60", {**HIT, "ttl": 60.0}),
    Case("GET", f"{AT}/manifests/{D}", 200, "mirror; hit", HIT),
    Case("GET", f"{AT}/manifests/v1", 200, "mirror; fwd=uri-miss; stored", {**MISS, "stored": True}),
    Case("GET", f"{AT}/manifests/v1", 200, "mirror; fwd=stale; fwd-status=200; ttl=60", CHECKED),
    Case("GET", f"{AT}/manifests/v1", 200, "mirror; hit; ttl=-5; detail=stale", STALE, warning=OLD),
    Case("GET", f"{AT}/manifests/v1", 304, "mirror; hit", HIT, {"If-None-Match": str(D)}),
    Case("GET", f"{AT}/manifests/no", 404, "mirror; fwd=uri-miss; fwd-status=404", MISS),
    Case("HEAD", f"{AT}/manifests/no", 404, "mirror; hit; detail=negative", {**HIT, "detail": "negative"}),
    # blobs
    Case("GET", f"{AT}/blobs/{B}", 200, "mirror; hit", HIT),
    Case("HEAD", f"{AT}/blobs/{B}", 200, "mirror; hit", HIT),
    Case("GET", f"{AT}/blobs/{B}", 206, "mirror; fwd=partial", {"fwd": "partial"}, {"Range": "bytes=1-2"}),
    Case("GET", f"{AT}/blobs/{B}", 206, "mirror; hit", HIT, {"Range": "bytes=1-2,4-5"}),
    Case("GET", f"{AT}/blobs/{B}", 416, "mirror; hit", HIT, {"Range": "bytes=99-"}),
    Case("GET", f"{AT}/blobs/{B}", 304, "mirror; hit", HIT, ETAG),
    Case("GET", f"{AT}/blobs/{B}", 200, "mirror; hit; detail=stale", {**STALE, "ttl": None}, warning=OLD),
    # lists
    Case("GET", f"{AT}/tags/list", 200, "mirror; fwd=request", {"fwd": "request"}),
    Case("GET", f"{AT}/tags/list", 200, "mirror; hit; ttl=-5; detail=stale", STALE, warning=OLD),
    Case("GET", f"{AT}/referrers/{D}", 200, "mirror; fwd=request; fwd-status=404", {"fwd": "request"},
         fails=RegistryError(ErrorCode.NAME_UNKNOWN)),
    Case("GET", f"{AT}/referrers/{D}", 404, "mirror; fwd=request", {"fwd": "request"},
         fails=RegistryError(ErrorCode.UNSUPPORTED)),
    # failures: whether the upstream was asked, and what it said where that is known
    Case("GET", f"{AT}/manifests/v1", 401, "mirror; fwd=uri-miss; fwd-status=401", MISS,
         fails=RegistryError(ErrorCode.UNAUTHORIZED)),
    Case("GET", f"{AT}/manifests/v1", 429, "mirror; fwd=uri-miss; fwd-status=429", MISS,
         fails=RateLimited("slow down")),
    Case("GET", f"{AT}/manifests/v1", 429, "mirror; fwd=uri-miss; detail=limited",
         {**MISS, "detail": "limited"}, fails=RateLimited("not asked for another 30 s")),
    Case("GET", f"{AT}/manifests/v1", 503, "mirror; fwd=uri-miss", MISS, fails=Unavailable("no connection")),
    Case("GET", f"{AT}/manifests/v1", 502, "mirror; fwd=uri-miss; fwd-status=520",
         {**MISS, "fwd_status": 520}, fails=Unavailable("520", status=502)),
    Case("GET", f"{AT}/blobs/{B}", 503, "mirror; fwd=uri-miss; detail=breaker",
         {**MISS, "detail": "breaker"}, fails=Unavailable("not asked for now")),
    Case("HEAD", f"{AT}/blobs/{B}", 504, "mirror; fwd=uri-miss", MISS, fails=Unavailable("slow", status=504)),
    Case("GET", f"{AT}/tags/list", 503, LOCAL, fails=Unavailable("the disk cannot be read")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_every_answer_says_where_it_came_from(
    case: Case, registry: MemoryRegistry, events: Events
) -> None:
    """In the header, and in the same words in the log."""
    registry.add_manifest("v1", BODY)
    registry.add_blob(BLOB)
    methods = ("manifest", "stat_manifest", "blob", "stat_blob", "tags", "referrers")
    registry.notes = dict.fromkeys(methods, case.notes)
    if case.fails is not None:
        registry.fails = dict.fromkeys(methods, case.fails)
    async with serving(registry) as port:
        answer = await ask(port, case.target, case.method, case.sent)
    assert answer.status == case.status
    assert answer.one("Cache-Status") == case.expected
    assert answer.one("Warning") == case.warning
    [event] = [event for event in events.all if event["event"].startswith("response")]
    assert event["cache.status"] == case.expected


async def test_a_defect_of_ours_says_so_much_as_is_known(registry: MemoryRegistry, events: Events) -> None:
    """500 has the header too."""
    registry.notes, registry.fails = {"manifest": MISS}, {"manifest": ZeroDivisionError()}
    async with serving(registry) as port:
        answer = await ask(port, f"{AT}/manifests/v1")
    assert (answer.status, answer.one("Cache-Status")) == (500, "mirror; fwd=uri-miss")
    assert events.named("response completed with error")[0]["cache.status"] == "mirror; fwd=uri-miss"


async def test_a_body_that_breaks_off_was_described_before(registry: MemoryRegistry, events: Events) -> None:
    """The headers are out: what was known then stays, in the log as well."""
    blob = registry.add_blob(b"y" * 100_000)
    blob.breaks, blob.break_at = Unavailable("gone"), 70_000
    registry.notes = {"blob": MISS}
    asked = f"GET {AT}/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"
    async with serving(registry) as port:
        answer = parse_broken(await exchange(port, asked.encode()))
    assert (answer.status, answer.one("Cache-Status")) == (200, "mirror; fwd=uri-miss")
    assert events.named("response completed with error")[0]["cache.status"] == "mirror; fwd=uri-miss"


async def test_what_was_said_of_one_answer_is_not_said_of_the_next(registry: MemoryRegistry) -> None:
    """Over one connection: each request has a provenance of its own."""
    registry.add_manifest("v1", BODY)
    registry.notes = {"manifest": STALE}
    first = f"GET {AT}/manifests/v1 HTTP/1.1\r\nHost: m\r\n\r\n"
    second = "GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
    async with serving(registry) as port:
        data = await exchange(port, (first + second).encode())
    stale, local = (parse_broken(b"HTTP/1.1 " + part) for part in data.split(b"HTTP/1.1 ")[1:])
    assert (stale.one("Cache-Status"), stale.one("Warning")) == ("mirror; hit; ttl=-5; detail=stale", OLD)
    assert (local.one("Cache-Status"), local.one("Warning")) == (LOCAL, None)


async def test_what_is_not_http_has_no_origin(registry: MemoryRegistry, events: Events) -> None:
    """No handler saw it; the log has no such field."""
    async with serving(registry) as port:
        await exchange(port, b"nonsense\r\n\r\n")
    assert "cache.status" not in events.all[0]
