"""The whole mirror with its fast lane warm: what changes is seen as without it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mirror.commandsask import operate
from tests.support.scripted import Upstream, serve, sha256
from tests.support.waiting import PATIENCE
from tests.wire.conftest import Clock, Mirror, running

NAME = "library/a"
TAG = f"{NAME}/manifests/1"
SETTINGS: dict[str, Any] = {"freshness": {"default": "60s"}, "negative": "10s"}
WARM = 4  # requests of a kind: cold, warm, kept for repetition, repeated


async def warm(mirror: Mirror, *paths: str) -> None:
    """Ask so often that the answers are repeated from now on, once all is kept."""
    assert (await mirror.get(TAG)).status == 200
    await mirror.tagged(NAME, "1")
    for path in paths:
        async with asyncio.timeout(PATIENCE):
            while not (await mirror.get(path)).headers["Cache-Status"].startswith("mirror; hit"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for method in ("GET", "HEAD"):
            for _ in range(WARM):
                assert (await mirror.ask(method, path)).status == 200


async def test_a_moved_tag_is_seen_when_its_freshness_ends(tmp_path: Path, upstream: Upstream) -> None:
    """Not later, by GET and by HEAD; what it pointed to is still there by its digest."""
    old = upstream.add_image(NAME, "1")
    clock = Clock()
    async with serve(upstream) as url, running(tmp_path / "data", url, clock=clock, **SETTINGS) as mirror:
        by_digest = f"{NAME}/manifests/{old.digest}"
        await warm(mirror, TAG, by_digest)
        new = upstream.add_image(NAME, "1", layers=[b"another"])
        clock.pass_(59)
        answer = await mirror.get(TAG)
        assert answer.body == old.manifest
        assert answer.headers["Cache-Status"] == "mirror; hit; ttl=1"
        clock.pass_(1)
        assert (await mirror.ask("HEAD", TAG)).headers["Docker-Content-Digest"] == new.digest
        assert (await mirror.get(TAG)).body == new.manifest
        assert (await mirror.get(by_digest)).body == old.manifest


async def test_a_tag_that_is_gone_is_refused_when_its_freshness_ends(
    tmp_path: Path, upstream: Upstream
) -> None:
    """As soon as the upstream has said so."""
    upstream.add_image(NAME, "1")
    clock = Clock()
    async with serve(upstream) as url, running(tmp_path / "data", url, clock=clock, **SETTINGS) as mirror:
        await warm(mirror, TAG)
        upstream.repository(NAME).tags.clear()
        clock.pass_(60)
        assert (await mirror.get(TAG)).status == 404
        assert (await mirror.ask("HEAD", TAG)).status == 404


async def test_what_is_purged_is_fetched_again(tmp_path: Path, upstream: Upstream) -> None:
    """The next request finds nothing kept: manifest and blob."""
    layer = b"a small layer"
    image = upstream.add_image(NAME, "1", layers=[layer])
    async with serve(upstream) as url, running(tmp_path / "data", url, **SETTINGS) as mirror:
        blob = f"{NAME}/blobs/{sha256(layer)}"
        await warm(mirror, TAG, f"{NAME}/manifests/{image.digest}", blob)
        upstream.seen.clear()
        events = await asyncio.to_thread(
            lambda: list(
                operate(
                    mirror.root / "mirror" / "control.sock",
                    "purge",
                    {"what": f"{urlsplit(url).netloc}/{NAME}"},
                )
            )
        )
        assert events[-1]["images"] == 1
        assert upstream.lines() == []
        assert (await mirror.get(f"{NAME}/manifests/{image.digest}")).body == image.manifest
        assert (await mirror.get(blob)).body == layer
        assert [line.split()[0] for line in upstream.lines()] == ["GET", "GET"]
