"""Health checks: when one counts, what they say, and that none is begun twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mirror import outgoing
from mirror.health import checks, probes
from mirror.health.checks import Check, CheckError, Checks
from tests.support.waiting import PATIENCE, until


async def nothing() -> None:
    """A probe that finds nothing wrong."""


@asynccontextmanager
async def running(*all_: Check, changed: Callable[[bool], None] = lambda _: None) -> AsyncIterator[Checks]:
    """These checks, running."""
    made = Checks(all_, changed)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@given(st.integers(0, 4), st.lists(st.booleans(), max_size=12))
def test_a_check_fails_from_its_threshold_on_and_is_well_after_one_success(
    threshold: int, outcomes: list[bool]
) -> None:
    check = Check("x", nothing, threshold=threshold)
    row = 0
    for well in outcomes:
        row = 0 if well else row + 1
        before = check.error is not None
        changed = check.found(None if well else f"bad {row}")
        failing = row >= max(threshold, 1)
        assert check.error == (f"bad {row}" if failing else None)
        assert changed == (before != failing)


async def test_nothing_is_looked_at_before_the_first_interval_has_passed() -> None:
    async def bad() -> None:
        raise CheckError("bad")

    async with running(Check("x", bad, interval=3600)) as made:
        await asyncio.sleep(0)
        assert made.failures() == {}


async def test_who_listens_is_told_of_each_change_and_of_no_other() -> None:
    state: list[str | None] = [None]
    runs = 0

    async def probe() -> None:
        nonlocal runs
        runs += 1
        if state[0]:
            raise CheckError(state[0])

    told: list[bool] = []
    async with running(Check("x", probe, interval=0.01, threshold=2), changed=told.append) as made:
        await until(lambda: runs > 2)
        assert told == []
        state[0] = "bad"
        await until(lambda: made.failures() == {"x": "bad"})
        state[0] = "worse"
        await until(lambda: made.failures() == {"x": "worse"})
        assert told == [True]
        state[0] = None
        await until(lambda: told == [True, False])


async def test_a_check_that_hangs_has_failed_and_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LIMIT", 0.02)
    begun = 0
    release = asyncio.Event()

    async def hangs() -> None:
        nonlocal begun
        begun += 1
        await release.wait()

    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        ticks += 1

    async with running(Check("disk", hangs, interval=0.01), Check("clock", ticking, interval=0.01)) as made:
        await until(lambda: made.failures() == {"disk": "no outcome within 0.02 s"})
        ticks = 0
        await until(lambda: ticks > 10)
        assert begun == 1
        release.set()
        await until(lambda: made.failures() == {} and begun > 1)


async def test_a_defect_in_a_check_is_a_failure_and_ends_no_check() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async with running(Check("x", broken, interval=0.01)) as made:
        await until(lambda: made.failures() == {"x": "the check itself failed: ZeroDivisionError"})


async def outcome(probe: Callable[[], Awaitable[None]]) -> str | None:
    """What a probe says is wrong."""
    try:
        await probe()
    except CheckError as error:
        return str(error)
    return None


async def test_a_file_fails_while_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "down"
    probe = probes.file(path)
    assert await outcome(probe) is None
    path.touch()
    assert await outcome(probe) == "file exists"
    path.unlink()
    assert await outcome(probe) is None
    below_a_file = tmp_path / "file"
    below_a_file.touch()
    assert "not a directory" in str(await outcome(probes.file(below_a_file / "x")))


@asynccontextmanager
async def server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A real server that answers like this: its URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with outgoing.session("mirror/test") as made:
        yield made


async def test_http_asks_by_head_with_its_headers_and_compares_the_status(
    client: aiohttp.ClientSession,
) -> None:
    seen: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.headers.get("X-Key", "")))
        return web.Response(status=int(request.path[1:]))

    async with server(answer) as url:
        for status, wanted, said in ((200, 200, None), (204, 204, None), (503, 200, "status: 503")):
            probe = probes.http(
                lambda: client,
                f"{url}/{status}",
                name="it",
                status=wanted,
                timeout=5,
                headers=[("X-Key", "k")],
            )
            found = await outcome(probe)
            assert (found is None) == (said is None)
            assert said is None or found == f"downstream service returned unexpected {said}"
    assert set(seen) == {("HEAD", "k")}


async def test_http_takes_no_answer_and_a_late_one_for_a_failure(client: aiohttp.ClientSession) -> None:
    async def hang(_request: web.Request) -> web.Response:
        await asyncio.sleep(PATIENCE)
        return web.Response()

    async with server(hang) as url:
        probe = probes.http(lambda: client, url, name="it", status=200, timeout=0.05, headers=())
        assert await outcome(probe) == "error while checking: it"
    assert await outcome(probe) == "error while checking: it"


async def test_the_headers_of_a_check_go_to_no_other_origin(client: aiohttp.ClientSession) -> None:
    seen: list[str] = []

    async def target(request: web.Request) -> web.Response:
        seen.append(request.headers.get("X-Key", "none"))
        return web.Response()

    async with server(target) as there:

        async def redirect(request: web.Request) -> web.Response:
            seen.append(request.headers.get("X-Key", "none"))
            onward = "/again" if request.path == "/" else there
            return web.Response(status=302, headers={"Location": onward})

        async with server(redirect) as here:
            probe = probes.http(
                lambda: client, here, name="it", status=200, timeout=5, headers=[("X-Key", "secret")]
            )
            assert await outcome(probe) is None
    assert seen == ["secret", "secret", "none"]


async def test_redirects_without_end_are_no_answer(client: aiohttp.ClientSession) -> None:
    async def around(_request: web.Request) -> web.Response:
        return web.Response(status=301, headers={"Location": "/"})

    async with server(around) as url:
        with pytest.raises(outgoing.OutgoingError, match="more than 5 times"):
            await outgoing.ask(client, "HEAD", url, timeout=5, followed=outgoing.FOLLOWED_BY_HEAD)


async def test_no_reason_shows_what_is_secret_in_a_url(client: aiohttp.ClientSession) -> None:
    for url in ("http://u:hunter2@127.0.0.1:1/?t=hunter2", "http://u:hunter2@[bad/?t=hunter2"):
        with pytest.raises(outgoing.OutgoingError) as failed:
            await outgoing.ask(client, "HEAD", url, timeout=5, followed=())
        assert "hunter2" not in str(failed.value)


async def test_tcp_needs_somebody_who_listens() -> None:
    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    probe = probes.tcp("127.0.0.1", port, name="it", timeout=1)
    assert await outcome(probe) is None
    listening.close()
    await listening.wait_closed()
    assert await outcome(probe) == "connection to it failed"
