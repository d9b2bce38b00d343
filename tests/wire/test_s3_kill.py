"""A mirror on a bucket that is killed (SIGKILL) while it uploads."""

from __future__ import annotations

import asyncio
import http.client
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mirror.drivers.s3 import S3Driver
from mirror.store import layout
from tests.support.buckets import Bucket
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.recorder import Recorder, Rule
from tests.support.scripted import Upstream, in_thread, sha256

MIB = 1 << 20
NAME = "library/a"
LARGE = random.Random(9).randbytes(12 * MIB)
PATH = f"/v2/{NAME}/blobs/{sha256(LARGE)}"


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Recorder]:
    """Between the mirror and the bucket."""
    recorder = Recorder(bucket.server.url)
    yield recorder
    recorder.stop()


def ask(port: int, path: str) -> tuple[int, bytes, str]:
    """Status, body and Location of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Location", "")
    finally:
        connection.close()


def command(mirror: MirrorProcess, *args: str) -> str:
    """What a command prints that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "mirror", *args, "--config", str(mirror.folder / "config.yml")],
        capture_output=True,
        text=True,
        check=False,
        env=mirror.env,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def start(space: Workspace, bucket: Bucket, proxy: Recorder, url: str) -> MirrorProcess:
    folder = space.folder("own")
    config = {
        "storage": {"s3": bucket.parameters(proxy.url, chunksize=5 * MIB)},
        "cache": {"folder": str(folder)},
    }
    return MirrorProcess(space, url, name="on-s3", config=config, storage=folder)


@pytest.mark.parametrize(
    ("each_mode", "moment"),
    [("quick", "partNumber=1"), ("plain", "partNumber=3"), ("quick", "uploadId=[^&]*$")],
    indirect=["each_mode"],
)
def test_killed_in_an_upload_it_starts_again_and_the_next_pull_is_kept(
    space: Workspace, bucket: Bucket, proxy: Recorder, moment: str
) -> None:
    """While a part is being sent, and when the bucket makes the object; what is left is swept."""
    upstream = Upstream()
    upstream.add_blob(NAME, LARGE)
    with in_thread(upstream):
        mirror = start(space, bucket, proxy, upstream.url)
        proxy.clear(Rule(moment, "PUT|POST", wait=True))
        assert ask(mirror.port, PATH)[:2] == (200, LARGE)
        wait_until(lambda: bool(proxy.select("PUT|POST", moment)), "the moment has come")
        mirror.kill()
        proxy.release()
        proxy.clear()
        before = len(upstream.find("GET", "/blobs/"))
        mirror.start()
        assert ask(mirror.port, PATH)[:2] in ((200, LARGE), (307, b""))
        wait_until(lambda: ask(mirror.port, PATH)[0] == 307, "it is kept")
        assert len(upstream.find("GET", "/blobs/")) == before, "the spool had all of it"
        mirror.stop()
        assert "Traceback" not in mirror.log

    async def sweep() -> list[str]:
        driver = S3Driver(bucket.settings(), own=layout.BLOBS)
        await driver.sweep(time.time() + 10)
        await driver.close()
        return await bucket.keys()

    hexes = sha256(LARGE).partition(":")[2]
    names = ["/".join(key.rsplit("/", 2)[1:]) for key in asyncio.run(sweep())]
    assert sorted(names) == [f"{hexes}/data", f"{hexes}/link"]


@pytest.mark.parametrize("each_mode", ["quick"], indirect=True)
def test_the_commands_work_on_a_bucket_with_and_without_a_running_mirror(
    space: Workspace, bucket: Bucket, proxy: Recorder
) -> None:
    upstream = Upstream()
    image = upstream.add_image(NAME, "1", layers=[b"layer"])
    with in_thread(upstream):
        mirror = start(space, bucket, proxy, upstream.url)
        for path in (f"manifests/{image.digest}", "manifests/1", *(f"blobs/{each}" for each in image.blobs)):
            assert ask(mirror.port, f"/v2/{NAME}/{path}")[0] == 200

        def is_kept() -> bool:
            return all(ask(mirror.port, f"/v2/{NAME}/blobs/{each}")[0] == 307 for each in image.blobs)

        wait_until(is_kept, "it is kept")
        wait_until(lambda: len(asyncio.run(bucket.keys())) == 8, "its links are kept")
        kept = asyncio.run(bucket.keys())
        for _ in range(2):
            assert "3 blobs read" in command(mirror, "verify")
            command(mirror, "garbage-collect")
            assert asyncio.run(bucket.keys()) == kept
            mirror.stop()
        assert f"{NAME}:1" in command(mirror, "purge", f"{NAME}:1")
        assert asyncio.run(bucket.keys()) == []
