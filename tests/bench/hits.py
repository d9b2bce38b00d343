"""Rows of what is kept already: how many answers, how many bytes, and what a byte costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.bench import largetree
from tests.bench.figures import Figure, Line, Row
from tests.bench.peers import MIRROR, Peer
from tests.bench.reading import check, get
from tests.bench.stage import Stage
from tests.bench.usage import processor
from tests.bench.wrk import wrk
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import NOWHERE, HarnessError, wait_until

MANY = 32  # connections that ask for small things
FEW = 4  # connections that ask for the large blob


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


def _kept(stage: Stage, _peer: Peer) -> Iterator[Figure]:
    """Mirrors of their own, with so many images each; the upstream is away."""
    for count in stage.scale.trees:
        folder = stage.space.folder(f"kept-{count}")
        largetree.make(folder, count)
        name, config = f"mirror-kept-{count}", {"log": {"level": "info"}}
        mirror = MirrorProcess(stage.space, NOWHERE, name=name, config=config, storage=folder)
        try:
            surveyed = _wait_for_survey(mirror, stage.scale.survey)
            rate = _any_of(mirror.url, _manifests(folder), stage.scale.load)
            yield Figure(f"kept-{count}", rate if surveyed else f"{rate:,.0f}, during the survey")
        finally:
            mirror.stop()


def _manifests(folder: Path) -> list[str]:
    """The paths of all images that a tree has, by digest."""
    links = folder.glob("docker/registry/v2/repositories/*/*/_manifests/revisions/sha256/*")
    return [f"/v2/{'/'.join(link.parts[-6:-4])}/manifests/sha256:{link.name}" for link in links]


def _any_of(base: str, paths: list[str], seconds: int) -> float:
    """Answers a second, each path as likely as the other, after as long a time to warm up."""
    check(base, paths[0], get(base, paths[0]).size, paths[0].rpartition("/")[2])
    wrk(base, paths[0], connections=MANY, seconds=seconds, paths=paths)
    return wrk(base, paths[0], connections=MANY, seconds=seconds, paths=paths).rate


def _wait_for_survey(mirror: MirrorProcess, most: float) -> bool:
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
        Line(f"kept-{count}", f"any manifest by digest, /s; images kept: {count:,}")
        for count in (1, 100, 1_000, 100_000)
    ],
    runs=1,
    only=frozenset({MIRROR}),
)
