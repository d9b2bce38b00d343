"""If-None-Match and If-Range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.conditions import etag, if_range, none_match
from mirror.oci.digest import Digest
from tests.oci.strategies import bounded, digests, texts

D = Digest("sha256", "a" * 64)
OTHER = Digest("sha256", "b" * 64)


def test_the_entity_tag_is_the_quoted_digest() -> None:
    """In quotes, unlike distribution's on a cold blob."""
    assert etag(D) == f'"sha256:{"a" * 64}"'


@pytest.mark.parametrize(
    ("header", "matches"),
    [
        (None, False),
        ("", False),
        ("*", True),
        (" * ", True),
        (f'"{D}"', True),
        (f' "{D}" ', True),
        (f'W/"{D}"', True),
        (f'"{OTHER}"', False),
        (f'"{OTHER}", "{D}"', True),
        (f'"{OTHER}","x,y" , W/"{D}"', True),
        (f'"{OTHER}" "{D}"', False),  # no comma: malformed
        (f'"{D}', False),
        (f'{D}"', False),
        (f'w/"{D}"', False),
        (f'"{D} "', False),
        (f'"x, {D}, y"', False),
        ('""', False),
        (f', ,"{D}",', True),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
    ],
)
@pytest.mark.parametrize("bare", [True, False])
def test_if_none_match_knows_lists_and_weak_tags(header: str | None, matches: bool, bare: bool) -> None:
    """RFC 9110 section 13.1.2."""
    assert none_match(header, D, bare=bare) is matches


@pytest.mark.parametrize("header", [f"{D}", f" {D}\t", f"{OTHER}, {D}", f'"{OTHER}",{D}'])
def test_a_manifest_matches_its_bare_digest_too(header: str) -> None:
    """As in distribution, for manifests and not for blobs."""
    assert none_match(header, D, bare=True)
    assert not none_match(header, D, bare=False)


@pytest.mark.parametrize(
    ("header", "counts"),
    [
        (None, True),
        ("", True),
        (f'"{D}"', True),
        (f' "{D}" ', True),
        (f'W/"{D}"', False),
        (f"{D}", False),
        (f'"{OTHER}"', False),
        (f'"{OTHER}", "{D}"', False),
        ("*", False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
    ],
)
def test_if_range_is_strong(header: str | None, counts: bool) -> None:
    """RFC 9110 section 13.1.5; a date never matches, there are none here."""
    assert if_range(header, D) is counts


@bounded
@given(digests, st.lists(digests, max_size=4), st.lists(digests, max_size=4), st.booleans())
def test_a_digest_is_found_anywhere_in_a_list(
    digest: Digest, before: list[Digest], after: list[Digest], weak: bool
) -> None:
    """And not found in a list without it."""
    tags = [etag(one) for one in before] + ["W/" * weak + etag(digest)] + [etag(one) for one in after]
    assert none_match(", ".join(tags), digest, bare=False)
    others = [etag(one) for one in before + after if one != digest]
    assert not none_match(",".join(others), digest, bare=True)


@bounded
@given(texts | st.text('W/", *a', max_size=40))
def test_any_header_has_an_answer(header: str) -> None:
    """Arbitrary text raises nothing, and matches nothing but by `*`."""
    assert none_match(header, D, bare=True) is (header.strip(" \t,") == "*")
    assert if_range(header, D) is (header.strip(" \t") == "")
