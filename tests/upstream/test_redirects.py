"""Redirects: the rules as a table, then what servers see of a client that follows."""

from __future__ import annotations

import pytest
from yarl import URL

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError, Unavailable
from mirror.upstream.failures import TransportError, Trouble
from mirror.upstream.redirects import MAX_REDIRECTS, Hop, follow
from tests.support.scripted import Basic, Fault, Upstream, serve
from tests.upstream.conftest import Connect

HEADERS = {"Authorization": "Bearer secret", "X-Key": "secret", "Range": "bytes=5-", "accept": "a/b"}
PUBLIC = {"Range": "bytes=5-", "accept": "a/b"}
REPOSITORY = Repository("library/alpine")


@pytest.mark.parametrize(
    ("here", "location", "there", "keeps"),
    [
        ("https://r.example/v2/a", "/v2/b", "https://r.example/v2/b", True),
        ("https://r.example/v2/a", "b?c=d", "https://r.example/v2/b?c=d", True),
        ("https://r.example/v2/a", "https://r.example:443/v2/b", "https://r.example:443/v2/b", True),
        ("https://r.example/v2/a", "https://R.EXAMPLE/v2/b", "https://R.EXAMPLE/v2/b", True),
        ("https://r.example/v2/a", "https://cdn.test/x", "https://cdn.test/x", False),
        ("https://r.example/v2/a", "//cdn.test/x", "https://cdn.test/x", False),
        ("https://r.example/v2/a", "https://r.example:8443/x", "https://r.example:8443/x", False),
        ("https://r.example/v2/a", "https://r.example.evil.test/x", "https://r.example.evil.test/x", False),
        ("http://r.example/v2/a", "https://r.example/v2/a", "https://r.example/v2/a", False),
        # a signature covers the URL as it is written
        (
            "http://r.test/",
            "http://s.test/b%2Fc?X=%2f%7e&Y=a+b%20c",
            "http://s.test/b%2Fc?X=%2f%7e&Y=a+b%20c",
            False,
        ),
    ],
)
def test_only_what_says_which_bytes_are_wanted_leaves_its_origin(
    here: str, location: str, there: str, *, keeps: bool
) -> None:
    hop = follow(Hop(URL(here), HEADERS), location)
    assert str(hop.url) == str(URL(there, encoded=True))
    assert {**hop.headers} == (HEADERS if keeps else PUBLIC)
    assert hop.elsewhere is not keeps


def test_no_secret_comes_back_with_the_first_host() -> None:
    away = follow(Hop(URL("https://r.example/a"), HEADERS), "https://cdn.test/x")
    back = follow(away, "https://r.example/b")
    assert {**back.headers} == PUBLIC


@pytest.mark.parametrize(
    ("here", "location", "reason"),
    [
        ("https://r.example/a", "http://r.example/a", "from https to http"),
        ("https://r.example/a", "http://cdn.test/a", "from https to http"),
        ("https://r.example/a", "https://r.example/a", "in circles"),
        ("https://r.example/a", "https://r.example/a#b", "in circles"),
        ("https://r.example/a", None, "no target"),
        ("https://r.example/a", "", "no target"),
        ("http://r.example/a", "file:///etc/passwd", "not on the web"),
        ("http://r.example/a", "http://[::1/", "not a URL"),
        ("http://r.example/a", "http://r.example:99999/", "not a URL"),
    ],
)
def test_a_redirect_that_must_not_be_followed(here: str, location: str | None, reason: str) -> None:
    with pytest.raises(TransportError, match=reason) as caught:
        follow(Hop(URL(here), HEADERS), location)
    assert caught.value.trouble is Trouble.REDIRECT


def test_five_redirects_are_followed_and_no_more() -> None:
    hop = Hop(URL("https://r.example/0"), {})
    for number in range(1, MAX_REDIRECTS + 1):
        hop = follow(hop, f"/{number}")
    with pytest.raises(TransportError, match="more than 5"):
        follow(hop, "/6")


async def test_blob_storage_on_another_host_gets_the_range_and_no_credentials(connect: Connect) -> None:
    storage, registry = Upstream(), Upstream(auth=Basic())
    data = b"0123456789"
    digest = storage.add_blob("library/alpine", data)
    registry.add_blob("library/alpine", data)
    path = f"/v2/library/alpine/blobs/{digest}"
    async with serve(storage, host="127.0.0.2") as elsewhere:
        registry.fault("GET", "/blobs/", Fault(status=307, headers={"Location": f"{elsewhere}{path}?sig=s"}))
        async with connect(registry, username="user", password="pass") as client:
            blob = await client.blob(REPOSITORY, Digest.parse(digest), start=4)
            assert blob.start == 4
            assert b"".join([part async for part in blob.read(4, 10)]) == data[4:]
            await blob.close()
    assert storage.lines() == [f"GET {path}?sig=s"]
    assert "Authorization" not in storage.seen[0].headers
    assert storage.seen[0].headers["Range"] == "bytes=4-"
    assert "Authorization" in registry.seen[-1].headers


async def test_a_redirect_loop_is_a_bad_gateway_and_not_tried_again(connect: Connect) -> None:
    upstream = Upstream()
    loop = {"Location": "/v2/library/alpine/manifests/other"}
    upstream.fault("*", "/manifests/", Fault(status=302, headers=loop))
    async with connect(upstream) as client:
        with pytest.raises(Unavailable, match="in circles") as caught:
            await client.resolve(REPOSITORY, Tag("3"))
    assert caught.value.status == 502
    assert upstream.lines() == [
        "HEAD /v2/library/alpine/manifests/3",
        "HEAD /v2/library/alpine/manifests/other",
    ]


@pytest.mark.parametrize(("status", "code"), [(401, 502), (403, 502), (404, 404), (503, 503)])
async def test_a_storage_that_refuses_is_not_the_registry_that_denies(
    connect: Connect, status: int, code: int
) -> None:
    """A 401 of blob storage is an outdated signature, no challenge: credentials must not answer it."""
    storage, registry = Upstream(), Upstream()
    challenge = {"WWW-Authenticate": 'Basic realm="give me"'}
    storage.fault("*", "/", Fault(status=status, headers=challenge))
    digest = Digest.of(b"x")
    async with serve(storage, host="127.0.0.2") as elsewhere:
        registry.fault("GET", "/blobs/", Fault(status=307, headers={"Location": f"{elsewhere}/blob"}))
        async with connect(registry, username="user", password="pass", retries=0) as client:
            with pytest.raises(RegistryError) as caught:
                await client.blob(REPOSITORY, digest)
    assert caught.value.status == code
    assert storage.lines() == ["GET /blob"]
    assert "127.0.0" not in caught.value.message


async def test_a_redirect_within_the_registry_keeps_the_credentials(connect: Connect) -> None:
    upstream = Upstream(auth=Basic())
    image = upstream.add_image("library/alpine", "3")
    there = {"Location": f"/v2/library/alpine/manifests/{image.digest}"}
    upstream.fault("HEAD", "/manifests/3$", Fault(status=301, headers=there))
    async with connect(upstream, username="user", password="pass") as client:
        resolved = await client.resolve(REPOSITORY, Tag("3"))
    assert str(resolved.descriptor.digest) == image.digest
    assert upstream.lines()[1:] == [
        "HEAD /v2/library/alpine/manifests/3",
        f"HEAD /v2/library/alpine/manifests/{image.digest}",
    ]
