"""A mirror on a bucket of the tests' S3 server, and a docker-registry beside it: `make bench-s3`.

Three minutes. What is compared is measured in turns, several rounds of it, and told as the median (the
least to the most). The servers, the upstream and the load share one machine: the figures compare ways and
programs, not machines. The table is for docs/performance.md; with `--dry` or `--only` it is printed only.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench import bucketmemory, document
from tests.bench.bucketstage import ITSELF, MIRROR, PEERS, RIVAL, Place, Sample, Samples, Stage
from tests.bench.content import Image
from tests.bench.reading import WrongError, get
from tests.bench.usage import memory, processor
from tests.bench.wrk import MissingError, wrk
from tests.support.procs import HarnessError, Workspace, wait_until
from tests.support.recorder import Recorder

LARGE, SMALL = 128 << 20, 6 << 10  # bytes
COLD_ROUNDS = 4
ONE_ROUNDS = 6  # of a single stream
FOUR_ROUNDS = 4
SECONDS = 2  # of each load
WITHIN = 60.0  # seconds


def cold(stage: Stage) -> Iterator[Sample]:
    """The first request of a process, and the next one; each time of what the bucket has not."""
    image = stage.image("cold", LARGE, LARGE)
    first, later = map(image.blob, image.layers)
    ratios: dict[str, dict[str, float]] = {"cold-first": {}, "cold-later": {}}
    for number in range(COLD_ROUNDS):
        for who in PEERS if number % 2 else reversed(PEERS):
            place = stage.place()
            process = stage.start(who, place, redirect=True)
            try:
                for line, blob, path in zip(ratios, image.layers, (first, later), strict=True):
                    ratios[line][who] = _speed(process.url, path)
                    yield Sample(line, who, ratios[line][who])
                    yield Sample("kept", who, stage.wait_kept(place, image, blob, within=WITHIN))
                yield Sample("memory", who, memory(process.service.process.pid) / 1e6)
            finally:
                process.stop()
        yield Sample("cold-later", ITSELF, _speed(stage.links[ITSELF].url, later))
        for line, speeds in ratios.items():
            yield Sample(f"{line}-ratio", MIRROR, speeds[MIRROR] / speeds[RIVAL])


def streams(stage: Stage) -> Iterator[Sample]:
    """One object through both programs, and without them."""
    image, place = stage.image("streamed", LARGE), stage.place()
    base, target = _keep(stage, place, image)
    started = {who: stage.start(who, place, redirect=False) for who in PEERS}
    ways = {ITSELF: (base, target)} | {who: (each.url, image.layer) for who, each in started.items()}
    spent = dict.fromkeys(PEERS, 0.0)
    passed = dict.fromkeys(PEERS, 0.0)  # GB
    try:
        for line, rounds, speed in (("one", ONE_ROUNDS, _speed), ("four", FOUR_ROUNDS, _speed_of_four)):
            for number in range(rounds):
                found: dict[str, float] = {}
                for who, (url, path) in ways.items() if number % 2 else reversed(ways.items()):
                    before = processor(started[who].service.process.pid) if who in started else 0.0
                    began = time.monotonic()
                    found[who] = speed(url, path)
                    yield Sample(line, who, found[who])
                    if who in started:
                        passed[who] += found[who] * (time.monotonic() - began) / 1e3
                        spent[who] += processor(started[who].service.process.pid) - before
                for who in PEERS:
                    yield Sample(f"{line}-share", who, 100 * found[who] / found[ITSELF])
        for who in PEERS:
            yield Sample("cost", who, spent[who] / passed[who])
    finally:
        for process in started.values():
            process.stop()


def hits(stage: Stage) -> Iterator[Sample]:
    """What is small, or redirected, or on the local disk; and what requests of clients cost the bucket."""
    image, place = stage.image("hits", LARGE, SMALL), stage.place()
    large, small = map(image.blob, image.layers)
    _keep(stage, place, image)
    for who in PEERS:
        process = stage.start(who, place, redirect=True)
        yield Sample("redirected", who, _rate(process.url, small, 32))
        process.stop()
        process = stage.start(who, place, redirect=False)
        yield Sample("small", who, _rate(process.url, small, 16))
        process.stop()
    process = stage.start(MIRROR, place, redirect=True, disk={"maxsize": "1GiB"})
    wait_until(lambda: _ask(process.url, f"{large}?{time.monotonic_ns()}")[0] == 200, "on the disk", WITHIN)
    yield Sample(
        "disk", MIRROR, f"{_speed(process.url, large):.0f} / {_speed_of_four(process.url, large):.0f}"
    )
    process.stop()
    recorder = Recorder(stage.server.url)
    try:
        for who in PEERS:
            yield Sample("calls", who, _calls(stage, who, place, recorder, image, small))
    finally:
        recorder.stop()


def _keep(stage: Stage, place: Place, image: Image) -> tuple[str, str]:
    """Let the mirror keep an image; where its first layer is in the bucket."""
    process = stage.start(MIRROR, place, redirect=True)
    for path in (*map(image.blob, image.layers), image.by_digest):
        get(process.url, path)
    stage.wait_kept(place, image, *image.layers, within=WITHIN)
    wait_until(lambda: _ask(process.url, image.layer)[0] == 307, "it is kept", WITHIN)
    found = urlsplit(_ask(process.url, image.layer)[1])
    process.stop()
    return f"{found.scheme}://{found.netloc}", f"{found.path}?{found.query}"


def _calls(stage: Stage, who: str, place: Place, recorder: Recorder, image: Image, small: str) -> str:
    """How many requests of the bucket requests of a client cost, when both were asked for before."""
    told = []
    for redirect in (True, False):
        process = stage.start(who, place, redirect=redirect, url=recorder.url)
        for what, path in (("manifest", image.by_digest), ("blob", small)):
            for _ in range(2):
                if (status := _ask(process.url, path)[0]) not in (200, 307):
                    raise WrongError(f"{path}: {status}")
            recorder.clear()
            for number in range(20):
                _ask(process.url, f"{path}?n={number}")
            way = "redirected" if redirect else "streamed"
            told.append(f"{what} {way}: {len(recorder.exchanges) / 20:g}")
        process.stop()
    return "; ".join(told)


def _speed(url: str, path: str) -> float:
    """MB (of 1,000,000 bytes) a second of one GET."""
    got = get(url, path)
    if (got.status, got.size) != (200, LARGE):
        raise WrongError(f"{url}: {got.status}, {got.size} bytes")
    return got.size / 1e6 / got.seconds


def _speed_of_four(url: str, path: str) -> float:
    return wrk(url, path, connections=4, seconds=SECONDS).speed


def _rate(url: str, path: str, connections: int) -> float:
    """Answers a second; 0 where none came in the time."""
    try:
        return wrk(url, path, connections=connections, seconds=SECONDS).rate
    except WrongError as error:
        if "of 0" not in str(error):
            raise
        return 0.0


def _ask(url: str, path: str) -> tuple[int, str]:
    """The status, and where a redirect leads."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WITHIN)
    connection.request("GET", path, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    answer = connection.getresponse()
    status, place = answer.status, answer.headers.get("Location", "")
    if status == 200:
        answer.read()
    connection.close()
    return status, place


# By what they are called: title, and form.
LINES = {
    "cold-first": ("cold, 128 MiB, the first request of a process, MB/s", "{:.0f}"),
    "cold-first-ratio": ("the same ÷ docker-registry, of each round", "{:.2f}"),
    "cold-later": ("cold, 128 MiB, the next request, MB/s", "{:.0f}"),
    "cold-later-ratio": ("the same ÷ docker-registry, of each round", "{:.2f}"),
    "kept": ("until it is kept, after the client has it, s", "{:.1f}"),
    "memory": ("memory after these two (PSS), MB", "{:.0f}"),
    "one": ("128 MiB streamed (`storage.redirect.disable`), 1 connection, MB/s", "{:.0f}"),
    "one-share": ("the same, % of the bucket itself in each round (goal: 85)", "{:.0f}"),
    "four": ("the same over 4 connections, MB/s", "{:.0f}"),
    "four-share": ("the same, % of the bucket itself in each round (goal: 85)", "{:.0f}"),
    "cost": ("processor time of what was streamed, s/GB", "{:.2f}"),
    "redirected": ("a kept blob, redirected, 32 connections, /s (goal of the mirror: 5,000)", "{:,.0f}"),
    "small": ("a kept blob of 6 KB, streamed again and again, 16 connections, /s", "{:,.0f}"),
    "disk": (
        "128 MiB from the local disk before the bucket (`cache.disk`), 1 connection / 4, MB/s",
        "",
    ),
    "calls": ("requests of the bucket, for each request of what was asked for before", ""),
    "many": ("100 cold blobs of 4 MiB and 20 of 32 MiB at once: memory at most (PSS), MB", "{:.0f}"),
    "many-more": ("the same, more than before it", "{:.0f}"),
    "many-seconds": ("seconds until all clients had theirs", "{:.1f}"),
}
PARTS: dict[str, Callable[[Stage], Iterator[Sample]]] = {
    "cold": cold,
    "streams": streams,
    "hits": hits,
    "memory": bucketmemory.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print, and write no document")
    parser.add_argument("--only", metavar="PART,…", help=f"of {', '.join(PARTS)}; printed only")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(PARTS)
    samples, load = Samples(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="mirror-logs-") as logs, Workspace(Path(logs)) as space:
        stage = Stage(space)
        for part in wanted:
            began = time.monotonic()
            try:
                for sample in PARTS[part](stage):
                    samples.add(sample)
                    print(f"{sample.line:18} {sample.who:28} {sample.value}", flush=True)
            except (WrongError, MissingError, HarnessError, OSError, subprocess.SubprocessError) as error:
                print(f"{part}: {error!r}")
            print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
        columns = (*PEERS, ITSELF)
        rows = [
            [title, *(samples.cell(line, who, form) for who in columns)]
            for line, (title, form) in LINES.items()
        ]
        text = document.table([document.machine(space.root), *columns], rows)
    print(f"{text}\nload {load:.1f} then, {os.getloadavg()[0]:.1f} now")
    if not (options.dry or options.only):
        document.replace("bucket", text)


if __name__ == "__main__":
    main()
