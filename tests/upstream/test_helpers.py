"""When a credential helper is asked, and when its last answer does: a table, then real helpers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.registry import Unavailable
from mirror.upstream.credentials import ANONYMOUS, Credentials
from mirror.upstream.helperprocess import RUN_SECONDS
from mirror.upstream.helpers import PAUSE, Helper, Helpers, Known
from tests.upstream.conftest import Clock
from tests.upstream.scripts import Scripted, script

HOST = "registry.example"
LOGIN = Credentials("user", "hush")
OTHER = Credentials("user", "other")


@pytest.mark.parametrize(
    ("known", "age", "lifetime", "usable"),
    [
        (Known(), 0, None, False),
        (Known(LOGIN), 0, None, True),
        (Known(LOGIN), 1e9, None, True),
        (Known(ANONYMOUS), 1e9, None, True),
        (Known(LOGIN), 0, 0, False),
        (Known(LOGIN), 59.9, 60, True),
        (Known(LOGIN), 60, 60, False),
        (Known(LOGIN, refused=True), PAUSE - 0.1, None, True),
        (Known(LOGIN, refused=True), PAUSE, None, False),
        (Known(LOGIN, refused=True), PAUSE, 60, False),
        (Known(LOGIN, refused=True), 0, 0, False),
    ],
)
def test_an_answer_is_used_for_its_lifetime_or_until_it_is_refused(
    known: Known, age: float, lifetime: float | None, *, usable: bool
) -> None:
    assert (known.usable(age, lifetime) is not None) is usable


@pytest.mark.parametrize(
    ("known", "lifetime", "given"),
    [
        (Known(LOGIN), 60, LOGIN),
        (Known(LOGIN, refused=True), 60, None),
        (Known(LOGIN), 0, None),
        (Known(), 60, None),
    ],
)
def test_the_last_resort_was_never_refused(known: Known, lifetime: float, given: Credentials | None) -> None:
    assert known.last_resort(lifetime) == given


async def test_fifty_at_once_share_one_run_and_its_answer_is_kept(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path)
    scripted.says("user", "hush")
    helper = Helper((str(scripted.path),), None)
    assert await asyncio.gather(*(helper.get(HOST) for _ in range(50))) == [LOGIN] * 50
    assert await helper.get(HOST) == LOGIN
    assert scripted.runs == [f"get {HOST}"]


async def test_each_server_has_its_own_answer(tmp_path: Path) -> None:
    program = script(tmp_path, 'echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"of $(cat)\\"}"')
    helper = Helper((str(program),), None)
    hosts = ("one.example", "two.example", "one.example")
    assert [(await helper.get(host)).password for host in hosts] == [f"of {host}" for host in hosts]


async def test_one_who_leaves_does_not_end_the_run_for_the_others(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    program = script(tmp_path, """cat "$here/go" > /dev/null; echo '{"Username":"user","Secret":"hush"}'""")
    helper = Helper((str(program),), None)
    leaver, stayer = (asyncio.create_task(helper.get(HOST)) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.to_thread((tmp_path / "go").write_text, "")
    assert await stayer == LOGIN
    with pytest.raises(asyncio.CancelledError):
        await leaver


async def test_a_refused_answer_is_asked_for_again_at_most_once_in_ten_seconds(
    tmp_path: Path, clock: Clock
) -> None:
    scripted = Scripted(tmp_path)
    scripted.says("user", "hush")
    helper = Helper((str(scripted.path),), None)
    assert await helper.get(HOST) == LOGIN
    scripted.says("user", "other")
    helper.refused(LOGIN)
    assert await helper.get(HOST) == LOGIN, "it was only just asked"
    clock.advance(PAUSE)
    assert await helper.get(HOST) == OTHER
    helper.refused(LOGIN)
    clock.advance(10 * PAUSE)
    assert await helper.get(HOST) == OTHER, "that one was not refused"
    assert len(scripted.runs) == 2


async def test_lifetime_0_asks_for_each_use_and_others_for_each_span(tmp_path: Path, clock: Clock) -> None:
    scripted = Scripted(tmp_path)
    scripted.says("user", "hush")
    each, hourly = Helper((str(scripted.path),), 0), Helper((str(scripted.path),), 3600)
    for _ in range(3):
        await each.get(HOST)
    assert len(scripted.runs) == 3
    for _ in range(2):
        for _ in range(3):
            await hourly.get(HOST)
        clock.advance(3600)
    assert len(scripted.runs) == 5


async def test_a_failure_is_remembered_for_ten_seconds_and_names_the_file_only(
    tmp_path: Path, clock: Clock
) -> None:
    scripted = Scripted(tmp_path)
    helper = Helper((str(scripted.path), "--key=hush"), None)
    with capture_logs() as logs:
        outcomes = await asyncio.gather(*(helper.get(HOST) for _ in range(5)), return_exceptions=True)
        clock.advance(PAUSE - 1)
        with pytest.raises(Unavailable) as caught:
            await helper.get(HOST)
    assert {str(outcome) for outcome in outcomes} == {str(caught.value)}
    assert caught.value.message == "the credential helper docker-credential-test failed"
    assert caught.value.status == 503
    assert caught.value.retry_after == pytest.approx(1, abs=0.5)
    [failed] = logs
    assert failed == {
        "event": "upstream.helper.failed",
        "log_level": "warning",
        "helper": "docker-credential-test",
        "server": HOST,
        "cause": "ended with exit status 3; it says: no luck today",
    }
    scripted.says("user", "hush")
    clock.advance(1)
    assert await helper.get(HOST) == LOGIN
    assert len(scripted.runs) == 2


async def test_what_is_past_its_lifetime_is_used_while_the_helper_fails_unless_it_was_refused(
    tmp_path: Path, clock: Clock
) -> None:
    scripted = Scripted(tmp_path)
    scripted.says("user", "hush")
    helper = Helper((str(scripted.path),), 60)
    await helper.get(HOST)
    scripted.fails()
    clock.advance(60)
    assert [await helper.get(HOST) for _ in range(3)] == [LOGIN] * 3
    assert len(scripted.runs) == 2, "the failure is remembered here as well"
    helper.refused(LOGIN)
    with pytest.raises(Unavailable, match="failed"):
        await helper.get(HOST)


async def test_no_credentials_are_an_answer(tmp_path: Path, clock: Clock) -> None:
    scripted = Scripted(tmp_path)
    scripted.has_none()
    helper = Helper((str(scripted.path),), None)
    assert await helper.get(HOST) == ANONYMOUS
    clock.advance(PAUSE)
    assert await helper.get(HOST) == ANONYMOUS
    assert len(scripted.runs) == 1
    helper.refused(ANONYMOUS)
    scripted.says("user", "hush")
    assert await helper.get(HOST) == LOGIN


async def test_closing_ends_a_helper_that_hangs_and_starts_no_other(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pids")
    program = script(tmp_path, 'echo $$ > "$here/pids"; cat > /dev/null; exec sleep 1000')
    helpers = Helpers(None)
    waiting = asyncio.create_task(helpers.get((str(program),), HOST))
    pid = int(await asyncio.to_thread((tmp_path / "pids").read_text))
    await helpers.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Unavailable, match="stopping"):
        await helpers.get((str(program),), HOST)
    await helpers.close()


async def test_a_helper_that_hangs_holds_nobody_for_longer_than_its_limit(
    tmp_path: Path, clock: Clock
) -> None:
    os.mkfifo(tmp_path / "begun")
    program = script(tmp_path, 'cat > /dev/null; echo > "$here/begun"; exec sleep 1000')
    helper = Helper((str(program),), None)
    waiting = [asyncio.create_task(helper.get(HOST)) for _ in range(5)]
    await asyncio.to_thread((tmp_path / "begun").read_text)
    clock.advance(RUN_SECONDS)
    for task in waiting:
        with pytest.raises(Unavailable, match="docker-credential-test did not answer within 30 s"):
            await task


async def test_secrets_get_into_no_log_and_no_repr(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path)
    scripted.says("user", "hush")
    helper = Helper((str(scripted.path),), None)
    with capture_logs() as logs:
        credentials = await helper.get(HOST)
    assert [entry["event"] for entry in logs] == ["upstream.helper.answered"]
    assert "hush" not in repr(logs) + repr(credentials) + repr(Known(credentials))
