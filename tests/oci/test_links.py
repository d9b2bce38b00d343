"""Link: followed at an upstream, built for a client."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.links import MAX_LENGTH, next_link, page_link
from tests.oci.strategies import bounded, names, texts
from tests.support.effort import effort

NEXT = '</v2/_catalog?last=a&n=1>; rel="next"'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        ([""], None),
        ([NEXT], "/v2/_catalog?last=a&n=1"),
        (["<b>;rel=next"], "b"),
        (["< b > ; REL = Next ; title=x"], "b"),
        (['<https://r.example/v2/a/tags/list?n=2>; title="a, b; rel=\\"prev\\""; rel="prev next"'],
         "https://r.example/v2/a/tags/list?n=2"),
        (['<a>; rel="prev", <b>; rel="next", <c>; rel="next"'], "b"),
        (['<a>; rel="first"', '<b>; rel="next"'], "b"),
        (["<a>, <b>; rel=next"], "b"),
        (["<a>;; rel=next;"], "a"),
        (["<a,b>; x; rel=next"], "a,b"),
        (["<>; rel=next"], ""),
        (["<a>; rel=prev; rel=next"], None),  # the first rel counts
        (["<a>; rel=nextish, <b>; title=next, <c>; rel"], None),
        (['<a>; rev="next"'], None),
        (["a; rel=next"], None),
        (["<a; rel=next"], None),
        (['<a>; rel="next'], None),
        (["<a> rel=next"], None),
        (["<a>; rel=prev <b>; rel=next"], None),
        (["garbage", NEXT], "/v2/_catalog?last=a&n=1"),
        (["x" * MAX_LENGTH, NEXT], None),
    ],
)  # fmt: skip
def test_the_next_link_is_found(lines: list[str], expected: str | None) -> None:
    """RFC 8288: several links in a line, several relations, quoted parameters; bad lines are skipped."""
    assert next_link(lines) == expected


def test_a_page_link_has_the_form_of_distribution() -> None:
    """Sorted keys, escaped values; with the namespace when there was one."""
    expected = '</v2/_catalog?last=library%2Ffoo&n=1>; rel="next"'
    assert page_link("/v2/_catalog", 1, "library/foo") == expected
    expected = '</p/v2/a/tags/list?last=a+%26%3E%22%0A&n=5&ns=localhost%3A5555>; rel="next"'
    assert page_link("/p/v2/a/tags/list", 5, 'a &>"\n', namespace="localhost:5555") == expected


@bounded
@given(
    names,
    st.integers(0, 2**63),
    st.text(min_size=1, max_size=40),
    st.none() | st.text(min_size=1, max_size=20),
)
def test_a_page_link_is_read_back(name: str, n: int, last: str, namespace: str | None) -> None:
    """What we build, next_link finds, and a URL parser takes apart into the same values."""
    path = f"/v2/{name}/tags/list"
    found = next_link([page_link(path, n, last, namespace=namespace)])
    assert found is not None
    parts = urlsplit(found)
    assert parts.path == path
    wanted = {"last": [last], "n": [str(n)]} | ({} if namespace is None else {"ns": [namespace]})
    assert parse_qs(parts.query) == wanted


@bounded
@given(st.lists(texts | st.text('<>;, ="\\relnxt', max_size=60), max_size=3), texts)
def test_nothing_is_ever_raised(lines: list[str], last: str) -> None:
    """Any text gives a link or none; and any text can be put into one, as one printable line."""
    next_link(lines)
    built = page_link("/v2/_catalog", 1, last)
    assert built.isascii()
    assert built.isprintable()


@pytest.mark.parametrize(
    "part", [",", " ", ";", "<", "<a>", "<a>;", "<a>,", ";a=", ';a="', "<a>; rel=x,", "\\"]
)
def test_a_hostile_line_costs_no_time(part: str) -> None:
    """The worst lines of the greatest length; anything quadratic takes many times as long."""
    for line in (part * (MAX_LENGTH // len(part)), "<a>" + part * ((MAX_LENGTH - 4) // len(part)) + "\x00"):
        assert effort(partial(next_link, [line])) < 0.3
