"""The links of tests/support/link.py, started for a workspace and ended with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.procs import STOP_TIMEOUT, HarnessError, Workspace

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Link:
    """One of them."""

    links: Links
    number: int
    port: int

    @property
    def url(self) -> str:
        """Where it is connected to."""
        return f"http://127.0.0.1:{self.port}"

    def shape(self, delay: float = 0.0, rate: float = 0.0) -> None:
        """Seconds for one way, bytes a second for each connection; open connections are closed."""
        self.links.ask(f"shape {self.number} {delay} {rate}")

    @property
    def received(self) -> int:
        """Bytes from the target so far."""
        return int(self.links.ask(f"count {self.number}").split()[0])


class Links:
    """So many links to one port. The process ends with this one, whatever ends it."""

    def __init__(self, space: Workspace, target: int, count: int) -> None:
        with (space.logs / "links.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.link", str(target), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )
        space.on_close(self.stop)
        ports = self._line().split()
        self.all = [Link(self, number, int(port)) for number, port in enumerate(ports)]

    @property
    def pid(self) -> int:
        """Of the process, which is its own group."""
        return self._process.pid

    def ask(self, question: str) -> str:
        """One line, and its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._line()

    def stop(self) -> None:
        """Safe to call twice."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT)
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise HarnessError("the links have ended")
        return line
