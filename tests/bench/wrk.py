"""wrk as load generator: how many answers and bytes a second."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.reading import ACCEPT, WrongError
from tests.support.programs import SEARCH_PATH

ENDING = 60.0  # seconds that it may take to begin and to end, beside the measurement
PATIENCE = 60  # seconds for one answer: a large blob to four clients at once, by the slowest
# wrk rounds what it prints; this is what it counted. `done` is called once at the end.
COUNTED = """
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format("counted %.0f %.0f %.0f %.0f %.0f\\n", summary.requests, summary.bytes,
    summary.duration, failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
"""
# Each request takes one of many paths: at random, or one after the other from a number on.
_LISTED = """
local requests = {}
function init(args)
  math.randomseed(5)
  for path in io.lines(args[1]) do requests[#requests + 1] = wrk.format("GET", path) end
  at = tonumber(args[2])
end
"""
ANY_PATH = f"{_LISTED}function request() return requests[math.random(#requests)] end"
NEXT_PATH = f"{_LISTED}function request() at = at + 1; return requests[(at - 1) % #requests + 1] end"


class MissingError(Exception):
    """A program is not installed; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk counted; `bytes` with headers."""

    requests: int
    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds

    @property
    def speed(self) -> float:
        """MB (of 1,000,000 bytes) a second."""
        return self.bytes / self.seconds / 1e6


def wrk(
    base: str,
    path: str,
    *,
    connections: int,
    seconds: int,
    paths: Sequence[str] | None = None,
    start: int | None = None,
) -> Load:
    """One thread with so many connections, asking for `path`, or for any of `paths`: from the one of number
    `start` on in their order, else at random.

    Raises WrongError when any answer was an error, MissingError when wrk is not there.
    """
    program = shutil.which("wrk", path=SEARCH_PATH)
    if program is None:
        raise MissingError("not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="mirror-wrk-") as scratch:
        script, listed = Path(scratch, "script.lua"), Path(scratch, "paths")
        choosing = ANY_PATH if start is None else NEXT_PATH
        script.write_text(COUNTED + (choosing if paths else ""))
        listed.write_text("\n".join(paths or ()))
        done = subprocess.run(
            [
                *(program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{PATIENCE}s"),
                *("-H", f"Accept: {ACCEPT['Accept']}", "-s", str(script), base + path),
                *("--", str(listed), str(start or 0)),
            ],
            capture_output=True,
            text=True,
            timeout=seconds + ENDING,
            check=False,
        )
    found = re.search(r"^counted (\d+) (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise WrongError(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")
    requests, size, duration, refused, broken = map(int, found.groups())
    if refused or broken or not size:  # of large answers none may have ended yet
        raise WrongError(f"{refused} answers were errors, {broken} broke, of {requests}")
    return Load(requests, size, duration / 1e6)
