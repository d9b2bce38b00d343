"""Rows of what is not kept yet: how long a pull takes beside one from the upstream, and what the link has."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

from tests.bench.content import Image
from tests.bench.figures import DIRECTLY, Figure, Line, Row
from tests.bench.peers import MIRROR, Peer
from tests.bench.reading import Got, WrongError, at_once, check, get
from tests.bench.stage import Stage
from tests.bench.usage import processor
from tests.support.linkprocess import Link
from tests.support.mirror_process import ROOT

ENDS = 10.0  # seconds for a process that was told to
SLOW = 20e6  # bytes a second for each connection
RANGES = 6


def _cold(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """One pull through the peer, between two from the upstream."""
    size = stage.scale.large
    image = stage.cold(peer, "cold", size)
    direct = [_whole(stage.direct.url, image)]
    before = processor(peer.pid)
    got = _whole(peer.url, image)
    stage.settle(peer)
    spent = processor(peer.pid) - before
    direct.append(
        _whole(stage.direct.url, image)
    )  # before and after: what the machine does meanwhile is in both
    seconds = statistics.mean(each.seconds for each in direct)
    _check(peer, image)
    yield Figure("cold-ratio", got.seconds / seconds)
    yield Figure("cold-speed", size / got.seconds / 1e6)
    yield Figure("cold-speed", size / seconds / 1e6, DIRECTLY)
    yield Figure("cold-first", got.first * 1e3)
    yield Figure("cold-first", statistics.mean(each.first for each in direct) * 1e3, DIRECTLY)
    yield Figure("cold-cost", spent / (size / 1e9))


def _floor(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """One pull through a bare tee in the mirror's place, between two from the upstream."""
    size, link = stage.scale.large, _link(peer)
    image = stage.cold(peer, "floor", size)
    argv = [sys.executable, "-m", "tests.bench.tee", str(link.port), str(stage.space.folder("tee"))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as tee:
        assert tee.stdout is not None
        url = f"http://127.0.0.1:{int(tee.stdout.readline())}"
        direct = [_whole(stage.direct.url, image)]
        before = processor(tee.pid)
        got = _whole(url, image)
        spent = processor(tee.pid) - before
        direct.append(_whole(stage.direct.url, image))
        tee.communicate(timeout=ENDS)
    seconds = statistics.mean(each.seconds for each in direct)
    yield Figure("floor-ratio", got.seconds / seconds, DIRECTLY)
    yield Figure("floor-cost", spent / (size / 1e9), DIRECTLY)


def _slow(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """The same where each connection to the upstream is slow; how slow, the link says exactly."""
    image = stage.cold(peer, "slow", stage.scale.large)
    link = _link(peer)
    link.shape(rate=SLOW)
    before = link.received
    try:
        got = _whole(peer.url, image)
        stage.settle(peer)
    finally:
        link.shape()
    received = link.received - before
    _check(peer, image)
    direct = stage.slow_direct(image, SLOW)
    yield Figure("slow-ratio", got.seconds / direct)
    yield Figure("slow-bytes", received / stage.scale.large)


def _crowd(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """Many clients ask for one blob at the same time."""
    image, link = stage.cold(peer, "crowd", stage.scale.large), _link(peer)
    before = link.received
    for got in at_once(peer.url, image.layer, [None] * stage.scale.crowd):
        _must(got, image)
    stage.settle(peer)
    yield Figure("crowd-bytes", (link.received - before) / stage.scale.large)
    _check(peer, image)


def _ranges(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """Several clients ask for a part each, which together are the blob."""
    size = stage.scale.large
    image, link = stage.cold(peer, "ranges", size), _link(peer)
    ends = [size * number // RANGES for number in range(RANGES + 1)]
    before = link.received
    answers = at_once(peer.url, image.layer, list(pairwise(ends)))
    stage.settle(peer)
    yield Figure("ranges-bytes", (link.received - before) / size)
    for begin, end, got in zip(ends, ends[1:], answers, strict=False):
        wanted = {206: end - begin, 200: size}.get(got.status)
        if got.size != wanted:
            raise WrongError(f"{got.status}, {got.size} bytes of {wanted}")
    yield Figure("ranges-status", " and ".join(sorted({str(got.status) for got in answers})))
    _check(peer, image)


def _whole(base: str, image: Image) -> Got:
    """Its layer, once."""
    return _must(get(base, image.layer), image)


def _must(got: Got, image: Image) -> Got:
    size = image.layers[0].size
    if (got.status, got.size) != (200, size):
        raise WrongError(f"{got.status}, {got.size} bytes of {size}")
    return got


def _check(peer: Peer, image: Image) -> None:
    """That what is kept from now on is right."""
    layer = image.layers[0]
    check(peer.url, image.layer, layer.size, str(layer.digest))


def _link(peer: Peer) -> Link:
    assert peer.link is not None, "rows that fill are for peers with a link"
    return peer.link


ROWS = [
    Row(
        "cold",
        _cold,
        [
            Line("cold-ratio", "256 MB blob, cold ÷ directly", "<= 1.2", 2),
            Line("cold-speed", "256 MB blob, cold, MB/s"),
            Line("cold-first", "256 MB blob, cold, ms to the first byte", digits=1),
            Line("cold-cost", "processor seconds per GB, cold", digits=2),
        ],
        fills=True,
    ),
    Row(
        "floor",
        _floor,
        [
            Line("floor-ratio", "256 MB blob through a bare tee that hashes and keeps ÷ directly", digits=2),
            Line("floor-cost", "processor seconds per GB of that tee", digits=2),
        ],
        fills=True,
        only=frozenset({MIRROR}),
    ),
    Row(
        "slow",
        _slow,
        [
            Line("slow-ratio", "cold ÷ directly at 20 MB/s per connection", "<= 0.35", 2),
            Line("slow-bytes", "the same: bytes from upstream ÷ size", "1.0", 3),
        ],
        runs=2,
        fills=True,
    ),
    Row(
        "crowd",
        _crowd,
        [Line("crowd-bytes", "20 cold clients: bytes from upstream ÷ size", "1.0", 2)],
        runs=1,
        fills=True,
    ),
    Row(
        "ranges",
        _ranges,
        [
            Line("ranges-bytes", "6 cold ranges: bytes from upstream ÷ size", "1.0", 2),
            Line("ranges-status", "6 cold ranges: statuses", "206"),
        ],
        runs=1,
        fills=True,
    ),
]
