"""What a client of the mirror gets when the upstream misbehaves. Real sockets on both sides."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirror.cache import resume
from tests.support.modes import comes_in_one
from tests.support.scripted import Bearer, Fault, Image, Upstream, serve, sha256
from tests.wire.conftest import HASTY, Mirror, running

NAME = "library/a"
LAYER = random.Random(7).randbytes(1_500_000)
HTML = b"<!doctype html><title>Sign in to the hotel's network</title>"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off is tested where it is decided; here it would only take time."""
    monkeypatch.setattr(resume, "BACKOFF", 0.01)


def no_internals(body: bytes, upstream: Upstream) -> None:
    """The text names no address, no port, no class and no file of ours."""
    text = body.decode()
    for word in (
        "127.0.0.1",
        upstream.url.rsplit(":", 1)[-1],
        "aiohttp",
        "Errno",
        "Traceback",
        ".py",
        "/data",
    ):
        assert word not in text


@contextmanager
def dead_url() -> Iterator[str]:
    """Where nobody listens, and nobody else can begin to, as the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_refused_cold_requests_get_503_and_warm_ones_are_served(
    tmp_path: Path, upstream: Upstream
) -> None:
    image = upstream.add_image(NAME, "1", layers=[LAYER])
    async with serve(upstream) as url, running(tmp_path / "data", url) as mirror:
        for path in (f"{NAME}/manifests/1", *(f"{NAME}/blobs/{digest}" for digest in image.blobs)):
            assert (await mirror.get(path)).status == 200
    with dead_url() as dead:
        await _served_warm_refused_cold(tmp_path, dead, upstream, image)


async def _served_warm_refused_cold(tmp_path: Path, dead: str, upstream: Upstream, image: Image) -> None:
    async with running(tmp_path / "data", dead) as mirror:
        assert (await mirror.get(f"{NAME}/manifests/1")).body == image.manifest
        assert (await mirror.get(f"{NAME}/manifests/{image.digest}")).body == image.manifest
        assert (await mirror.get(f"{NAME}/blobs/{sha256(LAYER)}")).body == LAYER
        for path in (f"{NAME}/manifests/2", f"{NAME}/blobs/{sha256(b'x')}", "library/b/tags/list"):
            answer = await mirror.get(path)
            assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE"), path
            assert "upstream" in answer.error["message"]
            no_internals(answer.body, upstream)
        tags = await mirror.get(f"{NAME}/tags/list")
        assert json.loads(tags.body) == {"name": NAME, "tags": ["1"]}


async def test_hanging_cold_requests_get_504(tmp_path: Path, upstream: Upstream) -> None:
    upstream.fault("*", "/v2/", Fault(hang=True))
    async with serve(upstream) as url, running(tmp_path / "data", url, timeouts=HASTY) as mirror:
        answer = await mirror.get(f"{NAME}/manifests/2")
        assert (answer.status, answer.error["code"]) == (504, "UNAVAILABLE")
        no_internals(answer.body, upstream)


async def test_a_kept_tag_waits_no_longer_than_the_deadline_for_an_upstream_that_hangs(
    tmp_path: Path, upstream: Upstream
) -> None:
    """Which is far less than the time-outs."""
    image = upstream.add_image(NAME, "1")
    async with serve(upstream) as url, running(tmp_path / "data", url, deadline="50ms") as mirror:
        for path in (f"{NAME}/manifests/1", *(f"{NAME}/blobs/{digest}" for digest in image.blobs)):
            assert (await mirror.get(path)).status == 200
        # Without all of its blobs it would be refused: see `cache.tagged`.
        await mirror.linked(NAME, image.digest, *image.blobs)
        upstream.fault("*", "/v2/", Fault(hang=True))
        began = asyncio.get_running_loop().time()
        assert (await mirror.get(f"{NAME}/manifests/1")).body == image.manifest
        assert asyncio.get_running_loop().time() - began < 5, "the first-byte time-out is 10 s"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503])
async def test_the_upstreams_status_is_the_clients_with_its_retry_after(
    mirror: Mirror, upstream: Upstream, status: int
) -> None:
    upstream.add_image(NAME, "1")
    upstream.fault("*", "/v2/", Fault(status=status, headers={"Retry-After": "77"}, body=HTML))
    for path in (f"{NAME}/manifests/1", f"{NAME}/blobs/{sha256(b'x')}"):
        answer = await mirror.get(path)
        assert answer.status == status, path
        assert answer.error["message"]
        assert "WWW-Authenticate" not in answer.headers
        no_internals(answer.body, upstream)
        if status in (429, 503):
            assert answer.headers["Retry-After"] == "77"


async def test_a_401_with_a_realm_elsewhere_sends_no_password_there(tmp_path: Path) -> None:
    elsewhere = Upstream(auth=Bearer())
    upstream = Upstream()
    upstream.add_image(NAME, "1")
    async with serve(elsewhere, host="127.0.0.2") as realm, serve(upstream) as url:
        upstream.challenges = [f'Bearer realm="{realm}/token",service="s"']
        upstream.auth = Bearer()
        async with running(tmp_path / "data", url, username="user", password="pass") as mirror:
            answer = await mirror.get(f"{NAME}/manifests/1")
    assert answer.status in (401, 502, 503)
    assert [seen for seen in elsewhere.seen if "Authorization" in seen.headers or seen.body] == []
    assert b"pass" not in answer.body


async def test_a_redirect_loop_is_an_error_and_not_endless(mirror: Mirror, upstream: Upstream) -> None:
    upstream.fault(
        "*", "/blobs/", Fault(status=307, headers={"Location": f"/v2/{NAME}/blobs/{sha256(b'x')}"})
    )
    answer = await mirror.get(f"{NAME}/blobs/{sha256(b'x')}")
    assert (answer.status, answer.error["code"]) == (502, "UNAVAILABLE")
    assert len(upstream.seen) < 30


async def test_a_redirect_to_another_host_is_followed_without_the_token(tmp_path: Path) -> None:
    storage, upstream = Upstream(), Upstream(auth=Bearer())
    digest = upstream.add_blob(NAME, LAYER)
    storage.add_blob(NAME, LAYER)
    async with serve(storage, host="127.0.0.2") as there, serve(upstream) as url:
        upstream.fault(
            "GET",
            "/blobs/",
            Fault(status=307, headers={"Location": f"{there}/v2/{NAME}/blobs/{digest}?sig=1"}),
        )
        async with running(tmp_path / "data", url) as mirror:
            assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == LAYER
    assert any("Authorization" in seen.headers for seen in upstream.find("GET", "/blobs/"))
    assert [seen for seen in storage.seen if "Authorization" in seen.headers] == []


@pytest.mark.parametrize("reset", [False, True])
async def test_a_blob_that_is_cut_is_resumed_and_the_client_notices_nothing(
    mirror: Mirror, upstream: Upstream, reset: bool
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(cut_after=600_000, reset=reset), times=2)
    answer = await mirror.get(f"{NAME}/blobs/{digest}")
    assert (answer.body, answer.complete) == (LAYER, True)
    ranges = [seen.headers.get("Range") for seen in upstream.find("GET", "/blobs/")]
    assert ranges[0] is None
    assert len(ranges) == 3 if comes_in_one() else len(ranges) >= 3
    assert all(each and each.startswith("bytes=") for each in ranges[1:])
    assert await mirror.kept(digest) == LAYER


async def test_a_blob_that_stalls_is_resumed(tmp_path: Path, upstream: Upstream) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(stall_after=700_000), times=1)
    async with serve(upstream) as url, running(tmp_path / "data", url, timeouts=HASTY) as mirror:
        assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == LAYER
        ranges = [seen.headers.get("Range") for seen in upstream.find("GET", "/blobs/")]
        if comes_in_one():
            assert ranges == [None, "bytes=700000-"]
        assert await mirror.kept(digest) == LAYER


async def test_an_upstream_that_ignores_range_is_resumed_all_the_same(
    mirror: Mirror, upstream: Upstream
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(cut_after=600_000), times=1)
    upstream.fault("GET", "/blobs/", Fault(ignore_range=True))
    assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == LAYER


async def test_a_blob_that_never_ends_well_ends_short_and_goes_on_at_the_next_pull(
    mirror: Mirror, upstream: Upstream
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(cut_after=400_000), times=1)
    upstream.fault("GET", "/blobs/", Fault(reset=True))
    answer = await mirror.get(f"{NAME}/blobs/{digest}")
    assert (answer.status, answer.complete) == (200, False)
    assert LAYER.startswith(answer.body)
    assert not mirror.data(digest).exists()
    upstream.clear_faults()
    upstream.seen.clear()
    assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == LAYER
    first, *helping = [seen.headers["Range"] for seen in upstream.find("GET", "/blobs/")]
    assert first == "bytes=400000-"
    # With small segments there are others, where that first one is slow; none for what is there.
    assert all(int(each.removeprefix("bytes=").partition("-")[0]) > 400_000 for each in helping)
    assert not helping or not comes_in_one()


async def test_a_spool_that_is_longer_than_the_blob_is_dropped(mirror: Mirror, upstream: Upstream) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    spool = mirror.root / "mirror" / "spool"
    await asyncio.to_thread(spool.mkdir, parents=True, exist_ok=True)
    file = spool / f"sha256-{digest.removeprefix('sha256:')}.part"
    await asyncio.to_thread(file.write_bytes, LAYER + b"more")
    assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == LAYER
    assert [seen.status for seen in upstream.find("GET", "/blobs/")] == [416, 200]


async def test_a_wrong_byte_never_reaches_a_client_in_a_whole_body(
    mirror: Mirror, upstream: Upstream
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(flip_at=1000), times=1)
    answer = await mirror.get(f"{NAME}/blobs/{digest}")
    assert not answer.complete
    assert len(answer.body) < len(LAYER)
    assert not mirror.data(digest).exists()
    assert list((mirror.root / "mirror" / "spool").iterdir()) == []
    assert (await mirror.get(f"{NAME}/blobs/{digest}")).body == LAYER


@pytest.mark.parametrize("length", [1_000_000, 2_000_000])
async def test_a_wrong_length_is_never_passed_on_as_whole(
    mirror: Mirror, upstream: Upstream, length: int
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(length=length))
    answer = await mirror.get(f"{NAME}/blobs/{digest}")
    assert answer.status != 200 or not answer.complete
    assert not mirror.data(digest).exists()


async def test_a_blob_without_a_length_gets_it_from_the_manifest_or_by_head(
    mirror: Mirror, upstream: Upstream
) -> None:
    upstream.add_image(NAME, "1", layers=[LAYER])
    upstream.fault("GET", "/blobs/", Fault(chunked=True))
    answer = await mirror.get(f"{NAME}/blobs/{sha256(LAYER)}")
    assert (answer.body, answer.headers["Content-Length"]) == (LAYER, str(len(LAYER)))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(headers={"Content-Type": "text/html"}, body=HTML),
        Fault(body=b"{" * 100_000),
        Fault(body=b" " * (5 << 20)),
        Fault(body=b""),
        Fault(flip_at=10),
    ],
    ids=["html", "deep", "too large", "empty", "wrong byte"],
)
async def test_nonsense_instead_of_a_manifest_is_502_and_never_kept(
    mirror: Mirror, upstream: Upstream, fault: Fault
) -> None:
    image = upstream.add_image(NAME, "1")
    upstream.fault("GET", "/manifests/", fault)
    for reference in ("1", image.digest):
        answer = await mirror.get(f"{NAME}/manifests/{reference}")
        assert (answer.status, answer.error["code"]) == (502, "UNAVAILABLE"), reference
        no_internals(answer.body, upstream)
    upstream.clear_faults()
    assert (await mirror.get(f"{NAME}/manifests/1")).body == image.manifest


async def test_a_token_of_a_megabyte_is_refused_with_a_clear_text(tmp_path: Path) -> None:
    upstream = Upstream(auth=Bearer())
    upstream.add_image(NAME, "1")
    upstream.fault("*", "/token", Fault(body=json.dumps({"token": "x" * (1 << 20)}).encode()))
    async with serve(upstream) as url, running(tmp_path / "data", url) as mirror:
        answer = await mirror.get(f"{NAME}/manifests/1")
    assert answer.status in (502, 503)
    assert "token" in answer.error["message"]
    assert len(answer.body) < 1000


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
async def test_an_upstream_that_refuses_head_is_asked_by_get(
    mirror: Mirror, upstream: Upstream, status: int
) -> None:
    image = upstream.add_image(NAME, "1", layers=[LAYER])
    upstream.fault("HEAD", "/", Fault(status=status))
    manifest = await mirror.ask("HEAD", f"{NAME}/manifests/1")
    assert (manifest.status, manifest.headers["Docker-Content-Digest"]) == (200, image.digest)
    blob = await mirror.ask("HEAD", f"{NAME}/blobs/{sha256(LAYER)}")
    assert (blob.status, blob.headers["Content-Length"]) == (200, str(len(LAYER)))
    assert not mirror.data(sha256(LAYER)).exists()
    assert sum(seen.sent for seen in upstream.find("GET", "/blobs/")) < len(LAYER)


async def test_a_client_that_goes_away_in_mid_body_stops_nothing(mirror: Mirror, upstream: Upstream) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(rate=3_000_000))
    async with mirror.session.get(f"{mirror.url}/v2/{NAME}/blobs/{digest}") as response:
        await response.content.readexactly(1000)
        response.close()
    assert await mirror.kept(digest) == LAYER
    if comes_in_one():
        assert len(upstream.find("GET", "/blobs/")) == 1


async def test_credentials_reach_no_answer_and_no_file(tmp_path: Path) -> None:
    upstream = Upstream(auth=Bearer(username="user", password="hunter2-hunter2"))
    upstream.add_image(NAME, "1", layers=[LAYER])
    async with (
        serve(upstream) as url,
        running(tmp_path / "data", url, username="user", password="hunter2-hunter2") as mirror,
    ):
        answers = [
            await mirror.get(path)
            for path in (f"{NAME}/manifests/1", f"{NAME}/blobs/{sha256(LAYER)}", "library/none/manifests/1")
        ]
    assert [answer.status for answer in answers[:2]] == [200, 200]
    for answer in answers:
        assert b"hunter2" not in answer.body + str(answer.headers).encode()
    for path in (tmp_path / "data").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()
