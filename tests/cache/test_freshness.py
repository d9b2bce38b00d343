"""How long a word is believed: tables, and properties of the patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.cache.freshness import SKEW, STRETCH_LIMIT, Age, Policy, Rule

HOUR = 3600.0


@pytest.mark.parametrize(
    ("match", "name", "fits"),
    [
        ("*:latest", "library/alpine:latest", True),
        ("*:latest", "library/alpine:latest-1", False),
        ("*:latest", ":latest", True),
        ("library/*", "library/alpine:3", True),
        ("library/*", "libraries/alpine:3", False),
        ("library/alpine:3", "library/alpine:3", True),
        ("library/alpine:3", "library/alpine:3.1", False),
        ("quay.io/*:v*", "quay.io/org/app:v1", True),
        ("quay.io/*:v*", "quay.io/org/app:1", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*", "anything/at:all", True),
        ("*ab*ab*", "xabx", False),
    ],
)
def test_a_pattern_fits_as_people_read_it(match: str, name: str, fits: bool) -> None:
    assert Rule(match, 1).fits(name) is fits


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_pattern_is_what_a_regular_expression_of_it_would_be(match: str, name: str) -> None:
    meant = re.compile(".*".join(map(re.escape, match.split("*"))))
    assert Rule(match, 1).fits(name) is (meant.fullmatch(name) is not None)


def test_a_pattern_of_many_parts_is_tried_in_linear_time() -> None:
    assert not Rule("*a*a*a*a*a*a*a*a*a*a*b", 1).fits("a" * 2000)


def test_the_first_rule_that_fits_any_of_a_tags_names_counts() -> None:
    policy = Policy(60, (Rule("docker.io/*:latest", 1), Rule("*:latest", 2)))
    assert policy.fresh(["library/a:latest", "docker.io/library/a:latest"]) == (1, "docker.io/*:latest")
    assert policy.fresh(["library/a:latest"]) == (2, "*:latest")
    assert policy.fresh(["library/a:1"]) == (60, "default")


@pytest.mark.parametrize(
    ("passed", "stretch", "age"),
    [
        (0, 1, Age(60, 10 * HOUR)),
        (59, 1, Age(1, 10 * HOUR - 59)),
        (60, 1, Age(0, 10 * HOUR - 60)),
        (11 * HOUR, 1, Age(60 - 11 * HOUR, -HOUR)),
        (300, 10, Age(300, 10 * HOUR - 300)),
        (-5, 1, Age(60, 10 * HOUR)),  # the clock was set back a little
        (-SKEW - 1, 1, Age(0, None)),  # it was wrong: nobody knows how old this is
        (0, 1e9, Age(STRETCH_LIMIT, 10 * HOUR)),
    ],
)
def test_what_is_left_of_a_words_times(passed: float, stretch: float, age: Age) -> None:
    assert Policy(stale=10 * HOUR).age(1000.0, 1000.0 + passed, 60.0, stretch) == age


def test_a_quota_shortens_no_rule_that_is_longer_than_its_limit() -> None:
    assert Policy().age(0.0, 0.0, 100 * HOUR, 10.0).fresh_left == 100 * HOUR


def test_an_age_says_what_may_be_done() -> None:
    assert Age(1, 1).is_fresh
    assert not Age(0, 1).is_fresh
    assert Age(0, 1).may_stand_in
    assert Age(0, None).may_stand_in
    assert not Age(-5, 0).may_stand_in
    assert not Policy(stale=0).age(0, 0, 0).may_stand_in, "stale: 0 is never"


@pytest.mark.parametrize(("passed", "left"), [(0, 10), (9, 1), (11, -1), (-SKEW - 1, 0)])
def test_a_refusal_is_believed_for_its_own_time(passed: float, left: float) -> None:
    assert Policy(negative=10).refusal_left(0.0, passed) == left
