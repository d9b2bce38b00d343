"""The whole mirror on Azure and on Google Cloud Storage: what clients get, cold and warm, and what goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror import appclouds
from mirror.cache import passes
from mirror.commandsrun import run
from mirror.configfile import load
from mirror.drivers import gcsclient
from tests.drivers.conformance import walk
from tests.support.clouds import Cloud
from tests.support.modes import ENVIRONMENT
from tests.support.recorder import Rule
from tests.support.scripted import Fault, Image, Upstream, serve, sha256
from tests.wire.conftest import Answer, Mirror, running

NAME = "library/a"
MIB = 1 << 20
LAYER = random.Random(6).randbytes(300_000)
LARGE = random.Random(7).randbytes(9 * MIB)
DIGEST = sha256(LAYER)
PATH = f"{NAME}/blobs/{DIGEST}"
WITHIN = 60.0  # seconds

Start = Callable[..., Any]


@pytest.fixture
def image(upstream: Upstream) -> Image:
    """Two layers and a config."""
    return upstream.add_image(NAME, "1", layers=[LAYER, b"small"])


@pytest.fixture
async def start(
    tmp_path: Path, upstream: Upstream, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """A mirror of `upstream` that keeps in the cloud, by way of the proxy."""
    monkeypatch.setenv(appclouds.EMULATOR, cloud.proxy.url)
    async with serve(upstream) as url:

        def begin(
            *,
            redirect: bool = True,
            name: str = "own",
            parameters: Any = None,
            limits: Any = None,
            **options: Any,
        ) -> Any:
            storage = {
                cloud.name: {**cloud.parameters, **(parameters or {})},
                "redirect": {"disable": not redirect},
            }
            own = tmp_path / name
            return running(own, url, storage=storage, cache={"folder": str(own), **(limits or {})}, **options)

        yield begin


async def follow(mirror: Mirror, answer: Answer, **headers: str) -> Answer:
    """What a client gets that goes where it is sent."""
    if answer.status != 307:
        return answer
    async with mirror.session.get(answer.headers["Location"], headers=headers) as there:
        return Answer(there.status, there.headers, await there.read(), complete=True)


async def pull(mirror: Mirror, image: Image) -> None:
    """A client's pull: tag, manifest, blobs; all right, wherever they come from."""
    assert (await mirror.ask("HEAD", f"{NAME}/manifests/1")).headers["Docker-Content-Digest"] == image.digest
    assert (await mirror.get(f"{NAME}/manifests/{image.digest}")).body == image.manifest
    for digest, data in image.blobs.items():
        answer = await mirror.get(f"{NAME}/blobs/{digest}")
        assert (await follow(mirror, answer)).body == data


async def paths(cloud: Cloud) -> set[str]:
    """All that is kept."""
    driver = cloud.make()
    try:
        return {entry.path for entry in await walk(driver, "")}
    finally:
        await driver.close()


def wanted(image: Image, name: str = NAME) -> set[str]:
    """What registry:2 would have of it."""
    root = "docker/registry/v2"
    hexes = {digest.partition(":")[2] for digest in (image.digest, *image.blobs)}
    top = image.digest.partition(":")[2]
    return {
        *(f"{root}/blobs/sha256/{each[:2]}/{each}/data" for each in hexes),
        *(f"{root}/repositories/{name}/_layers/sha256/{each}/link" for each in hexes - {top}),
        f"{root}/repositories/{name}/_manifests/revisions/sha256/{top}/link",
        f"{root}/repositories/{name}/_manifests/tags/1/current/link",
        f"{root}/repositories/{name}/_manifests/tags/1/index/sha256/{top}/link",
    }


async def kept(mirror: Mirror, cloud: Cloud, image: Image, name: str = NAME) -> None:
    """Wait until all of it is there, and linked, and no fill of it is left to be joined."""
    async with asyncio.timeout(WITHIN):
        while not wanted(image, name) <= await paths(cloud):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await mirror.filled(*image.blobs)


async def test_a_pull_is_kept_in_distribution_s_names_and_warm_blobs_are_redirects(
    start: Start, cloud: Cloud, image: Image
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, cloud, image)
        assert await paths(cloud) == wanted(image)
        async with asyncio.timeout(WITHIN):
            while (answer := await mirror.get(PATH)).status == 200:  # the fill has not quite ended
                assert answer.body == LAYER
        assert (answer.status, answer.body) == (307, b"")
        assert answer.headers["Docker-Content-Digest"] == DIGEST
        assert answer.headers["Cache-Status"] == "mirror; hit"
        part = await follow(mirror, answer, Range="bytes=100-199")
        assert (part.status, part.body) == (206, LAYER[100:200])
        head = await mirror.ask("HEAD", PATH)
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(LAYER)))
        other = await mirror.get(f"library/other/blobs/{DIGEST}")
        assert other.status == 404, "who does not have it is not told where it is"
        await pull(mirror, image)


async def test_without_redirects_the_bytes_come_from_here_and_a_restart_needs_no_upstream(
    start: Start, cloud: Cloud, image: Image, upstream: Upstream
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, cloud, image)
    upstream.fault("GET", "", Fault(status=503))
    upstream.fault("HEAD", "", Fault(status=503))
    async with start(redirect=False, name="new") as mirror:  # also on another machine
        await pull(mirror, image)
        answer = await mirror.get(PATH)
        assert (answer.status, answer.body, answer.complete) == (200, LAYER, True)
        ranged = await mirror.get(PATH, Range="bytes=1000-1099")
        assert (ranged.status, ranged.body) == (206, LAYER[1000:1100])


async def test_a_large_blob_goes_up_while_it_comes_and_wrong_bytes_never_do(
    start: Start, cloud: Cloud, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over one connection: else another one brings the byte that is wrong in the first one's answer."""
    monkeypatch.setitem(ENVIRONMENT, "REGISTRY_CACHE_SEGMENTS_CONNECTIONS", "1")
    image = upstream.add_image(NAME, "1", layers=[LARGE])
    path = f"{NAME}/blobs/{sha256(LARGE)}"
    upstream.fault("GET", "/blobs/", Fault(flip_at=8 * MIB), times=1)
    async with start() as mirror:
        answer = await mirror.get(path)
        assert not answer.complete
        assert await paths(cloud) == set()
    assert await paths(cloud) == set()
    cloud.proxy.clear()  # now nothing of it is under way
    upstream.fault("GET", "/blobs/", Fault(stall_after=8 * MIB + 1), times=1)
    async with start(name="second", timeouts={"stall": "15s"}) as mirror:
        cold = asyncio.create_task(mirror.get(path))
        async with asyncio.timeout(WITHIN):
            while not any(exchange.end for exchange in cloud.proxy.select("PUT", cloud.part)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not {path for path in await paths(cloud) if path.endswith("/data")}
        upstream.release()
        answer = await cold
        assert (answer.status, answer.body == LARGE, answer.complete) == (200, True, True)
        await pull(mirror, image)
        await kept(mirror, cloud, image)
        assert len(cloud.proxy.select("PUT", cloud.part)) == 3, "none was sent twice"
        warm = await mirror.get(path)
        assert warm.status == 307
        assert (await follow(mirror, warm)).body == LARGE


async def test_what_is_purged_or_collected_goes_and_is_fetched_again(
    start: Start, cloud: Cloud, image: Image, upstream: Upstream
) -> None:
    other = upstream.add_image("library/b", "1", layers=[LAYER, b"only b"])
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, cloud, image)
        assert (await mirror.get("library/b/manifests/1")).body == other.manifest
        for digest in other.blobs:
            await follow(mirror, await mirror.get(f"library/b/blobs/{digest}"))
        await kept(mirror, cloud, other, "library/b")
        before = len(upstream.find())
        config = load(mirror.root.with_suffix(".yml"), {}).config
        async with asyncio.timeout(WITHIN):
            assert await asyncio.to_thread(run, config, "purge", {"what": f"{NAME}:1"}) == 0
        left = await paths(cloud)
        assert not {path for path in left if f"/{NAME}/" in path}
        assert any(DIGEST.partition(":")[2] in path and path.endswith("/data") for path in left), "b has it"
        await pull(mirror, image)
        assert len(upstream.find()) > before


async def test_the_image_used_least_lately_is_evicted_where_there_is_no_room(
    start: Start, cloud: Cloud, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "GRACE", 0.0)  # what was used a moment ago may go as well
    first = upstream.add_image(NAME, "1", layers=[LARGE])
    second = upstream.add_image("library/b", "1", layers=[LARGE[::-1]])
    async with start(limits={"maxsize": "10MiB"}) as mirror:
        await pull(mirror, first)
        await kept(mirror, cloud, first)
        assert (await mirror.get("library/b/manifests/1")).body == second.manifest
        for digest, data in second.blobs.items():
            answer = await follow(mirror, await mirror.get(f"library/b/blobs/{digest}"))
            assert answer.body == data
        hexes = [sha256(body).partition(":")[2] for body in (LARGE, LARGE[::-1])]
        async with asyncio.timeout(WITHIN):
            while True:
                names = {path.split("/")[-2] for path in await paths(cloud) if path.endswith("/data")}
                if [each in names for each in hexes] == [False, True]:
                    break
                await asyncio.sleep(0.05)
        assert (await follow(mirror, await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}"))).body == LARGE


@pytest.mark.parametrize("rule", [Rule(status=403), Rule(reset=True)], ids=str)
async def test_while_the_cloud_is_away_clients_get_what_they_ask_for(
    start: Start,
    upstream: Upstream,
    cloud: Cloud,
    image: Image,
    rule: Rule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Manifests from memory; blobs, kept or not, from the upstream, and they are not kept."""
    monkeypatch.setattr(gcsclient, "ATTEMPTS", 1)
    patient = {"max_retries": 0} if cloud.name == "azure" else {}
    async with start(freshness={"default": "1h"}, parameters=patient) as mirror:
        await pull(mirror, image)
        await kept(mirror, cloud, image)
        cloud.proxy.clear(rule)
        other = upstream.add_image(NAME, "2", layers=[LARGE])
        async with asyncio.timeout(WITHIN):
            assert (await mirror.get(f"{NAME}/manifests/1")).body == image.manifest
            assert (await mirror.get(f"{NAME}/manifests/2")).body == other.manifest
            cold = await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}")
            assert (cold.status, cold.body == LARGE, cold.complete) == (200, True, True)
            answer = await mirror.get(PATH)
            assert answer.status == 307 or answer.body == LAYER
    cloud.proxy.clear()
    assert not {path for path in await paths(cloud) if sha256(LARGE).partition(":")[2] in path}
