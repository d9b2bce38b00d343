"""What a program and its children use, by /proc: processor time, and memory with its part of shared pages."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

LOOK = 0.1  # seconds between two looks at the memory
_TICKS = os.sysconf("SC_CLK_TCK")


def processor(pid: int) -> float:
    """Seconds, in user and kernel mode."""
    total = 0
    for each in _family(pid):
        with contextlib.suppress(OSError):  # a child may end meanwhile
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory(pid: int) -> int:
    """Bytes (PSS)."""
    total = 0
    for each in _family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


class Peak:
    """The most memory that was used while it was looked at."""

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.contextmanager
def peak(pid: int) -> Iterator[Peak]:
    """Look again and again until left."""
    found, over = Peak(), Event()

    def look() -> None:
        while not over.is_set():
            found.bytes = max(found.bytes, memory(pid))
            over.wait(LOOK)

    thread = Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _family(pid: int) -> list[int]:
    """The process, its children and theirs."""
    found = [pid]
    for each in found:  # grows while it is read
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_quiet(count: Callable[[], int], quiet: float, most: float) -> None:
    """Until a number has stayed the same for `quiet` seconds; `most` seconds at most."""
    end, last, since = time.monotonic() + most, count(), time.monotonic()
    while time.monotonic() < min(end, since + quiet):
        time.sleep(LOOK / 2)
        if (now := count()) != last:
            last, since = now, time.monotonic()
