"""The mirror beside others: `make bench`, or `python -m tests.bench`. Its table is for docs/performance.md.

A part of it (--only, --peers, --quick) is printed and not written. It stops by itself, and by Ctrl-C, and
then ends what it has started and deletes what it has made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TypeVar

import aiohttp

from tests.bench import cold, document, far, hits, latency, many, readers, tls
from tests.bench.figures import DIRECTLY, RIVAL, Figure, Results, Row
from tests.bench.peers import ASK, KINDS, MIRROR, Kind, Peer
from tests.bench.reading import WrongError
from tests.bench.stage import FULL, QUICK, Scale, Stage
from tests.bench.wrk import MissingError
from tests.support.procs import HarnessError, Workspace
from tests.support.programs import SEARCH_PATH

RUNS = 3
ROOM = 30e9  # bytes of the disk: each peer keeps some 5 GB
LIMIT = 20 * 60  # seconds for everything
LIMIT_FULL = 40 * 60
T = TypeVar("T", Row, Kind)
ROWS: list[Row] = [
    *hits.ROWS,
    *cold.ROWS,
    *readers.ROWS,
    *latency.ROWS,
    *far.ROWS,
    hits.KEPT,
    many.MANY_KEPT,
    *tls.ROWS,
]


def main() -> None:
    options = _options()
    scale = QUICK if options.quick else FULL if options.full else Scale()
    rows, kinds = _chosen(options.only, ROWS), _chosen(options.peers, KINDS)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(LIMIT_FULL if options.full else LIMIT)
    began, load = time.monotonic(), os.getloadavg()[0]
    if not options.quick and shutil.disk_usage(tempfile.gettempdir()).free < ROOM:
        sys.exit(
            f"{tempfile.gettempdir()} has less than {ROOM / 1e9:.0f} GB free: set TMPDIR to another folder"
        )
    print(f"load of the machine: {load:.1f}", flush=True)
    with contextlib.ExitStack() as stack:
        logs = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mirror-logs-")))
        logs.mkdir(exist_ok=True)
        space = stack.enter_context(Workspace(logs))
        runs = 1 if options.quick else options.runs
        results = measure(space, scale, kinds, rows, runs)
        text = report(results, rows, kinds, space.root, runs)
    print(f"\n{text}\n\n{time.monotonic() - began:.0f} s; load {load:.1f} then, {os.getloadavg()[0]:.1f} now")
    if not (options.quick or options.only or options.peers or options.dry):
        document.replace("side-by-side", text)


def measure(space: Workspace, scale: Scale, kinds: Sequence[Kind], rows: Sequence[Row], runs: int) -> Results:
    """All of it: row by row, the peers in turn, so that they share what the machine does meanwhile."""
    stage = Stage(space, scale, kinds)
    results = Results(lacking=stage.lacking)
    for row in rows:
        failed: set[str] = set()
        for run in range(min(runs, row.runs)):
            turn = run % len(stage.peers)
            for peer in [*stage.peers[turn:], *stage.peers[:turn]]:
                if row.is_for(peer) and peer.name not in failed and not _one(results, stage, row, peer):
                    failed.add(peer.name)
    return results


def _one(results: Results, stage: Stage, row: Row, peer: Peer) -> bool:
    """One run of one row of one peer; whether it went well. What is wrong becomes the figure."""
    began = time.monotonic()
    try:
        figures = list(row.measure(stage, peer))
    except MissingError as error:
        figures = [Figure(row.lines[0].key, str(error))]
    except WrongError as error:
        figures = [Figure(row.lines[0].key, f"wrong: {error}")]
    except (HarnessError, OSError, subprocess.SubprocessError) as error:
        text = str(error).partition("\n")[0]
        figures = [Figure(row.lines[0].key, f"failed: {type(error).__name__}: {text}")]
    for figure in figures:
        results.add(figure, peer.name)
    told = ", ".join(f"{each.line} {_short(each.value)}" for each in figures if not each.who)
    print(f"{row.key:12} {peer.name:18} {time.monotonic() - began:5.1f} s  {told}", flush=True)
    return not any(isinstance(each.value, str) and ": " in each.value for each in figures)


def report(results: Results, rows: Sequence[Row], kinds: Sequence[Kind], folder: Path, runs: int) -> str:
    """The text for the document; `runs`: as they were given to `measure`."""
    measured = [kind.name for kind in kinds if kind.installed and kind.name not in results.lacking]
    columns = [*measured, DIRECTLY]
    body = []
    for line in (line for row in rows for line in row.lines):
        cells = [results.cell(line, column) for column in columns]
        if any(cells):
            body.append([line.title, line.goal, *cells, results.against(line)])
    head = ["", "goal", *columns, f"{MIRROR} ÷ {RIVAL}"]
    lacking = [
        f"- {kind.name}: not installed: {kind.install}"
        for kind in kinds
        if kind.expected and not kind.installed
    ]
    lacking += [f"- {name}: {why}" for name, why in results.lacking.items()]
    conditions = _conditions(rows, kinds, folder, runs)
    return "\n".join([conditions, "", document.table(head, body), "", *lacking]).strip()


def _conditions(rows: Sequence[Row], kinds: Sequence[Kind], folder: Path, runs: int) -> str:
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert memory is not None, "/proc/meminfo tells the memory"
    versions = dict.fromkeys(kind.tell() for kind in kinds if kind.installed)
    programs = [*versions, f"Python {platform.python_version()}", f"aiohttp {aiohttp.__version__}", _wrk()]
    return (
        f"{document.machine(folder)}, {int(memory[1]) / 2**20:.0f} GiB of memory, "
        f"Linux {platform.release()}; {', '.join(programs)}. "
        f"{_counted(rows, runs)}, by `{' '.join(['python -m tests.bench', *sys.argv[1:]])}`."
    )


def _counted(rows: Sequence[Row], runs: int) -> str:
    """Of how many runs the figures are; some rows are measured less often than others."""
    counts = {min(runs, row.runs) for row in rows}
    most = max(counts)
    if most == 1:
        return "One run of each"
    return f"Medians of {most} runs" if len(counts) == 1 else f"Medians of up to {most} runs"


def _wrk() -> str:
    done = subprocess.run(
        ["/usr/bin/env", "wrk", "-v"],
        capture_output=True,
        text=True,
        timeout=ASK,
        check=False,
        env={"PATH": SEARCH_PATH},
    )
    found = re.search(r"wrk \S+", done.stdout + done.stderr)
    return found[0] if found else "no wrk"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _chosen(names: str, known: Sequence[T]) -> list[T]:
    """Those that are named, in the order in which they are known; all where none is."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    if unknown := wanted - {each.key for each in known}:
        sys.exit(f"not known: {', '.join(sorted(unknown))}; known: {', '.join(each.key for each in known)}")
    return [each for each in known if not wanted or each.key in wanted]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each row, of which the median is told")
    parser.add_argument("--only", default="", metavar="ROW,…", help=", ".join(row.key for row in ROWS))
    parser.add_argument("--peers", default="", metavar="PEER,…", help=", ".join(kind.key for kind in KINDS))
    parser.add_argument("--quick", action="store_true", help="small sizes, one run: whether it works")
    parser.add_argument("--full", action="store_true", help="with 100,000 images, five minutes more")
    parser.add_argument("--logs", type=Path, help="a folder in which the peers' logs stay")
    parser.add_argument("--dry", action="store_true", help="print, and write no document")
    return parser.parse_args()


def _end(number: int, _frame: FrameType | None) -> None:
    """By SIGTERM, or because it has taken too long: what was started ends with the workspace."""
    sys.exit("it has taken too long" if number == signal.SIGALRM else 128 + number)


if __name__ == "__main__":
    main()
