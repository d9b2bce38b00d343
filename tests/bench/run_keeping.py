"""24 simulated hours of pulls: `python -m tests.bench.run_keeping`. Writes docs/keeping.svg and its table."""

from __future__ import annotations

import argparse
import asyncio
import time

import structlog

from tests.bench import document
from tests.bench.catalogue import SCALE, Catalogue
from tests.bench.chart import HOURS, Line, Panel, chart
from tests.bench.keeping import Outcome, Point, Tally, simulate
from tests.support.memory import memory_folder

SEED = 4
IMAGES = 1000
PULLS = 10_000
SHARE = 10  # the catalogue is so many times larger than the limit
DAY = 24 * 3600.0
GB = 1e9 / SCALE
OURS, THEIRS, GREY = "#1b6ca8", "#c2571a", "#888"
WINDOW = 6  # points of 10 minutes: ratios are those of the last hour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--pulls", type=int, default=PULLS)
    parser.add_argument("--dry", action="store_true", help="print, and write no document")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    catalogue = Catalogue(options.images, SEED)
    limit = catalogue.size // SHARE
    began = time.monotonic()
    with memory_folder() as folder:
        outcome = asyncio.run(simulate(folder, catalogue.pulls(options.pulls, DAY), limit))
    text = _text(catalogue, options.pulls, outcome)
    print(text)
    print(f"{time.monotonic() - began:.0f} s")
    if not options.dry:
        (document.DOCS / "keeping.svg").write_text(_plot(outcome))
        document.replace("keeping", text)


def _text(catalogue: Catalogue, pulls: int, outcome: Outcome) -> str:
    mirror, fifo = outcome.mirror, outcome.fifo
    ours, theirs = mirror.fetched_bytes / GB, fifo.fetched_bytes / GB
    rows = [
        ("hit ratio, blobs and manifests", _share(mirror), _share(fifo)),
        ("hit ratio, bytes", _share_of_bytes(mirror), _share_of_bytes(fifo)),
        ("from upstream", f"{ours:.0f} GB", f"{theirs:.0f} GB"),
        ("not kept for want of room", str(outcome.not_kept), "0"),
        ("most kept over the limit", f"{max(outcome.over, 0) * SCALE / 1e6:.1f} MB", "0"),
    ]
    told = (
        f"Seed {SEED}: {len(catalogue.images)} images, {catalogue.size / GB:.1f} GB in all; "
        f"limit {outcome.limit / GB:.1f} GB; {pulls} pulls, {mirror.asked_bytes / GB:.0f} GB asked for; "
        f"at most {outcome.in_flight * SCALE / 1e6:.0f} MB in flight at a time."
    )
    return f"{told}\n\n{document.table(('', 'mirror', 'FIFO of blobs'), rows)}"


def _plot(outcome: Outcome) -> str:
    points, limit = outcome.points, outcome.limit / GB
    most = max(points[-1].mirror.fetched_bytes, points[-1].fifo.fetched_bytes) / GB
    hours = [(0.0, limit), (float(HOURS), limit)]
    return chart(
        "24 hours of pulls, catalogue ten times the limit",
        [
            Panel(
                "kept, GB",
                _round(limit),
                [
                    Line("mirror", OURS, [(_hour(each), each.kept / GB) for each in points]),
                    Line("FIFO of blobs", THEIRS, [(_hour(each), each.kept_fifo / GB) for each in points]),
                    Line("limit", GREY, hours, "6 4"),
                ],
            ),
            Panel(
                "hits of the last hour, %",
                100.0,
                [
                    Line("mirror", OURS, _hits([(_hour(each), each.mirror) for each in points])),
                    Line("FIFO of blobs", THEIRS, _hits([(_hour(each), each.fifo) for each in points])),
                ],
            ),
            Panel(
                "from upstream since the beginning, GB",
                _round(most),
                [
                    Line("mirror", OURS, [(_hour(each), each.mirror.fetched_bytes / GB) for each in points]),
                    Line(
                        "FIFO of blobs",
                        THEIRS,
                        [(_hour(each), each.fifo.fetched_bytes / GB) for each in points],
                    ),
                ],
            ),
        ],
    )


def _hour(point: Point) -> float:
    return point.at / 3600


def _hits(tallies: list[tuple[float, Tally]]) -> list[tuple[float, float]]:
    found = []
    for (_, before), (hour, now) in zip(tallies, tallies[WINDOW:], strict=False):
        if asked := now.asked - before.asked:
            found.append((hour, 100 * (now.hits - before.hits) / asked))
    return found


def _share(tally: Tally) -> str:
    return f"{100 * tally.hits / tally.asked:.1f} %"


def _share_of_bytes(tally: Tally) -> str:
    return f"{100 * (1 - tally.fetched_bytes / tally.asked_bytes):.1f} %"


def _round(value: float) -> float:
    """The next value that four marks divide well."""
    step = 10.0 ** (len(str(int(value))) - 1)
    return next(each * step for each in (1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12) if each * step > value)


if __name__ == "__main__":
    main()
