"""The mirror as a process: how it starts, what it says when it cannot, how it stops."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mirror_process import ROOT, MirrorProcess
from tests.support.procs import Workspace, accepts, wait_until
from tests.support.scripted import Fault, Upstream, in_thread

NAME = "library/a"
LAYER = random.Random(9).randbytes(2_000_000)
START_LIMIT = 30.0  # seconds


def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`mirror ARGS` to its end, with no other REGISTRY_ variables."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
    return subprocess.run(
        [sys.executable, "-m", "mirror", *args],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=START_LIMIT,
        check=False,
    )


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    with in_thread(upstream):
        yield upstream


class Download(threading.Thread):
    """One GET of a blob; `got` grows while it runs."""

    def __init__(self, mirror: MirrorProcess, digest: str) -> None:
        super().__init__()
        self.got = b""
        self.failed = False
        self._connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=START_LIMIT)
        self._path = f"/v2/{NAME}/blobs/{digest}"
        self.start()

    def run(self) -> None:
        try:
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            while piece := response.read1(100_000):
                self.got += piece
            self.failed = len(self.got) != int(response.headers["Content-Length"])
        except (OSError, http.client.HTTPException):
            self.failed = True
        finally:
            self._connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_transfers_end_and_takes_no_new_ones(
    space: Workspace, upstream: Upstream, number: signal.Signals
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(stall_after=1_000_000))
    mirror = MirrorProcess(space, upstream.url, config={"http": {"draintimeout": "60s"}})
    download = Download(mirror, digest)
    wait_until(lambda: len(download.got) > 0, "the download has begun")
    mirror.service.process.send_signal(number)
    wait_until(lambda: "mirror.stopping" in mirror.log, "the mirror is stopping")
    wait_until(lambda: not accepts(mirror.port), "no new client is let in")  # a moment after the line
    assert download.is_alive()
    upstream.clear_faults()
    upstream.release()
    assert mirror.service.process.wait(START_LIMIT) == 0
    download.join()
    assert download.got == LAYER
    assert mirror.blob_file(digest).read_bytes() == LAYER


def test_with_a_draintimeout_of_0_a_stop_waits_for_nobody_and_the_rest_comes_after_the_restart(
    space: Workspace, upstream: Upstream
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(stall_after=1_000_000), times=1)
    mirror = MirrorProcess(space, upstream.url, config={"http": {"draintimeout": "0s"}})
    download = Download(mirror, digest)
    wait_until(lambda: len(download.got) >= 1_000_000, "the download has begun")
    assert mirror.stop() == 0
    download.join()
    assert download.failed
    upstream.seen.clear()
    mirror.start()
    again = Download(mirror, digest)
    again.join()
    assert again.got == LAYER
    assert upstream.find("GET", "/blobs/")[0].headers["Range"] == "bytes=1000000-"
    mirror.stop()


def test_a_stop_waits_no_longer_than_the_draintimeout(space: Workspace, upstream: Upstream) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(stall_after=1_000_000))
    mirror = MirrorProcess(space, upstream.url, config={"http": {"draintimeout": "3s"}})
    download = Download(mirror, digest)
    wait_until(lambda: len(download.got) > 0, "the download has begun")
    began = time.monotonic()
    mirror.service.process.terminate()
    assert mirror.service.process.wait(START_LIMIT) == 0
    assert 2.5 < time.monotonic() - began < 25.0, "the upstream would be waited for for 30 s"
    download.join()
    assert download.failed


def test_a_second_signal_does_not_wait(space: Workspace, upstream: Upstream) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(stall_after=1_000_000))
    mirror = MirrorProcess(space, upstream.url, config={"http": {"draintimeout": "1h"}})
    download = Download(mirror, digest)
    wait_until(lambda: len(download.got) > 0, "the download has begun")
    mirror.service.process.terminate()
    wait_until(lambda: "mirror.stopping" in mirror.log, "the mirror is stopping")
    mirror.service.process.terminate()
    assert mirror.service.process.wait(START_LIMIT) == 128 + signal.SIGTERM
    download.join()


def test_without_a_file_it_mirrors_docker_hub_from_data_on_port_5000(tmp_path: Path) -> None:
    printed = run("config", cwd=tmp_path)
    assert printed.returncode == 0
    for line in ("remoteurl: https://registry-1.docker.io", f"{tmp_path}/data", ":5000"):
        assert line in printed.stdout
    assert printed.stderr == ""


def test_a_bare_file_is_served_and_the_variable_names_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("version: 0.1\nhttp: {addr: nowhere}\n")
    for args, env in (
        (["plain"], {}),
        (["serve", "plain"], {}),
        (["serve"], {"REGISTRY_CONFIGURATION_PATH": "plain"}),
    ):
        done = run(*args, cwd=tmp_path, **env)
        assert done.returncode == 1
        assert "plain:2: http.addr: " in done.stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"REGISTRY_HTTP_ADDR": "192.0.2.1:5000"}, ("http.addr", "192.0.2.1:5000", "No network interface")),
        ({"REGISTRY_HTTP_ADDR": "nohost.invalid:5000"}, ("http.addr", "nohost.invalid", "has no address")),
        (
            {"REGISTRY_HTTP_ADDR": "127.0.0.1:0", "REGISTRY_HTTP_DEBUG_ADDR": "192.0.2.1:5001"},
            ("http.debug.addr", "192.0.2.1:5001", "No network interface"),
        ),
        ({"REGISTRY_HTTP_DEBUG_PROMETHEUS_PATH": "m"}, ("http.debug.prometheus.path", "'m'", "/metrics")),
        ({"REGISTRY_HEALTH_TCP": "[{addr: x}]"}, ("health.tcp[0].addr", "HOST:PORT")),
        ({"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/proc/mirror"}, ("rootdirectory", "/proc/mirror")),
        (
            {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/sys/fs"},
            ("rootdirectory", "/sys/fs", "cannot write"),
        ),
        ({"REGISTRY_LOG_LEVEL": "loud"}, ("REGISTRY_LOG_LEVEL", "loud", "debug")),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_what_cannot_start_says_why_and_exits_with_1(
    tmp_path: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    done = run("serve", cwd=tmp_path, **env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", cwd=tmp_path, REGISTRY_HTTP_ADDR=address)
    assert done.returncode == 1
    assert f"cannot listen on {address}: Address already in use" in done.stderr


def test_garbage_collect_needs_its_configuration_and_a_registry(tmp_path: Path) -> None:
    done = run("garbage-collect", "--delete-untagged", "config.yml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "mirror: config.yml: cannot be read: No such file or directory\n",
    )
    done = run("garbage-collect", cwd=tmp_path)
    assert done.returncode == 1
    assert f"nothing of a registry is in {tmp_path}/data: " in done.stderr
    assert list(tmp_path.iterdir()) == []
