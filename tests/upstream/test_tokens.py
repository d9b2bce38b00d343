"""Token answers, read with distrust."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.upstream.tokens import DEFAULT_LIFE, LONGEST_LIFE, MARGIN, Token, TokenError, parse

NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def read(**fields: Any) -> Token:
    """The token of an answer with these fields, received at 1000.0."""
    return parse(json.dumps({"token": "t", **fields}).encode(), 1000.0, NOON)


def test_access_token_goes_before_token() -> None:
    assert read(access_token="a").value == "a"
    assert read(access_token="").value == "t"
    assert read().value == "t"


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [
        (300, 300.0),
        (5, 5.0),
        ("300", 300.0),
        (90.5, 90.5),
        (None, DEFAULT_LIFE),
        (0, DEFAULT_LIFE),
        (-5, DEFAULT_LIFE),
        (True, DEFAULT_LIFE),
        ("soon", DEFAULT_LIFE),
        ([], DEFAULT_LIFE),
        (float("nan"), DEFAULT_LIFE),
        (float("inf"), LONGEST_LIFE),
        (10**400, LONGEST_LIFE),
    ],
)
def test_a_life_is_taken_as_said_within_reason(expires_in: Any, life: float) -> None:
    token = read(expires_in=expires_in)
    assert token.renew_at == pytest.approx(1000.0 + life - min(MARGIN, life / 10))


def test_a_token_is_usable_until_shortly_before_its_end() -> None:
    token = read(expires_in=300)
    assert token.usable(1289.9)
    assert not token.usable(1290.0)


@pytest.mark.parametrize(
    ("issued_at", "age"),
    [
        ("2026-01-01T12:00:00Z", 0.0),
        ("2026-01-01T11:59:00Z", 60.0),
        ("2026-01-01T11:59:00.123456789Z", 59.876544),  # as Go writes it
        ("2026-01-01T13:59:00+02:00", 60.0),
        ("2026-01-01T12:05:00Z", 0.0),  # from the future
        ("2020-01-01T00:00:00Z", 150.0),  # half its life: a wrong clock must not mean an exchange a request
        ("2026-01-01T11:59:00", 0.0),
        ("yesterday", 0.0),
        (17, 0.0),
    ],
)
def test_issued_at_shortens_the_life_by_half_at_most(issued_at: Any, age: float) -> None:
    assert read(expires_in=300, issued_at=issued_at).renew_at == pytest.approx(1290.0 - age)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'"t"',
        b"{}",
        b'{"token": 7}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX-Evil: 1"}',
        b'{"token": "a b"}',
        b'{"token": "\\u00e9"}',
        json.dumps({"token": "x" * 50_000}).encode(),
        b"[" * 60_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_token_is_refused_without_being_repeated(body: bytes) -> None:
    with pytest.raises(TokenError) as caught:
        parse(body, 0.0, NOON)
    assert "Evil" not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    assert "hush" not in repr(read(token="hush"))


@settings(max_examples=200)
@given(JSON)
def test_any_json_gives_a_token_or_a_token_error(document: Any) -> None:
    answer = {"token": "t", "expires_in": document, "issued_at": document}
    assert parse(json.dumps(answer).encode(), 0.0, NOON).renew_at > 0.0
    for body in (json.dumps(document), json.dumps({"access_token": document})):
        try:
            parse(body.encode(), 0.0, NOON)
        except TokenError:
            continue
