"""One run of a credential helper: real processes, and what attackers and accidents make of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.upstream import helperprocess
from mirror.upstream.credentials import ANONYMOUS, Credentials
from mirror.upstream.helperprocess import ERRORS_TOLD, RUN_SECONDS, HelperError, ask, read
from tests.upstream.conftest import Clock
from tests.upstream.scripts import script

NOT_FOUND = b"credentials not found in native keychain"


def ends(pid: int) -> bool:
    """Whether the process is gone, or is so within 5 s: a signal takes a moment. A zombie is gone."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 5)[0])
    finally:
        os.close(process)


def names_in(folder: Path) -> list[str]:
    """Its files and folders."""
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    ("status", "output", "credentials"),
    [
        (0, b'{"ServerURL":"s","Username":"u","Secret":"p"}\n', Credentials("u", "p")),
        (0, b'{"Username":"<token>","Secret":"t"}', Credentials(identity_token="t")),
        (0, b'{"ServerURL":"s","Username":"","Secret":""}', ANONYMOUS),
        (0, b"{}", ANONYMOUS),
        (1, NOT_FOUND, ANONYMOUS),
        (255, b"  " + NOT_FOUND + b"\r\n", ANONYMOUS),
    ],
)
def test_an_answer_is_a_login_an_identity_token_or_nobody(
    status: int, output: bytes, credentials: Credentials
) -> None:
    assert read(status, output) == credentials


@pytest.mark.parametrize(
    ("status", "output", "cause"),
    [
        (0, b"", "not a JSON object"),
        (0, NOT_FOUND, "not a JSON object"),
        (0, b"hush", "not a JSON object"),
        (0, b'["hush"]', "not a JSON object"),
        (0, b"\xff\xfe", "not a JSON object"),
        (0, b"[" * 20000, "not a JSON object"),
        (0, b'{"Username":1,"Secret":"hush"}', "not a text"),
        (0, b'{"Username":"u","Secret":["hush"]}', "not a text"),
        (0, b'{"Username":"u","Secret":""}', "is empty"),
        (0, b'{"Username":"","Secret":"hush"}', "is empty"),
        (1, b"hush", "exit status 1"),
        (1, b'{"Username":"u","Secret":"hush"}', "exit status 1"),
        (-9, b"", "signal 9"),
    ],
)
def test_anything_else_is_an_error_that_repeats_nothing(status: int, output: bytes, cause: str) -> None:
    with pytest.raises(HelperError) as caught:
        read(status, output)
    assert cause in caught.value.cause
    assert "hush" not in caught.value.cause + str(caught.value)
    assert caught.value.__cause__ is None, "a JSON error holds the document"


@given(st.integers(-64, 255), st.binary(max_size=200))
def test_noise_is_never_taken_for_credentials_nor_makes_another_error(status: int, output: bytes) -> None:
    with contextlib.suppress(HelperError):
        assert read(status, output).is_empty


async def test_the_helper_reads_the_server_from_its_input_until_its_end(tmp_path: Path) -> None:
    program = script(
        tmp_path, 'server=$(cat; echo x); echo "{\\"Username\\":\\"$*\\",\\"Secret\\":\\"$server\\"}"'
    )
    given_ = await ask([str(program), "--profile", "a b"], "registry.example:5000")
    assert given_ == Credentials("--profile a b get", "registry.example:5000x"), (
        "no newline, as docker does it"
    )


async def test_no_shell_reads_the_command_or_the_server(tmp_path: Path) -> None:
    program = script(tmp_path, "echo '{}'")
    await ask([str(program), "; touch $here/a", f"$(touch {tmp_path}/b)"], f"`touch {tmp_path}/c`")
    assert names_in(tmp_path) == [program.name]


async def test_a_helper_that_ignores_its_input_answers_too(tmp_path: Path) -> None:
    program = script(tmp_path, """exec <&-; echo '{"Username":"u","Secret":"p"}'""")
    assert await ask([str(program)], "registry.example" * 10_000) == Credentials("u", "p")


def pids_with(text: str) -> list[int]:
    """The processes that have this in their arguments."""
    found = []
    for pid in (int(name) for name in names_in(Path("/proc")) if name.isdigit()):
        with contextlib.suppress(OSError):
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


async def pids_of(folder: Path) -> list[int]:
    """What the script has written to the pipe `pids`, as soon as it has."""
    return [int(pid) for pid in (await asyncio.to_thread((folder / "pids").read_text)).split()]


async def test_a_helper_that_hangs_is_killed_with_its_children(tmp_path: Path, clock: Clock) -> None:
    os.mkfifo(tmp_path / "pids")
    program = script(tmp_path, 'cat > /dev/null; sleep 1000 & echo $$ $! > "$here/pids"; wait')
    asking = asyncio.create_task(ask([str(program)], "registry.example"))
    pids = await pids_of(tmp_path)
    clock.advance(RUN_SECONDS - 5)
    await asyncio.sleep(0)
    assert not asking.done()
    clock.advance(5)
    with pytest.raises(HelperError, match="did not answer within 30 s"):
        await asking
    assert all(ends(pid) for pid in pids)
    assert str(pids[0]) not in names_in(Path("/proc")), "it was reaped"


@pytest.mark.parametrize("turns", range(12))
async def test_a_helper_that_nobody_waits_for_any_more_is_killed_also_while_it_starts(
    tmp_path: Path, turns: int
) -> None:
    child = script(tmp_path, "exec sleep 1000 # the path stays in its arguments", "child")
    program = script(tmp_path, f"sh {child} {tmp_path} & wait")
    asking = asyncio.create_task(ask([str(program)], "registry.example"))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert all(ends(pid) for pid in pids_with(str(tmp_path)))


async def test_a_helper_that_is_cancelled_in_its_work_is_killed_with_its_children(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pids")
    program = script(tmp_path, 'cat > /dev/null; sleep 1000 & echo $$ $! > "$here/pids"; wait')
    asking = asyncio.create_task(ask([str(program)], "registry.example"))
    pids = await pids_of(tmp_path)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert all(ends(pid) for pid in pids)


@pytest.mark.parametrize("flood", ["cat /dev/zero", "cat /dev/zero >&2", "head -c 65537 /dev/zero"])
async def test_a_helper_that_floods_is_killed_before_it_fills_the_memory(tmp_path: Path, flood: str) -> None:
    program = script(tmp_path, f'echo $$ > "$here/pid"; {flood}')
    with pytest.raises(HelperError, match="answered with more than can be right") as caught:
        await ask([str(program)], "registry.example")
    assert "wrote too much" in caught.value.cause
    assert ends(int((tmp_path / "pid").read_text()))


async def test_a_child_that_keeps_the_output_open_does_not_hold_up_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some helpers start an agent, which inherits their pipes."""
    monkeypatch.setattr(helperprocess, "LINGER_SECONDS", 0.1)
    program = script(tmp_path, """sleep 60 & echo $! > "$here/pid"; echo '{"Username":"u","Secret":"p"}'""")
    try:
        assert await ask([str(program)], "registry.example") == Credentials("u", "p")
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


async def test_a_helper_that_fails_tells_the_log_why_and_nobody_a_secret(tmp_path: Path) -> None:
    (tmp_path / "complaint").write_text(
        "2026/01/01 cannot\n\033[31mrefresh: AWS_SECRET_ACCESS_KEY=hush1 -p 'x' token: \"hush2 hush3\" "
        'Authorization: Bearer hush4 {"Secret":"hush5"} AQoDYXdzEPT4hush6hush6hush6hush6hush6hush6hush6'
    )
    program = script(tmp_path, 'cat "$here/complaint" >&2; echo hush7; exit 4')
    with pytest.raises(HelperError) as caught:
        await ask([str(program)], "registry.example")
    assert str(caught.value) == "failed"
    begin = "ended with exit status 4; it says: 2026/01/01 cannot [31mrefresh: AWS_SECRET_ACCESS_KEY=REDACTED"
    assert caught.value.cause.startswith(begin)
    assert "hush" not in caught.value.cause


async def test_a_helper_that_complains_at_length_is_cut_short(tmp_path: Path) -> None:
    program = script(tmp_path, "yes oh no | head -n 9999 >&2; exit 1")
    with pytest.raises(HelperError) as caught:
        await ask([str(program)], "registry.example")
    assert "oh no oh no" in caught.value.cause
    assert len(caught.value.cause) < ERRORS_TOLD + 100


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("nonexistent-credential-helper", "No such file or directory"),
        ("{}/plain", "Permission denied"),
        ("{}/binary", "Exec format error"),
        ("{}\0", "not a command"),
    ],
)
async def test_a_helper_that_is_not_there_cannot_be_started(tmp_path: Path, command: str, cause: str) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "binary").write_bytes(b"\x7fELF")
    (tmp_path / "binary").chmod(0o755)
    with pytest.raises(HelperError) as caught:
        await ask([command.format(tmp_path)], "registry.example")
    assert str(caught.value) == "cannot be started"
    assert caught.value.cause == f"cannot be started: {cause}"
