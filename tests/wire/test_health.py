"""Checks of the running mirror: they flip and flip back, and everything is 503 meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mirror.drivers.base import DriverError, Info
from mirror.drivers.filesystem import FilesystemDriver
from mirror.store import layout
from tests.support.scripted import Fault, Upstream, serve
from tests.support.waiting import PATIENCE, until
from tests.wire.conftest import Mirror, running
from tests.wire.test_fastlane import warm

NAME = "library/a"
TAG = f"{NAME}/manifests/1"
OFTEN = {"interval": "20ms"}
HTTP: dict[str, Any] = {"addr": "127.0.0.1:5000", "debug": {"addr": "127.0.0.1:0"}}
REFUSAL = {
    "errors": [
        {
            "code": "UNAVAILABLE",
            "message": "service unavailable",
            "detail": "health check failed: please see /debug/health",
        }
    ]
}


def sections(**health: Any) -> dict[str, Any]:
    return {"http": HTTP, "health": health}


async def health(mirror: Mirror, method: str = "GET") -> tuple[int, str]:
    """`/debug/health`."""
    async with mirror.session.request(method, f"{mirror.debug}/debug/health") as response:
        return response.status, await response.text()


async def becomes(mirror: Mirror, wanted: dict[str, str]) -> None:
    """Wait until the checks have found this."""
    async with asyncio.timeout(PATIENCE):
        while True:
            status, text = await health(mirror)
            if json.loads(text) == wanted:
                assert status == (503 if wanted else 200)
                return


async def plain(mirror: Mirror, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    """One request outside of /v2/."""
    async with mirror.session.request(method, f"{mirror.url}{path}") as response:
        return response.status, await response.text(), dict(response.headers)


async def test_a_file_takes_the_whole_mirror_out_and_its_removal_brings_it_back(
    tmp_path: Path, upstream: Upstream
) -> None:
    """Warm in the fast lane, cold, `/`, unknown paths; `/readyz` says so too, `/healthz` does not."""
    upstream.add_image(NAME, "1")
    down = tmp_path / "down"
    async with (
        serve(upstream) as url,
        running(
            tmp_path / "data",
            url,
            sections=sections(file=[{"file": str(down), **OFTEN}]),
            freshness={"default": "60s"},
        ) as mirror,
    ):
        await warm(mirror, TAG)
        asked = len(upstream.seen)
        down.touch()
        await becomes(mirror, {str(down): "file exists"})
        for path in ("/v2/" + TAG, "/v2/", "/", "/v2", "/unknown", "/v2/library/b/tags/list"):
            status, text, headers = await plain(mirror, path)
            assert (status, json.loads(text)) == (503, REFUSAL), path
            assert headers["Content-Type"].startswith("application/json")
            assert "Docker-Distribution-Api-Version" not in headers
        assert (await plain(mirror, "/v2/" + TAG, "HEAD"))[0] == 503
        assert (await plain(mirror, "/healthz"))[:2] == (200, '{"status": "ok"}\n')
        status, text, _ = await plain(mirror, "/readyz")
        assert status == 503
        assert str(down) not in text
        assert len(upstream.seen) == asked
        down.unlink()
        await becomes(mirror, {})
        assert (await mirror.get(TAG)).status == 200
        assert (await plain(mirror, "/"))[0] == 200
        assert (await plain(mirror, "/readyz"))[0] == 200


async def test_http_and_tcp_checks_follow_what_they_look_at(tmp_path: Path, upstream: Upstream) -> None:
    status = 200

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    uri, addr = f"http://127.0.0.1:{port}/x", f"127.0.0.1:{port}"
    checks = sections(
        http=[{"uri": uri, "statuscode": 200, "timeout": "1s", **OFTEN}],
        tcp=[{"addr": addr, "timeout": "1s", **OFTEN}],
    )
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=checks) as mirror:
        await becomes(mirror, {})
        status = 500
        await becomes(mirror, {uri: "downstream service returned unexpected status: 500"})
        assert (await plain(mirror, "/v2/"))[0] == 503
        status = 200
        await becomes(mirror, {})
        await runner.cleanup()
        gone = {addr: f"connection to {addr} failed", uri: f"error while checking: {uri}"}
        await becomes(mirror, gone)


async def test_a_storage_that_cannot_be_looked_at_fails_from_its_threshold_on(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = FilesystemDriver.stat
    broken, looks = False, 0

    async def looked_at(driver: FilesystemDriver, path: str) -> Info:
        nonlocal looks
        if path == "":
            looks += 1
            if broken:
                raise DriverError(path, "Input/output error")
        return await stat(driver, path)

    monkeypatch.setattr(FilesystemDriver, "stat", looked_at)
    checks = sections(storagedriver={"enabled": True, "threshold": 3, **OFTEN})
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=checks) as mirror:
        await until(lambda: looks > 2)
        assert await health(mirror) == (200, "{}")
        broken, looks = True, 0
        await becomes(mirror, {"storagedriver_filesystem": "/: Input/output error"})
        assert looks >= 3
        broken = False
        await becomes(mirror, {})


async def test_other_methods_than_get_are_not_found_on_the_debug_server(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=sections()) as mirror:
        assert await health(mirror) == (200, "{}")
        for method in ("HEAD", "POST", "DELETE"):
            status, text = await health(mirror, method)
            assert (status, text) == (404, "" if method == "HEAD" else "404 page not found\n")
        for path in ("/debug/health/up", "/", "/metrics", "/v2/"):
            async with mirror.session.get(f"{mirror.debug}{path}") as response:
                assert response.status == 404
                assert "Server" not in response.headers
        async with mirror.session.get(f"{mirror.debug}/debug/pprof/heap") as response:
            assert response.status == 404
            assert "py-spy" in await response.text()


async def test_an_upstream_that_is_away_is_a_warning_that_asks_nobody(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.add_image(NAME, "1")
    async with serve(upstream) as url, running(tmp_path / "data", url) as mirror:
        assert (await plain(mirror, "/readyz"))[1] == '{"status": "ready"}\n'
        await mirror.get(TAG)
        upstream.fault("*", "/v2/", Fault(status=503))
        for number in range(6):
            await mirror.get(f"library/b{number}/manifests/1")
        asked = len(upstream.seen)
        for method in ("GET", "HEAD"):
            status, text, headers = await plain(mirror, "/readyz", method)
            assert status == 200
            assert headers["Content-Type"] == "application/json"
            assert "Docker-Distribution-Api-Version" not in headers
        _, text, _ = await plain(mirror, "/readyz")
        namespace = url.removeprefix("http://")
        assert json.loads(text) == {
            "status": "ready",
            "warnings": [f"{namespace} cannot be asked now (open)"],
        }
        assert len(upstream.seen) == asked


async def test_an_upstream_whose_last_request_failed_is_a_warning_until_the_next_success(
    tmp_path: Path, upstream: Upstream
) -> None:
    """Which says no address: anybody may see it."""
    upstream.add_image(NAME, "1")
    upstream.fault("*", "/v2/", Fault(status=503))
    async with serve(upstream) as url, running(tmp_path / "data", url) as mirror:
        for number in range(2):
            await mirror.get(f"library/b{number}/manifests/1")
        status, text, _ = await plain(mirror, "/readyz")
        (warning,) = json.loads(text)["warnings"]
        namespace = url.removeprefix("http://")
        assert status == 200
        assert re.fullmatch(rf"{namespace}: the last request failed \d+ s ago \(2 in a row\)", warning)
        upstream.clear_faults()
        await mirror.get(TAG)
        assert (await plain(mirror, "/readyz"))[1] == '{"status": "ready"}\n'


async def test_a_data_folder_that_cannot_be_written_is_a_warning_without_its_name(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / layout.FOLDERS[0]).mkdir(parents=True)

    def refuse(path: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    async with serve(upstream) as url, running(tmp_path / "data", url) as mirror:
        status, text, _ = await plain(mirror, "/readyz")
    (warning,) = json.loads(text)["warnings"]
    assert status == 200
    assert warning.startswith("storage: it could not be written at the start (storage.readonly in the log)")
    assert str(tmp_path) not in text


async def test_registries_that_only_clients_have_named_are_a_number_to_everybody(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `/readyz`, which needs no login, would tell which registries others use."""

    async def getaddrinfo(host: str, *_arguments: Any, **_options: Any) -> Any:
        raise OSError(f"{host} is not known")

    async with (
        serve(upstream) as url,
        running(tmp_path / "data", url, upstreams={"*": {"retries": 0}}) as mirror,
    ):
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        for number in range(6):
            for host in ("secret.example.com", "secret.example.org"):
                answer = await mirror.get(f"team/b{number}/manifests/1?ns={host}")
                assert answer.status == 503
        _, text, _ = await plain(mirror, "/readyz")
        assert json.loads(text)["warnings"] == ["2 of '*' cannot be asked now"]


async def test_a_prefix_moves_the_api_and_not_what_orchestrators_ask(
    tmp_path: Path, upstream: Upstream
) -> None:
    http = {"http": {"addr": "127.0.0.1:5000", "prefix": "/team"}}
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=http) as mirror:
        assert (await plain(mirror, "/readyz"))[0] == 200
        assert (await plain(mirror, "/team/readyz"))[0] == 404
        assert (await plain(mirror, "/team/v2/"))[0] == 200


async def test_the_debug_servers_connections_have_a_bound(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.server.debug.CONNECTIONS", 2)
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=sections()) as mirror:
        port = int(mirror.debug.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        for _, one in (*held, (reader, writer)):
            one.close()
