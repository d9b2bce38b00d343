"""The mirror beside docker-registry 2.8.2 in proxy mode: same upstream, both warm, the same requests.

What must be equal is compared in status, body and every header but those that never are (Date, and what Go's
net/http adds to an error). What differs on purpose stands in a table of its own, with the reason.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.images import Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.registries import Registry

pytestmark = pytest.mark.clients

SMALL = "/v2/library/small"
UNKNOWN = "sha256:" + "0" * 64
ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
        "oci.image.manifest.v1",
        "oci.image.index.v1",
    )
)
# registry:3 has no nosniff, which 2.8.2's default configuration and Go's error answers add; its JSON type has
# no charset. OPTIONS, 405 and the like list methods: ours are the reading ones. Cache-Status is ours alone.
IGNORED = {"date", "x-content-type-options", "allow", "connection", "cache-status"}


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer, as far as it can be compared."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The first error code, or nothing."""
        try:
            return str(json.loads(self.body)["errors"][0]["code"])
        except (ValueError, KeyError, TypeError):
            return ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both mirrors, with the image's digests put into paths by name."""

    theirs: int  # ports
    ours: int
    names: dict[str, str]

    def ask(self, port: int, method: str, path: str, headers: dict[str, str]) -> Seen:
        for name, value in self.names.items():
            path = path.replace(name, value)
        wanted = {"Accept": ACCEPT}
        for key, value in headers.items():
            wanted[key] = value.replace("{L}", self.names["{L}"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for key, value in wanted.items():
                connection.putheader(key, value)
            connection.endheaders()
            response = connection.getresponse()
            try:
                body = response.read()
            except http.client.IncompleteRead as error:  # 2.8.2 announces a wrong length with 416
                body = error.partial
            found = {k.lower(): v for k, v in response.getheaders() if k.lower() not in IGNORED}
            found["content-type"] = found.get("content-type", "").replace("json; charset=utf-8", "json")
            if response.status == 301:  # Go announces the text's length, but not with HEAD
                found.pop("content-length", None)
            return Seen(response.status, found, body)
        finally:
            connection.close()

    def both(self, method: str, path: str, headers: dict[str, str]) -> tuple[Seen, Seen]:
        """(theirs, ours)."""
        return self.ask(self.theirs, method, path, headers), self.ask(self.ours, method, path, headers)


@pytest.fixture(scope="module")
def pair(space: Workspace, upstream: Registry, catalog: Catalog) -> Iterator[Pair]:
    """Both have library/small:1, whole."""
    theirs = Registry(space, "side", proxy_of=upstream.url)
    ours = MirrorProcess(space, upstream.url, name="beside")
    image = catalog["library/small:1"]
    parts = image.platforms["linux/amd64"]
    digests = {"{D}": image.digest, "{C}": parts.config, "{L}": parts.layers[1]}
    pair = Pair(theirs.port, ours.port, digests)
    for path in ("manifests/1", "manifests/{D}", "blobs/{C}", "blobs/{L}"):
        assert [seen.status for seen in pair.both("GET", f"{SMALL}/{path}", {})] == [200, 200]
    for registry in (theirs, ours):
        check: Callable[[], bool] = registry.blob_file(parts.layers[1]).exists
        wait_until(check, f"{registry.folder.name} keeps the layer")
    yield pair
    ours.stop()
    theirs.stop()


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
EVERYWHERE = (
    "/",
    "/v2",
    "/v2/",
    "/v1/search",
    "/v2/library/small",
    "/v2/_catalog",
    "/v2/_catalog/",
    f"{SMALL}/tags/list",
)
EQUAL: list[tuple[str, str, dict[str, str]]] = [
    *((method, path, {}) for path in EVERYWHERE for method in METHODS),
    *((method, f"{SMALL}/manifests/1", {}) for method in ("GET", "HEAD", "POST", "PATCH", "OPTIONS")),
    *((method, f"{SMALL}/manifests/{{D}}", {}) for method in ("GET", "HEAD", "POST", "PATCH", "OPTIONS")),
    *((method, f"{SMALL}/blobs/{{L}}", {}) for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS")),
    *((method, f"{SMALL}/blobs/uploads/a-b", {}) for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE")),
    ("GET", f"{SMALL}/blobs/uploads/", {}),
    ("GET", f"{SMALL}/blobs/{UNKNOWN[:-1]}%30", {}),
    ("GET", "/v2/UPPER/tags/list", {}),
    ("GET", f"{SMALL}/manifests/-bad", {}),
    ("GET", f"{SMALL}/manifests/1/", {}),
    ("GET", "/v2/_catalog?n=0", {}),
    ("GET", "/v2/_catalog?n=2000", {}),
    *(("GET", f"{SMALL}/blobs/{{L}}", {"Range": f"bytes={text}"}) for text in ("0-0", "10-19", "-5", "99-")),
    *(
        ("GET", f"{SMALL}/blobs/{{L}}", {"If-None-Match": text})
        for text in ('"{L}"', "{L}", "*", 'W/"{L}"', '"other"', '"other", "{L}"')
    ),
    *(
        ("GET", f"{SMALL}/blobs/{{L}}", {"Range": "bytes=0-9", "If-Range": text})
        for text in ('"{L}"', '"other"', "Mon, 02 Jan 2006 15:04:05 GMT")
    ),
    ("GET", f"{SMALL}/manifests/1", {"If-None-Match": '"other"'}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "headers"), EQUAL, ids=str)
def test_the_answer_is_the_same(pair: Pair, method: str, path: str, headers: dict[str, str]) -> None:
    theirs, ours = pair.both(method, path, headers)
    if ours.code == "BLOB_UNKNOWN":  # the message is our own, on purpose: dockerd tells codes apart by it
        ours, theirs = (Seen(s.status, {}, json.dumps(detail(s)).encode()) for s in (ours, theirs))
    assert ours == theirs


def detail(seen: Seen) -> object:
    """The first error's detail."""
    return json.loads(seen.body)["errors"][0].get("detail")


# request, (their status and code), (our status and code), why
DIFFERENT: list[tuple[str, str, dict[str, str], tuple[int, str], tuple[int, str], str]] = [
    ("PUT", f"{SMALL}/manifests/1", {}, (400, "MANIFEST_INVALID"), (405, "UNSUPPORTED"), "body is not read"),
    ("GET", f"{SMALL}/manifests/{UNKNOWN}", {}, (500, "UNKNOWN"), (404, "MANIFEST_UNKNOWN"), "faithful"),
    ("GET", f"{SMALL}/tags/list?n=x", {}, (200, ""), (400, "PAGINATION_NUMBER_INVALID"), "as registry:3"),
    ("GET", "/v2/_catalog?n=x", {}, (200, ""), (400, "PAGINATION_NUMBER_INVALID"), "as registry:3"),
    ("GET", f"{SMALL}/referrers/{{D}}", {}, (404, ""), (200, ""), "the referrers API"),
    ("GET", f"{SMALL}/blobs/{{L}}", {"Range": "lines=0-1"}, (416, ""), (200, ""), "RFC 9110 14.2"),
    ("HEAD", f"{SMALL}/blobs/{{L}}", {"Range": "bytes=0-9"}, (206, ""), (200, ""), "RFC 9110 14.2"),
    ("GET", f"{SMALL}/manifests/1", {"If-None-Match": "*"}, (200, ""), (304, ""), "RFC 9110 13.1.2"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "headers", "expected", "wanted", "why"), DIFFERENT, ids=str)
def test_the_answer_differs_on_purpose(
    pair: Pair,
    method: str,
    path: str,
    headers: dict[str, str],
    expected: tuple[int, str],
    wanted: tuple[int, str],
    why: str,
) -> None:
    theirs, ours = pair.both(method, path, headers)
    assert (theirs.status, theirs.code) == expected, "docker-registry is not what the table says"
    assert (ours.status, ours.code) == wanted, why


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "blobs/uploads/"),
        ("POST", "blobs/uploads/?mount={L}&from=library/oci"),
        ("DELETE", "manifests/1"),
        ("DELETE", "manifests/{D}"),
        ("DELETE", "blobs/{L}"),
    ],
)
def test_a_write_is_refused_alike_but_in_words_of_our_own(pair: Pair, method: str, path: str) -> None:
    theirs, ours = pair.both(method, f"{SMALL}/{path}", {})
    assert (theirs.status, theirs.code) == (ours.status, ours.code) == (405, "UNSUPPORTED")
    assert b"read-only" in ours.body
    assert theirs.body != ours.body


def test_a_range_behind_the_end_is_416_with_the_size_and_a_true_length(pair: Pair) -> None:
    theirs, ours = pair.both("GET", f"{SMALL}/blobs/{{L}}", {"Range": "bytes=99999999-"})
    assert (theirs.status, ours.status) == (416, 416)
    assert theirs.body == ours.body == b"invalid range: failed to overlap\n"
    assert theirs.headers["content-range"] == ours.headers["content-range"]
    assert int(ours.headers["content-length"]) == len(ours.body)
