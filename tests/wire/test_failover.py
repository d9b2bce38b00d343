"""One upstream under several URLs: when the first fails, also in the middle of a blob, the next goes on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.cache import helpers, resume
from tests.support.large import Digesting, large_blob
from tests.support.scripted import Fault, Upstream, serve, sha256
from tests.wire.conftest import HASTY, PATIENT, Mirror, running

NAME = "library/a"
SIZE = 200_000_000  # bytes
DEATH = 90_000_000  # bytes that the first upstream sends before it dies
IN_FLIGHT = 8 << 20  # bytes that sockets and buffers may hold when it does: they may be lost
RANGE = (150_000_000, 150_999_999)  # a part that the first upstream does not get to
EARLY_RANGE = (10_000_000, 10_999_999)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off is tested where it is decided."""
    monkeypatch.setattr(resume, "BACKOFF", 0.01)


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Iterator[memoryview]:
    with large_blob(tmp_path_factory.mktemp("large") / "blob", SIZE) as view:
        yield view


@dataclass(slots=True)
class Two:
    """A mirror of two upstreams with the same content; `kill` ends the first."""

    mirror: Mirror
    first: Upstream
    second: Upstream
    _first_server: AsyncExitStack

    async def kill(self) -> None:
        await self._first_server.aclose()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    """Each blob comes over one connection: what the first upstream has sent when it dies is its beginning."""
    async with pair(tmp_path) as made:
        yield made


@asynccontextmanager
async def pair(
    tmp_path: Path, connections: int = 1, timeouts: dict[str, str] = PATIENT
) -> AsyncGenerator[Two, None]:
    first, second = Upstream(), Upstream()
    cache = {"segments": {"connections": connections}}
    async with AsyncExitStack() as stack:
        dying = await stack.enter_async_context(AsyncExitStack())
        urls = [await dying.enter_async_context(serve(first)), await stack.enter_async_context(serve(second))]
        mirror = await stack.enter_async_context(
            running(tmp_path / "data", *urls, cache=cache, timeouts=timeouts)
        )
        yield Two(mirror, first, second, dying)


async def download(mirror: Mirror, digest: str, part: tuple[int, int] | None = None) -> Digesting:
    """A client's GET; what it has got."""
    headers = {"Range": f"bytes={part[0]}-{part[1]}"} if part else {}
    got = Digesting()
    async with mirror.session.get(f"{mirror.url}/v2/{NAME}/blobs/{digest}", headers=headers) as response:
        assert response.status == (206 if part else 200)
        async for data in response.content.iter_any():
            got.take(data)
    return got


async def test_an_upstream_that_dies_in_the_middle_of_200_mb_is_taken_over_by_the_next_for_the_rest_only(
    two: Two, blob: memoryview
) -> None:
    """Clients that came early, late, and for a part all get the right bytes."""
    digest = two.first.add_blob(NAME, blob)
    two.second.add_blob(NAME, blob)
    two.first.fault("GET", "/blobs/", Fault(stall_after=DEATH))

    async with asyncio.TaskGroup() as clients:
        early = [clients.create_task(download(two.mirror, digest)) for _ in range(2)]
        ranged = [clients.create_task(download(two.mirror, digest, part)) for part in (EARLY_RANGE, RANGE)]
        await two.first.arrived("GET", "/blobs/")
        half = await download(two.mirror, digest, (DEATH - IN_FLIGHT - 1_000_000, DEATH - IN_FLIGHT - 1))
        assert half.size == 1_000_000, "most of it has come"
        await two.kill()
        late = [clients.create_task(download(two.mirror, digest)) for _ in range(2)]

    assert {(task.result().size, task.result().digest) for task in early + late} == {(SIZE, digest)}
    for task, (start, last) in zip(ranged, (EARLY_RANGE, RANGE), strict=True):
        wanted = hashlib.sha256(blob[start : last + 1]).hexdigest()
        assert task.result().digest == f"sha256:{wanted}"
    [asked] = two.first.find("GET", "/blobs/")
    assert asked.sent == DEATH
    [rest] = two.second.find("GET", "/blobs/")
    start = int(rest.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert DEATH - IN_FLIGHT < start <= DEATH
    assert (rest.status, rest.sent) == (206, SIZE - start)
    assert [seen for seen in two.second.seen if seen is not rest and seen.method != "HEAD"] == []


@pytest.mark.parametrize("each_mode", ["quick"], indirect=True)  # in the other there is one connection
async def test_over_several_connections_the_rest_of_each_comes_from_the_next_one(
    tmp_path: Path, blob: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "BUSY", 1e9)  # upstreams, mirror and clients are one process here
    async with pair(tmp_path, connections=4) as two:
        digest = two.first.add_blob(NAME, blob)
        two.second.add_blob(NAME, blob)
        two.first.fault("GET", "/blobs/", Fault(rate=20_000_000))
        async with asyncio.TaskGroup() as clients:
            early = [clients.create_task(download(two.mirror, digest)) for _ in range(2)]
            await two.first.arrived("GET", "/blobs/", count=4)
            ranged = clients.create_task(download(two.mirror, digest, RANGE))
            assert (await ranged).size == 1_000_000
            await two.kill()
            late = [clients.create_task(download(two.mirror, digest)) for _ in range(2)]
        assert {(task.result().size, task.result().digest) for task in early + late} == {(SIZE, digest)}
        got = sum(seen.sent for seen in two.first.find("GET", "/blobs/"))
        rest = sum(seen.sent for seen in two.second.find("GET", "/blobs/"))
        assert got > 0
        assert rest > 0
        assert got + rest <= SIZE + 5 * IN_FLIGHT


@pytest.mark.parametrize(
    "fault",
    [Fault(reset=True), Fault(status=503), Fault(status=429), Fault(hang=True)],
    ids=["resets", "503", "429", "hangs"],
)
async def test_a_first_upstream_that_fails_is_passed_over_and_left_alone_for_a_while(
    tmp_path: Path, fault: Fault
) -> None:
    async with pair(tmp_path, timeouts=HASTY if fault.hang else PATIENT) as two:
        image = two.first.add_image(NAME, "1", layers=[b"one"])
        two.second.add_image(NAME, "1", layers=[b"one"])
        two.first.fault("*", "/v2/", fault)
        for reference in ("1", image.digest):
            assert (await two.mirror.get(f"{NAME}/manifests/{reference}")).body == image.manifest
        asked = len(two.first.seen)
        assert asked
        for digest, data in image.blobs.items():
            assert (await two.mirror.get(f"{NAME}/blobs/{digest}")).body == data
        assert len(two.first.seen) == asked


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_of_the_first_upstream_that_answers_is_final(two: Two, status: int) -> None:
    """It is an answer: to ask on would make names public that only the second has."""
    two.second.add_image(NAME, "1")
    two.first.fault("*", "/v2/", Fault(status=status))
    assert (await two.mirror.get(f"{NAME}/manifests/1")).status == status
    assert two.second.seen == []


async def test_when_all_fail_the_client_hears_a_failure_that_it_understands(two: Two) -> None:
    for upstream in (two.first, two.second):
        upstream.fault("*", "/v2/", Fault(status=503))
    for path in (f"{NAME}/manifests/1", f"{NAME}/blobs/{sha256(b'x')}"):
        answer = await two.mirror.get(path)
        assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
