"""Servers that tests install below `build/`, once on each machine."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.mirror_process import ROOT
from tests.support.programs import missing

TIMEOUT = 300.0  # seconds for one command; the slowest takes half a minute


def installed(name: str, what: str, commands: Callable[[Path], Sequence[Sequence[str]]]) -> Path:
    """The folder `build/<name>`, in which these commands have run: in the first call on a machine.

    Skips the test where one of them fails; `what`: what they install.
    """
    home = ROOT / "build" / name
    home.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test runs one installs
        done = home / "installed"
        if not done.exists():
            for argv in commands(home):
                _run(argv, home, what)
            done.touch()
    return home


def _run(argv: Sequence[str], folder: Path, what: str) -> None:
    done = subprocess.run(
        argv,
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        missing(f"{what} cannot be installed: {(done.stderr or done.stdout).strip()[-500:]}")
