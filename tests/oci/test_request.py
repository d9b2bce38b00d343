"""The request parser: tables of what distribution answers, most of them tried on docker-registry 2.8.2."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.oci.request import (
    MAX_PATH,
    BadRequest,
    Base,
    BlobEndpoint,
    Catalog,
    Endpoint,
    ManifestEndpoint,
    MethodNotAllowed,
    Moved,
    NotFound,
    Options,
    ReadOnly,
    Referrers,
    RequestError,
    Tags,
    Upload,
    Uploads,
    parse,
)

D = Digest("sha256", "a" * 64)
A = Repository("a")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "")
READ = ("GET", "HEAD")


def endpoint(method: str, path: str, query: str = "") -> Endpoint:
    """The endpoint alone."""
    return parse(method, path, query).endpoint


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/v2/", "", Base()),
        ("/v2/_catalog", "", Catalog(None, "")),
        ("/v2/_catalog", "n=5&last=library%2Ffoo", Catalog(5, "library/foo")),
        ("/v2/_catalog", "n=0", Catalog(0, "")),
        ("/v2/_catalog", "n=", Catalog(None, "")),
        ("/v2/_catalog", "n=%2B5", Catalog(5, "")),
        ("/v2/_catalog", "n=007&n=x", Catalog(7, "")),
        ("/v2/a/tags/list", "", Tags(A, None, "")),
        ("/v2/a/tags/list", "last=v%201+2&n=9223372036854775807", Tags(A, 2**63 - 1, "v 1 2")),
        (
            "/v2/library/alpine/manifests/3.20",
            "",
            ManifestEndpoint(Repository("library/alpine"), Tag("3.20")),
        ),
        (f"/v2/a/manifests/{D}", "", ManifestEndpoint(A, D)),
        (f"/v2/a/manifests/sha512:{'b' * 128}", "", ManifestEndpoint(A, Digest("sha512", "b" * 128))),
        (f"/v2/a/blobs/{D}", "", BlobEndpoint(A, D)),
        ("/v2/a/blobs/uploads/", "", Uploads(A)),
        ("/v2/a/blobs/uploads/1-x_y.z=", "", Upload(A, "1-x_y.z=")),
        (f"/v2/a/referrers/{D}", "", Referrers(A, D, None)),
        (f"/v2/a/referrers/{D}", "artifactType=x%2Fy%2Bz", Referrers(A, D, "x/y+z")),
        (f"/v2/a/referrers/{D}", "artifactType=", Referrers(A, D, None)),
    ],
)
def test_every_endpoint_is_known(path: str, query: str, expected: Endpoint) -> None:
    """Path and query of each endpoint of the spec."""
    assert endpoint("GET", path, query) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/a/blobs/tags/list", Tags(Repository("a/blobs"), None, "")),
        ("/v2/a/tags/list/tags/list", Tags(Repository("a/tags/list"), None, "")),
        ("/v2/blobs/tags/list", Tags(Repository("blobs"), None, "")),
        ("/v2/a/manifests/b/manifests/c", ManifestEndpoint(Repository("a/manifests/b"), Tag("c"))),
        ("/v2/a/blobs/uploads/manifests/c", ManifestEndpoint(Repository("a/blobs/uploads"), Tag("c"))),
        ("/v2/a/manifests/blobs/uploads/", Uploads(Repository("a/manifests"))),
        ("/v2/a/blobs/uploads/blobs/uploads/u", Upload(Repository("a/blobs/uploads"), "u")),
        ("/v2/v2/manifests/v2", ManifestEndpoint(Repository("v2"), Tag("v2"))),
    ],
)
def test_the_longest_name_wins(path: str, expected: Endpoint) -> None:
    """A repository may have components that are words of the routes."""
    assert endpoint("GET", path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "", "*", "v2/", "/", "/v1/search", "/v20/", "/v2x", "/foo", "/v2/a", "/v2/a/b", "/v2/tags/list",
        "/v2/manifests/latest", "/v2/blobs/uploads/", "/v2/blobs/uploads/u", "/v2/_catalog/tags/list",
        "/v2/A/manifests/x", "/v2/a/manifests/-bad", "/v2/a/manifests/.bad", "/v2/a/manifests/l x",
        "/v2/a/manifests/latest\n", "/v2/a/manifests/" + "t" * 129, "/v2/a/blobs/foo", "/v2/a/referrers/foo",
        "/v2/a___b/tags/list", "/v2/a-/tags/list", "/v2/a\n/tags/list", "/v2/\u00e9/tags/list",
        "/v2/a/tags/lists", "/v2/a/blobs/uploads/a!b", f"/v2/a/blobs/{D}\n",
        "/v2/a/blobs/b/uploads/u", "//" + "a" * MAX_PATH,
        "/v2/" + "a" * 256 + "/tags/list", "/v2/" + "a/" * MAX_PATH + "tags/list",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_not_found(path: str) -> None:
    """As in distribution, a name or a tag outside the grammar fits no route."""
    for method in METHODS:
        with pytest.raises(NotFound):
            parse(method, path, "")


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        ("/v2", "", "/v2/"),
        ("/v2", "ns=docker.io", "/v2/?ns=docker.io"),
        ("/v2//", "", "/v2/"),
        ("/v2/_catalog/", "n=1&last=a%2Fb", "/v2/_catalog?n=1&last=a%2Fb"),
        ("/v2/a/tags/list/", "", "/v2/a/tags/list"),
        ("/v2/a/manifests/x/", "", "/v2/a/manifests/x"),
        ("/v2/a/manifests/sha256:bad/", "", "/v2/a/manifests/sha256:bad"),
        (f"/v2/a/blobs/{D}/", "", f"/v2/a/blobs/{D}"),
        (f"/v2/a/referrers/{D}/", "", f"/v2/a/referrers/{D}"),
        ("/v2/a/blobs/uploads", "", "/v2/a/blobs/uploads/"),
        ("/v2/a/blobs/uploads/u/", "", "/v2/a/blobs/uploads/u"),
        ("/v2/a//tags/list", "", "/v2/a/tags/list"),
        ("/v2/./a/../b/tags/list", "n=3", "/v2/b/tags/list?n=3"),
        ("/v2/a/tags/..", "", "/v2/a"),
        ("/../../etc/passwd", "", "/etc/passwd"),
        ("//", "", "/"),
        ("//evil.example", "", "/evil.example"),
        ("//evil.example/", "", "/evil.example/"),
        ("///evil.example/%2e", "", "/evil.example/%252e"),
        ("/\\evil.example//", "", "/%5Cevil.example/"),
        ("/a//\r\nSet-Cookie: x", "", "/a/%0D%0ASet-Cookie:%20x"),
        ("/v2", "a=\r\nb", "/v2/?a=%0D%0Ab"),
        ("/v2//a?b#c", "", "/v2/a%3Fb%23c"),
    ],
)
def test_a_path_is_cleaned_by_a_redirect(path: str, query: str, location: str) -> None:
    """Every method is redirected; never to another host, never with a header of the client's."""
    for method in METHODS:
        with pytest.raises(Moved) as caught:
            parse(method, path, query)
        assert caught.value.location == location


@pytest.mark.parametrize(
    ("path", "answers"),
    [
        ("/v2/_catalog", {"GET": Catalog(None, ""), "OPTIONS": Options(("GET",))}),
        ("/v2/a/tags/list", {"GET": Tags(A, None, ""), "OPTIONS": Options(("GET",))}),
        (
            "/v2/a/manifests/x",
            dict.fromkeys(READ, ManifestEndpoint(A, Tag("x")))
            | {"OPTIONS": Options(READ), "PUT": ReadOnly, "DELETE": ReadOnly},
        ),
        (
            "/v2/a/manifests/sha256:bad",
            dict.fromkeys(READ, BadRequest)
            | {"OPTIONS": Options(READ), "PUT": ReadOnly, "DELETE": ReadOnly},
        ),
        (
            f"/v2/a/blobs/{D}",
            dict.fromkeys(READ, BlobEndpoint(A, D)) | {"OPTIONS": Options(READ), "DELETE": ReadOnly},
        ),
        ("/v2/a/blobs/sha256:bad", dict.fromkeys(METHODS, BadRequest)),
        (
            "/v2/a/blobs/uploads/",
            dict.fromkeys(("GET", "HEAD", "PATCH", "PUT", "DELETE"), Uploads(A))
            | {"OPTIONS": Options(READ), "POST": ReadOnly},
        ),
        ("/v2/a/blobs/uploads/u", dict.fromkeys(METHODS, Upload(A, "u"))),
        ("/v2/", dict.fromkeys(METHODS, Base())),
        (f"/v2/a/referrers/{D}", dict.fromkeys(READ, Referrers(A, D, None)) | {"OPTIONS": Options(READ)}),
    ],
)  # fmt: skip
def test_each_method_has_its_answer(path: str, answers: dict[str, Endpoint | type[RequestError]]) -> None:
    """Methods that are not in the table are 405, and Allow names only what reads."""
    for method in METHODS:
        expected = answers.get(method, MethodNotAllowed)
        if isinstance(expected, type):
            with pytest.raises(expected) as caught:
                parse(method, path, "")
            listing = path.endswith(("_catalog", "list"))
            if isinstance(caught.value, MethodNotAllowed | ReadOnly):
                assert caught.value.allow == (("GET",) if listing else READ)
        else:
            assert endpoint(method, path) == expected


def test_a_refused_push_names_its_repository() -> None:
    """The server tells the user where else to push it."""
    with pytest.raises(ReadOnly) as caught:
        parse("POST", "/v2/library/x/blobs/uploads/", "mount=sha256:1&from=y")
    assert caught.value.repository == Repository("library/x")


@pytest.mark.parametrize(
    ("item", "detail"),
    [
        ("sha256:abc", "invalid checksum digest length"),
        ("sha256:" + "A" * 64, "invalid checksum digest format"),
        ("sha512:" + "a" * 64, "invalid checksum digest length"),
        ("md5:" + "a" * 32, "unsupported digest algorithm"),
        ("sha256+b64u:xyz=", "unsupported digest algorithm"),
    ],
)
@pytest.mark.parametrize("route", ["blobs", "manifests", "referrers"])
def test_an_invalid_digest_is_told_in_the_words_of_registry_3(route: str, item: str, detail: str) -> None:
    """400 DIGEST_INVALID wherever a digest may stand."""
    with pytest.raises(BadRequest) as caught:
        parse("GET", f"/v2/a/{route}/{item}", "")
    assert caught.value.code is ErrorCode.DIGEST_INVALID
    assert caught.value.message == "provided digest did not match uploaded content"
    assert caught.value.detail == detail


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("-1", -1), ("abc", 0), ("1.0", 0), ("1_0", 0), ("%201", 0), ("0x1", 0), ("%D9%A1", 0), ("+-1", 0),
        ("%2B", 0), ("9223372036854775808", 2**63 - 1), ("-9223372036854775809", -(2**63)),
        ("9" * 5000, 2**63 - 1),
    ],
)  # fmt: skip
def test_a_bad_page_size_is_told(text: str, number: int) -> None:
    """The catalog's detail has the text, the tags' the number that Go made of it."""
    with pytest.raises(BadRequest) as caught:
        parse("GET", "/v2/_catalog", f"n={text}")
    assert caught.value.code is ErrorCode.PAGINATION_NUMBER_INVALID
    assert caught.value.detail == {"n": unquote(text.replace("+", " "))}
    with pytest.raises(BadRequest) as caught:
        parse("GET", "/v2/a/tags/list", f"n={text}")
    assert caught.value.detail == {"n": number}


@pytest.mark.parametrize(
    ("query", "namespace"),
    [
        ("", None),
        ("ns=", None),
        ("ns", None),
        ("ns=docker.io", "docker.io"),
        ("ns=localhost%3A5555", "localhost:5555"),
        ("x=1&ns=a&ns=b", "a"),
        ("n%73=a", "a"),
        ("ns=%ff", "\ufffd"),
        ("&" * 5000 + "ns=a", None),  # beyond MAX_FIELDS
    ],
)
def test_the_namespace_is_read_from_the_query(query: str, namespace: str | None) -> None:
    """The first ?ns= counts; every endpoint may have one."""
    for path in ("/v2/", "/v2/_catalog", f"/v2/a/blobs/{D}", "/v2/a/blobs/uploads/"):
        assert parse("GET", path, query).namespace == namespace
