"""What harm costs others: `python -m tests.bench.hostile [plain|tls] [ATTACK…]`, three minutes in all.

A mirror process, somebody who harms it from 127.0.1.0/24, and one client that means well, one request after
the other: its times without the attack, and with it. All share the machine's processors.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mirror.server import limits
from tests.bench.usage import processor
from tests.hostile.siege import besieged, town
from tests.support.procs import Workspace
from tests.support.scripted import Upstream, in_thread

SECONDS = 3.0
FILES = 65_536  # of which 10,000 connections need 20,064 (mirror/server/limits.py)
ASIDE = 68  # connections that are left for the client that is timed


@dataclass(frozen=True, slots=True)
class Row:
    """An attack: what it is called, and how much of it."""

    attack: str
    text: str
    count: int
    rate: float = 1.0
    tls: bool = False

    def is_wanted(self, names: tuple[str, ...]) -> bool:
        """By words that mean the port, the attack, or nothing."""
        ports = {"plain", "tls"} & set(names)
        attacks = set(names) - ports
        return ("tls" if self.tls else "plain") in (ports or {"plain", "tls"}) and (
            not attacks or self.attack in attacks
        )


ROWS = [
    Row("idle", "{:,} idle connections", 10_000),
    Row("halves", "2,000 half heads, again when dropped", 2_000),
    Row("slow", "2,000 heads byte by byte, 2,000 bytes/s", 2_000, 2_000),
    Row("heads", "heads of 100 KB, 200/s", 50, 200),
    Row("noise", "no HTTP, and smuggled, 200/s", 50, 200),
    Row("pipelines", "200 that send requests and read nothing", 200),
    Row("unread", "200 that do not read 64 MiB", 200),
    Row("idle", "TLS: 2,000 idle connections", 2_000, tls=True),
    Row("shakes", "TLS: 100 handshakes/s", 50, 100, tls=True),
    Row("shakes", "TLS: handshakes without end, 50 at a time", 50, 100_000, tls=True),
    Row("hellos", "TLS: 1,000 half handshakes, again when dropped", 1_000, tls=True),
    Row("unread", "TLS: 200 that do not read 64 MiB", 200, tls=True),
]


def connections() -> int:
    """How many there may be: 10,000, or what this machine's limit of open files has room for."""
    with contextlib.suppress(ValueError, OSError):  # only root may, and not everywhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    limits.raise_open_files()
    return limits.connections_max() - ASIDE


def main(*names: str) -> None:
    possible = connections()
    upstream = Upstream()
    print("| what somebody does | p99 before | p99 meanwhile | ratio | p50 meanwhile | memory | processor |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with Workspace(Path(tempfile.mkdtemp())) as space, in_thread(upstream):
        for tls in (False, True):
            rows = [row for row in ROWS if row.tls is tls and row.is_wanted(names)]
            for number, row in enumerate(rows):
                count = min(row.count, possible)
                with town(space, upstream, f"town-{tls}-{number}", tls=tls) as made:
                    calm, before = made.times(SECONDS), made.memory()
                    with besieged(made, row.attack, count, row.rate):
                        spent = processor(made.mirror.service.process.pid)
                        times = made.times(SECONDS)
                        grown = made.memory() - before
                        spent = (processor(made.mirror.service.process.pid) - spent) / SECONDS
                idle, found = calm.share(0.99) * 1000, times.share(0.99) * 1000
                print(
                    f"| {row.text.format(count)} | {idle:.2f} ms | {found:.2f} ms | {found / idle:.1f} "
                    f"| {times.share(0.5) * 1000:.2f} ms | +{grown / 1e6:.0f} MB | {spent:.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
