"""Cache-Status and Warning as texts: the grammar of RFC 9211, RFC 8941 and RFC 7234."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.provenance import Provenance
from mirror.server.cachestatus import WARNING_LIMIT, cache_status, warning


def stale() -> Provenance:
    """As the cache notes it: asked first, and then given what is kept."""
    noted = Provenance(fwd="stale", fwd_status=503, stored=True)
    noted.served_stale(-3.2, "breaker", "old")
    return noted


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        (Provenance(), "mirror; detail=local"),
        (Provenance(namespace="quay.io"), "mirror; detail=local"),
        (Provenance(ttl=5), "mirror; detail=local"),  # nothing was asked, so nothing is fresh
        (Provenance(hit=True), "mirror; hit"),
        (Provenance(hit=True, ttl=376), "mirror; hit; ttl=376"),
        (Provenance(hit=True, ttl=59.9), "mirror; hit; ttl=59"),
        (Provenance(hit=True, ttl=0.0), "mirror; hit; ttl=0"),
        (Provenance(hit=True, ttl=-0.1, detail="stale"), "mirror; hit; ttl=-1; detail=stale"),
        (Provenance(hit=True, detail="negative"), "mirror; hit; detail=negative"),
        (stale(), "mirror; hit; ttl=-4; detail=breaker"),
        # hit and fwd are exclusive (section 2.2), and so is all that goes with fwd
        (Provenance(hit=True, fwd="stale", fwd_status=304, stored=True, collapsed=True), "mirror; hit"),
        (Provenance(stored=True, collapsed=True, fwd_status=200), "mirror; detail=local"),
        (Provenance(fwd="uri-miss"), "mirror; fwd=uri-miss"),
        (Provenance(fwd="uri-miss", stored=True), "mirror; fwd=uri-miss; stored"),
        (Provenance(fwd="uri-miss", collapsed=True), "mirror; fwd=uri-miss; collapsed"),
        (
            Provenance(fwd="stale", fwd_status=200, ttl=60, stored=True, collapsed=True, detail="limited"),
            "mirror; fwd=stale; fwd-status=200; ttl=60; stored; collapsed; detail=limited",
        ),
        (Provenance(detail="limited"), "mirror; detail=limited"),
        # what is no token is a string
        (Provenance(hit=True, detail='2 "words" \\ é'), 'mirror; hit; detail="2 \\"words\\" \\\\  "'),
        (Provenance(hit=True, detail="a\r\nX: b"), 'mirror; hit; detail="a X: b"'),
        (Provenance(hit=True, detail="1st"), 'mirror; hit; detail="1st"'),
        # integers have 15 digits (RFC 8941 section 3.3.1)
        (Provenance(hit=True, ttl=math.inf), "mirror; hit; ttl=999999999999999"),
        (Provenance(hit=True, ttl=-1e30), "mirror; hit; ttl=-999999999999999"),
    ],
)
def test_a_provenance_is_told_in_the_terms_of_the_standard(provenance: Provenance, expected: str) -> None:
    assert cache_status(provenance) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("this copy is 3 h old", '299 mirror "this copy is 3 h old"'),
        ('quay.io says "no" \\ now', '299 mirror "quay.io says \\"no\\" \\\\ now"'),
        ("línea\r\nSet-Cookie: a", '299 mirror "l nea Set-Cookie: a"'),
        ("at 10.1.2.3:5000 and 192.168.0.1", '299 mirror "at (address) and (address)"'),
        ("at [fd00::1]:443 now", '299 mirror "at (address) now"'),
        ("version 1.2.3 of quay.io:443", '299 mirror "version 1.2.3 of quay.io:443"'),
        ("from https://u:hunter2@quay.io/?sig=x", '299 mirror "from https://REDACTED@quay.io/?sig=REDACTED"'),
        ("x" * 500, f'299 mirror "{"x" * WARNING_LIMIT}"'),
        ('"' * 500, '299 mirror "' + '\\"' * WARNING_LIMIT + '"'),
    ],
)
def test_a_warning_is_one_quoted_text_without_hosts_and_secrets(text: str, expected: str) -> None:
    assert warning(text) == expected


QUOTED = r'"(?:[^"\\]|\\["\\])*"'


@given(st.text(max_size=400))
def test_whatever_a_text_holds_it_stays_within_its_quotes(text: str) -> None:
    """Neither field can be left, or another one begun."""
    assert re.fullmatch(rf"299 mirror {QUOTED}", warning(text))
    assert re.fullmatch(
        rf"mirror; (hit|detail=local)(; detail=([A-Za-z*][!-~]*|{QUOTED}))?",
        cache_status(Provenance(hit=bool(text), detail=text)),
    )
    assert warning(text).isascii()
    assert warning(text).isprintable()
