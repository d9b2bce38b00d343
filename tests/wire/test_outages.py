"""Each outage, for what is kept and for what is not: status, time, and how often the upstream is asked.

What is measured stands in `outages`; `outages_document` writes docs/outages.md with the mirror's defaults,
here time-outs are short.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.upstream import transport
from tests.wire.outages import (
    BLOB,
    DIGEST,
    KINDS,
    LEARNING,
    RETRY_AFTER,
    TAG,
    Link,
    Outage,
    Row,
    cold_row,
    kept_rows,
    outages,
)
from tests.wire.outages_document import DOCUMENT

DEADLINE = 0.2  # seconds
# Of other work on the machine, in seconds, beside that in which it gives us no time at all: see `given`.
# Tests run on shared ones; 10 ms is what is meant.
MARGIN = 0.25
AT_ONCE = 0.010  # seconds, what a kept answer may take once the outage is known
AT_ONCE_P99 = 0.050
RETRIES = 1
QUESTIONS = 2  # of one request: a tag and its manifest, or a 401 and a token
FEW = 50  # later requests for what is not kept
# Later requests that ask: a breaker wants five failures, and those who want the same token share one; then it
# lets one through after a second, and after two.
PROBES = 5 + 2
TIMEOUT = 0.3  # seconds
FAST = {
    "deadline": f"{DEADLINE}s",
    "retries": RETRIES,
    "timeouts": {"connect": f"{TIMEOUT}s", "firstbyte": f"{TIMEOUT}s", "stall": f"{TIMEOUT}s"},
}
DRIP = 0.05  # seconds between bytes: less than the time-outs, so that only a limit on the whole can help
OUTAGES = outages(DRIP)
EACH = pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)

# By outage: the status of a cold tag, digest and blob at first, and when the mirror knows.
COLD: dict[str, tuple[dict[str, int], int]] = {
    "refuses connections": (dict.fromkeys(KINDS, 503), 503),
    "has no address any more (DNS)": (dict.fromkeys(KINDS, 503), 503),
    "hangs": (dict.fromkeys(KINDS, 504), 503),
    "drips: header and body byte by byte": (dict.fromkeys(KINDS, 504), 503),
    "drips: bodies byte by byte": ({TAG: 504, DIGEST: 504, BLOB: 200}, 503),
    "answers 503": (dict.fromkeys(KINDS, 503), 503),
    "answers 429": (dict.fromkeys(KINDS, 429), 429),
    "token server answers 500": (dict.fromkeys(KINDS, 500), 503),
    "token server hangs": (dict.fromkeys(KINDS, 504), 503),
    "token server sends garbage": (dict.fromkeys(KINDS, 502), 503),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute for a manifest that drips is too long for a test."""
    monkeypatch.setattr(transport, "SMALL_BODY_SECONDS", 2 * TIMEOUT)


@pytest.fixture(autouse=True)
def _frozen() -> Iterator[None]:
    """The mirror is in this process here: what thousands of tests have left is not to be gone through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@EACH
async def test_what_is_kept_is_given_within_the_deadline_and_at_once_when_the_outage_is_known(
    tmp_path: Path, outage: Outage
) -> None:
    with Link().watched() as link:
        rows = await kept_rows(link, tmp_path, outage, **FAST)
    assert [row.kind for row in rows] == list(KINDS)
    for row in rows:
        assert {(t.status, t.right) for t in (*row.first, *row.later)} == {(200, True)}, row.kind
        assert row.longest <= DEADLINE + MARGIN, row.kind
        assert row.median <= AT_ONCE, row.kind
        assert row.p99 <= AT_ONCE_P99, row.kind
        _bounded(row, outage)
        if row.kind != TAG:
            assert (row.first_asked, row.later_asked) == (0, 0), row.kind


@EACH
async def test_what_is_not_kept_fails_soon_with_a_status_that_clients_understand(
    tmp_path: Path, outage: Outage
) -> None:
    folders = [tmp_path / kind for kind in KINDS]
    for folder in folders:
        folder.mkdir()
    with Link().watched() as link:
        rows = await asyncio.gather(
            *(cold_row(link, folder, outage, folder.name, FEW, **FAST) for folder in folders)
        )
    first, later = COLD[outage.name]
    # A dripping manifest's own limit, or a time-out for each attempt and what is between them.
    longest = 2 * TIMEOUT + (1 + RETRIES) * TIMEOUT + 4 * MARGIN
    for row in rows:
        assert row.statuses <= {first[row.kind], later}, row.kind
        assert first[row.kind] in row.statuses, row.kind
        assert row.longest <= longest, row.kind
        _bounded(row, outage)
        # A question that finds out whether the outage is over may take as long as the first ones.
        probes = [timing for timing in row.later if timing.status != later]
        assert {timing.status for timing in probes} <= {first[row.kind]}, row.kind
        assert len(probes) <= PROBES, row.kind
        if later == 429:
            told = {int(t.retry_after) for t in (*row.first, *row.later)}
            assert all(0 < seconds <= RETRY_AFTER for seconds in told), row.kind


def _bounded(row: Row, outage: Outage) -> None:
    """Once known, next to nobody asks; before, no request asks more often than it retries."""
    attempts = 1 + RETRIES
    assert row.first_asked <= LEARNING * attempts * QUESTIONS, row.kind
    assert row.later_asked <= (len(row.later) if outage.quick else (LEARNING + PROBES) * attempts), row.kind


def test_the_document_has_each_outage_and_each_kind() -> None:
    """It is written by `outages_document`, not by hand."""
    text = DOCUMENT.read_text()
    for outage in outages(1.0):
        for kind in KINDS:
            assert text.count(f"| {outage.name} | {kind} |") == 2, (outage.name, kind)
