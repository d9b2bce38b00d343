"""Tags and referrers, page by page."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import Corrupt, Page, RegistryError, Unavailable
from mirror.upstream import listing
from tests.support.scripted import OCI_MANIFEST, Bearer, Fault, Upstream, serve
from tests.upstream.conftest import Connect
from tests.upstream.kit import Clock, timed_client

ALPINE = Repository("library/alpine")
UNKNOWN = "sha256:" + "0" * 64
LIST = "GET /v2/library/alpine/tags/list"


def tagged(*tags: str, page: int | None = None) -> Upstream:
    """library/alpine with these tags."""
    upstream = Upstream(page=page)
    upstream.add_image("library/alpine", *tags)
    return upstream


def answering(document: object, **headers: str) -> Fault:
    """A list that is this document."""
    return Fault(status=200, body=json.dumps(document).encode(), headers=headers)


async def test_all_tags_are_asked_for_page_by_page(connect: Connect) -> None:
    upstream = tagged("a", "b", "c", "d", "e", page=2)
    async with connect(upstream) as client:
        assert await client.tags(ALPINE, None, "") == Page(("a", "b", "c", "d", "e"), more=False)
    assert upstream.lines() == [LIST, f"{LIST}?last=b&n=2", f"{LIST}?last=d&n=2"]


async def test_one_page_is_one_request_and_says_whether_more_follow(connect: Connect) -> None:
    upstream = tagged("a", "b", "c", "d", "e")
    async with connect(upstream) as client:
        assert await client.tags(ALPINE, 2, "") == Page(("a", "b"), more=True)
        assert await client.tags(ALPINE, 2, "d") == Page(("e",), more=False)
        assert await client.tags(ALPINE, 9, "e") == Page((), more=False)
    assert upstream.lines() == [f"{LIST}?n=2", f"{LIST}?n=2&last=d", f"{LIST}?n=9&last=e"]


async def test_an_upstream_without_paging_is_cut_to_what_was_asked(connect: Connect) -> None:
    """registry:2 ignores n and last."""
    upstream = Upstream()
    upstream.fault("GET", "/tags/", answering({"name": "a", "tags": ["a", "b", "c", "d"]}))
    async with connect(upstream) as client:
        assert await client.tags(ALPINE, 2, "") == Page(("a", "b"), more=True)
        assert await client.tags(ALPINE, 2, "b") == Page(("c", "d"), more=False)
        assert await client.tags(ALPINE, None, "c") == Page(("d",), more=False)


async def test_what_is_no_tag_is_left_out_and_null_is_none(connect: Connect) -> None:
    upstream = Upstream()
    listed = ["ok", "", "../x", "a b", 7, None, "x" * 129, "ok2"]
    upstream.fault("GET", "/tags/", answering({"tags": listed}), times=1)
    upstream.fault("GET", "/tags/", answering({"tags": None}))
    async with connect(upstream) as client:
        assert (await client.tags(ALPINE, None, "")).names == ("ok", "ok2")
        assert await client.tags(ALPINE, None, "") == Page((), more=False)


async def test_a_list_needs_a_token_like_everything_else(connect: Connect) -> None:
    upstream = tagged("a")
    upstream.auth = Bearer()
    async with connect(upstream) as client:
        assert (await client.tags(ALPINE, None, "")).names == ("a",)
    assert [seen.path for seen in upstream.seen][1] == "/token"


@pytest.mark.parametrize(
    "link",
    ["<http://evil.test/v2/library/alpine/tags/list?n=2>", "<//evil.test/x?n=2>", "<http://[::1/?n=2>"],
)
async def test_a_next_link_to_another_host_is_not_followed(connect: Connect, link: str) -> None:
    upstream = Upstream()
    upstream.fault("GET", "/tags/", answering({"tags": ["a"]}, Link=f'{link}; rel="next"'))
    async with connect(upstream) as client:
        with pytest.raises(Unavailable, match="links the next page") as caught:
            await client.tags(ALPINE, None, "")
    assert caught.value.status == 502
    assert len(upstream.seen) == 1


async def test_only_the_query_of_a_next_link_counts(connect: Connect) -> None:
    """A registry behind a path prefix or a TLS proxy writes links that do not fit its own address."""
    upstream = Upstream()
    link = '<https://127.0.0.1/other/path?next_page=a%2Fb%3D>; rel="next"'
    upstream.fault("GET", "/tags/", answering({"tags": ["a"]}, Link=link), times=1)
    upstream.fault("GET", "/tags/", answering({"tags": ["b"]}))
    async with connect(upstream) as client:
        assert (await client.tags(ALPINE, None, "")).names == ("a", "b")
    assert upstream.lines() == [LIST, f"{LIST}?next_page=a%2Fb%3D"]


async def test_a_list_that_links_to_itself_ends(connect: Connect) -> None:
    upstream = Upstream()
    upstream.fault("GET", "/tags/", answering({"tags": ["a"]}, Link='<?n=1>; rel="next"'))
    async with connect(upstream) as client:
        with pytest.raises(Unavailable, match="without an end"):
            await client.tags(ALPINE, None, "")
    assert upstream.lines() == [LIST, f"{LIST}?n=1"]


async def test_pages_and_bytes_are_counted(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = tagged(*(f"t{number:03}" for number in range(30)), page=1)
    async with connect(upstream) as client:
        monkeypatch.setattr(listing, "PAGES", 5)
        with pytest.raises(Unavailable, match="more than 5 pages"):
            await client.tags(ALPINE, None, "")
        assert len(upstream.seen) == 5
        monkeypatch.setattr(listing, "PAGES", 1000)
        monkeypatch.setattr(listing, "TOTAL_LIMIT", 300)
        with pytest.raises(RegistryError) as caught:
            await client.tags(ALPINE, None, "")
        assert caught.value.status == 502
    assert len(upstream.seen) < 20


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"[" * 100_000, b"\xff"])
async def test_a_list_that_is_none_is_corrupt(connect: Connect, body: bytes) -> None:
    upstream = Upstream()
    upstream.fault("GET", "", Fault(status=200, body=body))
    async with connect(upstream) as client:
        with pytest.raises(Corrupt):
            await client.tags(ALPINE, None, "")
        with pytest.raises(Corrupt):
            await client.referrers(ALPINE, Digest.of(b""))


async def test_an_unknown_repository_has_no_tags(connect: Connect) -> None:
    async with connect(Upstream()) as client:
        with pytest.raises(RegistryError) as caught:
            await client.tags(ALPINE, None, "")
    assert caught.value.code is ErrorCode.NAME_UNKNOWN


async def test_referrers_are_the_entries_of_the_upstreams_index(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    subject = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest)}
    sbom = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "x/sbom", "subject": subject}
    digest = upstream.add_manifest("library/alpine", sbom)
    async with connect(upstream) as client:
        (entry,) = await client.referrers(ALPINE, Digest.parse(image.digest))
        assert await client.referrers(ALPINE, Digest.parse(digest)) == ()
    assert (entry["digest"], entry["artifactType"]) == (digest, "x/sbom")


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_registry_without_the_referrers_api_is_unsupported(connect: Connect, status: int) -> None:
    upstream = Upstream()
    upstream.fault("GET", "/referrers/", Fault(status=status))
    async with connect(upstream) as client:
        with pytest.raises(RegistryError, match="no referrers API") as caught:
            await client.referrers(ALPINE, Digest.of(b""))
    assert caught.value.code is ErrorCode.UNSUPPORTED


async def test_entries_that_name_nothing_are_left_out(connect: Connect) -> None:
    upstream = Upstream()
    good = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"")), "size": 0}
    bad = [
        7,
        {},
        {**good, "digest": "x"},
        {**good, "size": -1},
        {**good, "size": "1"},
        {**good, "mediaType": 1},
    ]
    upstream.fault("GET", "/referrers/", answering({"manifests": [*bad, good]}))
    async with connect(upstream) as client:
        assert await client.referrers(ALPINE, Digest.of(b"")) == (good,)


async def test_the_catalog_is_not_asked_for(connect: Connect) -> None:
    upstream = Upstream()
    async with connect(upstream) as client:
        with pytest.raises(RegistryError) as caught:
            await client.repositories(None, "")
    assert caught.value.code is ErrorCode.UNSUPPORTED
    assert upstream.seen == []


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from(["latest", "a" * 128, "\ud800", "../x", UNKNOWN, OCI_MANIFEST]),
        st.text(max_size=10),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
ENTRIES = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {
            "mediaType": st.one_of(st.just(OCI_MANIFEST), VALUES),
            "digest": st.one_of(st.just(UNKNOWN), VALUES),
            "size": st.one_of(st.integers(-1, 10), VALUES),
        },
        optional={"annotations": VALUES, "artifactType": VALUES},
    ),
)
LISTS = st.one_of(
    st.binary(max_size=100),
    VALUES.map(json.dumps).map(str.encode),
    st.fixed_dictionaries(
        {},
        optional={
            "tags": st.one_of(VALUES, st.lists(VALUES, max_size=5)),
            "manifests": st.one_of(VALUES, st.lists(ENTRIES, max_size=4)),
        },
    )
    .map(json.dumps)
    .map(str.encode),
    st.integers(1, 3000).map(
        lambda depth: (
            b'{"tags": ["a"], "manifests": [{"digest": "%b", "mediaType": "m", "size": 1, "x": %b}]}'
            % (UNKNOWN.encode(), b"[" * depth + b"]" * depth)
        )
    ),
)


@given(
    body=LISTS,
    link=st.one_of(
        st.none(),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
        st.sampled_from(
            ['<?last=a>; rel="next"', "</v2/x>; rel=next", '<http://[>; rel="next"', "<>; rel=next"]
        ),
    ),
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_list_says_it_is_one_that_can_be_told_or_a_failure_of_ours(
    body: bytes, link: str | None
) -> None:
    async def ask() -> None:
        upstream = Upstream()
        headers = {"Link": link} if link is not None else {}
        upstream.fault("GET", "/(tags|referrers)/", Fault(status=200, body=body, headers=headers, early=True))
        async with serve(upstream) as url, timed_client(url, Clock()) as client:
            with suppress(RegistryError):
                page = await client.tags(ALPINE, 2, "")
                assert all(Tag.parse(name) for name in page.names)
            with suppress(RegistryError):
                entries = await client.referrers(ALPINE, Digest.parse(UNKNOWN))
                json.dumps(entries, allow_nan=False)
                for entry in entries:
                    Digest.parse(entry["digest"])
                    assert entry["size"] >= 0

    asyncio.run(ask())
