"""The whole mirror on a bucket of a real S3 server: what clients get, what it costs, what it survives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.commandsrun import run
from mirror.configfile import load
from mirror.drivers import breaker, s3session
from mirror.drivers.s3 import S3Driver
from mirror.oci.digest import Digest
from mirror.server.control import SOCKET
from mirror.store import layout
from tests.support.buckets import Bucket
from tests.support.recorder import Recorder, Rule
from tests.support.scripted import Fault, Image, Upstream, serve, sha256
from tests.wire.conftest import Answer, Mirror, running

NAME = "library/a"
MIB = 1 << 20
LAYER = random.Random(6).randbytes(300_000)
LARGE = random.Random(7).randbytes(12 * MIB)
DIGEST = sha256(LAYER)
PATH = f"{NAME}/blobs/{DIGEST}"
WITHIN = 60.0  # seconds

Start = Callable[..., Any]

# What no fast lane has to do with.
once = pytest.mark.parametrize("each_mode", ["quick"], indirect=True)


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Recorder]:
    """Between the mirror and the bucket."""
    recorder = Recorder(bucket.server.url)
    yield recorder
    recorder.stop()


@pytest.fixture
def image(upstream: Upstream) -> Image:
    """Two layers and a config."""
    return upstream.add_image(NAME, "1", layers=[LAYER, b"small"])


@pytest.fixture
async def start(tmp_path: Path, upstream: Upstream, bucket: Bucket, proxy: Recorder) -> AsyncIterator[Start]:
    """A mirror of `upstream` that keeps in the bucket, by way of the proxy."""
    async with serve(upstream) as url:

        def begin(
            *,
            redirect: bool = True,
            name: str = "own",
            parameters: Any = None,
            disk: Any = None,
            **options: Any,
        ) -> Any:
            storage = {
                "s3": {**bucket.parameters(proxy.url, chunksize=5 * MIB), **(parameters or {})},
                "redirect": {"disable": not redirect},
            }
            own = tmp_path / name
            cache = {"folder": str(own), "disk": disk or {}}
            return running(own, url, storage=storage, cache=cache, **options)

        yield begin


async def pull(mirror: Mirror, image: Image) -> None:
    """A client's pull: tag, manifest, blobs; all right, wherever they come from."""
    assert (await mirror.ask("HEAD", f"{NAME}/manifests/1")).headers["Docker-Content-Digest"] == image.digest
    assert (await mirror.get(f"{NAME}/manifests/{image.digest}")).body == image.manifest
    for digest, data in image.blobs.items():
        answer = await mirror.get(f"{NAME}/blobs/{digest}")
        assert (await follow(mirror, answer)).body == data


async def follow(mirror: Mirror, answer: Answer, **headers: str) -> Answer:
    """What a client gets that goes where it is sent."""
    if answer.status != 307:
        return answer
    async with mirror.session.get(answer.headers["Location"], headers=headers) as there:
        return Answer(there.status, there.headers, await there.read(), complete=True)


async def kept(mirror: Mirror, bucket: Bucket, image: Image) -> None:
    """Wait until all of it is in the bucket, and linked, and no fill of it is left to be joined."""
    wanted = {digest.partition(":")[2] for digest in (image.digest, *image.blobs)}
    async with asyncio.timeout(WITHIN):
        while True:
            keys = await bucket.keys()
            data = {key.split("/")[-2] for key in keys if key.endswith("/data")}
            linked = {key.split("/")[-2] for key in keys if key.endswith("/link")}
            if wanted <= data and wanted | {"current"} <= linked:
                break
            await asyncio.sleep(0.02)
    await mirror.filled(*image.blobs)


@once
async def test_a_pull_is_kept_in_distribution_s_keys_and_nothing_else_is(
    start: Start, bucket: Bucket, image: Image
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
    keys = await bucket.keys()
    root = "docker/registry/v2"
    hexes = {digest.partition(":")[2] for digest in (image.digest, *image.blobs)}
    top = image.digest.partition(":")[2]
    assert set(keys) == {
        *(f"{root}/blobs/sha256/{each[:2]}/{each}/data" for each in hexes),
        *(f"{root}/repositories/{NAME}/_layers/sha256/{each}/link" for each in hexes - {top}),
        f"{root}/repositories/{NAME}/_manifests/revisions/sha256/{top}/link",
        f"{root}/repositories/{NAME}/_manifests/tags/1/current/link",
        f"{root}/repositories/{NAME}/_manifests/tags/1/index/sha256/{top}/link",
    }


async def test_a_kept_blob_is_a_redirect_and_a_head_is_answered_here(
    start: Start, bucket: Bucket, image: Image
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        ranged = await mirror.get(PATH, Range="bytes=100-199")
        answer = await mirror.get(PATH)
        assert (ranged.status, answer.status, answer.body) == (307, 307, b"")
        assert answer.headers["Docker-Content-Digest"] == DIGEST
        assert answer.headers["Cache-Status"] == "mirror; hit"
        assert (await follow(mirror, answer)).body == LAYER
        part = await follow(mirror, answer, Range="bytes=100-199")
        assert (part.status, part.body) == (206, LAYER[100:200])
        head = await mirror.ask("HEAD", PATH)
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(LAYER)))
        same = await mirror.get(PATH, If_None_Match=f'"{DIGEST}"')
        assert same.status == 304
        other = await mirror.get(f"library/other/blobs/{DIGEST}")
        assert other.status == 404, "who does not have it is not told where it is"


async def test_without_redirects_the_bytes_come_from_here(start: Start, bucket: Bucket, image: Image) -> None:
    async with start(redirect=False) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        answer = await mirror.get(PATH)
        assert (answer.status, answer.body, answer.complete) == (200, LAYER, True)
        assert answer.headers["Cache-Status"] == "mirror; hit"
        part = await mirror.get(PATH, Range="bytes=299990-")
        assert (part.status, part.body) == (206, LAYER[299_990:])
        several = await mirror.get(PATH, Range="bytes=0-9,1000-1009")
        assert several.status == 206
        assert LAYER[1000:1010] in several.body
        beyond = await mirror.get(PATH, Range="bytes=300000-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */300000")


@pytest.mark.parametrize("redirect", [True, False])
async def test_a_request_costs_one_call_at_most_and_a_manifest_none(
    start: Start, bucket: Bucket, proxy: Recorder, image: Image, redirect: bool
) -> None:
    """Once descriptors and manifests are in memory. The proxy counts."""
    async with start(redirect=redirect, freshness={"default": "1h"}) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        await pull(mirror, image)  # links and sizes are looked at once
        for what, most in (
            (f"{NAME}/manifests/1", 0),
            (f"{NAME}/manifests/{image.digest}", 0),
            (PATH, 1),
        ):
            for method in ("HEAD", "GET"):
                proxy.clear()
                answer = await mirror.ask(method, what)
                assert answer.status in (200, 307)
                assert len(proxy.exchanges) <= most, proxy.trace()
        proxy.clear()
        part = await mirror.get(PATH, Range="bytes=5-")
        assert part.status == (307 if redirect else 206)
        assert len(proxy.exchanges) <= 1, proxy.trace()
        if redirect:
            assert not proxy.exchanges, "within a minute nothing is looked at again"


async def test_a_redirect_is_repeated_by_the_fast_lane_until_its_blob_goes(
    start: Start, bucket: Bucket, proxy: Recorder, image: Image
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        first = await mirror.get(PATH)
        proxy.clear()
        answers = [await mirror.get(PATH) for _ in range(20)]
        assert {answer.headers["Location"] for answer in answers} == {first.headers["Location"]}
        assert not proxy.exchanges
        assert (await follow(mirror, answers[-1])).body == LAYER
        config = load(mirror.root.with_suffix(".yml"), {}).config
        async with asyncio.timeout(WITHIN):
            assert await asyncio.to_thread(run, config, "purge", {"what": f"{NAME}:1"}) == 0
        proxy.clear()
        gone = await mirror.get(PATH)
        assert (gone.status, gone.body) == (200, LAYER), "it is fetched again"


@pytest.mark.parametrize("redirect", [True, False], ids=["redirected", "streamed"])
async def test_what_went_though_the_bucket_never_said_so_is_fetched_again(
    start: Start,
    bucket: Bucket,
    proxy: Recorder,
    image: Image,
    redirect: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was pulled, and held for kept, and repeated by the fast lane, and asked for while it went."""
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)
    async with start(redirect=redirect) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        for _ in range(3):
            assert (await mirror.get(PATH)).status == (307 if redirect else 200)
        config = load(mirror.root.with_suffix(".yml"), {}).config
        proxy.clear(Rule(r"\?delete", "POST", lose=True), Rule(method="DELETE", lose=True))
        async with asyncio.timeout(WITHIN):
            assert await asyncio.to_thread(run, config, "purge", {"what": f"{NAME}:1"}) != 0
            assert await asyncio.to_thread(run, config, "purge", {"what": f"{NAME}:1"}) != 0
        proxy.clear()
        for method in ("HEAD", "GET", "GET"):
            answer = await mirror.ask(method, PATH)
            assert answer.status in (200, 307)
            if answer.status == 307:
                answer = await follow(mirror, answer)
            assert answer.body == (b"" if method == "HEAD" else LAYER)
        await pull(mirror, image)


@once
async def test_a_blob_of_many_parts_is_read_while_it_comes_and_kept_whole(
    start: Start, bucket: Bucket, upstream: Upstream, proxy: Recorder
) -> None:
    image = upstream.add_image(NAME, "1", layers=[LARGE])
    async with start() as mirror:
        cold = await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}")
        assert (cold.status, cold.body == LARGE, cold.complete) == (200, True, True)
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        assert len(proxy.select("PUT", "partNumber=")) == 3
        warm = await follow(mirror, await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}"))
        assert warm.body == LARGE
        spool = mirror.root / "mirror" / "spool"
        assert await asyncio.to_thread(lambda: list(spool.iterdir())) == []


@once
async def test_parts_go_to_the_bucket_while_the_rest_still_comes(
    start: Start, bucket: Bucket, upstream: Upstream, proxy: Recorder
) -> None:
    """And nothing is there before all of it was found right."""
    upstream.add_blob(NAME, LARGE)
    upstream.fault("GET", "/blobs/", Fault(stall_after=11 * MIB), times=1)
    async with start(timeouts={"stall": "15s"}) as mirror:
        cold = asyncio.create_task(mirror.get(f"{NAME}/blobs/{sha256(LARGE)}"))
        async with asyncio.timeout(WITHIN):
            while sum(exchange.end is not None for exchange in proxy.select("PUT", "partNumber=")) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [key for key in await bucket.keys() if not key.startswith("upload of ")] == []
        upstream.release()
        answer = await cold
        assert (answer.complete, answer.body == LARGE) == (True, True)
        async with asyncio.timeout(WITHIN):
            while not any(key.endswith("/link") for key in await bucket.keys()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await mirror.filled(sha256(LARGE))
        assert len(proxy.select("PUT", "partNumber=")) == 3, "none was sent twice"
        warm = await follow(mirror, await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}"))
        assert warm.body == LARGE


@once
async def test_wrong_bytes_never_reach_the_bucket(start: Start, bucket: Bucket, upstream: Upstream) -> None:
    upstream.add_blob(NAME, LARGE)
    upstream.fault("GET", "/blobs/", Fault(flip_at=11 * MIB))
    async with start() as mirror:
        answer = await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}")
        assert not answer.complete
    assert await bucket.keys() == []


@once
async def test_what_is_kept_is_served_after_a_restart_without_the_upstream(
    start: Start, bucket: Bucket, upstream: Upstream, image: Image
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
    upstream.fault("GET", "", Fault(status=503))
    upstream.fault("HEAD", "", Fault(status=503))
    async with start(name="new") as mirror:  # also on another machine
        await pull(mirror, image)


# A local disk before the bucket.


@pytest.mark.parametrize("redirect", [True, False])
async def test_what_is_on_the_disk_is_sent_from_there_and_the_bucket_has_it_too(
    start: Start, bucket: Bucket, proxy: Recorder, image: Image, redirect: bool
) -> None:
    async with start(redirect=redirect, disk={"maxsize": "1MiB"}) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        proxy.clear()
        for _ in range(2):
            answer = await mirror.get(PATH)
            assert (answer.status, answer.body) == (200, LAYER)
        part = await mirror.get(PATH, Range="bytes=5-9")
        assert (part.status, part.body) == (206, LAYER[5:10])
        assert proxy.select("GET|HEAD", f"{DIGEST[7:]}/data") == []
        disk = mirror.root / "mirror" / "disk"
        lying = {path.parent.parent.name for path in disk.rglob("*") if path.is_file()}
        assert lying == {digest.partition(":")[2] for digest in image.blobs}
    proxy.clear()
    async with start(redirect=redirect, disk={"maxsize": "1MiB"}) as mirror:  # again
        assert (await mirror.get(PATH)).body == LAYER
        assert proxy.select("GET|HEAD", f"{DIGEST[7:]}/data") == []
        config = load(mirror.root.with_suffix(".yml"), {}).config
        async with asyncio.timeout(WITHIN):
            assert await asyncio.to_thread(run, config, "purge", {"what": f"{NAME}:1"}) == 0
        assert [path for path in disk.rglob("*") if path.is_file()] == []


async def test_what_is_not_on_the_disk_is_redirected_until_it_is_wanted_again(
    start: Start, bucket: Bucket, image: Image
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
    async with start(disk={"maxsize": "1MiB"}) as mirror:
        # With other headers each: the fast lane does not repeat what it was not asked before.
        agents = iter(range(1000))
        async with asyncio.timeout(WITHIN):
            while (answer := await mirror.get(PATH, Accept=f"x/{next(agents)}")).status == 307:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert next(agents) > 2
        assert (answer.status, answer.body) == (200, LAYER)


@once
async def test_a_copy_that_is_damaged_on_the_disk_is_found_and_the_bucket_serves(
    start: Start, bucket: Bucket, image: Image, upstream: Upstream
) -> None:
    """What is in the bucket is right, and perhaps nowhere else any more: it stays."""
    async with start(disk={"maxsize": "1MiB"}) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        (file,) = (mirror.root / "mirror" / "disk").rglob(str(len(LAYER)))
        await asyncio.to_thread(file.write_bytes, b"x" * len(LAYER))
        config = load(mirror.root.with_suffix(".yml"), {}).config
        before = len(upstream.find("GET", "/blobs/"))
        async with asyncio.timeout(WITHIN):
            assert await asyncio.to_thread(run, config, "verify", {}) == 0
        assert not file.exists()
        answer = await follow(mirror, await mirror.get(PATH))
        assert (answer.status, answer.body) == (200, LAYER)
        assert len(upstream.find("GET", "/blobs/")) == before


@once
async def test_a_blob_that_is_damaged_in_the_bucket_is_found_though_its_copy_is_right(
    start: Start, bucket: Bucket, image: Image
) -> None:
    async with start(disk={"maxsize": "1MiB"}) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        driver = S3Driver(bucket.settings())
        await driver.put(layout.blob_data(Digest.of(LAYER)), b"x" * len(LAYER))
        await driver.close()
        config = load(mirror.root.with_suffix(".yml"), {}).config
        async with asyncio.timeout(WITHIN):
            assert await asyncio.to_thread(run, config, "verify", {}) == 1
        answer = await follow(mirror, await mirror.get(PATH))
        assert (answer.status, answer.body) == (200, LAYER)


# The bucket is away.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that gives up at the first failure. Not soon: a busy server is none that is away."""
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)


@pytest.mark.parametrize("rule", [Rule(status=503), Rule(reset=True), Rule(status=403)], ids=str)
async def test_while_the_bucket_is_away_clients_get_what_they_ask_for(
    start: Start,
    bucket: Bucket,
    upstream: Upstream,
    proxy: Recorder,
    image: Image,
    rule: Rule,
    impatient: None,
) -> None:
    """Manifests from memory; blobs, kept or not, from the upstream, and they are not kept."""
    async with start(freshness={"default": "1h"}) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        before = await bucket.keys()
        proxy.clear(rule)
        other = upstream.add_image(NAME, "2", layers=[LARGE])
        async with asyncio.timeout(WITHIN):
            assert (await mirror.get(f"{NAME}/manifests/1")).body == image.manifest
            assert (await mirror.get(f"{NAME}/manifests/2")).body == other.manifest
            cold = await mirror.get(f"{NAME}/blobs/{sha256(LARGE)}")
            assert (cold.status, cold.body == LARGE, cold.complete) == (200, True, True)
            for digest, data in image.blobs.items():
                answer = await mirror.get(f"{NAME}/blobs/{digest}")
                assert answer.status in (200, 307)
                assert answer.status == 307 or answer.body == data
        proxy.clear()
    assert [key for key in await bucket.keys() if key not in before and key.endswith("data")] == []


@once
async def test_without_bucket_and_upstream_the_answer_is_a_clear_error(
    start: Start, bucket: Bucket, upstream: Upstream, proxy: Recorder, image: Image, impatient: None
) -> None:
    async with start() as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
    upstream.fault("GET", "", Fault(status=503))
    upstream.fault("HEAD", "", Fault(status=503))
    proxy.clear(Rule(status=503))
    async with asyncio.timeout(WITHIN), start(name="new") as mirror:
        for path in (f"{NAME}/manifests/1", PATH):
            answer = await mirror.get(path)
            assert answer.status == 503
            assert answer.error["code"] == "UNAVAILABLE"
            assert "storage" in answer.error["message"] or "upstream" in answer.error["message"]
            assert bucket.server.url not in str(answer.error)


@once
@pytest.mark.parametrize("operation", ["verify", "garbage-collect"])
@pytest.mark.parametrize(
    ("parameters", "rules", "cause", "setting"),
    [
        ({"bucket": "not-there"}, [], "404 NoSuchBucket", "see storage.s3.bucket"),
        ({"secretkey": "wrong"}, [], "403 SignatureDoesNotMatch", "see storage.s3.secretkey"),
        ({}, [Rule(status=503)], "503", "storage.s3.regionendpoint"),
    ],
)
async def test_a_command_that_cannot_have_the_bucket_says_why_and_which_setting_to_see(
    start: Start,
    bucket: Bucket,
    proxy: Recorder,
    impatient: None,
    capsys: pytest.CaptureFixture[str],
    operation: str,
    parameters: dict[str, str],
    rules: list[Rule],
    cause: str,
    setting: str,
) -> None:
    """The running mirror is asked, and refused by the bucket."""
    proxy.clear(*rules)
    async with start(parameters=parameters) as mirror:
        assert (mirror.root / SOCKET).is_socket()
        config = load(mirror.root.with_suffix(".yml"), {}).config
        capsys.readouterr()
        for _ in range(2 * breaker.FAILURES):  # at last it is left alone, and the text is the same
            async with asyncio.timeout(WITHIN):
                assert await asyncio.to_thread(run, config, operation, {}) == 1
        lines = capsys.readouterr().err.splitlines()
        told = [line for line in lines if line.startswith("mirror: the storage of this registry cannot be")]
    assert len(told) == 2 * breaker.FAILURES
    assert len(set(told)) == 1, told
    assert told[0].startswith(
        f"mirror: the storage of this registry cannot be asked now: the storage answers {cause}"
    )
    assert setting in told[0]
    assert proxy.url not in told[0]


@once
async def test_when_the_bucket_is_back_new_content_is_kept_again(
    start: Start,
    bucket: Bucket,
    upstream: Upstream,
    proxy: Recorder,
    image: Image,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mirror.drivers.breaker.PAUSE", 0.1)
    proxy.clear(Rule(status=503))
    async with start() as mirror:
        await pull(mirror, image)
        proxy.clear()
        async with asyncio.timeout(WITHIN):
            while True:
                await pull(mirror, image)
                try:
                    async with asyncio.timeout(1):
                        await kept(mirror, bucket, image)
                    break
                except TimeoutError:
                    continue


@once
async def test_a_broken_body_from_the_bucket_is_never_a_complete_answer(
    start: Start, bucket: Bucket, upstream: Upstream, proxy: Recorder, impatient: None
) -> None:
    image = upstream.add_image(NAME, "1", layers=[LARGE])
    path = f"{NAME}/blobs/{sha256(LARGE)}"
    async with start(redirect=False) as mirror:
        await pull(mirror, image)
        await kept(mirror, bucket, image)
        proxy.clear(Rule("/data", "GET", truncate=5 * MIB, times=1), Rule("/data", status=503))
        answer = await mirror.get(path)
        assert (answer.status, answer.complete) == (200, False)
        assert LARGE.startswith(answer.body)
        proxy.clear(Rule("/data", "GET", truncate=5 * MIB, times=2))
        answer = await mirror.get(path)
        assert (answer.complete, answer.body == LARGE) == (True, True), "it was read on from there"
