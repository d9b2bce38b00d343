"""Writes docs/outages.md: every outage, measured with the mirror's defaults. Takes four minutes.

python -m tests.wire.outages_document
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import structlog

from tests.wire.outages import LATER, LEARNING, Row, measure, outages

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "outages.md"
DRIP = 1.0  # seconds between two bytes
DEFAULTS: dict[str, Any] = {"timeouts": {}, "retries": 2}  # over what tests set
READABLE = 0.1  # seconds; below, milliseconds are told

TEXT = f"""# Outages

What to do when pulls fail or are slow: look at `Cache-Status` of the answer (`curl -i`), which says whether
it was kept, and why the upstream was not asked; let `mirror explain IMAGE` tell what is kept, whose last
request failed and why, and who is left alone for how long; look in the log for `upstream.failed` and
`upstream.breaker.opened`, which name the host that fails. What is
kept is served meanwhile, and the mirror tries again by itself, ten seconds after the last try at most: there
is nothing to restart. A login that the upstream refuses is no outage: its 401 is passed on, also for tags
that are kept, and `upstream.login.refused` is in the log; by digest, what is kept is still given.

What clients get while an upstream is away, measured on loopback by `python -m tests.wire.outages_document`
with the mirror's defaults (`deadline` 1s, `timeouts.firstbyte` 30s, `retries` 2), and tested with short
time-outs by `tests/wire/test_outages.py`. `freshness.default` is 0 here: each request of a tag is due for a
check, which is the worst case. Within its freshness a tag asks nobody, and is as quick as a digest.

An image was pulled before the outage began. Then come {LEARNING} requests, in which the mirror learns that
something is wrong, and {LATER} more. *Asked* counts the requests, and the attempts to connect, that went to
the upstream; those who wait for the same name or token share one. "Drips" is one byte a second.

## What is kept

Right bytes every time. *Longest* is of all the requests, *median* and *p99* are of the last {LATER}.

{{kept}}

## What is not kept

{LEARNING} different images at once, then an eleventh {LATER} times. A 429 comes with the upstream's
`Retry-After`. The body of a blob that drips is passed on as it comes: there is no failure to know of.

{{cold}}
"""


def _seconds(value: float) -> str:
    """As people read it."""
    return f"{value * 1000:.1f} ms" if value < READABLE else f"{value:.1f} s"


def _codes(statuses: Iterable[int]) -> str:
    return ", ".join(str(status) for status in sorted(statuses))


def _kept(row: Row) -> list[str]:
    times = (_seconds(value) for value in (row.longest, row.median, row.p99))
    return [_codes(row.statuses | row.later_statuses), *times, str(row.first_asked), str(row.later_asked)]


def _cold(row: Row) -> list[str]:
    first = [_codes(row.statuses), _seconds(row.longest_first), str(row.first_asked)]
    if not row.later:
        return [*first, "-", "-", "-"]
    return [*first, _codes(row.later_statuses), _seconds(row.median), str(row.later_asked)]


def _table(titles: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], list[str]]) -> str:
    lines = [["the upstream", "asked for", *titles]]
    lines.append(["---"] * len(lines[0]))
    lines += [[row.outage, row.kind, *cells(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure, and write the document."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the mirror's log would take time
    with tempfile.TemporaryDirectory() as folder:
        kept, cold = asyncio.run(measure(Path(folder), outages(DRIP), **DEFAULTS))
    first, last = f"asked in the first {LEARNING}", f"in the last {LATER}"
    text = TEXT.format(
        kept=_table(["status", "longest", "median", "p99", first, last], kept, _kept),
        cold=_table(["status", "longest", first, "status later", "median later", last], cold, _cold),
    )
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
