"""The request parser: properties, on names and paths that were made to trip it."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.oci.request import (
    MAX_PATH,
    BadRequest,
    BlobEndpoint,
    Endpoint,
    ManifestEndpoint,
    MethodNotAllowed,
    Moved,
    NotFound,
    ReadOnly,
    Referrers,
    Request,
    RequestError,
    Tags,
    Upload,
    parse,
)
from tests.oci.strategies import bounded, digests, names, tags, texts
from tests.support.effort import effort

D = Digest("sha256", "a" * 64)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "")


@bounded
@given(
    names,
    st.one_of(
        st.tuples(st.just("manifests"), tags),
        st.tuples(st.sampled_from(["manifests", "blobs", "referrers"]), digests),
        st.tuples(st.just("tags"), st.just("list")),
        st.tuples(st.just("blobs/uploads"), st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True)),
    ),
    st.none() | st.text(min_size=1, max_size=20),
)
def test_a_built_request_gives_its_parts_back(
    name: str, tail: tuple[str, str | Digest], namespace: str | None
) -> None:
    """Name, reference and namespace survive being put into a URL."""
    marker, item = tail
    expected: Endpoint
    repository = Repository(name)
    if marker == "manifests":
        expected = ManifestEndpoint(repository, item if isinstance(item, Digest) else Tag(item))
    elif marker == "tags":
        expected = Tags(repository, None, "")
    elif not isinstance(item, Digest):
        expected = Upload(repository, item)
    else:
        expected = BlobEndpoint(repository, item) if marker == "blobs" else Referrers(repository, item, None)
    query = "" if namespace is None else f"ns={quote(namespace, safe='')}"
    assert parse("GET", f"/v2/{name}/{marker}/{item}", query) == Request(expected, namespace)


wild_paths = st.one_of(
    texts,
    st.lists(
        st.one_of(
            st.sampled_from(
                ["", "v2", ".", "..", "a", "blobs", "uploads", "manifests", "tags", "list", "\\", str(D)]
            ),
            texts,
        ),
        max_size=9,
    ).map(lambda parts: "/" + "/".join(parts)),
)


@bounded
@given(st.sampled_from(METHODS) | texts, wild_paths, texts)
def test_nothing_else_is_ever_raised(method: str, path: str, query: str) -> None:
    """Arbitrary text gives a Request or a RequestError; any other exception fails this test."""
    answer: object
    try:
        answer = parse(method, path, query)
    except RequestError as error:
        answer = error
    assert isinstance(answer, Request | NotFound | Moved | MethodNotAllowed | ReadOnly | BadRequest)


@bounded
@given(wild_paths, texts)
def test_a_redirect_is_safe_and_ends(path: str, query: str) -> None:
    """A Location is a printable path of our own host, and following it is redirected twice at most."""
    for _ in range(3):
        try:
            parse("GET", path, query)
        except Moved as moved:
            location = moved.location
        except RequestError:
            return
        else:
            return
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))
        assert location.isascii()
        assert location.isprintable()
        parts = urlsplit(location)
        assert (parts.scheme, parts.netloc, parts.fragment) == ("", "", "")
        path, query = unquote(parts.path, errors="replace"), parts.query
    pytest.fail(f"redirected again and again, to {path!r}")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/" + "a-" * 1000 + "/tags/list",
        "/v2/" + "a/" * 1000 + "tags/list",
        "/v2/" + "a__" * 600 + "!/manifests/x",
        "/v2" + "/." * 1000,
        "/" * MAX_PATH,
        "/v2/a/blobs/" + "a+" * 1000 + ":",
        "/v2/a/blobs/uploads/" + "-" * 2000 + "!",
    ],
)
def test_a_hostile_path_costs_no_time(path: str) -> None:
    """A hundred of the worst paths together; anything quadratic takes many times as long."""

    def refused() -> None:
        for _ in range(100):
            with pytest.raises(RequestError):
                parse("GET", path[:MAX_PATH], "")

    assert effort(refused) < 1.0
