"""What registry:2 remembers is read, and whatever else stands there does no harm."""

from __future__ import annotations

import io
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


def read(data: bytes, lifetime: float = WEEK, now: float = EXPIRY) -> list[Use]:
    return [use for batch in scheduler.uses(io.BytesIO(data), now, lifetime) for use in batch]


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
    (use,) = read(state({KEY: entry(expiry)}))
    assert (use.repository, use.digest) == (Repository("library/alpine"), DIGEST)
    assert use.used == pytest.approx(EXPIRY + seconds - WEEK, abs=1e-5)


def test_blobs_and_manifests_of_all_repositories_are_read() -> None:
    other = f"quay.io/org/app@{DIGEST}"
    found = read(state({KEY: entry(), other: entry(kind=1)}))
    assert [use.repository.name for use in found] == ["library/alpine", "quay.io/org/app"]


def test_another_lifetime_may_have_been_configured() -> None:
    assert read(state({KEY: entry()}), 3600.0) == [Use(Repository("library/alpine"), DIGEST, EXPIRY - 3600.0)]


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"null", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000, b"\x00" * 50],
    ids=["empty", "cut", "null", "list", "number", "no text", "deep list", "deep map", "zeros"],
)
def test_a_broken_file_is_ignored_and_the_log_says_so(broken: bytes) -> None:
    with capture_logs() as logs:
        assert read(broken) == []
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
    assert [use.repository.name for use in read(state({key: value, good: entry()}))] == ["library/good"]


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "ENTRIES_LIMIT", 3)
    many = {f"library/a{number}@{DIGEST}": entry() for number in range(10)}
    assert len(read(state(many))) == 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just(KEY), inner),
    )
)
def test_nothing_that_may_stand_there_fails(content: object) -> None:
    for use in read(state(content)):
        assert use.used > 0


def test_a_use_is_never_later_than_now() -> None:
    """A folder whose `proxy.ttl` was longer than the one that is configured now."""
    (use,) = read(state({KEY: entry()}), lifetime=3600.0, now=EXPIRY - WEEK)
    assert use.used == EXPIRY - WEEK


entries = st.dictionaries(
    st.integers(0, 50).map(lambda number: f"library/a{number}@{DIGEST}"),
    st.builds(entry, st.sampled_from(["2026-05-08T12:00:00Z", "nonsense", "é" * 9]), st.integers(0, 1)),
)


@given(entries, st.integers(1, 20), st.sampled_from([None, 0, 3]), st.booleans())
def test_pieces_of_any_size_give_the_same(
    content: dict[str, dict[str, object]], piece: int, indent: int | None, is_ascii: bool
) -> None:
    data = json.dumps(content, indent=indent, ensure_ascii=is_ascii).encode()
    whole = read(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "PIECE", piece)
        patch.setattr(scheduler, "BATCH", 3)
        assert read(data) == whole
    assert len(whole) == sum("T" in str(each["ExpiryData"]) for each in content.values())


def test_a_number_may_go_on_in_the_next_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "PIECE", 1)
    assert len(read(state({"a": 12345, KEY: entry()}))) == 1


@given(entries, st.integers(1, 200))
def test_of_a_file_that_is_cut_what_stands_before_is_read(
    content: dict[str, dict[str, object]], lost: int
) -> None:
    data = state(content)
    whole = read(data)
    with capture_logs() as logs:
        found = read(data[:-lost])
    assert found == whole[: len(found)]
    assert len(whole) - len(found) <= 1 + lost // 100
    assert [line["event"] for line in logs] == ["scheduler.ignored"]


class Counting(io.BytesIO):
    """A file that knows how much of it was read at once."""

    most = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.most = max(self.most, len(data))
        return data


def test_a_large_file_is_read_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of them all other threads may have to wait."""
    file = Counting(state({f"library/a{number}@{DIGEST}": entry() for number in range(2000)}))
    decoded: list[int] = []
    decode = json.JSONDecoder.raw_decode

    def measured(decoder: json.JSONDecoder, text: str, at: int = 0) -> tuple[object, int]:
        decoded.append(len(text) - at)
        return decode(decoder, text, at)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", measured)
    steps = [len(batch) for batch in scheduler.uses(file, EXPIRY)]
    assert sum(steps) == 2000
    assert max(steps) <= scheduler.BATCH
    assert file.most <= scheduler.PIECE
    assert max(decoded) <= scheduler.PIECE + scheduler.LONGEST


@pytest.mark.parametrize("start", ['{"', '{"a": "', '{"a": [', '{"a": 1'])
def test_what_never_ends_is_given_up(start: str) -> None:
    class Endless(Counting):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size) or b"1" * (size or 1)

    file = Endless(start.encode())
    with capture_logs() as logs:
        assert list(scheduler.uses(file, EXPIRY)) == [[]]
    assert [line["event"] for line in logs] == ["scheduler.ignored"]


@given(st.binary())
def test_no_bytes_fail(data: bytes) -> None:
    assert read(data) == []
