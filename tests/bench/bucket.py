"""A mirror on a bucket of the tests' S3 server, and a docker-registry beside it: `make bench-s3`.

Under two minutes. The servers, the upstream and the load share one machine: the figures compare ways and
programs, not machines. The table is for docs/performance.md; with `--dry` it is printed only.
"""

from __future__ import annotations

import argparse
import http.client
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from tests.bench import document
from tests.bench.usage import processor
from tests.bench.wrk import wrk
from tests.support.buckets import Bucket
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.recorder import Recorder
from tests.support.registries import RegistryProcess
from tests.support.scripted import Upstream, in_thread, sha256
from tests.support.swift import SwiftServer

LARGE = random.Random(1).randbytes(128 << 20)
SMALL = random.Random(2).randbytes(6000)
NAME = "library/a"
PIECE = 1 << 20  # bytes
SECONDS = 3  # of each load
WITHIN = 60.0  # seconds

Process = MirrorProcess | RegistryProcess
Start = Callable[..., Process]


def speed(url: str) -> float:
    """MB (of 1,000,000 bytes) a second of one GET, redirects followed."""
    began, count = time.monotonic(), 0
    with urlopen(url, timeout=WITHIN) as answer:
        while piece := answer.read(PIECE):
            count += len(piece)
    assert count == len(LARGE), f"{url}: {count} bytes"
    return count / 1e6 / (time.monotonic() - began)


def ask(url: str, path: str) -> tuple[int, str]:
    """The status, and where a redirect leads."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WITHIN)
    connection.request("GET", path, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    answer = connection.getresponse()
    status, place = answer.status, answer.headers.get("Location", "")
    if status == 200:
        answer.read()
    connection.close()
    return status, place


@dataclass
class Peer:
    """One of the programs; `start` starts it on the bucket."""

    name: str
    start: Start


def peak(process: Process) -> float:
    """MB of memory at most so far."""
    lines = Path(f"/proc/{process.service.process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1000


def streams(url: str, path: str) -> tuple[str, float, float]:
    """As a cell, and MB a second over one connection and over four."""
    one = sorted(speed(url + path) for _ in range(3))[1]
    four = wrk(url, path, connections=4, seconds=SECONDS).speed
    return f"{one:.0f} / {four:.0f} MB/s", one, four


def measure(peer: Peer, large: str, small: str) -> dict[str, str]:
    """The column of a program."""
    found: dict[str, str] = {}
    process = peer.start(redirect=True)
    found["cold"] = f"{speed(process.url + large):.0f} MB/s"
    began = time.monotonic()
    for path in (large, small):
        wait_until(lambda path=path: ask(process.url, path)[0] == 307, "it is kept", WITHIN)  # type: ignore[misc]
    found["kept"] = f"{time.monotonic() - began:.1f} s"
    found["memory"] = f"{peak(process):.0f} MB"
    found["redirected"] = f"{wrk(process.url, small, connections=32, seconds=SECONDS).rate:,.0f}/s"
    place = urlsplit(ask(process.url, large)[1])
    base, target = f"{place.scheme}://{place.netloc}", f"{place.path}?{place.query}"
    found["directly"], one, four = streams(base, target)
    process.stop()
    process = peer.start(redirect=False)
    before = processor(process.service.process.pid)
    text, mine, ours = streams(process.url, large)
    spent = processor(process.service.process.pid) - before
    found["streamed"] = f"{text}: {mine / one:.0%} / {ours / four:.0%}"
    found["cost"] = f"{spent / (3 * len(LARGE) / 1e9 + ours * SECONDS / 1e3):.2f} s/GB"
    found["small"] = f"{wrk(process.url, small, connections=16, seconds=SECONDS).rate:,.0f}/s"
    process.stop()
    if peer.name == "mirror":
        process = peer.start(redirect=True, disk={"maxsize": "1GiB"})
        wait_until(
            lambda: ask(process.url, f"{large}?{time.monotonic_ns()}")[0] == 200, "on the disk", WITHIN
        )
        found["disk"] = streams(process.url, large)[0]
        process.stop()
    return found


def calls(start: Start, recorder: Recorder, small: str, manifest: str) -> str:
    """How many requests of the bucket requests of a client cost, when both were asked for before."""
    told = []
    for redirect in (True, False):
        process = start(redirect=redirect, url=recorder.url)
        for what, path in (("manifest", manifest), ("blob", small)):
            for _ in range(2):
                assert ask(process.url, path)[0] in (200, 307)
            recorder.clear()
            for number in range(20):
                ask(process.url, f"{path}?n={number}")
            way = "redirected" if redirect else "streamed"
            told.append(f"{what} {way}: {len(recorder.exchanges) / 20:g}")
        process.stop()
    return "; ".join(told)


TITLES = {
    "cold": "cold, 128 MiB, while it goes to the bucket",
    "kept": "until it is kept, after the client has it",
    "memory": "memory at most, until then",
    "redirected": "a kept blob, redirected, 32 connections (goal of the mirror: 5,000/s)",
    "directly": "128 MiB from the bucket itself, 1 connection / 4",
    "streamed": "the same, streamed (`storage.redirect.disable`; goal: 85 % of the bucket itself)",
    "cost": "processor time of that",
    "small": "a kept blob of 6 KB, streamed again and again, 16 connections",
    "disk": "128 MiB from the local disk before the bucket (`cache.disk`), 1 connection / 4",
    "calls": "requests of the bucket, for each request of what was asked for before",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print, and write no document")
    options = parser.parse_args()
    upstream = Upstream()
    upstream.add_blob(NAME, LARGE)
    upstream.add_blob(NAME, SMALL)
    image = upstream.add_image(NAME, "1", layers=[b"layer"])
    large, small = (f"/v2/{NAME}/blobs/{sha256(data)}" for data in (LARGE, SMALL))
    with Workspace(Path(tempfile.mkdtemp())) as space, in_thread(upstream):
        server = SwiftServer(space)
        ours, theirs = Bucket(server), Bucket(server)
        recorder = Recorder(server.url)
        space.on_close(recorder.stop)
        folder = space.folder("own")

        def mirror(*, redirect: bool, disk: Any = None, url: str | None = None) -> Process:
            storage = {"s3": ours.parameters(url), "redirect": {"disable": not redirect}}
            cache = {"folder": str(folder), "disk": disk or {}}
            config = {"log": {"level": "info"}, "storage": storage, "cache": cache}
            return MirrorProcess(space, upstream.url, name="mirror", config=config, storage=folder)

        def registry(*, redirect: bool, url: str | None = None) -> Process:
            storage = {"s3": theirs.parameters(url), "redirect": {"disable": not redirect}}
            config = {"storage": storage, "proxy": {"remoteurl": upstream.url}}
            process = RegistryProcess(space, "registry", ["docker-registry", "serve"], config)
            process.start()
            return process

        columns = {}
        manifest = f"/v2/{NAME}/manifests/{image.digest}"
        for peer in (Peer("mirror", mirror), Peer("docker-registry 2.8.2", registry)):
            try:
                found = columns[peer.name] = measure(peer, large, small)
                found["calls"] = calls(peer.start, recorder, small, manifest)
            except (AssertionError, HTTPError, OSError) as error:
                print(f"{peer.name}: {error!r}")
            print(peer.name, columns.get(peer.name), flush=True)
        rows = [
            [title, *(column.get(key, "") for column in columns.values())] for key, title in TITLES.items()
        ]
        text = document.table([document.machine(space.root), *columns], rows)
    print(text)
    if not options.dry:
        document.replace("bucket", text)


if __name__ == "__main__":
    main()
