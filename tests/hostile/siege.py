"""A mirror that has an image, somebody who harms it, and a client that means well and is timed."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.certificates import self_signed
from tests.support.mirror_process import ROOT, MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.scripted import Image, Upstream, sha256

LARGE = 64 << 20  # bytes of the layer that nobody reads
READY = 60.0  # seconds that an attack has to be what it is
PACE = 0.002  # seconds between two requests of the client that is timed
FRESH = 10  # requests on one connection of his
NAME = "library/a"


@cache
def _unchecked() -> ssl.SSLContext:
    """Made once: to read the system's CAs takes longer than a handshake."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of the requests of one client, each answered rightly."""

    found: list[float]

    def share(self, part: float) -> float:
        """The time within which this part of them was answered."""
        return sorted(self.found)[min(len(self.found) - 1, int(part * len(self.found)))]


@dataclass(frozen=True, slots=True)
class Town:
    """The mirror, and what it has."""

    mirror: MirrorProcess
    image: Image
    tls: bool

    @property
    def large(self) -> str:
        return f"/v2/{NAME}/blobs/{sha256(self.image.layers[0])}"

    @property
    def paths(self) -> tuple[str, ...]:
        """What is asked: once by the fast lane, and twice, changed at each request, by the handlers."""
        return f"/v2/{NAME}/manifests/1", f"/v2/{NAME}/manifests/{self.image.digest}", "/v2/"

    def connect(self) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection("127.0.0.1", self.mirror.port, timeout=30)
        return http.client.HTTPSConnection("127.0.0.1", self.mirror.port, timeout=30, context=_unchecked())

    def memory(self) -> int:
        """Bytes of it that are in use now."""
        status = Path(f"/proc/{self.mirror.service.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def times(self, seconds: float) -> Times:
        """Of one client, one request after the other, a tenth of them on a new connection."""
        found: list[float] = []
        end, number = time.monotonic() + seconds, 0
        connection = self.connect()
        while time.monotonic() < end:
            path = self.paths[number % 3]
            number += 1
            headers = {"X-Number": str(number)} if number % 2 else {}
            began = time.perf_counter()
            if not number % FRESH:
                connection.close()
                connection = self.connect()
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            found.append(time.perf_counter() - began)
            assert answer.status == 200, f"{path}: {answer.status}"
            assert body == (b"{}" if path == "/v2/" else self.image.manifest)
            time.sleep(PACE)
        connection.close()
        return Times(found)


@contextmanager
def town(
    space: Workspace, upstream: Upstream, name: str, *, tls: bool = False, **limits: Any
) -> Iterator[Town]:
    """A mirror process that keeps the image of `upstream`, and trusts no proxy."""
    image = upstream.add_image(NAME, "1", layers=[bytes(LARGE)])
    http_section: dict[str, Any] = {"trustedproxies": [], "limits": limits}
    if tls:
        certificate, key = self_signed(space.folder(f"{name}-tls"), "server")
        http_section["tls"] = {"certificate": str(certificate), "key": str(key)}
    config = {
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "http": http_section,
        "proxy": {"freshness": {"default": "1h"}},
    }
    mirror = MirrorProcess(space, upstream.url, name=name, config=config)
    try:
        made = Town(mirror, image, tls)
        for path in (*made.paths, *(f"/v2/{NAME}/blobs/{digest}" for digest in image.blobs)):
            connection = made.connect()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            connection.close()
        wait_until(lambda: mirror.blob_file(sha256(image.layers[0])).exists(), "the layer is kept")
        made.times(1)
        yield made
    finally:
        mirror.stop()


@contextmanager
def besieged(made: Town, attack: str, count: int, rate: float) -> Iterator[None]:
    """While the block runs, the attack goes on."""
    argv = [sys.executable, "-m", "tests.hostile.attacks", attack, str(made.mirror.port)]
    argv += [str(count), str(rate), made.large, "tls" if made.tls else "plain"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", process.stderr.read()
            yield
        finally:
            process.stdin.close()
            try:
                process.wait(READY)
            except subprocess.TimeoutExpired:
                process.kill()
        failed = process.stderr.read()
        assert process.returncode == 0, failed
