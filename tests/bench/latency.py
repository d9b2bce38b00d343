"""Rows of how long one hit takes: alone, during a large cold fill, and during an eviction.

What is on other machines in real life (the upstream, the way to it, who reads what is filled) yields the
processors to whom is measured: else a hit waits for its turn among them, whoever answers it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench import largetree
from tests.bench.figures import DIRECTLY, Figure, Line, Row
from tests.bench.peers import MIRROR, Peer
from tests.bench.reading import ACCEPT, WrongError
from tests.bench.stage import YIELDING, Stage
from tests.support.mirror_process import ROOT, MirrorProcess
from tests.support.procs import wait_until

BLOBS = "docker/registry/v2/blobs/*/*/*/data"
TIMEOUT = 30.0  # seconds for one hit
FILL = 180.0  # seconds for the large fill, after which the timing ends in any case
EVICTION = 10.0  # seconds of it that are timed at most
AGE = 3600.0  # seconds since what is kept was used
AFTER = 1.0  # seconds without another eviction: it was the last
LARGEST = 64 << 10  # bytes of an answer


def _latency(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """Hits one after the other on one connection, on a manifest by its tag."""
    stage.warm(peer, stage.small)
    end = time.monotonic() + stage.scale.sample
    idle = _hits(peer.url, stage.small.by_tag, lambda: time.monotonic() > end)
    yield from _percentiles("idle", idle)
    if peer.link is None:
        return
    image = stage.cold(peer, "fill", stage.scale.fill)
    with stage.elsewhere(), _reading(peer.url + image.layer) as reader:
        end = time.monotonic() + FILL
        busy = _hits(
            peer.url, stage.small.by_tag, lambda: reader.poll() is not None or time.monotonic() > end
        )
        if reader.poll() != 0:
            raise WrongError(f"the fill has not ended well: {reader.poll()}")
    stage.settle(peer)
    yield from _percentiles("fill", busy)
    yield Figure("fill-ratio", _percentile(busy, 99) / _percentile(idle, 99))


def _floor(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """The same of a bare event loop, beside a bare tee in the same process, and in another."""
    assert peer.link is not None, "the row is for a peer with a link"
    for where in ("same", "other"):
        image = stage.cold(peer, "fill-floor", stage.scale.fill)
        with contextlib.ExitStack() as stack:
            tees = [stack.enter_context(_tee(stage, peer.link.port)) for _ in range(1 + (where == "other"))]
            url, hits = tees[0][0], tees[-1][1]
            end = time.monotonic() + stage.scale.sample
            idle = _hits(hits, "/", lambda end=end: time.monotonic() > end)  # type: ignore[misc]
            stack.enter_context(stage.elsewhere())
            reader = stack.enter_context(_reading(url + image.layer))
            busy = _hits(hits, "/", lambda reader=reader: reader.poll() is not None)  # type: ignore[misc]
        yield Figure(f"{where}-p99", _percentile(busy, 99) * 1e3, DIRECTLY)
        yield Figure(f"{where}-ratio", _percentile(busy, 99) / _percentile(idle, 99), DIRECTLY)


@contextlib.contextmanager
def _tee(stage: Stage, upstream: int) -> Iterator[tuple[str, str]]:
    """One with an event loop: where it passes things on, and where it gives hits."""
    folder = stage.space.folder(f"tee-{time.monotonic_ns()}")
    argv = [sys.executable, "-m", "tests.bench.tee", str(upstream), str(folder), "hits"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as tee:
        assert tee.stdout is not None
        try:
            first, second = (f"http://127.0.0.1:{int(tee.stdout.readline())}" for _ in range(2))
            yield first, second
        finally:
            tee.communicate(timeout=TIMEOUT)


def _eviction(stage: Stage, _peer: Peer) -> Iterator[Figure]:
    """A mirror of its own, full; a fill of half of its limit makes much of it go."""
    folder = stage.space.folder("full")
    largetree.make(folder, stage.scale.evicted)
    _age(folder)
    limit = sum(blob.stat().st_size for blob in folder.glob(BLOBS)) + (64 << 10)
    mirror = MirrorProcess(
        stage.space,
        stage.direct.url,
        name="mirror-full",
        config={"log": {"level": "info"}, "cache": {"maxsize": limit}},
        storage=folder,
    )
    peer = Peer(f"{MIRROR}, full", mirror.url, mirror.service, stage.direct)
    try:
        wait_until(lambda: "survey.done" in mirror.log, "survey", stage.scale.survey, mirror.service)
        stage.warm(peer, stage.small)
        large = stage.cold(peer, "eviction", limit // 2)
        with stage.elsewhere(), _reading(peer.url + large.layer):
            kept, began = len(list(folder.glob(BLOBS))), time.monotonic()
            hits = _hits(peer.url, stage.small.by_tag, _evicted(mirror))
            gone, took = kept - len(list(folder.glob(BLOBS))), time.monotonic() - began
        if gone <= 0:
            raise WrongError(f"nothing was evicted within {EVICTION:g} s")
        yield from _percentiles("eviction", hits)
        yield Figure("eviction-rate", gone / took)
    finally:
        mirror.stop()


def _age(folder: Path) -> None:
    """A file's age counts as its last use, and what was used in the last minute is not evicted."""
    before = time.time() - AGE
    for path in folder.rglob("*"):
        os.utime(path, (before, before))


def _evicted(mirror: MirrorProcess) -> Callable[[], bool]:
    """Whether evictions have gone on and are over, or for long enough. Looks at the log now and then only."""
    began = looked = changed = time.monotonic()
    count = 0

    def over() -> bool:
        nonlocal looked, changed, count
        now = time.monotonic()
        if now - looked < 0.1:
            return False
        looked = now
        if (found := mirror.log.count("eviction.done")) != count:
            count, changed = found, now
        return now - began > EVICTION or (count > 0 and now - changed > AFTER)

    return over


@contextlib.contextmanager
def _reading(url: str) -> Iterator[subprocess.Popen[str]]:
    """A client in a process of its own, which has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.reading", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: os.nice(YIELDING),  # noqa: PLW1509 - no thread of ours holds anything here
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()


def _hits(base: str, path: str, over: Callable[[], bool]) -> list[float]:
    """Seconds for each of the answers until it is over."""
    address = urlsplit(base)
    request = f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: {ACCEPT['Accept']}\r\n\r\n".encode()
    took = []
    with socket.create_connection((address.hostname, address.port), TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not over():
            began = time.perf_counter()
            connection.sendall(request)
            _answer(connection)
            took.append(time.perf_counter() - began)
    if not took:
        raise WrongError("it was over before the first hit")
    return took


def _answer(connection: socket.socket) -> None:
    """Read one to its end. Raises WrongError unless it is 200 and as long as it says."""
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _some(connection, answer)
    head = answer[:end].lower()
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    if not head.startswith(b"http/1.1 200 ") or not length.strip().isdigit():
        raise WrongError(f"a hit was answered {head[:60]!r}")
    while len(answer) < end + 4 + int(length):
        answer += _some(connection, answer)


def _some(connection: socket.socket, before: bytes) -> bytes:
    got = connection.recv(LARGEST)
    if not got or len(before) > LARGEST:
        raise WrongError("an answer broke off, or has no end")
    return got


def _percentiles(what: str, took: list[float]) -> Iterator[Figure]:
    yield Figure(f"{what}-p50", statistics.median(took) * 1e3)
    yield Figure(f"{what}-p99", _percentile(took, 99) * 1e3)


def _percentile(took: list[float], share: int) -> float:
    return sorted(took)[min(len(took) * share // 100, len(took) - 1)]


def _lines(what: str, title: str) -> list[Line]:
    return [Line(f"{what}-{each}", f"hits {title}, ms, {each}", digits=2) for each in ("p50", "p99")]


ROWS = [
    Row(
        "latency",
        _latency,
        [
            *_lines("idle", "on an idle mirror"),
            *_lines("fill", "during a cold fill of 1 GB"),
            Line("fill-ratio", "p99 of hits during the fill ÷ idle", "<= 3", 1),
        ],
        runs=2,
    ),
    Row(
        "latency-floor",
        _floor,
        [
            line
            for where, title in (("same", "the same process"), ("other", "another process"))
            for line in (
                Line(
                    f"{where}-p99",
                    f"hits of a bare event loop during a bare tee's fill in {title}, ms, p99",
                    "",
                    2,
                ),
                Line(f"{where}-ratio", "the same ÷ idle", "", 1),
            )
        ],
        runs=2,
        only=frozenset({MIRROR}),
    ),
    Row(
        "eviction",
        _eviction,
        [
            *_lines("eviction", "during an eviction"),
            Line("eviction-rate", "blobs evicted a second meanwhile"),
        ],
        runs=1,
        only=frozenset({MIRROR}),
    ),
]
