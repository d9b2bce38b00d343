"""How often an upstream is asked for a tag, across restarts too, and what it says when a tag is gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.scripted import Upstream, serve, sha256
from tests.wire.conftest import Clock, Mirror, running

NAME = "library/a"
TAG = f"{NAME}/manifests/1"
FRESH = 60.0  # seconds
NEGATIVE = 10.0  # seconds
PULLS = 1000
CROWD = 200  # clients at once
PACKS = 50  # requests under way at a time
SETTINGS: dict[str, Any] = {"freshness": {"default": f"{FRESH:g}s"}, "negative": f"{NEGATIVE:g}s"}


async def pull(mirror: Mirror, count: int, digest: str) -> None:
    """HEAD and GET of the tag, by turns, `count` in all. Each answer must be right."""
    for begin in range(0, count, PACKS):
        methods = ["HEAD" if number % 2 else "GET" for number in range(begin, min(begin + PACKS, count))]
        answers = await asyncio.gather(*(mirror.ask(method, TAG) for method in methods))
        got = {(answer.status, answer.headers["Docker-Content-Digest"]) for answer in answers}
        assert got == {(200, digest)}


def asked(upstream: Upstream) -> Counter[str]:
    """How often each request was made."""
    return Counter(upstream.lines())


async def test_a_thousand_pulls_within_the_freshness_ask_once_and_none_after_a_restart(
    tmp_path: Path, upstream: Upstream
) -> None:
    image = upstream.add_image(NAME, "1")
    digest = image.digest
    clock, root = Clock(), tmp_path / "data"
    async with serve(upstream) as url:
        async with running(root, url, clock=clock, **SETTINGS) as mirror:
            await pull(mirror, PULLS, digest)
            cold = {f"HEAD /v2/{TAG}": 1, f"GET /v2/{NAME}/manifests/{digest}": 1}
            assert asked(upstream) == cold, "the question, and the manifest itself"
            for blob in image.blobs:
                await mirror.get(f"{NAME}/blobs/{blob}")
                await mirror.kept(blob)
            upstream.seen.clear()
            clock.pass_(FRESH + 1)
            await pull(mirror, PULLS, digest)
            assert asked(upstream) == {f"HEAD /v2/{TAG}": 1}
            upstream.seen.clear()
            clock.pass_(FRESH / 2)
            await pull(mirror, PULLS, digest)
        async with running(root, url, clock=clock, **SETTINGS) as restarted:
            await pull(restarted, PULLS, digest)
            assert upstream.lines() == []
            clock.pass_(FRESH / 2 + 1)
            await pull(restarted, PULLS, digest)
            assert asked(upstream) == {f"HEAD /v2/{TAG}": 1}


async def test_two_hundred_clients_at_the_moment_it_is_due_cost_one_head(
    tmp_path: Path, upstream: Upstream
) -> None:
    digest = upstream.add_image(NAME, "1").digest
    clock = Clock()
    async with serve(upstream) as url, running(tmp_path / "data", url, clock=clock, **SETTINGS) as mirror:
        assert (await mirror.get(TAG)).status == 200
        upstream.seen.clear()
        clock.pass_(FRESH + 1)
        answers = await asyncio.gather(*(mirror.get(TAG) for _ in range(CROWD)))
    assert {(answer.status, answer.headers["Docker-Content-Digest"]) for answer in answers} == {(200, digest)}
    assert asked(upstream) == {f"HEAD /v2/{TAG}": 1}


async def test_a_tag_that_moved_is_seen_when_its_freshness_ends_and_not_before(
    tmp_path: Path, upstream: Upstream
) -> None:
    old = upstream.add_image(NAME, "1")
    clock = Clock()
    async with serve(upstream) as url, running(tmp_path / "data", url, clock=clock, **SETTINGS) as mirror:
        assert (await mirror.get(TAG)).body == old.manifest
        new = upstream.add_image(NAME, "1", layers=[b"another"])
        clock.pass_(FRESH - 1)
        assert (await mirror.get(TAG)).body == old.manifest
        clock.pass_(2)
        assert (await mirror.get(TAG)).body == new.manifest


async def test_a_rule_for_a_tag_goes_before_the_default(tmp_path: Path, upstream: Upstream) -> None:
    upstream.add_image(NAME, "1", "latest")
    clock = Clock()
    settings = {"freshness": {"default": "1h", "rules": [{"match": "*:latest", "fresh": "10s"}]}}
    async with serve(upstream) as url, running(tmp_path / "data", url, clock=clock, **settings) as mirror:
        for _ in range(3):
            for tag in ("1", "latest"):
                assert (await mirror.get(f"{NAME}/manifests/{tag}")).status == 200
            clock.pass_(11)
    counts = asked(upstream)
    assert (counts[f"HEAD /v2/{TAG}"], counts[f"HEAD /v2/{NAME}/manifests/latest"]) == (1, 3)


async def test_a_deleted_tag_is_404_after_its_freshness_also_after_a_restart_without_the_upstream(
    tmp_path: Path, upstream: Upstream
) -> None:
    image = upstream.add_image(NAME, "1")
    clock, root = Clock(), tmp_path / "data"
    async with serve(upstream) as url, running(root, url, clock=clock, **SETTINGS) as mirror:
        assert (await mirror.get(TAG)).status == 200
        await mirror.kept(image.digest)
        upstream.repository(NAME).tags.clear()
        assert (await mirror.get(TAG)).body == image.manifest, "it is still fresh"
        clock.pass_(FRESH + 1)
        gone = await mirror.get(TAG)
        assert (gone.status, gone.error["code"]) == (404, "MANIFEST_UNKNOWN")
        upstream.seen.clear()
        assert (await mirror.get(TAG)).status == 404
        assert upstream.lines() == [], "a refusal is remembered for a while"
    async with running(root, url, clock=clock, **SETTINGS) as restarted:
        assert (await restarted.get(TAG)).status == 404
        clock.pass_(NEGATIVE + 1)
        later = await restarted.get(TAG)
        assert later.status in (404, 503), "what the upstream refused is not given because it is away"
        assert later.body != image.manifest


async def test_a_tag_that_comes_back_is_found_when_its_refusal_is_forgotten(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.add_image(NAME, "other")
    clock = Clock()
    async with serve(upstream) as url, running(tmp_path / "data", url, clock=clock, **SETTINGS) as mirror:
        assert (await mirror.get(TAG)).status == 404
        image = upstream.add_image(NAME, "1")
        assert (await mirror.get(TAG)).status == 404
        clock.pass_(NEGATIVE + 1)
        assert (await mirror.get(TAG)).body == image.manifest


async def test_a_manifests_digest_that_is_no_blob_is_a_manifest_all_the_same(
    tmp_path: Path, upstream: Upstream
) -> None:
    """That one is not there is remembered for a while, and says nothing of the other."""
    image = upstream.add_image(NAME, "1")
    layer = sha256(image.layers[0])
    async with serve(upstream) as url, running(tmp_path / "data", url, **SETTINGS) as mirror:
        assert (await mirror.get(f"{NAME}/blobs/{image.digest}")).error["code"] == "BLOB_UNKNOWN"
        assert (await mirror.get(f"{NAME}/manifests/{image.digest}")).body == image.manifest
        assert (await mirror.get(f"{NAME}/manifests/{layer}")).error["code"] == "MANIFEST_UNKNOWN"
        assert (await mirror.get(f"{NAME}/blobs/{layer}")).body == image.layers[0]
