"""A mirror on a bucket of the tests' S3 server: `python -m tests.bench.bucket`, under a minute.

The server, the mirror and the load share one machine: the figures compare ways, not machines.
"""

from __future__ import annotations

import http.client
import random
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from tests.bench.usage import processor
from tests.bench.wrk import wrk
from tests.support.buckets import Bucket
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.scripted import Upstream, in_thread, sha256
from tests.support.swift import SwiftServer

LARGE = random.Random(1).randbytes(128 << 20)
SMALL = random.Random(2).randbytes(6000)
PIECE = 1 << 20  # bytes
SECONDS = 5


def speed(url: str) -> float:
    """MB (of 1,000,000 bytes) a second of one GET."""
    began = time.monotonic()
    with urlopen(url, timeout=120) as answer:
        while answer.read(PIECE):
            pass
    return len(LARGE) / 1e6 / (time.monotonic() - began)


def ask(mirror: MirrorProcess, path: str) -> tuple[int, str]:
    """The status, and where a redirect leads."""
    connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.headers.get("Location", "")


def start(space: Workspace, bucket: Bucket, url: str, *, redirect: bool) -> MirrorProcess:
    folder = space.folder("own")
    storage = {"s3": bucket.parameters(), "redirect": {"disable": not redirect}}
    config = {"log": {"level": "info"}, "storage": storage, "cache": {"folder": str(folder)}}
    return MirrorProcess(space, url, name="on-s3", config=config, storage=folder)


def peak(mirror: MirrorProcess) -> float:
    """MB of memory at most so far."""
    lines = Path(f"/proc/{mirror.service.process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1000


def main() -> None:
    upstream = Upstream()
    upstream.add_blob("library/a", LARGE)
    upstream.add_blob("library/a", SMALL)
    large, small = (f"/v2/library/a/blobs/{sha256(data)}" for data in (LARGE, SMALL))
    with Workspace(Path(tempfile.mkdtemp())) as space, in_thread(upstream):
        bucket = Bucket(SwiftServer(space))
        mirror = start(space, bucket, upstream.url, redirect=True)
        print(f"cold, 128 MiB: {speed(mirror.url + large):.0f} MB/s")
        began = time.monotonic()
        wait_until(lambda: ask(mirror, large)[0] == 307, "it is kept", 60)
        print(f"kept {time.monotonic() - began:.1f} s later; at most {peak(mirror):.0f} MB of memory")
        ask(mirror, small)
        wait_until(lambda: ask(mirror, small)[0] == 307, "it is kept")
        rate = wrk(mirror.url, small, connections=32, seconds=SECONDS).rate
        print(f"redirected, 32 connections: {rate:,.0f}/s")
        place = urlsplit(ask(mirror, large)[1])
        url, target = f"{place.scheme}://{place.netloc}", f"{place.path}?{place.query}"
        one = max(speed(url + target) for _ in range(2))
        four = wrk(url, target, connections=4, seconds=SECONDS).speed
        print(f"the bucket itself: {one:.0f} MB/s, 4 connections {four:.0f} MB/s")
        mirror.stop()
        mirror = start(space, bucket, upstream.url, redirect=False)
        one, before = max(speed(mirror.url + large) for _ in range(2)), processor(mirror.service.process.pid)
        load = wrk(mirror.url, large, connections=4, seconds=SECONDS)
        cost = (processor(mirror.service.process.pid) - before) / (load.bytes / 1e9)
        print(
            f"streamed: {one:.0f} MB/s, 4 connections {load.speed:.0f} MB/s, {cost:.2f} s/GB of a processor"
        )


if __name__ == "__main__":
    main()
