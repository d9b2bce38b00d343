"""What registry:2 remembers is read, and whatever else stands there does no harm."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mirror.ledger import scheduler
from mirror.ledger.facts import Use
from mirror.oci.digest import Digest
from mirror.oci.names import Repository

DIGEST = Digest.of(b"a")
KEY = f"library/alpine@{DIGEST}"
EXPIRY = datetime(2026, 5, 8, 12, 0, 0, tzinfo=UTC).timestamp()
WEEK = 7 * 24 * 3600.0


def entry(expiry: object = "2026-05-08T12:00:00Z", kind: int = 0) -> dict[str, object]:
    return {"Key": KEY, "ExpiryData": expiry, "EntryType": kind}


def state(entries: object) -> bytes:
    return json.dumps(entries).encode()


@pytest.mark.parametrize(
    ("expiry", "seconds"),
    [
        ("2026-05-08T12:00:00Z", 0.0),
        ("2026-05-08T12:00:00.123456789Z", 0.123456),
        ("2026-05-08T14:00:00.5+02:00", 0.5),
        ("2026-05-08T06:30:00.000000001-05:30", 0.0),
    ],
)
def test_a_use_is_a_week_before_the_expiry(expiry: str, seconds: float) -> None:
    (use,) = scheduler.uses(state({KEY: entry(expiry)}))
    assert (use.repository, use.digest) == (Repository("library/alpine"), DIGEST)
    assert use.used == pytest.approx(EXPIRY + seconds - WEEK, abs=1e-5)


def test_blobs_and_manifests_of_all_repositories_are_read() -> None:
    other = f"quay.io/org/app@{DIGEST}"
    found = scheduler.uses(state({KEY: entry(), other: entry(kind=1)}))
    assert [use.repository.name for use in found] == ["library/alpine", "quay.io/org/app"]


def test_another_lifetime_may_have_been_configured() -> None:
    assert scheduler.uses(state({KEY: entry()}), 3600.0) == [
        Use(Repository("library/alpine"), DIGEST, EXPIRY - 3600.0)
    ]


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"null", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000, b"\x00" * 50],
    ids=["empty", "cut", "null", "list", "number", "no text", "deep list", "deep map", "zeros"],
)
def test_a_broken_file_is_ignored_and_the_log_says_so(broken: bytes) -> None:
    with capture_logs() as logs:
        assert scheduler.uses(broken) == []
    assert [(line["event"], line["log_level"]) for line in logs] == [("scheduler.ignored", "warning")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KEY, None),
        (KEY, "2026-05-08T12:00:00Z"),
        (KEY, []),
        (KEY, {}),
        (KEY, entry(5)),
        (KEY, entry("")),
        (KEY, entry("tomorrow")),
        (KEY, entry("2026-05-08T12:00:00")),
        (KEY, entry("0001-01-01T00:00:00Z")),
        (KEY, entry("0001-01-01T00:00:00+14:00")),
        ("library/alpine", entry()),
        (f"@{DIGEST}", entry()),
        ("library/alpine@sha256:123", entry()),
        (f"Not/A/Name@{DIGEST}", entry()),
        (f"../../etc@{DIGEST}", entry()),
    ],
)
def test_an_entry_that_makes_no_sense_is_passed_over(key: str, value: object) -> None:
    good = f"library/good@{DIGEST}"
    assert [use.repository.name for use in scheduler.uses(state({key: value, good: entry()}))] == [
        "library/good"
    ]


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "ENTRIES_LIMIT", 3)
    many = {f"library/a{number}@{DIGEST}": entry() for number in range(10)}
    assert len(scheduler.uses(state(many))) == 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just(KEY), inner),
    )
)
def test_nothing_that_may_stand_there_fails(content: object) -> None:
    for use in scheduler.uses(state(content)):
        assert use.used > 0


@given(st.binary())
def test_no_bytes_fail(data: bytes) -> None:
    assert scheduler.uses(data) == []
