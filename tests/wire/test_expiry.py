"""What expires in one repository stays whole in another: never 200 with nothing in it, as registry:2 has it.

There a blob that two repositories share goes with the first of them that expires, and the memory of its size
answers for the other (distribution/distribution#2367).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from mirror import appkeeping
from mirror.cache import keeper, passes
from mirror.cache.surveyor import Surveyor
from mirror.cache.wallclock import WallClock
from tests.support.scripted import Image, Upstream, serve
from tests.wire.conftest import Clock, Mirror, running

TTL = 1  # seconds; the least that there is
WAIT = 60.0  # seconds for what comes within a second
SHARED = b"shared" * 50_000
ROUNDS = 2


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """A keeper that looks all the time, and spares nothing."""
    with mock.patch.object(keeper, "PASS", 0.05), mock.patch.object(passes, "GRACE", 0.0):
        yield


@pytest.fixture
def twins(upstream: Upstream) -> dict[str, Image]:
    """Two images that share a layer, in two repositories."""
    return {
        name: upstream.add_image(name, "1", layers=[SHARED, name.encode()])
        for name in ("library/a", "library/b")
    }


async def pull(mirror: Mirror, name: str, image: Image) -> None:
    """An image, as a client does; all of it has to be right, and HEAD has to agree with GET."""
    assert (await mirror.get(f"{name}/manifests/1")).body == image.manifest
    for digest, data in image.blobs.items():
        path = f"{name}/blobs/{digest}"
        head, got = await mirror.ask("HEAD", path), await mirror.get(path)
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))
        assert (got.status, got.complete, got.body) == (200, True, data)


async def until_gone(mirror: Mirror, name: str, alive: str, image: Image) -> None:
    """Pull the living image without end, until the other repository is gone."""
    folder = mirror.root / "docker/registry/v2/repositories" / name
    async with asyncio.timeout(WAIT):
        while folder.exists():
            await pull(mirror, alive, image)


async def test_a_blob_that_expires_in_one_repository_is_whole_in_another(
    tmp_path: Path, upstream: Upstream, twins: dict[str, Image]
) -> None:
    async with (
        serve(upstream) as url,
        running(tmp_path / "data", url, ttl=f"{TTL}s") as mirror,
    ):
        for dying, living in [("library/a", "library/b"), ("library/b", "library/a")] * ROUNDS:
            await pull(mirror, dying, twins[dying])
            await pull(mirror, living, twins[living])
            await until_gone(mirror, dying, living, twins[living])
            await pull(mirror, living, twins[living])


async def test_what_lives_is_served_without_its_upstream_when_its_twin_has_expired(
    tmp_path: Path, upstream: Upstream, twins: dict[str, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that is moved: on a busy machine a second may pass between two pulls, and both expire."""
    clock = Clock()
    monkeypatch.setattr(appkeeping, "WallClock", lambda: WallClock(clock, clock))
    monkeypatch.setattr(appkeeping, "Surveyor", partial(Surveyor, clock=clock))
    async with serve(upstream) as url, running(tmp_path / "data", url, clock=clock, ttl=f"{TTL}s") as mirror:
        for name, image in twins.items():
            await pull(mirror, name, image)
            await mirror.linked(name, image.digest, *image.blobs)
        clock.pass_(TTL * 0.7)
        await pull(mirror, "library/b", twins["library/b"])
        clock.pass_(TTL * 0.7)
        await until_gone(mirror, "library/a", "library/b", twins["library/b"])
        asked = len(upstream.find("GET", "/blobs/"))
        assert asked == len({*twins["library/a"].blobs, *twins["library/b"].blobs})
        await pull(mirror, "library/b", twins["library/b"])
        assert len(upstream.find("GET", "/blobs/")) == asked


async def test_a_blob_whose_data_went_behind_the_mirrors_back_is_fetched_again(
    tmp_path: Path, upstream: Upstream, twins: dict[str, Image]
) -> None:
    async with serve(upstream) as url, running(tmp_path / "data", url, ttl="1h") as mirror:
        for name, image in twins.items():
            await pull(mirror, name, image)
        for digest in twins["library/a"].blobs:
            await mirror.kept(digest)
            await asyncio.to_thread(mirror.data(digest).unlink)
        for name, image in twins.items():
            await pull(mirror, name, image)
