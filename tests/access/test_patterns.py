"""Which repositories are given, by patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.access.patterns import Patterns, fits
from tests.support.effort import effort


@pytest.mark.parametrize(
    ("allow", "deny", "given_", "not_given"),
    [
        ((), (), ["a", "library/a"], []),
        (("library/*",), (), ["library/a", "library/a/b"], ["library", "xlibrary/a", "a"]),
        (("a", "b/c"), (), ["a", "b/c"], ["b", "b/c/d", "aa"]),
        ((), ("*/secret*", "evil"), ["secret", "library/a"], ["library/secret", "a/b/secrets", "evil"]),
        (("org/*",), ("org/private*",), ["org/a"], ["org/private", "org/private/x", "other/a"]),
        (("*",), ("*",), [], ["a"]),
        (("a*b*c",), (), ["abc", "axxbxxc", "abbcc"], ["acb", "ab", "abcd"]),
    ],
)
def test_what_deny_fits_and_allow_does_not_is_not_given(
    allow: tuple[str, ...], deny: tuple[str, ...], given_: list[str], not_given: list[str]
) -> None:
    patterns = Patterns("proxy", allow, deny)
    assert [name for name in given_ if patterns.forbids(name)] == []
    assert [name for name in not_given if not patterns.forbids(name)] == []


def test_the_key_is_named_and_no_pattern() -> None:
    patterns = Patterns("proxy.upstreams.quay.io", ("org/*",), ("org/private*",))
    assert patterns.forbids("other") == "proxy.upstreams.quay.io.allow"
    assert patterns.forbids("org/private-project") == "proxy.upstreams.quay.io.deny"


@given(st.text("ab/*", max_size=8), st.text("ab/", max_size=12))
def test_a_pattern_fits_what_the_same_expression_fits(pattern: str, name: str) -> None:
    expression = "".join(".*" if letter == "*" else re.escape(letter) for letter in pattern)
    assert fits(pattern, name) == (re.fullmatch(expression, name) is not None)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not fits("*a" * 200 + "b", "a" * 255)
    assert effort(lambda: fits("*a" * 200 + "b", "a" * 255)) < 0.5
