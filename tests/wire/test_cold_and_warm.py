"""A blob answers alike whether it is kept, arriving, or not yet asked for; and what a pull costs upstream."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.scripted import Bearer, Fault, Upstream, serve, sha256
from tests.support.waiting import until
from tests.wire.conftest import Answer, Mirror, running

NAME = "library/a"
LAYER = random.Random(8).randbytes(300_000)
DIGEST = sha256(LAYER)
PATH = f"{NAME}/blobs/{DIGEST}"
VARYING = ("Date", "Cache-Status")  # headers that differ for no reason of ours, or are to differ

REQUESTS: list[tuple[str, dict[str, str]]] = [
    ("GET", {}),
    ("HEAD", {}),
    ("GET", {"Range": "bytes=0-0"}),
    ("GET", {"Range": "bytes=100-199"}),
    ("GET", {"Range": "bytes=299999-"}),
    ("GET", {"Range": "bytes=-10"}),
    ("GET", {"Range": "bytes=200000-"}),
    ("GET", {"Range": "bytes=300000-"}),
    ("GET", {"Range": "bytes=nonsense"}),
    ("GET", {"Range": "lines=1-2"}),
    ("GET", {"Range": "bytes=10-20", "If-Range": f'"{DIGEST}"'}),
    ("GET", {"Range": "bytes=10-20", "If-Range": '"other"'}),
    ("GET", {"If-None-Match": f'"{DIGEST}"'}),
    ("GET", {"If-None-Match": '"other"'}),
    ("HEAD", {"If-None-Match": f'"{DIGEST}"'}),
    ("HEAD", {"Range": "bytes=0-1"}),
]


def seen(answer: Answer) -> tuple[object, ...]:
    headers = sorted((k, v) for k, v in answer.headers.items() if k not in VARYING)
    return answer.status, headers, answer.body, answer.complete


@pytest.mark.parametrize(("method", "headers"), REQUESTS, ids=str)
async def test_cold_and_warm_answers_are_the_same(
    mirror: Mirror, upstream: Upstream, method: str, headers: dict[str, str]
) -> None:
    upstream.add_blob(NAME, LAYER)
    cold = await mirror.ask(method, PATH, headers)
    assert (await mirror.get(PATH)).body == LAYER
    await mirror.kept(DIGEST)
    warm = await mirror.ask(method, PATH, headers)
    assert seen(cold) == seen(warm)
    assert cold.headers["Cache-Status"].startswith("mirror; fwd=uri-miss")


async def test_several_ranges_of_a_cold_blob_come_as_multipart(mirror: Mirror, upstream: Upstream) -> None:
    upstream.add_blob(NAME, LAYER)
    answer = await mirror.get(PATH, Range="bytes=0-9,1000-1009")
    assert answer.status == 206
    assert answer.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert LAYER[:10] in answer.body
    assert LAYER[1000:1010] in answer.body
    assert answer.complete


async def test_a_range_is_served_when_its_bytes_are_there_not_at_the_end(
    mirror: Mirror, upstream: Upstream
) -> None:
    upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(stall_after=150_000))
    answer = await mirror.get(PATH, Range="bytes=100000-149999")
    assert (answer.status, answer.body) == (206, LAYER[100_000:150_000])
    upstream.clear_faults()
    upstream.release()


async def test_a_cold_pull_with_tokens_asks_for_each_object_once(tmp_path: object, mirror: Mirror) -> None:
    """Three layers, config, manifest: five GETs, one HEAD, one token, and the 401 that names the realm."""
    upstream = Upstream(auth=Bearer())
    image = upstream.add_image(NAME, "1", layers=[b"one", b"two", b"three"])
    async with serve(upstream) as url, running(mirror.root.parent / "tokens", url) as tokened:
        for _ in range(2):
            assert (await tokened.ask("HEAD", f"{NAME}/manifests/1")).status == 200
            assert (await tokened.get(f"{NAME}/manifests/{image.digest}")).body == image.manifest
            bodies = await asyncio.gather(*(tokened.get(f"{NAME}/blobs/{each}") for each in image.blobs))
            assert [answer.body for answer in bodies] == list(image.blobs.values())
    counts = Counter(f"{each.method} {each.path} {each.status}" for each in upstream.seen)
    expected = Counter(
        {
            f"HEAD /v2/{NAME}/manifests/1 401": 1,
            "GET /token 200": 1,
            f"HEAD /v2/{NAME}/manifests/1 200": 2,
            f"GET /v2/{NAME}/manifests/{image.digest} 200": 1,
            **{f"GET /v2/{NAME}/blobs/{each} 200": 1 for each in image.blobs},
        }
    )
    assert counts == expected


async def test_nothing_is_compressed_and_the_upstream_is_asked_for_identity(
    mirror: Mirror, upstream: Upstream
) -> None:
    upstream.add_image(NAME, "1", layers=[LAYER])
    for path in (f"{NAME}/manifests/1", PATH, f"{NAME}/tags/list"):
        answer = await mirror.get(path, Accept_Encoding="zstd, gzip, deflate")
        assert "Content-Encoding" not in answer.headers
    assert {each.headers.get("Accept-Encoding") for each in upstream.seen} == {"identity"}


async def test_what_the_client_accepts_changes_neither_the_question_nor_the_answer(
    mirror: Mirror, upstream: Upstream
) -> None:
    image = upstream.add_image(NAME, "1")
    for accept in (
        "",
        "*/*",
        "text/html;q=",
        "application/vnd.docker.distribution.manifest.v2+json",
        "\x80,,;",
    ):
        answer = await mirror.get(f"{NAME}/manifests/1", Accept=accept)
        assert (answer.status, answer.body) == (200, image.manifest)
    asked = {each.headers["Accept"] for each in upstream.find("HEAD", "/manifests/")}
    assert len(asked) == 1
    assert "application/vnd.oci.image.index.v1+json" in asked.pop()


async def test_a_yes_of_another_size_gives_nobody_what_is_kept(tmp_path: Path, upstream: Upstream) -> None:
    """Something in front of the registry answers every HEAD with 200: it has not got this blob for `b`."""
    upstream.add_blob(NAME, LAYER)
    upstream.add_image("library/b", "1")
    yes = Fault(status=200, headers={"Content-Length": "9"}, early=True)
    upstream.fault("HEAD", "/v2/library/b/blobs/", yes)
    async with serve(upstream) as url, running(tmp_path / "data", url) as mirror:
        assert (await mirror.get(PATH)).body == LAYER
        await mirror.kept(DIGEST)
        other = f"library/b/blobs/{DIGEST}"
        for _ in range(2):
            assert (await mirror.get(other)).status == 404
        for _ in range(2):
            assert (await mirror.get(PATH)).body == LAYER


async def test_a_wrong_size_costs_one_download_where_the_registry_has_the_blob(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.add_blob(NAME, LAYER)
    upstream.add_blob("library/b", LAYER)
    upstream.fault(
        "HEAD", "/v2/library/b/blobs/", Fault(status=200, headers={"Content-Length": "9"}, early=True)
    )
    async with serve(upstream) as url, running(tmp_path / "data", url) as mirror:
        assert (await mirror.get(PATH)).body == LAYER
        await mirror.kept(DIGEST)
        link = mirror.root / f"docker/registry/v2/repositories/library/b/_layers/sha256/{DIGEST[7:]}/link"
        for _ in range(3):
            assert (await mirror.get(f"library/b/blobs/{DIGEST}")).body == LAYER
            await until(link.exists)
        assert upstream.lines("GET", "/v2/library/b/blobs/") == [f"GET /v2/library/b/blobs/{DIGEST}"]
