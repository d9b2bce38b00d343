"""Processes that a test starts and must end: by pid and process group, with a log each.

Every service works inside one Workspace, a folder that can be made to vanish again: no process, no mount
and no file of it is left.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.programs import SEARCH_PATH, find

# Nothing listens here. As a client's HTTPS proxy it makes each attempt to leave the machine fail at once,
# without a name look-up.
NOWHERE = "http://127.0.0.1:9"
POLL = 0.02  # seconds between two looks at a condition: short beside anything that is waited for
PATIENCE = 60.0  # seconds for what is bound to happen; a busy machine may stand still for some
STOP_TIMEOUT = 30.0  # seconds from SIGTERM to SIGKILL; dockerd takes two or three
# Below the range that the kernel gives to outgoing connections (32768 and up by default), so that no
# connection of another test takes a port between the choice and its use. Each of several workers has ports of
# its own: what one has chosen, and not taken yet, another could choose as well.
PORTS = range(20_000, 32_000)


class HarnessError(Exception):
    """The harness could not do its job: a service that did not start or did not end."""


def own_ports(worker: str, count: int) -> Sequence[int]:
    """Of PORTS those that this worker (`gw0`, `gw1`, …; "": there is one) of so many may choose."""
    number = int(worker.removeprefix("gw") or 0)
    return PORTS[number % count :: count]  # one that stands in for a worker that crashed counts on


OWN_PORTS = own_ports(
    os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
)
_chosen: deque[int] = deque(maxlen=1000)  # lately, by this process: who has asked may not listen there yet


def free_port() -> int:
    """A loopback port that nothing is using now."""
    while True:
        port = random.choice(OWN_PORTS)
        if port in _chosen:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _chosen.append(port)
            return port


def accepts(port: int) -> bool:
    """Whether something listens on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    ready: Callable[[], object], what: str, timeout: float = PATIENCE, service: Service | None = None
) -> None:
    """Wait until `ready()` is true. Raises HarnessError after `timeout` seconds, or when the service died."""
    deadline = time.monotonic() + timeout
    while not ready():
        tail = service.tail() if service is not None else ""
        if service is not None and service.process.poll() is not None:
            raise HarnessError(f"{what}: exited with {service.process.returncode}\n{tail}")
        if time.monotonic() > deadline:
            raise HarnessError(f"{what}: not so after {timeout:g} s\n{tail}")
        time.sleep(POLL)


def mounts_under(folder: Path) -> list[str]:
    """Mount points inside the folder, deepest first."""
    prefix = str(folder.resolve())
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # The kernel writes blanks and the like in a path as \040.
        point = line.split()[4].encode().decode("unicode_escape")
        if point == prefix or point.startswith(prefix + "/"):
            found.append(point)
    return sorted(found, key=len, reverse=True)


def client_env(home: Path) -> dict[str, str]:
    """An environment for a program that reads no file of the user's and cannot leave the machine."""
    for folder in ("run", "tmp"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    return {
        "PATH": SEARCH_PATH,
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "TMPDIR": str(home / "tmp"),
        # HTTP_PROXY stays unset: Go programs never use one for 127.0.0.1, and no test uses another address.
        "HTTPS_PROXY": NOWHERE,
        "https_proxy": NOWHERE,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


class Service:
    """A child process in its own process group, its output in a log file."""

    def __init__(self, argv: list[str], log: Path, env: dict[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [find(argv[0]), *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )

    def tail(self, lines: int = 30) -> str:
        """The last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """SIGTERM, and SIGKILL to its group after `timeout` seconds. Safe to call twice. Its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            self._wait(timeout)
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL, to it and to its group."""
        if self.process.poll() is None:
            self._wait(0)

    def _wait(self, timeout: float) -> None:
        pid = self.process.pid
        deadline = time.monotonic() + timeout
        # WNOWAIT leaves it unreaped, so that its number stays its own until the group is gone.
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, pid, ended) is None and time.monotonic() < deadline:
            time.sleep(POLL)
        os.killpg(pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT)


class Workspace:
    """A folder for one test run; `close` leaves nothing behind but the log files.

    Safe to close twice; closed at the latest when Python ends (but not when it is killed).
    """

    def __init__(self, logs: Path) -> None:
        # Short, because a unix socket's path may have 107 characters at most.
        self.root = Path(tempfile.mkdtemp(prefix="mirror-")).resolve()
        self.logs = logs
        self._closers: list[Callable[[], object]] = []
        self._names: dict[str, int] = {}
        atexit.register(self.close)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def folder(self, name: str) -> Path:
        """A new folder of that name (a number is added to a name used before)."""
        number = self._names[name] = self._names.get(name, 0) + 1
        path = self.root / (name if number == 1 else f"{name}-{number}")
        path.mkdir()
        return path

    def on_close(self, closer: Callable[[], object]) -> None:
        """Call this at the end; the last one registered is called first."""
        self._closers.append(closer)

    def start(self, folder: Path, argv: list[str], env: dict[str, str]) -> Service:
        """Start a service whose log is named after its folder."""
        service = Service(argv, self.logs / f"{folder.name}.log", env)
        self.on_close(service.stop)
        return service

    def mount_tmpfs(self, folder: Path, size: int) -> None:
        """Put a file system of `size` bytes over the folder; it goes with the workspace. Needs root."""
        argv = [find("mount"), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)

    def close(self) -> None:
        """Stop everything, unmount what is still mounted inside, delete the folder."""
        errors: list[Exception] = []
        while self._closers:
            try:
                self._closers.pop()()
            except Exception as error:  # noqa: BLE001 - one that will not stop must not keep the others
                errors.append(error)
        atexit.unregister(self.close)
        for point in mounts_under(self.root):
            subprocess.run([find("umount"), "-l", point], check=False, capture_output=True, timeout=30)
        if left := mounts_under(self.root):
            errors.append(HarnessError(f"still mounted: {left}"))
        else:
            shutil.rmtree(self.root, ignore_errors=True)
            if self.root.exists():
                errors.append(HarnessError(f"could not delete {self.root}"))
        if errors:
            raise ExceptionGroup("teardown of the workspace", errors)
