"""The mirror on registry:2's `storage.swift`: what docker-registry left there, and the way back to it."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mirror.commandsrun import run
from mirror.configfile import load
from tests.support.keystone import START, KeystoneServer
from tests.support.procs import Workspace, free_port
from tests.support.registries import Registry
from tests.support.scripted import Image, Upstream, serve, sha256
from tests.support.swift import ACCESS_KEY, SECRET_KEY, SwiftServer
from tests.wire.conftest import Mirror, running
from tests.wire.test_s3 import follow

NAME = "library/a"
MIB = 1 << 20
LARGE = random.Random(8).randbytes(6 * MIB)  # more than one part
WITHIN = 60.0  # seconds

pytestmark = pytest.mark.timeout(START)

once = pytest.mark.parametrize("each_mode", ["quick"], indirect=True)


def section(swift: SwiftServer, container: str) -> dict[str, Any]:
    """registry:2's, with a login of Swift's own."""
    return {
        "authurl": f"{swift.url}/auth/v1.0",
        "username": ACCESS_KEY,
        "password": SECRET_KEY,
        "container": container,
        "chunksize": 5 * MIB,
        "prefix": "mirrors/hub",
    }


async def every(url: str, session: aiohttp.ClientSession, digests: set[str]) -> None:
    """Each is there, and right: a kept blob may be a redirect."""
    for digest in digests:
        async with session.get(f"{url}/v2/{NAME}/blobs/{digest}") as answer:
            assert (answer.status, sha256(await answer.read())) == (200, digest)


async def manifest(url: str, session: aiohttp.ClientSession, reference: str, image: Image) -> bytes:
    accept = {"Accept": json.loads(image.manifest)["mediaType"]}
    async with session.get(f"{url}/v2/{NAME}/manifests/{reference}", headers=accept) as answer:
        return await answer.read()


async def command(mirror: Mirror, operation: str) -> int:
    config = load(mirror.root.with_suffix(".yml"), {}).config
    async with asyncio.timeout(WITHIN):
        return await asyncio.to_thread(run, config, operation, {})


async def settled(swift: SwiftServer, container: str, digests: set[str], folder: str) -> None:
    """Wait until all are linked."""
    wanted = {digest.partition(":")[2] for digest in digests}
    async with asyncio.timeout(WITHIN):
        while True:
            names = await asyncio.to_thread(swift.names, container, folder)
            linked = {name.split("/")[-2] for name in names if name.endswith("/link")}
            data = {name.split("/")[-2] for name in names if name.endswith("/data")}
            if wanted <= linked and wanted <= data:
                return
            await asyncio.sleep(0.05)


@once
async def test_a_container_of_docker_registry_is_taken_over_and_given_back(
    tmp_path: Path,
    space: Workspace,
    swift: SwiftServer,
    upstream: Upstream,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It writes blobs in segments, of which listings say that they are empty."""
    storage = {"swift": section(swift, "takeover")}
    old = upstream.add_image(NAME, "1", layers=[b"small", LARGE])
    new = upstream.add_image(NAME, "2", layers=[b"new", LARGE[::-1]])
    own = tmp_path / "own"
    async with serve(upstream) as url, aiohttp.ClientSession() as session:
        registry = await asyncio.to_thread(
            Registry, space, "hub", proxy_of=url, config={"storage": {**storage, "delete": {"enabled": True}}}
        )
        await every(registry.url, session, {*old.blobs})
        assert await manifest(registry.url, session, "1", old) == old.manifest
        await settled(swift, "takeover", {old.digest, *old.blobs}, "mirrors/hub/files/")
        await asyncio.to_thread(registry.stop)
        blobs = await asyncio.to_thread(swift.names, "takeover", "mirrors/hub/segments/")
        assert len(blobs) >= 3, "it is in segments"

        upstream.seen.clear()
        options: dict[str, Any] = {"storage": storage, "cache": {"folder": str(own)}}
        async with running(own, url, freshness={"default": "1h"}, **options) as mirror:
            assert (await mirror.get(f"{NAME}/manifests/{old.digest}")).body == old.manifest
            for digest, data in old.blobs.items():
                found = await follow(mirror, await mirror.get(f"{NAME}/blobs/{digest}"))
                assert (found.status, found.body == data) == (200, True)
                assert (await mirror.ask("HEAD", f"{NAME}/blobs/{digest}")).headers["Content-Length"] == str(
                    len(data)
                )
            assert [line for line in upstream.lines() if "blobs" in line] == []
            assert await command(mirror, "verify") == 0
            assert "4 blobs read" in capsys.readouterr().out
            assert await command(mirror, "garbage-collect") == 0
            assert (await mirror.get(f"{NAME}/manifests/2")).body == new.manifest
            for digest in new.blobs:
                await follow(mirror, await mirror.get(f"{NAME}/blobs/{digest}"))
            await settled(swift, "takeover", {new.digest, *new.blobs}, "mirrors/hub/files/")

    back = await asyncio.to_thread(Registry, space, "back", config={"storage": storage})
    async with aiohttp.ClientSession() as session:
        await every(back.url, session, {*old.blobs, *new.blobs})
        for image in (old, new):
            assert await manifest(back.url, session, image.digest, image) == image.manifest
    await asyncio.to_thread(back.stop)


@once
async def test_with_a_login_of_keystone_s_a_pull_is_kept_and_found_again(
    tmp_path: Path, keystone: KeystoneServer, upstream: Upstream
) -> None:
    image = upstream.add_image(NAME, "1", layers=[b"small", LARGE])
    await asyncio.to_thread(keystone.make_container, "wire")
    cache = {"folder": str(tmp_path / "own")}
    options: dict[str, Any] = {"storage": {"swift": keystone.parameters("wire")}, "cache": cache}
    async with serve(upstream) as url:
        async with running(tmp_path / "own", url, **options) as mirror:
            await pull(mirror, image)
            await kept(mirror, image)
        upstream.seen.clear()
        async with running(tmp_path / "own", url, **options) as mirror:
            await pull(mirror, image)
        assert [line for line in upstream.lines() if "blobs" in line] == []


@once
async def test_while_keystone_is_away_pulls_go_through(
    tmp_path: Path, keystone: KeystoneServer, upstream: Upstream
) -> None:
    """The start waits for nothing; `/readyz` says what is the matter."""
    image = upstream.add_image(NAME, "1", layers=[b"small"])
    away = {**keystone.parameters("wire"), "authurl": f"http://127.0.0.1:{free_port()}/v3"}
    options: dict[str, Any] = {"storage": {"swift": away}, "cache": {"folder": str(tmp_path / "own")}}
    async with serve(upstream) as url, running(tmp_path / "own", url, **options) as mirror:
        await pull(mirror, image)
        async with mirror.session.get(f"{mirror.url}/readyz") as answer:
            assert "Keystone cannot be connected to" in await answer.text()


async def pull(mirror: Mirror, image: Image) -> None:
    assert (await mirror.get(f"{NAME}/manifests/1")).body == image.manifest
    for digest, data in image.blobs.items():
        found = await follow(mirror, await mirror.get(f"{NAME}/blobs/{digest}"))
        assert (found.status, found.body == data) == (200, True)


async def kept(mirror: Mirror, image: Image) -> None:
    """Wait until clients are sent to Swift for all of it."""
    async with asyncio.timeout(WITHIN):
        for digest in image.blobs:
            while (await mirror.get(f"{NAME}/blobs/{digest}")).status != 307:  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(0.05)
