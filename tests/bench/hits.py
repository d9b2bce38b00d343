"""Rows of what is kept already: how many answers, how many bytes, and what a byte costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from mirror.oci.digest import Digest
from mirror.store import layout
from tests.bench import largetree
from tests.bench.figures import RIVAL, Figure, Line, Row
from tests.bench.nginx import Nginx
from tests.bench.peers import MIRROR, STATIC, Peer
from tests.bench.reading import check, get
from tests.bench.stage import FIRSTS, Stage
from tests.bench.usage import processor
from tests.bench.wrk import wrk
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import NOWHERE, HarnessError, wait_until
from tests.support.registries import Registry

MANY = 32  # connections that ask for small things
FEW = 4  # connections that ask for the large blob
WARM_ROUNDS = 4  # times that each of many images is asked for before it counts, or more, for
WARM_LEAST = 6.0  # seconds
WARMING = 240.0  # seconds for that at most
SEED = 5


def _small(which: str, stage: Stage, peer: Peer) -> Iterator[Figure]:
    image = stage.small
    stage.warm(peer, image)
    path = {"tag": image.by_tag, "digest": image.by_digest, "blob": image.layer}[which]
    load = wrk(peer.url, path, connections=MANY, seconds=stage.scale.load)
    yield Figure(f"{which}-rate", load.rate)


def _large(stage: Stage, peer: Peer) -> Iterator[Figure]:
    stage.warm(peer, stage.large)
    before = processor(peer.pid)
    load = wrk(peer.url, stage.large.layer, connections=FEW, seconds=stage.scale.load)
    yield Figure("large-speed", load.speed)
    yield Figure("large-cost", (processor(peer.pid) - before) / (load.bytes / 1e9))


def _kept(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """Programs of their own, each with so many images; the mirror's upstream is away.

    docker-registry is no proxy there: it has no upstream to ask.
    """
    for count in (*stage.scale.trees, *stage.scale.firsts):
        rates = _kept_rates if count in stage.scale.trees else _first_rate
        folder = stage.space.root / f"images-{count}"
        if not folder.exists():
            largetree.make(folder, count)
        paths = _manifests(folder)
        if peer.name == STATIC:
            nginx = Nginx(stage.space, f"nginx-kept-{count}")
            nginx.publish_files({path: _data(folder, path) for path in paths})
            yield from rates(nginx.url, count, paths, stage)
            nginx.service.stop()
            continue
        if peer.name == RIVAL:
            registry = Registry(stage.space, f"registry-kept-{count}", storage=folder)
            yield from rates(registry.url, count, paths, stage)
            registry.stop()
            continue
        name, config = f"mirror-kept-{count}", {"log": {"level": "info"}}
        mirror = MirrorProcess(stage.space, NOWHERE, name=name, config=config, storage=folder)
        try:
            surveyed = wait_for_survey(mirror, stage.scale.survey)
            for figure in rates(mirror.url, count, paths, stage):
                told = figure.value if surveyed else f"{figure.value:,.0f}, during the survey"
                yield Figure(figure.line, told)
        finally:
            mirror.stop()


def _manifests(folder: Path) -> list[str]:
    """The paths of all images that a tree has, by digest, in any order."""
    links = folder.glob("docker/registry/v2/repositories/*/*/_manifests/revisions/sha256/*")
    paths = [f"/v2/{'/'.join(link.parts[-6:-4])}/manifests/sha256:{link.name}" for link in links]
    Random(SEED).shuffle(paths)
    return paths


def _data(folder: Path, path: str) -> Path:
    return folder / layout.blob_data(Digest.parse(path.rpartition("/")[2]))


def _kept_rates(base: str, count: int, paths: list[str], stage: Stage) -> Iterator[Figure]:
    """Answers a second once all were asked for some times, at random.

    Asking for them for the first time may not take longer than WARMING: then some are still asked for the
    first time while this is measured.
    """
    check(base, paths[0], get(base, paths[0]).size, paths[0].rpartition("/")[2])
    asked, took = 0, 0.0
    while (asked < WARM_ROUNDS * len(paths) or took < WARM_LEAST) and took < WARMING:
        load = wrk(base, paths[0], connections=MANY, seconds=1, paths=paths, start=asked)
        asked, took = asked + load.requests, took + load.seconds
    load = wrk(base, paths[0], connections=MANY, seconds=stage.scale.load, paths=paths)
    yield Figure(f"kept-{count}", load.rate)


def _first_rate(base: str, count: int, paths: list[str], _stage: Stage) -> Iterator[Figure]:
    """Answers a second when each is asked for for the first time; none if that takes less than a second."""
    check(base, paths[0], get(base, paths[0]).size, paths[0].rpartition("/")[2])
    load = wrk(base, paths[1], connections=MANY, seconds=1, paths=paths, start=1)
    if load.requests < len(paths):
        yield Figure(f"first-{count}", load.rate)


def wait_for_survey(mirror: MirrorProcess, most: float) -> bool:
    """Whether it has ended in time: what goes on beside costs answers."""
    try:
        wait_until(lambda: "survey.done" in mirror.log, "survey", most, mirror.service)
    except HarnessError:
        if mirror.service.process.poll() is not None:
            raise
        return False
    return True


ROWS = [
    Row("tag", partial(_small, "tag"), [Line("tag-rate", "manifest by tag, warm, /s", "> 40,000")]),
    Row(
        "digest", partial(_small, "digest"), [Line("digest-rate", "manifest by digest, warm, /s", "> 40,000")]
    ),
    Row("blob", partial(_small, "blob"), [Line("blob-rate", "6 KB blob, warm, /s", "> 15,000")]),
    Row(
        "large",
        _large,
        [
            Line("large-speed", "256 MB blob, warm, MB/s", "> 2,300"),
            Line("large-cost", "processor seconds per GB, warm", digits=2),
        ],
    ),
]
KEPT = Row(
    "kept",
    _kept,
    [
        *[
            Line(f"kept-{count}", f"any manifest by digest, /s; images kept: {count:,}")
            for count in (1, 100, 1_000)
        ],
        Line(
            f"first-{FIRSTS}",
            f"each manifest by digest for the first time since a start, /s; images kept: {FIRSTS:,}",
        ),
    ],
    runs=1,
    only=frozenset({MIRROR, RIVAL, STATIC}),
)
