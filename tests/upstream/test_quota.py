"""A registry's limits: what its answers say, and when questions wait."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror.upstream.quota import STRETCH, WAIT_LIMIT, WINDOW, WINDOW_LIMIT, Question, Quota, Word, parse

HUB = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}


def headers(limit: str, remaining: str, family: str = "ratelimit") -> CIMultiDict[str]:
    """The two headers of a registry."""
    return CIMultiDict({f"{family}-limit": limit, f"{family}-remaining": remaining})


def asked(quota: Quota, now: float, *, blob: bool = False) -> Question:
    """A question that is let through."""
    question = quota.admit(blob, now)
    assert isinstance(question, Question)
    return question


def answer(quota: Quota, status: int, now: float, *, method: str = "GET", after: float | None = None) -> None:
    """A question that is let through and answered at once."""
    question = asked(quota, now)
    question.heard(method, status, {}, after, now)
    question.ended()


@pytest.mark.parametrize(
    ("given_", "limit", "remaining", "window"),
    [
        (CIMultiDict(HUB), 100, 76, 21600.0),
        (headers("5000", "4999", "x-ratelimit"), 5000, 4999, WINDOW),
        (headers("100, 100;w=60;policy=x", "7"), 100, 7, 60.0),
        (headers(" 100 ; w = 10", "0"), 100, 0, 10.0),
        (headers("100", "76;w=30"), 100, 76, 30.0),
        (headers("100;w=0", "5"), 100, 5, WINDOW),
        (headers("100;w=999999999", "5"), 100, 5, WINDOW_LIMIT),
        (CIMultiDict({**headers("soon", "5"), **headers("10;w=5", "9", "x-ratelimit")}), 10, 9, 5.0),
    ],
)
def test_a_limit_is_read_from_either_family_of_headers(
    given_: CIMultiDict[str], limit: int, remaining: int, window: float
) -> None:
    assert parse(given_, 5.0) == Word(limit, remaining, window, 5.0)


@pytest.mark.parametrize(
    ("limit", "remaining"),
    [
        ("", ""),
        ("100", ""),
        ("", "76"),
        ("0", "0"),
        ("-1", "5"),
        ("100", "-1"),
        ("1e3", "5"),
        ("100 per hour", "5"),
        ("9" * 13, "5"),
        ("٣", "٣"),
    ],
)
def test_a_limit_that_makes_no_sense_was_not_said(limit: str, remaining: str) -> None:
    assert parse(headers(limit, remaining), 0.0) is None


@settings(max_examples=300)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_whatever_is_an_error_or_an_endless_window(limit: str, remaining: str) -> None:
    word = parse({"ratelimit-limit": limit, "ratelimit-remaining": remaining}, 0.0)
    assert word is None or (word.limit > 0 and word.remaining >= 0 and 0.0 < word.window <= WINDOW_LIMIT)


@pytest.mark.parametrize(
    ("remaining", "reserve", "stretch"),
    [
        (100, 0.1, 1.0),
        (10, 0.1, 1.0),
        (9, 0.1, STRETCH),
        (0, 0.1, STRETCH),
        (0, 0.0, 1.0),
        (99, 1.0, STRETCH),
    ],
)
def test_freshness_stretches_below_the_reserve(remaining: int, reserve: float, stretch: float) -> None:
    quota = Quota()
    asked(quota, 0.0).heard("HEAD", 200, headers("100;w=600", str(remaining)), None, 0.0)
    assert quota.stretch(1.0, reserve) == stretch
    assert quota.stretch(600.0, reserve) == 1.0, "the window has passed"


def test_the_last_word_counts_and_silence_changes_nothing() -> None:
    quota = Quota()
    assert quota.stretch(0.0, 0.1) == 1.0
    assert quota.describe(0.0) is None
    asked(quota, 0.0).heard("HEAD", 200, headers("100;w=600", "1"), None, 0.0)
    asked(quota, 10.0).heard("GET", 200, {}, None, 10.0)
    assert quota.stretch(10.0, 0.1) == STRETCH
    assert quota.describe(10.0) == {"limit": 100, "remaining": 1, "window": 600.0, "reset_in": 590.0}
    asked(quota, 20.0).heard("HEAD", 200, headers("100;w=600", "50"), None, 20.0)
    assert quota.stretch(20.0, 0.1) == 1.0


def test_what_a_401_says_of_limits_is_anothers() -> None:
    quota = Quota()
    asked(quota, 0.0).heard("GET", 401, headers("100;w=600", "0"), None, 0.0)
    assert quota.stretch(0.0, 0.1) == 1.0


def test_after_a_429_nothing_is_asked_until_its_time_and_then_one_question() -> None:
    quota = Quota()
    answer(quota, 429, 0.0, after=20.0)
    assert quota.admit(False, 0.0) == 20.0
    assert quota.admit(False, 19.0) == 1.0
    trying = asked(quota, 20.0)
    assert quota.admit(False, 20.0) == 1.0, "the others wait for its answer"
    trying.heard("GET", 200, {}, None, 20.5)
    trying.ended()
    assert quota.wait(False, 20.5) is None
    asked(quota, 20.5)
    asked(quota, 20.5)


@pytest.mark.parametrize(("after", "wait"), [(None, 1.0), (0.0, 1.0), (5.0, 5.0), (3600.0, WAIT_LIMIT)])
def test_the_wait_is_retry_after_within_a_minute(after: float | None, wait: float) -> None:
    quota = Quota()
    answer(quota, 429, 0.0, after=after)
    assert quota.wait(False, 0.0) == wait


def test_without_retry_after_the_wait_doubles_up_to_a_minute_and_a_success_resets_it() -> None:
    quota, now, waits = Quota(), 0.0, []
    for _ in range(8):
        answer(quota, 429, now)
        wait = quota.wait(False, now)
        assert wait is not None
        waits.append(wait)
        now += wait
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    answer(quota, 200, now)
    answer(quota, 429, now)
    assert quota.wait(False, now) == 1.0


def test_a_head_that_passes_opens_the_gate_but_does_not_shorten_the_next_wait() -> None:
    """Docker Hub does not count HEAD: it passes, and the GET after it is refused again."""
    quota = Quota()
    answer(quota, 429, 0.0)
    answer(quota, 200, 1.0, method="HEAD")
    assert quota.wait(False, 1.0) is None
    answer(quota, 429, 1.0)
    assert quota.wait(False, 1.0) == 2.0


def test_many_429s_at_once_are_one() -> None:
    quota = Quota()
    questions = [asked(quota, 0.0) for _ in range(20)]
    for question in questions:
        question.heard("GET", 429, {}, None, 0.0)
        question.ended()
    assert quota.wait(False, 0.0) == 1.0


def test_an_answer_to_what_was_asked_before_a_429_does_not_end_the_wait() -> None:
    quota = Quota()
    early = asked(quota, 0.0)
    answer(quota, 429, 0.0, after=10.0)
    early.heard("GET", 200, {}, None, 1.0)
    early.ended()
    assert quota.wait(False, 1.0) == 9.0


def test_a_question_that_is_asked_again_upon_invitation_and_passes_ends_the_wait() -> None:
    quota = Quota()
    question = asked(quota, 0.0)
    question.heard("GET", 429, {}, 2.0, 0.0)
    assert quota.wait(False, 0.0) == 2.0
    question.heard("GET", 200, {}, None, 2.0)
    asked(quota, 2.0)
    asked(quota, 2.0)


@pytest.mark.parametrize("status", [500, 503])
def test_a_trial_that_tells_nothing_leaves_room_for_the_next(status: int) -> None:
    quota = Quota()
    answer(quota, 429, 0.0)
    trying = asked(quota, 1.0)
    trying.heard("GET", status, {}, None, 1.0)
    assert quota.wait(False, 1.0) is not None
    trying.ended()
    asked(quota, 1.0)
    assert quota.wait(False, 1.0) is not None, "and one at a time, still"


def test_blobs_are_not_held_up_by_a_limit_on_manifests_nor_the_other_way_round() -> None:
    quota = Quota()
    answer(quota, 429, 0.0, after=30.0)
    assert quota.wait(True, 0.0) is None
    other = Quota()
    asked(other, 0.0, blob=True).heard("GET", 429, {}, 30.0, 0.0)
    assert (other.wait(True, 0.0), other.wait(False, 0.0)) == (30.0, None)


@pytest.mark.parametrize("said", [{}, {"ratelimit-limit": "100;w=600", "ratelimit-remaining": "80;w=600"}])
def test_a_429_means_that_nothing_is_left(said: dict[str, str]) -> None:
    quota = Quota()
    asked(quota, 0.0).heard("HEAD", 200, said, None, 0.0)
    answer(quota, 429, 1.0)
    assert quota.stretch(1.0, 0.1) == STRETCH
    window = 600.0 if said else WINDOW
    assert quota.stretch(window, 0.1) == STRETCH
    assert quota.stretch(window + 1.0, 0.1) == 1.0
