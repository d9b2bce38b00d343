"""Configured headers, which may be secrets: the registry's own origin gets them, and nobody else."""

from __future__ import annotations

import contextlib
import json

from structlog.testing import capture_logs

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError
from tests.support.scripted import Basic, Bearer, Fault, Upstream, serve
from tests.upstream.conftest import Connect

ALPINE = Repository("library/alpine")
THREE = Tag("3")
HEADERS = {"X-Key": "hush", "User-Agent": "us/1"}
LOGIN = {"username": "user", "password": "pass"}


async def test_each_request_to_the_registry_has_them_beside_its_own(connect: Connect) -> None:
    upstream = Upstream(auth=Basic())
    image = upstream.add_image("library/alpine", "3")
    async with connect(upstream, headers=HEADERS, **LOGIN) as client:
        await client.resolve(ALPINE, THREE)
        await client.manifest(ALPINE, THREE)
        await client.tags(ALPINE, None, "")
        await client.referrers(ALPINE, Digest.parse(image.digest))
        blob = await client.blob(ALPINE, Digest.parse(next(iter(image.blobs))), start=1)
        await blob.close()
    assert len(upstream.seen) == 6
    assert all(seen.headers.getall("X-Key") == ["hush"] for seen in upstream.seen)  # type: ignore[attr-defined]
    assert all(seen.headers["User-Agent"] == "us/1" for seen in upstream.seen)
    assert upstream.seen[-1].headers["Range"] == "bytes=1-"
    assert "vnd.oci" in upstream.seen[0].headers["Accept"]


async def test_a_token_server_does_not_get_them(connect: Connect) -> None:
    bearer = Bearer()
    server, upstream = Upstream(auth=bearer), Upstream(auth=bearer)
    upstream.add_image("library/alpine", "3")
    async with serve(server) as url:
        bearer.realm = f"{url}/token"
        async with connect(upstream, headers=HEADERS, **LOGIN) as client:
            await client.resolve(ALPINE, THREE)
    assert len(server.seen) == 1
    assert "hush" not in str(dict(server.seen[0].headers))
    assert server.seen[0].headers["User-Agent"] == "mirror"


async def test_a_redirects_target_does_not_get_them_and_one_in_the_registry_does(connect: Connect) -> None:
    upstream, storage = Upstream(), Upstream()
    data = b"0123456789"
    digest = storage.add_blob("library/alpine", data)
    upstream.add_blob("library/alpine", data)
    upstream.add_blob("library/other", data)
    path, other = (f"/v2/library/{name}/blobs/{digest}" for name in ("alpine", "other"))
    async with serve(storage) as url:  # another port of the same host is another origin
        upstream.fault("GET", "alpine", Fault(status=307, headers={"Location": f"{url}{path}"}), times=1)
        upstream.fault("GET", "alpine", Fault(status=307, headers={"Location": other}), times=1)
        async with connect(upstream, headers=HEADERS) as client:
            for _ in range(2):
                blob = await client.blob(ALPINE, Digest.parse(digest), start=4)
                assert b"".join([part async for part in blob.read(4, 10)]) == data[4:]
                await blob.close()
    assert storage.lines() == [f"GET {path}"]
    assert "hush" not in str(dict(storage.seen[0].headers))
    assert storage.seen[0].headers["Range"] == "bytes=4-"
    assert upstream.lines() == [f"GET {path}", f"GET {path}", f"GET {other}"]
    assert all(seen.headers["X-Key"] == "hush" for seen in upstream.seen)


async def test_they_are_never_logged(connect: Connect) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "", Fault(status=503), times=1)
    upstream.fault("GET", "", Fault(reset=True))
    with capture_logs() as logs:
        async with connect(upstream, headers=HEADERS, retries=1) as client:
            await client.resolve(ALPINE, THREE)
            with contextlib.suppress(RegistryError):
                await client.manifest(ALPINE, THREE)
    assert {"upstream.request", "upstream.retried", "upstream.failed"} <= {entry["event"] for entry in logs}
    assert "hush" not in json.dumps(logs, default=repr)
