"""A row of very many kept images: a few of them are asked for again and again, or any of them at random."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from mirror.store import layout
from tests.bench import thintree
from tests.bench.figures import DIRECTLY, Figure, Line, Row
from tests.bench.hits import MANY, SEED, wait_for_survey
from tests.bench.nginx import Nginx
from tests.bench.peers import MIRROR, STATIC, Peer
from tests.bench.reading import WrongError, check
from tests.bench.stage import Stage
from tests.bench.wrk import wrk
from tests.support.mirror_process import MirrorProcess
from tests.support.registries import Registry

HOT = 16  # images, of those that are asked for again and again
WARMING = 10  # seconds for which any of them are asked for before it counts
# Tags are asked of the upstream once: what is measured is how they are answered after that.
FRESH = "1h"


def _many(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """Programs of their own on one tree, which is the upstream's too: neither writes below `docker`."""
    count = stage.scale.many
    if not count:
        return
    folder = stage.space.root / "images-many"
    if not folder.exists():
        thintree.make(folder, count)
    images = list(thintree.images(count))
    Random(SEED).shuffle(images)
    digests = [f"/v2/{image.repository}/manifests/{image.digest}" for image in images]
    if peer.name == STATIC:
        yield from _static(stage, folder, images, digests)
        return
    tags = [f"/v2/{image.repository}/manifests/{image.tag}" for image in images]
    upstream = Registry(stage.space, "many-upstream", storage=folder)
    mirror = MirrorProcess(
        stage.space,
        upstream.url,
        name="mirror-many",
        config={"log": {"level": "info"}, "proxy": {"freshness": {"default": FRESH}}},
        storage=folder,
    )
    try:
        if not wait_for_survey(mirror, stage.scale.survey):
            raise WrongError(f"the survey has not ended after {stage.scale.survey:g} s")
        check(mirror.url, digests[0], len(images[0].manifest), str(images[0].digest))
        check(mirror.url, tags[0], len(images[0].manifest), str(images[0].digest))
        yield from _rates(mirror.url, stage, {"digest": digests, "tag": tags})
        for figure in _rates(upstream.url, stage, {"digest": digests, "tag": tags}):
            yield Figure(figure.line, figure.value, DIRECTLY)
    finally:
        mirror.stop()
        upstream.stop()


def _static(stage: Stage, folder: Path, images: list[thintree.Thin], digests: list[str]) -> Iterator[Figure]:
    nginx = Nginx(stage.space, "nginx-many")
    files = [folder / layout.blob_data(image.digest) for image in images]
    nginx.publish_files(dict(zip(digests, files, strict=True)))
    check(nginx.url, digests[0], len(images[0].manifest), str(images[0].digest))
    yield from _rates(nginx.url, stage, {"digest": digests})
    nginx.service.stop()


def _rates(base: str, stage: Stage, asked: dict[str, list[str]]) -> Iterator[Figure]:
    """Answers a second: of a few, and of any once all of WARMING has gone by; all are asked for at random."""
    seconds = stage.scale.load
    for name, paths in asked.items():
        hot = paths[:HOT]
        wrk(base, hot[0], connections=MANY, seconds=1, paths=hot)
        yield Figure(f"hot-{name}", wrk(base, hot[0], connections=MANY, seconds=seconds, paths=hot).rate)
        warming = min(WARMING, 5 * seconds, 1 + len(paths) // 100)  # a few are asked for at once
        wrk(base, paths[0], connections=MANY, seconds=warming, paths=paths)
        yield Figure(f"any-{name}", wrk(base, paths[0], connections=MANY, seconds=seconds, paths=paths).rate)


MANY_KEPT = Row(
    "many",
    _many,
    [
        Line(f"{what}-{name}", f"100,000 images kept: manifests by {name}, {which}, /s")
        for name in ("digest", "tag")
        for what, which in (("hot", f"{HOT} of them"), ("any", "any of them, most not asked for before"))
    ],
    runs=1,
    only=frozenset({MIRROR, STATIC}),
)
