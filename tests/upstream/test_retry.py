"""When a request is sent again: tables of the pure decision."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.upstream import retry

NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def decide(
    attempt: int = 0,
    status: int | None = None,
    *,
    worth: bool = True,
    wait: float | None = None,
    elapsed: float = 0.0,
    retries: int = 2,
    chance: float = 1.0,
) -> float | None:
    """`retry.decide` with a usual case's values."""
    return retry.decide(
        attempt, status, worth=worth, wait=wait, elapsed=elapsed, retries=retries, chance=chance
    )


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_asked_again_after_a_back_off_that_doubles(status: int) -> None:
    assert decide(0, status) == 0.5
    assert decide(1, status) == 1.0
    assert decide(2, status) is None, "retries=2 is three attempts"


@pytest.mark.parametrize("status", [200, 206, 301, 400, 401, 403, 404, 405, 410, 416, 418, 501, 505, 520])
def test_any_other_answer_is_final(status: int) -> None:
    assert decide(0, status) is None
    assert decide(0, status, wait=1.0) is None


def test_jitter_is_full() -> None:
    assert decide(0, 503, chance=0.0) == 0.0
    assert decide(1, 503, chance=0.5) == 0.5


def test_a_refused_connection_costs_less_than_a_second_in_all() -> None:
    waits = [decide(attempt, None, retries=3) for attempt in range(4)]
    assert waits[3] is None
    assert sum(wait for wait in waits if wait is not None) < 1.0


def test_trouble_that_would_be_the_same_again_is_final() -> None:
    assert decide(0, None, worth=False) is None


def test_a_short_retry_after_is_obeyed_and_a_long_one_is_final() -> None:
    assert decide(0, 503, wait=3.0) == 3.0
    assert decide(0, 503, wait=0.1) == 0.5, "never sooner than the back-off"
    assert decide(0, 503, wait=5.1) is None


def test_a_rate_limit_is_tried_again_once_and_only_when_invited() -> None:
    assert decide(0, 429) is None
    assert decide(0, 429, wait=2.0) == 2.0
    assert decide(1, 429, wait=2.0) is None
    assert decide(0, 429, wait=60.0) is None


def test_no_attempt_starts_after_the_budget() -> None:
    assert decide(0, 503, elapsed=retry.BUDGET) is not None
    assert decide(0, 503, elapsed=retry.BUDGET + 0.1) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2099 12:00:00 GMT", retry.RETRY_AFTER_LIMIT),
        ("99999999999999999999999", retry.RETRY_AFTER_LIMIT),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Thu, 01 Jan 2026 12:00:30", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert retry.retry_after(text, NOON) == seconds


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_retry_after_never_raises_and_stays_within_a_day(text: str) -> None:
    seconds = retry.retry_after(text, NOON)
    assert seconds is None or 0.0 <= seconds <= retry.RETRY_AFTER_LIMIT
